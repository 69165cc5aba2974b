from __future__ import annotations

import numpy as np

from slimp.checks.report import check_cohort


def test_unused_columns_that_seem_to_belong_to_patients(cohort, with_column, only):
    rng = np.random.default_rng(0)
    of_patient = rng.choice(list("abcdef"), 60)[np.arange(120) // 2]
    report = check_cohort(cohort(with_column("images", "clinic", of_patient)))
    assert report.findings == ()
    torn = np.where(np.arange(120) == 9, "z", of_patient)
    finding = only(
        check_cohort(cohort(with_column("images", "clinic", torn))), "level-disagreement"
    )
    assert finding.example == f"patient p004: {of_patient[8]} and z"
    noise = rng.choice(list("abcdef"), 120)
    assert check_cohort(cohort(with_column("images", "noise", noise))).findings == ()
