from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from spoilt import clean_tables, cohort, only, with_column, without_patients

from slimp.checks.columns import twin_ids
from slimp.checks.hierarchy import hierarchy_findings, import_findings
from slimp.checks.report import check_cohort
from slimp.checks.subgroups import UNKNOWN, small_cells

check = partial(check_cohort, near_duplicates=False)
"""The images are not what is tested here."""


def found_in(findings):
    """Code -> finding, of which there is one each."""
    findings = list(findings)
    assert len({finding.code for finding in findings}) == len(findings)
    return {finding.code: finding for finding in findings}


def test_one_patient_is_an_error():
    found = found_in(hierarchy_findings(cohort(clean_tables(patients=1))))
    assert found["one-patient"].severity == "error"


def test_a_cohort_without_patient_ids_says_so():
    report = check(cohort(without_patients(), schema={"patient": "lesion"}))
    assert only(report, "no-patient-ids").severity == "warning"
    assert report.render().startswith("Cohort ours: 120 lesions, no patient ids, 120 images")


def test_an_id_that_may_stand_for_everybody_unknown_is_named():
    tables = clean_tables()
    ids = {f"p{k:03}": "0" for k in range(20)}
    found = {name: table.replace({"patient_id": ids}) for name, table in tables.items()}
    found["patients"] = found["patients"].drop_duplicates("patient_id")
    message = found_in(hierarchy_findings(cohort(found)))["crowded-patient"].message
    assert message.startswith("patient '0' has 40 lesions of 120, others 2 as a rule")


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["NEV"] * 120, {"one-class"}),
        (["NEV"] * 60 + ["MEL"] * 52 + ["SCC"] * 6 + [None] * 2, {"small-class", "unlabelled"}),
        ([None] * 120, {"unlabelled"}),
    ],
)
def test_one_class_small_classes_and_missing_labels(labels, found):
    tables = with_column("images", "label", pd.Series(labels, dtype="str"))
    report = found_in(hierarchy_findings(cohort(tables)))
    assert set(report) == found
    if "small-class" in found:
        assert report["small-class"].example == "SCC (3 patients)"
        assert report["unlabelled"].count == 2


def test_labels_that_disagree_within_a_lesion():
    tables = clean_tables()
    tables["images"].loc[[0, 1], ["lesion_id", "label"]] = [["l000", "NEV"], ["l000", "MEL"]]
    tables["lesions"] = tables["lesions"].drop(index=1)
    found = found_in(hierarchy_findings(cohort(tables)))
    assert found["lesion-labels"].example == "lesion l000: MEL and NEV"


def test_a_patient_in_two_parts_is_an_error():
    split = ["train"] * 61 + ["test"] * 59
    found = found_in(hierarchy_findings(cohort(with_column("images", "split", split))))
    assert found["patient-across-parts"].severity == "error"
    assert found["patient-across-parts"].example == "patient p030: test and train"


@pytest.mark.parametrize(
    ("level", "names", "example"),
    [
        ("patient", {"p000": "P 7", "p001": "p7", "p002": "p_7"}, "'P 7' and 'p7' and 'p_7'"),
        ("patient", {"p000": "1-12", "p001": "11-2", "p002": "112"}, None),
        ("patient", {"p003": "a1", "p004": "a01"}, None),
        ("lesion", {"l000": "L-1", "l001": "l1"}, "'L-1' and 'l1'"),
        ("lesion", {"l000": "L-1", "l002": "l1"}, None),
    ],
)
def test_ids_in_several_spellings_are_named(level, names, example):
    """Lesions are twins within a patient only."""
    column = f"{level}_id"
    tables = {
        name: table.assign(**{column: table[column].replace(names)}) if column in table else table
        for name, table in clean_tables().items()
    }
    found = found_in(twin_ids(cohort(tables)))
    assert set(found) == ({"twin-ids"} if example else set())
    if example:
        assert found["twin-ids"].example == example


# Subgroups


def test_counts_equal_a_loop_over_patients():
    tables = clean_tables()
    found = check(cohort(tables)).subgroups
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


def test_small_cells_are_reported_with_the_smallest_first():
    tables = clean_tables()
    tables["patients"].loc[[2, 3], "origin"] = "CHILE"
    report = check(cohort(tables))
    finding = only(report, "small-subgroup")
    cells = small_cells(report.subgroups["origin"])
    assert (finding.severity, finding.count) == ("note", len(cells)) == ("note", 3)
    count, label, group = cells[0]
    assert (group, count) == ("CHILE", report.subgroups["origin"]["CHILE"].min())
    assert finding.example.startswith(f"origin: {count} patient")
    assert finding.example.endswith(f" of {label} with 'CHILE'")


def test_columns_of_many_values_are_no_subgroups_and_ages_are_cut():
    tables = clean_tables()
    tables["patients"]["origin"] = [f"town {k % 15}" for k in range(60)]
    tables["patients"]["age"] = np.tile([0.0, 19.9, 20.0, 59.0, 80.0, np.nan], 10)
    [(column, counts)] = check(cohort(tables)).subgroups.items()
    assert column == "age"
    bands = ["0 to 19", "20 to 39", "40 to 59", "80 and more"]
    assert counts.columns.tolist() == [*bands, UNKNOWN]
    assert all(group != UNKNOWN for _, _, group in small_cells(counts))


# What the import met


def test_rows_that_the_import_lost_or_mended():
    report = {
        "rows": 150,
        "absent": 12,
        "absent_examples": ["a.png", "b.png", "c.png", "d.png"],
        "corrupt": 1,
        "corrupt_examples": ["e.png (not an image)"],
        "missing_patient_ids": 2,
        "missing_lesion_ids": 0,
        "duplicate_rows": 3,
        "assumed": ["'100' and '100.0' are one patient"],
    }
    found = found_in(import_findings(report))
    assert {code: finding.severity for code, finding in found.items()} == {
        **dict.fromkeys(("absent-image", "duplicate-row", "import-note"), "note"),
        **dict.fromkeys(("dropped-image", "empty-id"), "warning"),
    }
    assert found["dropped-image"].example == "e.png (not an image)"
    assert found["absent-image"].example == "a.png, b.png and c.png"
    assert found["empty-id"].message == "2 rows without a patient id."


def test_what_the_import_resolved_is_repeated():
    entry = {"level": "patient", "column": "age", "rule": "median"}
    report = {
        "disagreements": [{**entry, "count": 34, "example": "p: 1, 2"}],
        "missing_spellings": {"origin": {"": 3, "UNK": 2}, "age": {"": 9}, "itch": {"UNK": 0}},
    }
    found = found_in(import_findings(report))
    assert set(found) == {"level-disagreement", "missing-spellings"}
    assert "'age' differs within 34 patients" in found["level-disagreement"].message
    assert found["level-disagreement"].example == "p: 1, 2"
    assert "empty cells (12) and 'UNK' (2)" in found["missing-spellings"].message
    one = {"missing_spellings": {"origin": {"": 3}, "age": {"": 9}}}
    assert found_in(import_findings(one)) == {}
