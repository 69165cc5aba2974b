"""Typed metadata -> numbers: statistics and vocabularies fitted on training patients only.

Axis names: n = rows, c = continuous features, k = categorical features, s = checkbox columns,
t = tokens (one per feature: continuous first, then the others in schema order).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from slimp.data.config import BatchConfig
from slimp.data.schema import Feature, Kind, Level, LevelName
from slimp.data.settings import read_settings


@dataclass(frozen=True)
class Rows:
    """Encoded metadata of one level; missing is a mask, never a number."""

    continuous: Float[Tensor, "n c"]
    """Standardised on the training patients; 0 where missing."""
    categorical: Int[Tensor, "n k"]
    """1..K; 0 where missing or unseen in training."""
    checkbox: Float[Tensor, "n s"]
    """1 ticked, 0 not; 0 where missing."""
    present: Bool[Tensor, "n t"]
    """Per token; a checkbox group is present if any of its columns is known."""

    def __len__(self) -> int:
        return len(self.present)

    def __getitem__(self, index: Int[Tensor, " m"] | slice) -> Rows:
        return Rows(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def to(self, device: torch.device | str) -> Rows:
        """The same rows on another device."""
        return Rows(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def with_empty(self) -> Rows:
        """These rows, and below them one in which every cell is missing."""
        tables = (getattr(self, name) for name in self.__dataclass_fields__)
        return Rows(*(torch.cat([x, x.new_zeros(1, x.shape[1])]) for x in tables))

    def equal_groups(self) -> Int[Tensor, " n"]:
        """A number per row; rows of equal metadata share it, and can serve as shared positives."""
        numbers = [getattr(self, name).double() for name in self.__dataclass_fields__]
        group: Tensor = torch.unique(torch.cat(numbers, dim=1), dim=0, return_inverse=True)[1]
        return group


@dataclass(frozen=True, kw_only=True)
class FittedFeature:
    """A feature with what was learned about it from the training patients."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    mean: float = 0.0
    """Of a continuous feature, in its unit."""
    std: float = 1.0
    """Population standard deviation of a continuous feature; 1 where it is constant or unknown."""
    bounds: tuple[float, float] | None = None
    """Least and largest value of a continuous feature; None where none was known."""
    usual: tuple[float, float] | None = None
    """1st and 99th percentile of a continuous feature; None where none was known, or in runs of
    earlier versions."""
    categories: tuple[str, ...] = ()
    """Of a categorical feature; code k+1 stands for category k."""
    unit: str | None = None
    """Of a continuous feature; None where nobody said."""
    spellings: Mapping[str, str] = field(default_factory=dict)
    """Cell -> the category that it stands for, where the cohort of a later stage spells it so."""
    also: tuple[tuple[str, ...], ...] = ()
    """Columns that hold it in cohorts of earlier stages, under other names."""

    @property
    def every_column(self) -> set[str]:
        """The columns that hold it in the cohorts of all stages."""
        return {column for own in (self.columns, *self.also) for column in own}

    def is_like(self, feature: Feature | FittedFeature) -> bool:
        """Whether a cohort's feature holds the same: of one kind and, if both say one, one unit."""
        same_unit = None in (self.unit, feature.unit) or self.unit == feature.unit
        return self.kind == feature.kind and same_unit

    def columns_in(self, table: pd.DataFrame) -> tuple[str, ...]:
        """The columns of `table` that hold the feature: its own, else those of an earlier stage."""
        names = set(table.columns)
        if names.issuperset(self.columns):
            return self.columns
        return next((known for known in self.also if names.issuperset(known)), self.columns)


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How one level's typed table becomes `Rows`."""

    level: LevelName
    features: tuple[FittedFeature, ...]
    """In token order: continuous first."""

    @classmethod
    def fit(cls, level: Level, table: pd.DataFrame) -> Encoding:
        """Statistics and vocabularies of `table`, which must hold training rows only."""
        ordered = sorted(level.features, key=lambda feature: feature.kind != "continuous")
        return cls(level=level.name, features=tuple(_fit(f, table) for f in ordered))

    def of_kind(self, kind: Kind) -> tuple[FittedFeature, ...]:
        """The features of one kind, in token order."""
        return tuple(feature for feature in self.features if feature.kind == kind)

    def cells(self) -> Iterator[tuple[FittedFeature, slice]]:
        """The features in token order, each with its columns in the part of `Rows` of its kind."""
        taken: Counter[Kind] = Counter()
        for feature in self.features:
            start = taken[feature.kind]
            taken[feature.kind] += len(feature.columns)
            yield feature, slice(start, taken[feature.kind])

    def columns_of(self, features: Iterable[Feature]) -> tuple[str, ...]:
        """The columns of a cohort's features that it reads: none of another kind or unit."""
        return tuple(
            column
            for feature in features
            for column in feature.columns
            if any(f.is_like(feature) and column in f.every_column for f in self.features)
        )

    def columns_in(self, table: pd.DataFrame) -> tuple[str, ...]:
        """The columns that `encode` reads of `table`, whether it has them or not."""
        return tuple(column for found in self.features for column in found.columns_in(table))

    def encode(self, table: pd.DataFrame) -> Rows:
        """Codes of `table`, row by row; categories unseen in training count as missing."""
        columns: dict[str, list[NDArray[Any]]] = {name: [] for name in Rows.__dataclass_fields__}
        for feature in self.features:
            values, known = _encode(feature, table)
            columns[feature.kind].append(values)
            columns["present"].append(known)
        types = {"categorical": np.int64, "present": np.bool_}
        start = np.zeros((len(table), 0))
        tables: dict[str, Any] = {
            name: np.column_stack([start, *found]).astype(types.get(name, np.float32))
            for name, found in columns.items()
        }
        return Rows(**{name: torch.from_numpy(values) for name, values in tables.items()})

    def disturb(self, rows: Rows, rng: np.random.Generator, how: BatchConfig) -> Rows:
        """Rows with some known cells hidden and some swapped, against memorising (ours).

        A token counts as missing with probability `feature_dropout`, and takes another row's value
        with probability `feature_corruption` (SCARF, arXiv 2106.15147).
        """
        n, tokens = rows.present.shape
        donor = rng.integers(max(n, 1), size=(n, tokens))
        keep = rng.random((n, tokens)) >= how.feature_corruption
        source = torch.from_numpy(np.where(keep, np.arange(n)[:, None], donor))  # (n, t)
        hidden = torch.from_numpy(rng.random((n, tokens)) < how.feature_dropout)
        values: dict[Kind, list[Tensor]] = {"continuous": [], "categorical": [], "checkbox": []}
        for token, (feature, columns) in enumerate(self.cells()):
            table = getattr(rows, feature.kind)
            values[feature.kind].append(table[source[:, token], columns])
        present = rows.present.gather(0, source) & ~hidden
        mixed = {k: torch.cat(v, dim=1) if v else getattr(rows, k) for k, v in values.items()}
        return Rows(**mixed, present=present)

    def coordinates(self, rows: Rows) -> Float[Tensor, "n e"]:
        """Points whose L1 distance is the disagreement of two rows' cells, 0 of equal rows alone.

        The mean over the features, as Gower's (Biometrics 27, 1971), of: the difference in
        standard deviations (continuous), 0 or 1 (categorical), the share of boxes that differ
        (checkbox). Cells missing in both rows agree. One that is missing in one row counts 1; a
        continuous one 1 and the known value's distance from the mean.
        """
        points = []
        for token, (feature, columns) in enumerate(self.cells()):
            known = rows.present[:, token, None]
            cells = getattr(rows, feature.kind)[:, columns]
            if feature.kind == "categorical":
                codes = torch.where(known, cells, 0)[:, 0]
                points.append(F.one_hot(codes, len(feature.categories) + 1).float() / 2)
            elif feature.kind == "continuous":
                points += [torch.where(known, cells, 0.0), (~known).float()]
            else:  # half a tick is as far from a tick as from none
                points += [torch.where(known, cells, 0.5) / cells.shape[1], (~known).float() / 2]
        return torch.cat(points, dim=1) / len(self.features)

    def to_dict(self) -> dict[str, Any]:
        """For `model.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Encoding:
        """The inverse of `to_dict`, also after a trip through JSON."""
        return read_settings(cls, content, "the encoding")


def _fit(feature: Feature, table: pd.DataFrame) -> FittedFeature:
    given = {name: getattr(feature, name) for name in ("name", "kind", "columns", "unit")}
    known = table[feature.columns[0]].dropna()
    if feature.kind == "continuous" and len(known):
        values = known.to_numpy(dtype=np.float64)
        rounding = 1e-9 * float(np.abs(values).max())  # the spread of a constant column
        std = float(values.std()) if values.std() > rounding else 1.0
        ends = (float(values.min()), float(values.max()))
        low, high = np.percentile(values, [1, 99]).tolist()
        mean = float(values.mean())
        return FittedFeature(**given, mean=mean, std=std, bounds=ends, usual=(low, high))
    if feature.kind == "categorical":
        seen = tuple(sorted(known.unique().tolist()))
        fixed = feature.categories
        return FittedFeature(**given, categories=seen if fixed is None else fixed)
    return FittedFeature(**given)


def _encode(feature: FittedFeature, table: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    columns = feature.columns_in(table)
    if feature.kind == "continuous":
        values = table[columns[0]].to_numpy(dtype=np.float64, na_value=np.nan)
        known = np.isfinite(values)
        return np.where(known, (values - feature.mean) / feature.std, 0.0), known
    if feature.kind == "categorical":
        # A dictionary: an index of pandas takes longer to make than most tables to look up.
        number = {name: code for code, name in enumerate(feature.categories, start=1)}
        number |= {said: number.get(meant, 0) for said, meant in feature.spellings.items()}
        cells = table[columns[0]].to_numpy(dtype=object).tolist()
        codes = np.array([number.get(cell, 0) for cell in cells], dtype=np.int64)
        return codes, codes > 0
    boolean = (table[column].astype("boolean") for column in columns)
    # (n, columns of the group)
    ticks = np.column_stack([x.to_numpy(dtype=np.float32, na_value=np.nan) for x in boolean])
    return np.nan_to_num(ticks), np.asarray(~np.isnan(ticks).all(axis=1))
