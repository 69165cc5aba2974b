"""One value per lesion or patient, where the rows of its images may say different things.

A continuous column takes the median of the known values; the others take the most frequent one
and, of equals, the first in sorted order, or yes. Missing cells have no say.
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
    resolved, found = {key: pd.Series(ids)}, list[Disagreement]()
    for feature, column in ((f, column) for f in level.features for column in f.columns):
        values = frame[column].reset_index(drop=True)
        if len(ids) == len(frame):  # a row per group: nothing to resolve
            resolved[column] = values
            continue
        median = feature.kind == "continuous"
        one = (
            values.groupby(groups).median() if median else _most_frequent(values, groups, len(ids))
        )
        resolved[column] = one
        several = np.flatnonzero(values.groupby(groups).nunique() > 1)
        if len(several):
            given = sorted(values[groups == several[0]].dropna().unique())
            listed = ", ".join(map(_text, given))
            found.append(
                Disagreement(
                    level=level.name,
                    column=column,
                    count=len(several),
                    rule="median" if median else "most frequent",
                    example=f"{ids[several[0]]}: {listed} -> {_text(one.iloc[several[0]])}",
                )
            )
    return pd.DataFrame(resolved), found


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _most_frequent(values: pd.Series, groups: IntArray, count: int) -> pd.Series:
    """The most frequent known value of each group."""
    codes, choices = pd.factorize(values, sort=True)
    if pd.api.types.is_bool_dtype(values.dtype):  # yes goes before no
        codes, choices = np.where(codes < 0, -1, len(choices) - 1 - codes), choices[::-1]
    pairs = pd.DataFrame({"group": groups, "code": codes})[codes >= 0]
    times = pairs.groupby(["group", "code"]).size().rename("times").reset_index()
    best = times.sort_values(["times", "code"], ascending=[False, True]).drop_duplicates("group")
    picked = best.set_index("group")["code"].reindex(range(count), fill_value=-1)
    values_of = pd.Series(choices).reindex(picked)  # -1 is no position: missing
    return values_of.reset_index(drop=True).astype(values.dtype)
