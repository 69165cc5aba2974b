from __future__ import annotations

import numpy as np
import pandas as pd

from slimp.checks.report import check_cohort
from slimp.checks.subgroups import UNKNOWN, small_cells


def test_counts_equal_a_loop_over_patients(clean_tables, cohort):
    tables = clean_tables()
    found = check_cohort(cohort(tables)).subgroups
    assert set(found) == {"origin", "age"}
    people = tables["patients"].set_index("patient_id")
    slow: dict[str, dict[tuple[str, str], set[str]]] = {"origin": {}, "age": {}}
    for row in tables["images"].itertuples():
        age = people.loc[row.patient_id, "age"]
        band = UNKNOWN if pd.isna(age) else "20 to 39" if age < 40 else "40 to 59"
        group = {"origin": people.loc[row.patient_id, "origin"], "age": band}
        for column in slow:
            cell = slow[column].setdefault((row.label, group[column]), set())
            cell.add(row.patient_id)
    for column, counts in found.items():
        cells = {(label, g): n for label, r in counts.iterrows() for g, n in r.items() if n}
        assert cells == {cell: len(ids) for cell, ids in slow[column].items()}
    assert found["age"].columns.tolist() == ["20 to 39", "40 to 59", UNKNOWN]


def test_small_cells_are_reported_with_the_smallest_first(clean_tables, cohort, only):
    tables = clean_tables()
    tables["patients"].loc[[2, 3], "origin"] = "CHILE"
    report = check_cohort(cohort(tables))
    finding = only(report, "small-subgroup")
    assert finding.severity == "note"
    cells = small_cells(report.subgroups["origin"])
    assert finding.count == 3 == len(cells)
    count, label, group = cells[0]
    assert group == "CHILE"
    assert count == report.subgroups["origin"]["CHILE"].min()
    assert finding.example == (
        f"origin: {count} patient{'s' if count != 1 else ''} of {label} with 'CHILE'"
    )


def test_gaps_and_columns_of_many_values_are_no_subgroups(clean_tables, cohort):
    tables = clean_tables()
    tables["patients"]["origin"] = [f"town {k % 15}" for k in range(60)]
    tables["patients"].loc[:30, "age"] = np.nan
    report = check_cohort(cohort(tables))
    assert list(report.subgroups) == ["age"]
    assert all(group != UNKNOWN for _, _, group in small_cells(report.subgroups["age"]))


def test_bands_of_years(clean_tables, cohort):
    tables = clean_tables()
    tables["patients"]["age"] = np.tile([0.0, 19.9, 20.0, 59.0, 80.0, 119.0], 10)
    counts = check_cohort(cohort(tables)).subgroups["age"]
    assert counts.columns.tolist() == ["0 to 19", "20 to 39", "40 to 59", "80 and more"]


def test_one_class_has_no_table(with_column, cohort):
    assert check_cohort(cohort(with_column("images", "label", "NEV"))).subgroups == {}
