"""Patients of each class in each subgroup, so that empty cells are known beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
MOST_GROUPS = 12
"""Columns with more values are no subgroups."""
UNKNOWN = "not known"


@dataclass(frozen=True, kw_only=True)
class SubgroupTable:
    """Patients per class and value of one column."""

    column: str
    counts: pd.DataFrame
    """Classes by groups, patients; `UNKNOWN` is a group where cells are missing."""

    @property
    def known(self) -> pd.DataFrame:
        """The counts of patients whose group is known."""
        return self.counts.drop(columns=UNKNOWN, errors="ignore")

    @property
    def small(self) -> list[tuple[str, str, int]]:
        """(class, group, patients) of the cells with fewer than `FEW` patients, smallest first."""
        cells = [
            (str(label), str(group), int(count))
            for label, row in self.known.iterrows()
            for group, count in row.items()
            if count < FEW
        ]
        return sorted(cells, key=lambda cell: (cell[2], cell))

    def to_dict(self) -> dict[str, object]:
        """For JSON: class -> group -> patients."""
        return {
            "column": self.column,
            "patients": {
                str(label): {str(group): int(count) for group, count in row.items()}
                for label, row in self.counts.iterrows()
            },
        }


def subgroup_tables(cohort: Cohort, columns: Sequence[Published]) -> tuple[SubgroupTable, ...]:
    """A table per categorical feature of few values, and per age; none without labels."""
    if len(cohort.classes) < 2:
        return ()
    found = []
    for column in columns:
        groups = _groups(column)
        if groups is None or not 2 <= groups.nunique() <= MOST_GROUPS:
            continue
        rows = pd.DataFrame(
            {
                "label": cohort.images["label"],
                "group": groups.fillna(UNKNOWN).to_numpy(dtype=object),
                "patient": cohort.images["patient_id"],
            }
        ).dropna(subset=["label"])
        counts = rows.drop_duplicates().groupby(["label", "group"]).size().unstack(fill_value=0)
        order = [name for name in _order(groups) if name in counts]
        order += [UNKNOWN] if UNKNOWN in counts else []
        found.append(SubgroupTable(column=column.name, counts=counts[order]))
    return tuple(found)


def _groups(column: Published) -> pd.Series | None:
    """The group of each image, missing as NA; None if the column makes no subgroups."""
    feature = column.feature
    if feature is None:
        return None
    if feature.kind == "categorical":
        return column.values.astype(object).where(column.values.notna())
    if feature.kind == "continuous" and feature.unit in ("year", "years"):
        names = [f"{low:g} to {high - 1:g}" for low, high in pairwise(AGE_EDGES[:-1])]
        names.append(f"{AGE_EDGES[-2]:g} and more")
        bands = pd.cut(column.values.astype("float64"), list(AGE_EDGES), right=False, labels=names)
        return bands.astype(object).where(bands.notna())
    return None


def _order(groups: pd.Series) -> list[str]:
    """Numbers by size, age bands by age, the rest by name."""
    names = sorted(groups.dropna().astype(str).unique())
    try:
        return sorted(names, key=lambda name: float(name.split(" ")[0]))
    except ValueError:
        return names


def subgroup_findings(tables: Sequence[SubgroupTable]) -> Iterator[Finding]:
    """Columns in which a class has hardly any patients in some group."""
    thin = [table for table in tables if table.small]
    if not thin:
        return
    cells = sum(len(table.small) for table in thin)
    told = [
        f"{table.column}: {count_of(table.small[0][2], 'patient')} of {table.small[0][0]} with "
        f"'{table.small[0][1]}'"
        for table in thin
    ]
    yield Finding(
        severity="note",
        code="small-subgroup",
        message=(
            f"{count_of(cells, 'cell')} of class by subgroup with fewer than {FEW} patients, in "
            f"{count_of(len(thin), 'column')}."
        ),
        example=name_list(told, most=4),
        remedy=(
            "Scores of these subgroups cannot be judged on this cohort: say so, or join groups "
            "with 'aliases'. All tables are in the report (--out)."
        ),
        count=cells,
    )
