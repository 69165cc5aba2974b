"""What a classifier of frozen features reads: blocks of numbers, and the raw metadata table.

Axis names: n = rows, d = columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding, Rows
from slimp.data.schema import LevelName, Schema
from slimp.features.encode import encode_table, level_of_images

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

    def fit(self, levels: Sequence[LevelName]) -> tuple[Encoding, ...]:
        """Statistics and categories of these rows, for each of the levels with features."""
        found = (self.schema.level(name) for name in levels)
        return tuple(Encoding.fit(level, self.frame) for level in found if level.features)


@dataclass(frozen=True, kw_only=True, eq=False)
class Design:
    """Rows as a classifier reads them."""

    blocks: Mapping[str, Float[Array, "n _"]]
    """Embeddings by name, in the order of their columns."""
    table: RawTable | None = None
    levels: tuple[LevelName, ...] = ()
    """Of the table, those that are read."""

    def __len__(self) -> int:
        return len(next(iter(self.blocks.values()), self.table.frame if self.table else ()))

    def __getitem__(self, rows: Shaped[Array, " m"]) -> Design:
        """Some of the rows, by number or mask."""
        blocks = {name: values[rows] for name, values in self.blocks.items()}
        table = None if self.table is None else self.table[rows]
        return Design(blocks=blocks, table=table, levels=self.levels)

    @property
    def parts(self) -> tuple[str, ...]:
        """The blocks, and the columns of the table."""
        if self.table is None:
            return tuple(self.blocks)
        columns = (self.table.schema.level(name).columns for name in self.levels)
        return (*self.blocks, *(name for level in columns for name in level))

    def encode(self, encodings: Sequence[Encoding]) -> list[Rows]:
        """The table in these codes, one per level; without a table every cell is missing."""
        frame = pd.DataFrame(index=range(len(self))) if self.table is None else self.table.frame
        return [encode_table(encoding, frame) for encoding in encodings]


def one_hot(encoding: Encoding, rows: Rows) -> Float[Array, "n d"]:
    """Numbers for a linear model: the columns of `as_columns`, a categorical one as indicators.

    An indicator of missing is beside each feature. Missing cells are NaN, so that a model can put
    the mean there: one that no training row lacks, and a new row does, then says nothing.
    """
    columns, kinds = as_columns(encoding, rows)
    categories = iter(encoding.of_kind("categorical"))
    parts = [~rows.present.numpy()]
    for values, categorical in zip(columns.T, kinds, strict=True):
        hot = values[:, None]
        if categorical:
            hot = hot == np.arange(1, len(next(categories).categories) + 1)
            hot = np.where(np.isnan(values)[:, None], np.nan, hot)
        parts.append(hot)
    return np.hstack(parts).astype(np.float64)


def as_columns(encoding: Encoding, rows: Rows) -> tuple[Float[Array, "n d"], list[bool]]:
    """A column per column of the table, NaN where missing; and which hold codes of categories.

    The order is that of the tokens: continuous first.
    """
    taken, columns, kinds = dict.fromkeys(("continuous", "categorical", "checkbox"), 0), [], []
    for i, feature in enumerate(encoding.features):
        table, known = getattr(rows, feature.kind).numpy(), rows.present[:, i].numpy()
        for _ in feature.columns:
            columns.append(np.where(known, table[:, taken[feature.kind]], np.nan))
            kinds.append(feature.kind == "categorical")
            taken[feature.kind] += 1
    return np.column_stack([np.empty((len(rows), 0)), *columns]), kinds
