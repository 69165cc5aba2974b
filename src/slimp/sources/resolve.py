"""One value per lesion or patient, where the rows of its images may say different things.

A continuous column takes the median of the known values; the others take the most frequent one
and, if several are, the first in sorted order, or a tick. Missing cells have no say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from slimp.data.schema import Level, LevelName

IntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


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
    """A row per group of `frame`, in order of first appearance, and the columns that disagreed.

    Args:
        frame: a row per image, with the id column of the level and its typed feature columns.
        level: what to keep.
    """
    key = f"{level.name}_id"
    groups, ids = pd.factorize(frame[key])
    settled, found = {key: pd.Series(ids)}, list[Disagreement]()
    for feature in level.features:
        for column in feature.columns:
            values = frame[column]
            if len(ids) == len(frame):  # a row per group: nothing to settle
                settled[column] = values
                continue
            settle = _median if feature.kind == "continuous" else _most_frequent
            settled[column], several = settle(values, groups, len(ids))
            if len(several):
                given = values[groups == several[0]].dropna().drop_duplicates().sort_values()
                listed = ", ".join(_text(value) for value in given)
                result = _text(settled[column].iloc[several[0]])
                found.append(
                    Disagreement(
                        level=level.name,
                        column=column,
                        count=len(several),
                        rule="median" if feature.kind == "continuous" else "most frequent",
                        example=f"{ids[several[0]]}: {listed} -> {result}",
                    )
                )
    return pd.DataFrame(settled), found


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _median(values: pd.Series, groups: IntArray, count: int) -> tuple[pd.Series, IntArray]:
    """The median per group, and the groups with more than one value."""
    grouped = values.groupby(groups)
    return grouped.median(), np.flatnonzero(grouped.max() > grouped.min())


def _most_frequent(values: pd.Series, groups: IntArray, count: int) -> tuple[pd.Series, IntArray]:
    """The most frequent value per group, and the groups with more than one value."""
    codes, choices = pd.factorize(values, sort=True)
    if pd.api.types.is_bool_dtype(values.dtype):  # a tick goes before no tick
        codes, choices = np.where(codes < 0, -1, len(choices) - 1 - codes), choices[::-1]
    known = codes >= 0
    pairs, times = np.unique(
        np.stack([groups[known], codes[known]], axis=1), axis=0, return_counts=True
    )  # (pairs, 2), sorted by group, then by value
    pairs = pairs[np.lexsort([pairs[:, 1], -times, pairs[:, 0]])]
    having, first, values_had = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    best = np.full(count, -1)
    best[having] = pairs[first, 1]
    settled = pd.Series(choices).reindex(best)  # -1 is no position: missing
    return settled.reset_index(drop=True).astype(values.dtype), having[values_had > 1]
