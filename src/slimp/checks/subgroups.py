"""Patients of each class in each subgroup, so that empty cells are known beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from slimp.checks.finding import Finding, count_of, name_list
from slimp.checks.published import Published
from slimp.data.cohort import Cohort

FEW = 5
"""A class of a subgroup with fewer patients is too small to say anything about."""
AGE_EDGES = (0, 20, 40, 60, 80, np.inf)
"""Bands of a column in years."""
AGE_BANDS = (*(f"{a} to {b - 1}" for a, b in pairwise(AGE_EDGES[:-1])), f"{AGE_EDGES[-2]} and more")
MOST_GROUPS = 12
"""Columns with more values are no subgroups."""
UNKNOWN = "not known"


def subgroup_tables(cohort: Cohort, columns: Sequence[Published]) -> dict[str, pd.DataFrame]:
    """Patients by class (rows) and group, per categorical feature of few values and per age.

    `UNKNOWN` is a group where cells are missing. Empty without labels.
    """
    if len(cohort.classes) < 2:
        return {}
    found = {}
    for column in columns:
        groups = _groups(column)
        if groups is None or not 2 <= groups.nunique() <= MOST_GROUPS:
            continue
        rows = cohort.images[["label", "patient_id"]].assign(
            group=groups.fillna(UNKNOWN).to_numpy(dtype=object)
        )
        rows = rows.dropna(subset=["label"]).drop_duplicates()
        counts = rows.groupby(["label", "group"]).size().unstack(fill_value=0)
        order = [*_order(groups), UNKNOWN]
        found[column.name] = counts[[name for name in order if name in counts]]
    return found


def _groups(column: Published) -> pd.Series | None:
    """The group of each image, missing as NA; None if the column makes no subgroups."""
    if column.kind == "categorical":
        return column.values.astype(object).where(column.values.notna())
    if column.kind == "continuous" and column.unit in ("year", "years"):
        years = column.values.astype("float64")
        bands = pd.cut(years, list(AGE_EDGES), right=False, labels=AGE_BANDS)
        return bands.astype(object).where(bands.notna())
    return None


def _order(groups: pd.Series) -> list[str]:
    """Numbers by size, age bands by age, the rest by name."""
    names = sorted(groups.dropna().astype(str).unique())
    try:
        return sorted(names, key=lambda name: float(name.split(" ")[0]))
    except ValueError:
        return names


def small_cells(counts: pd.DataFrame) -> list[tuple[int, str, str]]:
    """(patients, class, group) of the known cells with fewer than `FEW`, smallest first."""
    known = counts.drop(columns=UNKNOWN, errors="ignore")
    cells = [
        (int(patients), str(label), str(group))
        for group, column in known.items()
        for label, patients in column.items()
    ]
    return sorted(cell for cell in cells if cell[0] < FEW)


def subgroup_findings(tables: Mapping[str, pd.DataFrame]) -> Iterator[Finding]:
    """Columns in which a class has hardly any patients in some group."""
    small = {column: cells for column, counts in tables.items() if (cells := small_cells(counts))}
    if not small:
        return
    examples = [
        f"{column}: {count_of(cells[0][0], 'patient')} of {cells[0][1]} with '{cells[0][2]}'"
        for column, cells in small.items()
    ]
    total = sum(map(len, small.values()))
    yield Finding(
        "note",
        "small-subgroup",
        f"{count_of(total, 'cell')} of class by subgroup with fewer than {FEW} patients, in "
        f"{count_of(len(small), 'column')}.",
        example=name_list(examples, most=4),
        remedy="Scores of these subgroups cannot be judged on this cohort: say so, or join groups "
        "with 'aliases'. All tables are in the report (--out).",
        count=total,
    )
