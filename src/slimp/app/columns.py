"""What images can be coloured and filtered by: a compact array per column, a cell per image.

Axis names: n = images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Int64, Shaped

from slimp.data.cohort import Cohort
from slimp.data.schema import RESERVED_COLUMNS, LevelName

Array = np.ndarray[Any, np.dtype[Any]]
MISSING = 65535
"""Code of a missing category."""
MOST_CATEGORIES = 1000
"""A categorical feature of more has no column here: no reader could tell them apart."""
FEW = 50
"""Distinct values of a published column outside the schema, such as a site, at most."""
COMPUTED = "computed"
"""The level of what is no metadata."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """One column."""

    name: str
    level: str
    """`image`, `lesion`, `patient`, or `computed`."""
    kind: Literal["category", "number"]
    values: Shaped[Array, " n"]
    """uint16 codes of `categories` (`MISSING`), or float32 (NaN)."""
    categories: tuple[str, ...] = ()
    unit: str | None = None

    @property
    def known(self) -> Shaped[Array, " n"]:
        """Which cells are not missing."""
        return self.values != MISSING if self.kind == "category" else ~np.isnan(self.values)

    def describe(self) -> dict[str, Any]:
        """For JSON: `name level kind missing`, and `categories` or `min max unit`."""
        known = self.known
        found: dict[str, Any] = {"name": self.name, "level": self.level, "kind": self.kind}
        found["missing"] = int(len(known) - known.sum())
        if self.kind == "category":
            return {**found, "categories": list(self.categories)}
        values = self.values[known]  # by way of text: 0.1 in 32 bits is to be shown as 0.1
        low, high = (
            (float(str(x())) for x in (values.min, values.max)) if len(values) else (None, None)
        )
        return {**found, "min": low, "max": high, "unit": self.unit}

    def cell(self, row: int) -> str | float | None:
        """The value of an image; None: missing."""
        value = self.values[row]
        if self.kind == "category":
            return None if value == MISSING else self.categories[value]
        return None if np.isnan(value) else float(value)


def category(
    name: str, level: str, cells: pd.Series, rows: Int64[Array, " n"] | None = None
) -> Column:
    """A column of categories, sorted; `rows`: the cell of each image."""
    codes, found = pd.factorize(cells, sort=True)
    taken = codes.astype(np.uint16)  # -1 becomes MISSING
    return Column(
        name=name,
        level=level,
        kind="category",
        values=taken if rows is None else taken[rows],
        categories=tuple(map(str, found)),
    )


def number(
    name: str,
    level: str,
    cells: pd.Series | Array,
    rows: Int64[Array, " n"] | None = None,
    unit: str | None = None,
) -> Column:
    """A column of numbers; `rows`: the cell of each image."""
    values = pd.Series(cells).to_numpy(dtype=np.float32, na_value=np.nan)
    taken = values if rows is None else values[rows]
    return Column(name=name, level=level, kind="number", values=taken, unit=unit)


def cohort_columns(
    cohort: Cohort,
    of_image: Mapping[LevelName, Int64[Array, " n"]],
    computed: Sequence[Column] = (),
) -> dict[str, Column]:
    """Label and split, what is `computed`, metadata, and other published columns of few values.

    Names are unique: a metadata column that is called as another one gets its level in front.
    """
    found: dict[str, Column] = {}
    for column in (*_own(cohort), *computed, *_metadata(cohort, of_image), *_others(cohort)):
        name = column.name if column.name not in found else f"{column.level}.{column.name}"
        found[name] = replace(column, name=name)
    return found


def _own(cohort: Cohort) -> Iterator[Column]:
    for name in ("label", "split"):
        if name in cohort.images and cohort.images[name].notna().any():
            yield category(name, "image", cohort.images[name])


def _metadata(cohort: Cohort, of_image: Mapping[LevelName, Array]) -> Iterator[Column]:
    for level in cohort.schema.levels:
        table, rows = cohort.tables.of_level(level.name), of_image[level.name]
        for feature in level.features:
            for name in feature.columns:
                cells = table[name]
                if feature.kind == "continuous":
                    yield number(name, level.name, cells, rows, feature.unit)
                elif feature.kind == "checkbox":
                    words = cells.astype("object").map({True: "yes", False: "no"})
                    yield category(name, level.name, words, rows)
                elif cells.nunique() <= MOST_CATEGORIES:
                    yield category(name, level.name, cells, rows)


def _others(cohort: Cohort) -> Iterator[Column]:
    features = {column for level in cohort.schema.levels for column in level.columns}
    for name in cohort.images.columns.difference([*RESERVED_COLUMNS, *features], sort=False):
        if 1 < cohort.images[name].nunique() <= FEW:
            yield category(str(name), "image", cohort.images[name])
