from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from spoilt import clean_tables, codes, cohort, only, with_column

from slimp.checks.columns import class_named_in, far_values, twin_spellings
from slimp.checks.report import cautions, check_cohort
from slimp.sources.personal_data import personal_kind

check = partial(check_cohort, near_duplicates=False)
"""The images are not what is tested here."""


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [("age", np.nan, "empty-column"), ("origin", "ITALY", "constant-column")],
)
def test_columns_that_carry_nothing(column, value, code):
    report = check(cohort(with_column("patients", column, value)))
    assert f"'{column}'" in only(report, code).message


def test_inputs_that_should_be_none_are_named():
    """Row numbers, ids, text that names the class, one-hot ground truth, pathology."""
    tables = clean_tables()
    label = tables["images"]["label"].replace({"MEL": "melanoma", "NEV": "nevus"})
    tables["lesions"] = tables["lesions"].assign(
        index=np.arange(120.0),
        title=[f"photo {k} of a {name} on the arm" for k, name in enumerate(label)],
        mel=pd.array(np.arange(120) % 2 == 0, dtype="boolean"),
        pathology=np.where(np.arange(120) % 3 == 0, "deep", "flat"),
        record=[f"record-{k}" for k in range(120)],
    )
    tables["lesions"] = tables["lesions"].astype(dict.fromkeys(("title", "pathology"), "str"))
    lesion = {
        **{"index": {"kind": "continuous"}, "title": {"kind": "categorical"}},
        **{"mel": {"kind": "checkbox"}, "pathology": {"kind": "categorical"}},
        "record": {"kind": "categorical"},
    }
    whole = cohort(tables, schema={"lesion_metadata": lesion})
    report = check(whole)
    for code, name in (
        ("row-counter", "index"),
        ("text-names-class", "title"),
        ("named-as-class", "mel"),
        ("known-after-diagnosis", "pathology"),
        ("identifier-feature", "record"),
    ):
        assert name in only(report, code).message
    assert "leak" not in codes(report), "what names rows is no leak"
    assert len(cautions(whole)) == 4


def test_classes_in_other_scripts_are_not_named_by_every_text():
    texts = pd.Series([f"taken on the arm, view {k}" for k in range(30)])
    assert class_named_in(texts, ["黒色腫です", "母斑です"]) is None
    assert class_named_in(texts + " of a Nevus", ["黒色腫です"]) == "nevus"


@pytest.mark.parametrize(
    ("table", "column", "value", "code", "words"),
    [
        ("patients", "age", 130.0, "impossible-value", "outside 0 to 120 years"),
        ("patients", "age", -1.0, "impossible-value", "outside 0 to 120 years"),
        ("lesions", "diameter", 0.0, "impossible-value", "not above 0 mm"),
        ("lesions", "diameter", 9999.0, "outlier", "far outside the others"),
    ],
)
def test_impossible_numbers(table, column, value, code, words):
    tables = clean_tables()
    tables[table].loc[7, column] = value
    finding = only(check(cohort(tables)), code)
    assert words in finding.message
    assert finding.example == f"{table.removesuffix('s')} {tables[table].iloc[7, 0]}: {value:g}"


def test_a_column_of_positions_may_be_negative():
    tables = with_column("lesions", "diameter", np.random.default_rng(0).normal(0, 100, 120))
    assert check(cohort(tables)).findings == ()


@pytest.mark.parametrize(
    ("draw", "sizes"),
    [
        ("normal", (0, 1, 2000)),
        ("lognormal", (1, 1.2, 2000)),
        ("exponential", (1, 2000)),
        ("uniform", (0, 1, 2000)),
        ("standard_t", (4, 2000)),
    ],
)
def test_long_tails_are_no_outliers(draw, sizes):
    for seed in range(8):
        numbers = pd.Series(getattr(np.random.default_rng(seed), draw)(*sizes))
        assert not far_values(numbers).any()
        assert far_values(pd.concat([numbers, pd.Series([1e6])], ignore_index=True)).tolist()[-1]


@pytest.mark.parametrize(
    ("first", "second", "twins"),
    [
        ("BRASIL", "BRAZIL", True),
        ("Face", "FACE", True),
        ("lower-extremity", "lower extremity", True),
        ("lower extremity", "lower extremety", True),
        ("lower extremity", "lowr extremityy", True),
        ("lower extremity", "upper extremity", False),
        ("anterior torso", "posterior torso", False),
        ("male", "female", False),
        ("type 11", "type 12", False),
        ("ARM", "EAR", False),
    ],
)
def test_twin_spellings(first, second, twins):
    known = pd.Series([first] * 50 + [second] * 5 + ["other thing"] * 9)
    assert bool(list(twin_spellings(known, "column"))) == twins


