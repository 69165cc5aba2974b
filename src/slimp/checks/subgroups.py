"""Patients of each class in each subgroup, so that empty cells are known beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from slimp.checks.finding import Finding, count_of, finding, name_list
from slimp.checks.published import Published
from slimp.data.cohort import Cohort

FEW = 5
"""A class of a subgroup with fewer patients is too small to say anything about."""
AGE_EDGES = (0, 20, 40, 60, 80, np.inf)
AGE_BANDS = ("0 to 19", "20 to 39", "40 to 59", "60 to 79", "80 and more")
"""Bands of a column in years."""
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
        if column.kind == "categorical":
            groups = column.values.astype("category")
        elif column.kind == "continuous" and column.in_years:
            years = column.values.astype("float64")
            groups = pd.cut(years, AGE_EDGES, right=False, labels=AGE_BANDS)
        else:
            continue
        if not 2 <= groups.nunique() <= MOST_GROUPS:
            continue
        names = groups.astype(object).where(groups.notna(), UNKNOWN).to_numpy()
        rows = cohort.images[["label", "patient_id"]].assign(group=names).drop_duplicates()
        counts = pd.crosstab(rows["label"], rows["group"])
        order = dict.fromkeys([*groups.cat.categories, UNKNOWN])
        found[column.name] = counts[[name for name in order if name in counts]]
    return found


def small_cells(counts: pd.DataFrame) -> list[tuple[int, str, str]]:
    """(patients, class, group) of the known cells with fewer than `FEW`, smallest first."""
    cells = counts.drop(columns=UNKNOWN, errors="ignore").melt(ignore_index=False).itertuples()
    return sorted((int(n), str(label), str(group)) for label, group, n in cells if n < FEW)


def subgroup_findings(tables: Mapping[str, pd.DataFrame]) -> Iterator[Finding]:
    """Columns in which a class has hardly any patients in some group."""
    small = {column: cells for column, counts in tables.items() if (cells := small_cells(counts))}
    if small:
        examples = (
            f"{column}: {count_of(patients, 'patient')} of {label} with '{group}'"
            for column, [(patients, label, group), *_] in small.items()
        )
        yield finding(
            "small-subgroup",
            count=sum(map(len, small.values())),
            few=FEW,
            columns=len(small),
            example=name_list(examples, most=4),
        )
