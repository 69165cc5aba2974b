from __future__ import annotations

from slimp.checks.report import check_cohort


def test_what_the_import_settled_is_told_again(cohort, codes, only):
    report = {
        "disagreements": [
            {
                "level": "patient",
                "column": "age",
                "count": 34,
                "rule": "median",
                "example": "p: 1, 2",
            }
        ],
        "missing_spellings": {"origin": {"": 3, "UNK": 2}, "age": {"": 9}, "itch": {"UNK": 0}},
    }
    found = check_cohort(cohort(report=report))
    assert codes(found, "note") == codes(found) == {"level-disagreement", "missing-spellings"}
    assert "'age' differs within 34 patients" in only(found, "level-disagreement").message
    spelled = only(found, "missing-spellings")
    assert "empty cells (12 cells of 2 columns) and 'UNK' (2 cells of 1 column)" in spelled.message
    assert spelled.example.endswith(": origin")
    one = {"missing_spellings": {"origin": {"": 3}, "age": {"": 9}}}
    assert check_cohort(cohort(report=one)).findings == ()


def test_rows_that_the_import_lost_or_mended(cohort, codes, only):
    report = {
        "rows": 150,
        "absent": 12,
        "absent_examples": ["a.png", "b.png", "c.png", "d.png"],
        "corrupt": 1,
        "corrupt_examples": ["e.png (not an image)"],
        "missing_patient_ids": 2,
        "missing_lesion_ids": 0,
        "duplicate_rows": 3,
    }
    found = check_cohort(cohort(report=report))
    assert codes(found, "note") == {"absent-image", "duplicate-row"}
    assert codes(found, "warning") == {"dropped-image", "empty-id"}
    assert only(found, "dropped-image").example == "e.png (not an image)"
    assert only(found, "absent-image").example == "a.png, b.png and c.png"
    assert only(found, "empty-id").message == "2 rows without a patient id."


def test_ages_that_differ_are_called_normal(cohort, only):
    entry = {"level": "patient", "count": 3, "rule": "median", "example": "p: 41, 44 -> 42.5"}
    report = {"disagreements": [{**entry, "column": "age"}]}
    finding = only(check_cohort(cohort(report=report)), "level-disagreement")
    assert finding.remedy.startswith("A patient seen over years has several ages: nothing to do")
    report = {"disagreements": [{**entry, "column": "origin", "rule": "most frequent"}]}
    finding = only(check_cohort(cohort(report=report)), "level-disagreement")
    assert finding.remedy.startswith("Correct the table if it is wrong")