def test_labels_spelled_twice():
    tables = clean_tables()
    tables["images"].loc[:24, "label"] = "nev"
    assert "'NEV'" in only(check(cohort(tables)), "twin-spellings").example


# Personal data

FIRST = ["Anna", "José", "Li", "Mary", "Jürgen", "Zoë", "Omar", "Ingrid"]
LAST = ["Schmidt", "García", "Wang", "O", "Müller-Lang", "Costa", "Haddad", "Berg"]
SITES = ["Anterior Torso", "Upper Extremity", "Head and Neck"]
DIAGNOSES = ["basal cell carcinoma of the skin", "melanoma, not specified any further"]


def many(make, n=60):
    return pd.Series([make(k) for k in range(n)])


def email(k):
    return f"patient{k}@clinic.example.org"


def date(k):
    return f"{1 + k % 28:02}.{1 + k % 12:02}.19{40 + k % 50}"


def name(k):
    return f"{FIRST[k % 8]} {LAST[k // 8]}"


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("e-mail addresses", email),
        ("e-mail addresses", lambda k: "nevus" if k % 20 else "call anna@example.org about it"),
        ("telephone numbers", lambda k: f"+49 30 {1000000 + 7919 * k}"),
        ("telephone numbers", lambda k: f"030/{445566 + k}"),
        ("telephone numbers", lambda k: f"(089) {12345 + k} 17"),
        ("dates", date),
        ("dates", lambda k: f"20{10 + k % 10}-{1 + k % 12:02}-{1 + k % 28:02}T08:15:00"),
        ("dates", lambda k: f"{1 + k % 12}/{13 + k % 15}/2019"),
        ("names of people", name),
        ("names of people", lambda k: f"{LAST[k // 8]}, {FIRST[k % 8]}"),
        ("names of people", lambda k: f"Dr. {FIRST[k % 8]} van {LAST[k // 8]}"),
        ("free text", lambda k: f"seen on ward {k}, lesion has grown since the spring"),
        (None, lambda k: f"ISIC_{k:07}"),
        (None, lambda k: f"PAT_{k}_{3 * k}_{7 * k}.png"),
        (None, lambda k: f"{k:010}"),
        (None, lambda k: str(4_000_000_000 + k)),
        (None, lambda k: SITES[k % 3]),
        (None, lambda k: DIAGNOSES[k % 2]),
        (None, lambda k: str(0.1 * k)),
        (None, lambda k: f"10.5072/{k}"),
        (None, lambda k: ["True", "False"][k % 2]),
        (None, lambda k: ""),
        (None, float),
        (None, lambda k: k % 2 == 0),
    ],
)
def test_personal_data_are_known_by_their_values(kind, make):
    found = personal_kind(many(make))
    assert found is None if kind is None else found[0] == kind
    assert personal_kind(many(make, n=4)) is None, "too few to say"


def test_the_finding_does_not_spread_what_it_warns_of():
    tables = clean_tables()
    tables["images"]["remark"] = many(email, 120)
    report = check(cohort(tables))
    finding = only(report, "personal-data")
    assert finding.severity == "warning"
    assert "'remark' seems to hold e-mail addresses" in finding.message
    assert "clinic" not in report.render()
    assert finding.example == "like 'xxxxxxx9@xxxxxx.xxxxxxx.xxx'"
    tables = clean_tables()
    tables["patients"]["origin"] = many(name)
    report = check(cohort(tables))
    assert codes(report) == {"personal-data"}
    assert not any(first in report.render() for first in FIRST)
    tables = clean_tables()
    tables["images"]["doctor"] = tables["images"]["label"].str.lower() + "@clinic.example.org"
    report = check(cohort(tables))
    assert codes(report) == {"personal-data", "leak-unused"}
    assert "@" not in report.render().replace("xxx@", "")
    assert "@" not in str([row.to_dict() for row in report.ranking])


def test_dates_beside_the_features_are_a_note():
    tables = clean_tables()
    tables["images"]["visit"] = many(date, 120)
    assert only(check(cohort(tables)), "personal-data").severity == "note"
