from __future__ import annotations

import numpy as np
import pandas as pd

from slimp.check import check_cohort


def test_one_patient_is_an_error(clean_tables, cohort, codes):
    tables = clean_tables(patients=1)
    assert not check_cohort(cohort(tables)).usable
    assert "one-patient" in codes(check_cohort(cohort(tables)), "error")


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
