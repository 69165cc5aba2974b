"""What a classifier of frozen features reads: blocks of numbers, and the raw metadata table.

Axis names: n = rows, d = columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Shaped
from torch import Tensor

from slimp.data.cohort import Cohort, level_of_images
from slimp.data.encoding import Encoding, Rows
from slimp.data.schema import LevelName, Schema
from slimp.features.encode import columns_of, embed_rows, encode_table
from slimp.features.feature_sets import METADATA_KEYS
from slimp.features.relative import from_others
from slimp.models.nested import Slimp

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class RawTable:
    """Metadata as a cohort has them: never an id, the label or a refused column."""

    schema: Schema
    """What the columns are; a level without features has none here."""
    frame: pd.DataFrame
    """A row per image, typed."""

    @classmethod
    def of(cls, cohort: Cohort) -> RawTable | None:
        """None if the cohort has no metadata."""
        if not any(level.features for level in cohort.schema.levels):
            return None
        rows, parts = level_of_images(cohort), []
        for level in cohort.schema.levels:
            own = cohort.tables.of_level(level.name)[list(level.columns)]
            parts.append(own.iloc[rows[level.name]].reset_index(drop=True))
        return cls(schema=cohort.schema, frame=pd.concat(parts, axis=1))

    def __getitem__(self, rows: Shaped[Array, " m"]) -> RawTable:
        """Some of the rows, by number or mask."""
        frame = self.frame.iloc[np.arange(len(self.frame))[rows]]
        return RawTable(schema=self.schema, frame=frame.reset_index(drop=True))

    def blank(self, rates: Float[Array, " n"], rng: np.random.Generator) -> RawTable:
        """Every cell missing with its row's probability, completely at random.

        A cell is a feature of a row, so a group of checkboxes vanishes whole.
        """
        frame = self.frame.copy()
        for level in self.schema.levels:
            for feature in level.features:
                gone = rng.random(len(frame)) < rates
                for column in feature.columns:
                    frame[column] = frame[column].mask(gone)
        return RawTable(schema=self.schema, frame=frame)

    def without(self, level: LevelName, rows: Bool[Array, " n"]) -> RawTable:
        """The columns of a level missing in these rows."""
        columns, frame = list(self.schema.level(level).columns), self.frame.copy()
        frame[columns] = frame[columns].mask(np.repeat(rows[:, None], len(columns), axis=1))
        return RawTable(schema=self.schema, frame=frame)

    def encode(self, encoding: Encoding) -> Rows:
        """The columns in these codes; one that is not there, or in another unit, is missing."""
        own = encoding.columns_of(self.schema.features)
        return encode_table(encoding, self.frame[self.frame.columns.intersection([*own])])

    def warn_of_unknown_categories(self, encodings: Iterable[Encoding], name: str) -> None:
        """Warns of columns whose every known cell is a category that an encoding does not know.

        They count as missing, as if nothing were there; `name` is of the cohort.
        """
        for encoding in encodings:
            for column in encoding.columns_of(self.schema.features):
                feature = next(f for f in encoding.features if column in f.every_column)
                cells = self.frame[column].dropna()
                if feature.kind != "categorical" or cells.empty:
                    continue
                known = [*feature.categories, *feature.spellings]
                if not cells.isin(known).any():
                    warnings.warn(
                        f"cohort '{name}': of the categories of column '{column}', such as "
                        f"'{cells.iloc[0]}', the run knows none ({', '.join(known[:5]) or 'none'}"
                        "), so all count as missing. Import them by these names, or adapt the run.",
                        stacklevel=3,
                    )

    def rows_of(self, model: Slimp, level: LevelName) -> Rows:
        """What a model reads at a level: of columns that the schema has at another one, nothing."""
        own = self.frame.columns.intersection([*columns_of(self.schema, model, level)])
        return encode_table(model.encodings[level], self.frame[own])

    def relative(self, ids: pd.DataFrame) -> Float32[Array, "n c"]:
        """Continuous cells of images and lesions minus the mean of the patient's other lesions."""
        features = (f for name in ("image", "lesion") for f in self.schema.level(name).features)
        columns = [f.columns[0] for f in features if f.kind == "continuous"]
        cells = self.frame.reindex(columns=columns)
        return from_others(cells.to_numpy(dtype=np.float64, na_value=np.nan), ids)

    def fit(self, levels: Sequence[LevelName]) -> tuple[Encoding, ...]:
        """Statistics and categories of these rows, for each of the levels with features."""
        found = (self.schema.level(name) for name in levels)
        return tuple(Encoding.fit(level, self.frame) for level in found if level.features)


MetadataEncoder = Callable[[RawTable], Mapping[str, Float[Array, "n _"]]]
"""Raw metadata -> the block of each level."""


