"""One value per lesion or patient, where the rows of its images may say different things.

A continuous column takes the median of the known values; the others take the most frequent one
and, of equals, the first in sorted order, or yes. Missing cells have no say.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from slimp.data.schema import Level, LevelName


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A column whose value differs within one lesion or patient, and what was made of it."""

    level: LevelName
    column: str
    count: int
    """Lesions or patients with more than one value; missing cells do not count."""
    rule: str
    example: str


def level_table(frame: pd.DataFrame, level: Level) -> tuple[pd.DataFrame, list[Disagreement]]:
    """A row per id of the level, in order of first appearance, and the columns that disagreed."""
    key = f"{level.name}_id"
    groups = frame[[key, *level.columns]].groupby(key, sort=False)
    table, found = groups.first(), list[Disagreement]()
    for feature, column in ((f, column) for f in level.features for column in f.columns):
        several = groups[column].nunique() > 1
        if not several.any():
            continue
        rule = "median" if feature.kind == "continuous" else "most frequent"
        differing = frame.loc[frame[key].map(several), [key, column]].groupby(key, sort=False)
        resolved = differing[column].median() if rule == "median" else differing[column].agg(_mode)
        table.loc[several, column] = resolved
        first = several.index[several][0]
        given = sorted(frame.loc[frame[key] == first, column].dropna().unique())
        listed = ", ".join(map(_text, given))
        found.append(
            Disagreement(
                level=level.name,
                column=column,
                count=int(several.sum()),
                rule=rule,
                example=f"{first}: {listed} -> {_text(table.loc[first, column])}",
            )
        )
    return table.reset_index(), found


def _mode(values: pd.Series) -> object:
    """The most frequent known value; of equals the first in sorted order, or yes."""
    equals = values.mode()
    return equals.iloc[-1 if pd.api.types.is_bool_dtype(values.dtype) else 0]


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
