"""Agreement against figures worked out by hand, and what is compared with what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score
from tables import DTYPES, cohort_of, ids_of

from slimp.data.cohort import Cohort
from slimp.data.schema import Schema
from slimp.errors import UserError
from slimp.retrieval.agreement import (
    agreement,
    compare_columns,
    matched_columns,
    weighted_correlation,
)


def make_cohort(lesion: dict[str, list], patient: dict[str, list], **kinds: str) -> Cohort:
    """One lesion and one image per patient."""
    n = len(next(iter({**lesion, **patient}.values())))
    return cohort_of(ids_of(["a"] * n, range(n)), lesion, patient, **kinds)


def typed(values: list, kind: str) -> pd.Series:
    return pd.Series(values, dtype=DTYPES[kind])


def test_categories_by_hand():
    truth = ["a", "a", "a", "b", "b", None, "c"]
    given = [" A", "a", "b", "b", "a", "a", "a"]  # case and blanks do not count
    target = make_cohort({"site": truth}, {}, site="categorical")
    reference = make_cohort({"site": ["a", "b"]}, {}, site="categorical")
    retrieved = {"lesion": pd.DataFrame({"site": typed(given, "categorical")})}
    (column,) = compare_columns(reference, target, retrieved, {})
    patients = target.patients["patient_id"].to_numpy()
    found = agreement(column, patients, np.ones(7, dtype=bool), replicates=50)
    assert found is not None
    assert (found.n, found.n_patients) == (6, 6)
    assert found.unknown_to_reference == pytest.approx(1 / 6)  # c
    figures = {name: estimate.mean for name, estimate in found.figures.items()}
    # truth: a 3, b 2, c 1; given: a 4, b 2
    assert figures["agreement"] == pytest.approx(3 / 6)
    assert figures["chance"] == pytest.approx((3 * 4 + 2 * 2) / 36)
    known = [(g.strip().lower(), t) for g, t in zip(given, truth, strict=True) if t]
    assert figures["kappa"] == pytest.approx(cohen_kappa_score(*zip(*known, strict=True)))
    assert (found.measure, found.headline) == ("agreement", found.figures["agreement"])
    assert found.beyond_chance is found.figures["kappa"]
    assert np.isnan(found.figures["agreement"].ci95).all()  # of 6 patients


def test_numbers_by_hand():
    truth, given = [10.0, 20.0, 40.0, np.nan, 60.0], [12.0, 20.0, 30.0, 5.0, 50.0]
    target = make_cohort({}, {"age": truth}, age="continuous")
    reference = make_cohort({}, {"age": [10.0, 30.0, 80.0]}, age="continuous")
    retrieved = {"patient": pd.DataFrame({"age": typed(given, "continuous")})}
    (column,) = compare_columns(reference, target, retrieved, {})
    assert column.typical == 30
    half = np.std([10.0, 30.0, 80.0]) / 2
    assert column.agrees[:3].tolist() == [1, 1, float(half >= 10)]
    assert np.isnan(column.agrees[3])
    patients = target.patients["patient_id"].to_numpy()
    found = agreement(column, patients, np.ones(5, dtype=bool), replicates=20)
    assert found is not None
    figures = {name: estimate.mean for name, estimate in found.figures.items()}
    assert figures["error"] == pytest.approx((2 + 0 + 10 + 10) / 4)
    assert figures["chance"] == pytest.approx((20 + 10 + 10 + 30) / 4)
    assert figures["skill"] == pytest.approx(1 - 22 / 70)
    assert figures["rank_correlation"] == pytest.approx(1)
    assert (found.measure, found.headline) == ("error", found.figures["error"])
    assert found.beyond_chance is found.figures["skill"]


def test_boxes_that_are_always_ticked_are_as_good_as_chance():
    target = make_cohort({"itch": [True, False, None, True]}, {}, itch="checkbox")
    reference = make_cohort({"itch": [True]}, {}, itch="checkbox")
    retrieved = {"lesion": pd.DataFrame({"itch": typed([True] * 4, "checkbox")})}
    (column,) = compare_columns(reference, target, retrieved, {})
    np.testing.assert_array_equal(column.agrees, [1, 0, np.nan, 1])
    found = agreement(column, np.array(list("aabb")), np.ones(4, dtype=bool), replicates=20)
    assert found is not None
    assert found.figures["agreement"].mean == pytest.approx(2 / 3)
    assert found.figures["kappa"].mean == pytest.approx(0)


def test_features_meet_by_name_and_kind_or_as_told():
    kinds = dict.fromkeys(("place", "sex", "site", "gender"), "categorical")
    target = make_cohort({"place": ["x"]}, {"sex": ["f"], "age": [1.0]}, age="continuous", **kinds)
    reference = make_cohort(
        {"site": ["x"]}, {"gender": ["f"], "age": ["old"]}, age="categorical", **kinds
    )
    assert matched_columns(reference, target, {}) == []
    pairs = matched_columns(reference, target, {"sex": "gender", "place": "site"})
    names = {(retrieved.name, true.name) for retrieved, true in pairs}
    assert names == {("gender", "sex"), ("site", "place")}
    for rename, message in (
        ({"weight": "gender"}, "has no feature 'weight'; it has: place"),
        ({"sex": "pet"}, "has no feature 'pet'; it has: site"),
        ({"age": "age"}, "'age' of the target and 'age' .* continuous and categorical"),
    ):
        with pytest.raises(UserError, match=message):
            matched_columns(reference, target, rename)


def test_numbers_in_different_units_are_not_compared():
    def cohort(unit: str | None) -> Cohort:
        made = make_cohort({"size": [5.0, 7.0]}, {}, size="continuous")
        content = made.schema.to_dict()
        if unit:
            content["lesion_metadata"]["size"]["unit"] = unit
        return replace(made, schema=Schema.from_dict(content))

    assert matched_columns(cohort("cm"), cohort("mm"), {}) == []
    with pytest.raises(UserError, match=r"'size' of the target and 'size' .* in mm and in cm"):
        matched_columns(cohort("cm"), cohort("mm"), {"size": "size"})
    for other in ("mm", None):  # what is not said does not differ
        assert len(matched_columns(cohort(other), cohort("mm"), {})) == 1


def test_nothing_to_compare_is_no_figure():
    target = make_cohort({"site": [None, "a"]}, {}, site="categorical")
    reference = make_cohort({"site": ["a"]}, {}, site="categorical")
    retrieved = {"lesion": pd.DataFrame({"site": typed(["a", None], "categorical")})}
    (column,) = compare_columns(reference, target, retrieved, {})
    assert agreement(column, np.array(["p", "q"]), np.ones(2, dtype=bool)) is None
    assert compare_columns(reference, target, {}, {}) == []  # that level is not retrieved


def test_weighted_correlation_counts_rows_as_often_as_they_weigh():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    weights = rng.integers(0, 4, size=(3, 30)).astype(float)
    for w, found in zip(weights, weighted_correlation(weights, a, b), strict=True):
        times = w.astype(int)
        wanted = np.corrcoef(np.repeat(a, times), np.repeat(b, times))[0, 1]
        assert found == pytest.approx(wanted)
    assert np.isnan(weighted_correlation(weights, np.ones(30), b)).all()
    ranks = a.argsort().argsort().astype(float), b.argsort().argsort().astype(float)
    same = weighted_correlation(np.ones((1, 30)), *ranks)
    assert same[0] == pytest.approx(spearmanr(a, b).statistic)