def metadata_encoder(model: Slimp) -> MetadataEncoder:
    """The embeddings of a model's levels."""

    def encode(raw: RawTable) -> dict[str, Float[Array, "n _"]]:
        return {
            METADATA_KEYS[level]: embed_rows(model, level, raw.rows_of(model, level))
            for level in model.encodings
        }

    return encode


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """Rows as a classifier reads them."""

    blocks: Mapping[str, Float[Array, "n _"]]
    """Embeddings by name, in the order of their columns."""
    table: RawTable | None = None
    levels: tuple[LevelName, ...] = ()
    """Of the table, those that are read."""
    encoder: MetadataEncoder | None = None
    """Embeds the table anew where its cells change."""
    projection: Float[Array, "d p"] | None = None
    """Of the block `image`, see `FeatureTable.projection`."""

    def __len__(self) -> int:
        return len(next(iter(self.blocks.values()), self.table.frame if self.table else ()))

    def __getitem__(self, rows: Shaped[Array, " m"]) -> Design:
        """Some of the rows, by number or mask."""
        blocks = {name: values[rows] for name, values in self.blocks.items()}
        return replace(self, blocks=blocks, table=None if self.table is None else self.table[rows])

    @property
    def can_blank(self) -> bool:
        """Whether metadata can be blanked: there are some, and their embeddings can follow.

        What sets a lesion apart from others (`relative`) cannot: it is of several rows at once.
        """
        if "relative" in self.blocks:
            return False
        embedded = set(self.blocks) & set(METADATA_KEYS.values())
        return self.table is not None and (self.encoder is not None or not embedded)

    def blank(self, rates: Float[Array, " n"], rng: np.random.Generator) -> Design:
        """The rows with metadata missing completely at random, see `RawTable.blank`."""
        assert self.table is not None
        return self.with_table(self.table.blank(rates, rng))

    def with_table(self, table: RawTable) -> Design:
        """The rows with other metadata, embedded anew."""
        embedded = {} if self.encoder is None else self.encoder(table)
        blocks = {name: embedded.get(name, values) for name, values in self.blocks.items()}
        return replace(self, blocks=blocks, table=table)

    def with_blanked_copies(self, copies: int, *, seed: int) -> Design:
        """The rows, then as many again per copy with cells missing at a rate of 0 to 1 per row."""
        rng, table = np.random.default_rng(seed), self.table
        assert table is not None
        found = [self, *(self.blank(rng.random(len(self)), rng) for _ in range(copies))]
        frames = [one.table.frame for one in found if one.table is not None]
        return replace(
            self,
            blocks={
                name: np.concatenate([one.blocks[name] for one in found]) for name in self.blocks
            },
            table=replace(table, frame=pd.concat(frames, ignore_index=True)),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The blocks, and the columns of the table."""
        if self.table is None:
            return tuple(self.blocks)
        columns = (self.table.schema.level(name).columns for name in self.levels)
        return (*self.blocks, *(name for level in columns for name in level))

    def encode(self, encodings: Sequence[Encoding]) -> list[Rows]:
        """The table in these codes, one per level; without a table every cell is missing."""
        if self.table is None:
            nothing = pd.DataFrame(index=range(len(self)))
            return [encode_table(encoding, nothing) for encoding in encodings]
        return [self.table.encode(encoding) for encoding in encodings]


def one_hot(encoding: Encoding, rows: Rows) -> Float[Tensor, "n d"]:
    """Numbers for a linear model: the columns of `as_columns`, a categorical one as indicators.

    An indicator of missing is beside each feature. Missing cells are NaN, so that a model can put
    the mean there: one that no training row lacks, and a new row does, then says nothing.
    """
    cells = torch.cat([rows.continuous, rows.categorical.float(), rows.checkbox], dim=1)
    first = {"continuous": 0, "categorical": rows.continuous.shape[1]}
    first["checkbox"] = first["categorical"] + rows.categorical.shape[1]
    found: list[tuple[int, int, int]] = []  # (column of the cells, token, code or 0) per column
    for number, (feature, own) in enumerate(encoding.cells()):
        codes = range(1, len(feature.categories) + 1) if feature.kind == "categorical" else (0,)
        columns = range(first[feature.kind] + own.start, first[feature.kind] + own.stop)
        found += [(column, number, code) for column in columns for code in codes]
    column, token, code = torch.tensor(found, dtype=torch.int64, device=cells.device).view(-1, 3).T
    values = cells[:, column]
    values = torch.where(code > 0, (values == code).float(), values)
    values = torch.where(rows.present[:, token], values, torch.nan)
    return torch.cat([(~rows.present).float(), values], dim=1)


def as_columns(encoding: Encoding, rows: Rows) -> tuple[Float[Array, "n d"], list[bool]]:
    """A column per column of the table, NaN where missing; and which hold codes of categories.

    The order is that of the tokens: continuous first.
    """
    columns: list[Array] = [np.empty((len(rows), 0))]
    kinds: list[bool] = []
    for (feature, cells), known in zip(encoding.cells(), rows.present.numpy().T, strict=True):
        values = getattr(rows, feature.kind).numpy()[:, cells]
        columns.append(np.where(known[:, None], values, np.nan))
        kinds += [feature.kind == "categorical"] * values.shape[1]
    return np.column_stack(columns), kinds
