"""All columns of a cohort side by side: features, refused and unused ones alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from slimp.data.cohort import Cohort, level_of_images
from slimp.data.schema import LEVELS, RESERVED_COLUMNS, Kind, LevelName

Role = Literal["feature", "refused", "unused"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A column as it was published; missing is NA, features are typed, other columns are text."""

    name: str
    role: Role
    level: LevelName = "image"
    own: pd.Series
    """A value per row of its level's table."""
    values: pd.Series
    """A value per image."""
    kind: Kind | None = None
    """Of a feature, as its unit."""
    unit: str | None = None
    reason: str = ""
    """Why the schema refuses it."""

    @property
    def in_years(self) -> bool:
        """Whether it is an age, or a time in years."""
        return self.unit in ("year", "years")


def published_columns(cohort: Cohort) -> Iterator[Published]:
    """The feature columns level by level, then whatever else the images table holds."""
    schema, rows = cohort.schema, level_of_images(cohort)
    used = {*RESERVED_COLUMNS, *schema.roles}
    for level in LEVELS:
        for feature in schema.level(level).features:
            for column in feature.columns:
                used.add(column)
                own = cohort.tables.of_level(level)[column]
                yield Published(
                    name=column,
                    role="feature",
                    level=level,
                    own=own,
                    values=pd.Series(own.array.take(rows[level])),
                    kind=feature.kind,
                    unit=feature.unit,
                )
    for column in cohort.images.columns.difference(list(used), sort=False):
        blank = cohort.images[column].isin(["", *schema.missing])  # a feature's words are its own
        values = cohort.images[column].mask(blank)
        yield Published(
            name=column,
            role="refused" if column in schema.refused else "unused",
            own=values,
            values=values,
            reason=schema.refused.get(column, ""),
        )
