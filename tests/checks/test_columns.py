from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.checks.columns import edit_distance, far_values, twin_spellings
from slimp.checks.report import check_cohort


def test_columns_that_carry_nothing(cohort, with_column, only):
    report = check_cohort(cohort(with_column("patients", "age", np.nan)))
    assert "holds no value" in only(report, "empty-column").message
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


@pytest.mark.parametrize("seed", range(20))
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
