from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from slimp.checks.report import check_cohort
from slimp.sources.personal_data import personal_kind

FIRST = ["Anna", "José", "Li", "Mary", "Jürgen", "Zoë", "Omar", "Ingrid"]
LAST = ["Schmidt", "García", "Wang", "O", "Müller-Lang", "Costa", "Haddad", "Berg"]


def many(make, n=60):
    return pd.Series([make(k) for k in range(n)])


PERSONAL = {
    "e-mail addresses": lambda k: f"patient{k}@clinic.example.org",
    "telephone numbers": lambda k: f"+49 30 {1000000 + 7919 * k}",
    "dates": lambda k: f"{1 + k % 28:02}.{1 + k % 12:02}.19{40 + k % 50}",
    "names of people": lambda k: f"{FIRST[k % 8]} {LAST[k // 8]}",
    "free text": lambda k: f"seen on ward {k}, lesion has grown since the spring",
}


@pytest.mark.parametrize("kind", PERSONAL)
def test_personal_data_are_known_by_their_values(kind):
    found = personal_kind(many(PERSONAL[kind]))
    assert found is not None
    assert found[0] == kind


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("names of people", lambda k: f"{LAST[k // 8]}, {FIRST[k % 8]}"),
        ("names of people", lambda k: f"Dr. {FIRST[k % 8]} van {LAST[k // 8]}"),
        ("telephone numbers", lambda k: f"030/{445566 + k}"),
        ("telephone numbers", lambda k: f"(089) {12345 + k} 17"),
        ("dates", lambda k: f"20{10 + k % 10}-{1 + k % 12:02}-{1 + k % 28:02}T08:15:00"),
        ("dates", lambda k: f"{1 + k % 12}/{13 + k % 15}/2019"),
        ("e-mail addresses", lambda k: "nevus" if k % 20 else "call anna@example.org about it"),
    ],
)
def test_other_ways_of_writing_them(kind, make):
    found = personal_kind(many(make))
    assert found is not None
    assert found[0] == kind


@pytest.mark.parametrize(
    "make",
    [
        lambda k: f"ISIC_{k:07}",
        lambda k: f"PAT_{k}_{3 * k}_{7 * k}.png",
        lambda k: f"{k:010}",
        lambda k: str(4_000_000_000 + k),
        lambda k: ["Anterior Torso", "Upper Extremity", "Head and Neck"][k % 3],
        lambda k: ["basal cell carcinoma of the skin", "melanoma, not specified any further"][
            k % 2
        ],
        lambda k: str(0.1 * k),
        lambda k: f"10.5072/{k}",
        lambda k: ["True", "False"][k % 2],
        lambda k: "",
    ],
)
def test_ordinary_columns_are_not_personal(make):
    assert personal_kind(many(make)) is None


def test_numbers_and_ticks_are_not_looked_at():
    assert personal_kind(pd.Series(np.arange(50.0))) is None
    assert personal_kind(pd.Series(np.arange(50) % 2 == 0)) is None
    assert personal_kind(many(PERSONAL["dates"], n=4)) is None, "too few to say"


def test_the_finding_does_not_spread_what_it_warns_of(clean_tables, cohort, codes, only):
    tables = clean_tables()
    tables["images"]["remark"] = many(PERSONAL["e-mail addresses"], 120)
    report = check_cohort(cohort(tables))
    finding = only(report, "personal-data")
    assert finding.severity == "warning"
    assert "column 'remark' seems to hold e-mail addresses." in finding.message
    assert "clinic" not in report.render()
    assert finding.example == "like 'xxxxxxx9@xxxxxx.xxxxxxx.xxx'"


def test_dates_beside_the_features_are_a_note(clean_tables, cohort, only):
    tables = clean_tables()
    tables["images"]["visit"] = many(PERSONAL["dates"], 120)
    assert only(check_cohort(cohort(tables)), "personal-data").severity == "note"
