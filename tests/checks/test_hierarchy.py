from __future__ import annotations

import numpy as np
import pandas as pd

from slimp.checks.report import check_cohort


def test_one_patient_is_an_error(clean_tables, cohort, codes):
    tables = clean_tables(patients=1)
    assert not check_cohort(cohort(tables)).usable
    assert "one-patient" in codes(check_cohort(cohort(tables)), "error")


def test_a_cohort_without_patient_ids_says_so(clean_tables, cohort, only):
    tables = clean_tables()
    own = tables["lesions"].assign(patient_id=tables["lesions"]["lesion_id"])
    people = tables["patients"].iloc[np.arange(120) // 2]
    tables = {
        "images": tables["images"].assign(patient_id=own["patient_id"]),
        "lesions": own,
        "patients": people.assign(patient_id=own["patient_id"].to_numpy()),
    }
    report = check_cohort(cohort(tables, schema={"patient": "lesion"}))
    assert only(report, "no-patient-ids").severity == "warning"
    assert report.render().startswith("Cohort ours: 120 lesions, no patient ids, 120 images")
    assert cohort().has_patient_ids


def test_one_class_small_classes_and_missing_labels(cohort, with_column, codes, only):
    one = check_cohort(cohort(with_column("images", "label", "NEV")))
    assert codes(one) == {"one-class"}
    assert one.usable
    labels = np.array(["NEV"] * 60 + ["MEL"] * 52 + ["SCC"] * 6 + [None, None], dtype=object)
    few = check_cohort(cohort(with_column("images", "label", labels)))
    assert codes(few) == {"small-class", "unlabelled", "small-subgroup"}
    assert only(few, "small-class").example == "SCC (3 patients)"
    assert only(few, "unlabelled").count == 2
    nothing = pd.Series([None] * 120, dtype="str")
    assert codes(check_cohort(cohort(with_column("images", "label", nothing)))) == {"unlabelled"}


def test_labels_that_disagree_within_a_lesion(clean_tables, cohort, only):
    tables = clean_tables()
    tables["images"].loc[[0, 1], ["lesion_id", "label"]] = [["l000", "NEV"], ["l000", "MEL"]]
    tables["lesions"] = tables["lesions"].drop(index=1)
    finding = only(check_cohort(cohort(tables)), "lesion-labels")
    assert finding.example == "lesion l000: i000 NEV and i001 MEL"


def test_a_patient_in_two_parts_is_an_error(cohort, with_column, only):
    split = ["train"] * 61 + ["test"] * 59
    report = check_cohort(cohort(with_column("images", "split", split)))
    assert not report.usable
    assert only(report, "patient-across-parts").example == "patient p030: in test and train"


def renamed(tables, level, names):
    """The tables with other ids of a level; `names`: old -> new."""
    column = f"{level}_id"
    return {
        name: table.assign(**{column: table[column].replace(names)}) if column in table else table
        for name, table in tables.items()
    }


def test_ids_in_several_spellings_are_named(clean_tables, cohort, codes, only):
    tables = renamed(clean_tables(), "patient", {"p000": "P 7", "p001": "p7", "p002": "p_7"})
    finding = only(check_cohort(cohort(tables)), "twin-ids")
    assert (finding.severity, finding.count) == ("warning", 1)
    assert finding.example == "'P 7' and 'p7' and 'p_7'"
    apart = {"p000": "1-12", "p001": "11-2", "p002": "112", "p003": "a1", "p004": "a01"}
    assert "twin-ids" not in codes(check_cohort(cohort(renamed(clean_tables(), "patient", apart))))


def test_lesions_are_twins_within_a_patient_only(clean_tables, cohort, codes, only):
    tables = renamed(clean_tables(), "lesion", {"l000": "L-1", "l001": "l1"})
    finding = only(check_cohort(cohort(tables)), "twin-ids")
    assert (finding.example, finding.count) == ("'L-1' and 'l1'", 1)
    tables = renamed(clean_tables(), "lesion", {"l000": "L-1", "l002": "l1"})
    assert "twin-ids" not in codes(check_cohort(cohort(tables)))


def test_unused_columns_that_seem_to_belong_to_patients(cohort, with_column, only):
    rng = np.random.default_rng(0)
    of_patient = rng.choice(list("abcdef"), 60)[np.arange(120) // 2]
    report = check_cohort(cohort(with_column("images", "clinic", of_patient)))
    assert report.findings == ()
    several = np.where(np.arange(120) == 9, "z", of_patient)
    finding = only(
        check_cohort(cohort(with_column("images", "clinic", several))), "level-disagreement"
    )
    assert finding.example == f"patient p004: {of_patient[8]} and z"
    noise = rng.choice(list("abcdef"), 120)
    assert check_cohort(cohort(with_column("images", "noise", noise))).findings == ()
