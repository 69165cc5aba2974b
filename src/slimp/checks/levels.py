"""Columns outside the schema that seem to belong to lesions or patients, and disagree there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from slimp.checks.finding import Finding, name_list
from slimp.checks.published import Published
from slimp.data.cohort import Cohort

GROUPS = 10
"""Lesions (patients) with two known values or more that a column must have to be judged."""
AGREEING = 0.9
"""Share of them that must agree for the column to seem one of the level."""


def level_findings(cohort: Cohort, columns: Sequence[Published]) -> Iterator[Finding]:
    """Unused and refused columns that are constant in most lesions (patients), but not in all."""
    for column in columns:
        if column.level != "image":
            continue
        for level in ("patient", "lesion"):
            finding = _disagreement(column, level, cohort.images[f"{level}_id"])
            if finding is not None:
                yield finding
                break


def _disagreement(column: Published, level: str, groups: pd.Series) -> Finding | None:
    known = column.values.notna()
    values, groups = column.values[known].astype(str), groups[known]
    by_group = values.groupby(groups)
    several = by_group.size() > 1
    different = by_group.nunique()[several] > 1
    torn = sorted(different.index[different])
    if len(different) < GROUPS or not torn or len(torn) > (1 - AGREEING) * len(different):
        return None
    chance = 1 - float((values.value_counts(normalize=True) ** 2).sum())
    if len(torn) / len(different) > 0.2 * chance:  # nearly constant everywhere, no trait of a level
        return None
    return Finding(
        severity="note",
        code="level-disagreement",
        message=(
            f"column '{column.name}', which is not settled per {level}, agrees within all but "
            f"{len(torn)} of {len(different)} {level}s with several images."
        ),
        example=f"{level} {torn[0]}: {name_list(sorted(set(by_group.get_group(torn[0]))))}",
        remedy="Correct the table if the column describes the " + level + ".",
        count=len(torn),
    )
