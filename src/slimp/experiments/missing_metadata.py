"""Missing metadata: hiding known cells to measure what that costs, and filling gaps.

A cell is one feature in one row of its level's table (a checkbox group is one cell); it is known
if any of its columns is. So a hidden cell of a patient is hidden for all of their lesions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS, Feature, LevelName
from slimp.errors import UserError

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Mechanism = Literal["random", "block"]
"""Cells are hidden one by one, completely at random; or all of a block in a row together."""
TOGETHER = 0.5
"""Two features are of one block if the rows that lack both are at least this share of the rows
that lack either."""


def known_cells(cohort: Cohort, level: LevelName) -> Mask:
    """(rows, features) which cells of a level are known."""
    table, features = cohort.tables.of_level(level), cohort.schema.level(level).features
    known = [_known(table, feature) for feature in features]
    return np.column_stack(known) if known else np.zeros((len(table), 0), dtype=bool)


def blocks(cohort: Cohort, level: LevelName) -> list[list[int]]:
    """Features of a level that are missing together, by position; every feature is in one block.

    Those that are missing together in the cohort are a block, such as a page of a questionnaire
    that was left out. All the others are one more; in a cohort without gaps that is all of them.
    """
    missing = (~known_cells(cohort, level)).T.astype(np.int64)  # (features, rows)
    both = missing @ missing.T
    either = missing.sum(axis=1)[:, None] + missing.sum(axis=1) - both
    count, block_of = connected_components(both >= TOGETHER * np.maximum(either, 1))
    found: list[list[int]] = [np.flatnonzero(block_of == k).tolist() for k in range(count)]
    alone = [block[0] for block in found if len(block) == 1]
    together = [block for block in found if len(block) > 1]
    return sorted([*together, *([alone] if alone else [])])


def hide(
    cohort: Cohort,
    rate: float,
    *,
    mechanism: Mechanism = "random",
    seed: int = 0,
) -> Cohort:
    """The cohort with a fraction of its known cells missing, at each level.

    What is hidden at a rate is hidden at every higher rate too, so that a curve over rates is
    smooth. Images and labels stay.

    Args:
        cohort: left as it was.
        rate: fraction of the known cells of a level, met to within one cell (`random`) or one row
            of a block (`block`), never more.
        mechanism: see `Mechanism` and `blocks`.
        seed: of the order in which cells are hidden.
    """
    for level in LEVELS:
        rng = np.random.default_rng((seed, LEVELS.index(level)))
        known = known_cells(cohort, level)
        units = [[i] for i in range(known.shape[1])]
        if mechanism == "block":
            units = blocks(cohort, level)
        hidden = _hidden(known, units, rate, rng)
        table = cohort.tables.of_level(level).copy()
        for i, feature in enumerate(cohort.schema.level(level).features):
            for column in feature.columns:
                table[column] = table[column].mask(hidden[:, i])
        cohort = _with_table(cohort, level, table)
    return cohort


def impute_typical(cohort: Cohort, train_patients: Iterable[str]) -> Cohort:
    """The cohort with every missing cell filled by what is typical of the training patients.

    That is the median of a continuous feature, and the commonest value of a categorical or
    checkbox one (of equally common ones the first in order; of a checkbox, no tick). Medians and
    counts are over rows of the feature's own level.

    Raises:
        UserError: a feature has no known value in any training patient.
    """
    patients = set(train_patients)
    for level in LEVELS:
        table = cohort.tables.of_level(level).copy()
        train = table["patient_id"].isin(patients)
        for feature in cohort.schema.level(level).features:
            for column in feature.columns:
                table[column] = table[column].fillna(_typical(table[column][train], feature))
        cohort = _with_table(cohort, level, table)
    return cohort


def impute_from(cohort: Cohort, donors: Mapping[LevelName, pd.DataFrame]) -> Cohort:
    """The cohort with missing cells filled from a donor's row, such as one that was retrieved.

    Args:
        cohort: left as it was; known cells stay what they are.
        donors: per level a row per `image_id`, `lesion_id` or `patient_id` (a column of that
            name), with feature columns as in the cohort. A row or column that is not there, or
            a missing value, fills nothing.

    Raises:
        UserError: a donor table names a row twice.
    """
    for level, donor in donors.items():
        key, table = f"{level}_id", cohort.tables.of_level(level).copy()
        if donor[key].duplicated().any():
            twice = donor[key][donor[key].duplicated()].iloc[0]
            raise UserError(f"donors of level '{level}' have two rows for {key} '{twice}'.")
        rows = donor.set_index(key).reindex(table[key]).set_axis(table.index)
        for column in cohort.schema.level(level).columns:
            if column in rows:
                given = rows[column].astype(table[column].dtype)
                table[column] = table[column].where(table[column].notna(), given)
        cohort = _with_table(cohort, level, table)
    return cohort


def _hidden(known: Mask, units: list[list[int]], rate: float, rng: np.random.Generator) -> Mask:
    """(rows, features) which cells to hide: whole units of a row, in random order."""
    sizes = np.column_stack([known[:, unit].sum(axis=1) for unit in units] or [known[:, 0:0]])
    order = rng.permutation(sizes.size)
    reached = np.cumsum(sizes.ravel()[order])
    gone = np.zeros(sizes.size, dtype=bool)
    gone[order[reached <= round(rate * int(known.sum()))]] = True
    hidden = np.zeros(known.shape, dtype=bool)
    for unit, vanishes in zip(units, gone.reshape(sizes.shape).T, strict=True):
        hidden[:, unit] = vanishes[:, None]
    return hidden


def _known(table: pd.DataFrame, feature: Feature) -> Mask:
    known: Mask = table[list(feature.columns)].notna().any(axis=1).to_numpy()
    return known


def _typical(values: pd.Series, feature: Feature) -> Any:
    known = values.dropna()
    if known.empty:
        raise UserError(
            f"column '{values.name}' (feature '{feature.name}') is empty for all training "
            "patients, so nothing is typical of it. Leave the feature out of the schema."
        )
    if feature.kind == "continuous":
        return float(known.median())
    counts = known.value_counts()
    return min(counts.index[counts == counts.max()])


def _with_table(cohort: Cohort, level: LevelName, table: pd.DataFrame) -> Cohort:
    return replace(cohort, tables=replace(cohort.tables, **{f"{level}s": table}))
