from __future__ import annotations

import json

import numpy as np
import pytest

from slimp.checks.ranking import ACQUISITION, CONTENT
from slimp.checks.report import check_cohort


def test_the_most_informative_comes_first_and_survives_json(cohort):
    ranking = check_cohort(cohort()).ranking
    bits = [row.link.information for row in ranking]
    assert bits == sorted(bits, reverse=True)
    assert {"bleed", "itch", "diameter", "origin", "age", "gaps of age"} <= {
        row.name for row in ranking
    }
    assert {row.name for row in ranking if row.kind == "picture"} <= {*ACQUISITION, *CONTENT}
    best = ranking[0].to_dict()
    assert best["column"] == "bleed"
    assert best["information_low"] <= best["information_bits"] <= best["information_high"]
    json.dumps([row.to_dict() for row in ranking], allow_nan=False)


def test_columns_empty_in_the_same_rows_are_one_row(clean_tables, cohort):
    tables = clean_tables()
    tables["lesions"].loc[::3, ["diameter", "itch", "bleed"]] = np.nan
    ranking = check_cohort(cohort(tables)).ranking
    gaps = {row.name: row for row in ranking if row.kind == "gaps"}
    assert set(gaps) == {"gaps of diameter and 2 more", "gaps of age"}
    row = gaps["gaps of diameter and 2 more"]
    assert [column.name for column in row.columns] == ["diameter", "itch", "bleed"]
    assert row.known == pytest.approx(2 / 3)


def test_without_labels_nothing_is_ranked(with_column, cohort):
    assert check_cohort(cohort(with_column("images", "label", "NEV"))).ranking == ()
