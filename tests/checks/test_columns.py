from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.checks.columns import far_values
from slimp.checks.report import cautions, check_cohort
from slimp.checks.spellings import edit_distance, twin_spellings
from slimp.sources.personal_data import personal_kind


def test_columns_that_carry_nothing(cohort, with_column, only):
    report = check_cohort(cohort(with_column("patients", "age", np.nan)))
    assert "'age'" in only(report, "empty-column").message
    report = check_cohort(cohort(with_column("patients", "origin", "ITALY")))
    assert "'ITALY'" in only(report, "constant-column").message


def test_identifiers_are_named_and_never_leaks(clean_tables, cohort, codes, only):
    tables = clean_tables()
    tables["images"]["isic_id"] = [f"ISIC_{k:07}" for k in range(120)]
    tables["patients"]["origin"] = [f"record {k}" for k in range(60)]
    report = check_cohort(cohort(tables))
    assert codes(report, "note") == {"identifier"}
    assert codes(report, "warning") == {"identifier-feature"}
    assert only(report, "identifier").example == "ISIC_0000000"


def test_inputs_that_should_be_none_are_named(clean_tables, cohort, only):
    """A row counter, text that names the class, one-hot ground truth, what the pathologist says."""
    tables = clean_tables()
    label = tables["images"]["label"].replace({"MEL": "melanoma", "NEV": "nevus"})
    tables["lesions"] = tables["lesions"].assign(
        index=np.arange(120.0),
        title=[f"photo {k} of a {name} on the arm" for k, name in enumerate(label)],
        mel=pd.array(np.arange(120) % 2 == 0, dtype="boolean"),
        pathology=np.where(np.arange(120) % 3 == 0, "deep", "flat"),
    )
    tables["lesions"] = tables["lesions"].astype({"title": "str", "pathology": "str"})
    lesion = {
        **{"index": {"kind": "continuous"}, "title": {"kind": "categorical"}},
        **{"mel": {"kind": "checkbox"}, "pathology": {"kind": "categorical"}},
    }
    whole = cohort(tables, schema={"lesion_metadata": lesion})
    report = check_cohort(whole)
    for code, name in (
        ("row-counter", "index"),
        ("text-names-class", "title"),
        ("named-as-class", "mel"),
        ("known-after-diagnosis", "pathology"),
    ):
        assert name in only(report, code).message
    assert len(cautions(whole)) == 4


@pytest.mark.parametrize(
    ("table", "column", "value", "code", "words"),
    [
        ("patients", "age", 130.0, "impossible-value", "outside 0 to 120 years"),
        ("patients", "age", -1.0, "impossible-value", "outside 0 to 120 years"),
        ("lesions", "diameter", 0.0, "impossible-value", "not above 0 mm"),
        ("lesions", "diameter", 9999.0, "outlier", "far outside the others"),
    ],
)
def test_impossible_numbers(clean_tables, cohort, only, table, column, value, code, words):
    tables = clean_tables()
    tables[table].loc[7, column] = value
    finding = only(check_cohort(cohort(tables)), code)
    assert words in finding.message
    assert finding.example == f"{table.removesuffix('s')} {tables[table].iloc[7, 0]}: {value:g}"


def test_a_column_of_positions_may_be_negative(cohort, with_column):
    tables = with_column("lesions", "diameter", np.random.default_rng(0).normal(0, 100, 120))
    assert check_cohort(cohort(tables)).findings == ()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential", "uniform", "standard_t"])
def test_long_tails_are_no_outliers(seed, draw):
    rng = np.random.default_rng(seed)
    sizes = {"standard_t": (4, 2000), "lognormal": (1, 1.2, 2000)}
    numbers = pd.Series(
        getattr(rng, draw)(*sizes.get(draw, (0, 1, 2000) if draw != "exponential" else (1, 2000)))
    )
    assert not far_values(numbers).any()
    assert far_values(pd.concat([numbers, pd.Series([1e6])], ignore_index=True)).tolist()[-1]


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_equals_its_definition(first, second):
    @lru_cache(None)
    def slow(i, j):
        if i == 0 or j == 0:
            return i + j
        replaced = slow(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(slow(i - 1, j) + 1, slow(i, j - 1) + 1, replaced)

    assert edit_distance(first, second) == slow(len(first), len(second))


@pytest.mark.parametrize(
    ("first", "second", "twins"),
    [
        ("BRASIL", "BRAZIL", True),
        ("Face", "FACE", True),
        ("lower-extremity", "lower extremity", True),
        ("lower extremity", "lower extremety", True),
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


def test_labels_spelled_twice(clean_tables, cohort, only):
    tables = clean_tables()
    tables["images"].loc[:24, "label"] = "nev"
    assert "'NEV'" in only(check_cohort(cohort(tables)), "twin-spellings").example


# Personal data

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
    assert "'remark' seems to hold e-mail addresses" in finding.message
    assert "clinic" not in report.render()
    assert finding.example == "like 'xxxxxxx9@xxxxxx.xxxxxxx.xxx'"


def test_dates_beside_the_features_are_a_note(clean_tables, cohort, only):
    tables = clean_tables()
    tables["images"]["visit"] = many(PERSONAL["dates"], 120)
    assert only(check_cohort(cohort(tables)), "personal-data").severity == "note"
