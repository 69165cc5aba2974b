from __future__ import annotations

import numpy as np
import pytest

from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, bootstrap


def mean_of(*values):
    """The statistic 'weighted mean of the test rows' of each split."""
    return lambda split, w: {"mean": w @ values[split] / w.sum(axis=1)}


def test_rows_of_a_patient_share_its_weight_in_every_split():
    seen = []

    def spy(split, w):
        seen.append((split, w))
        return {"x": w.sum(axis=1)}

    bootstrap([np.array(["a", "b", "a"]), np.array(["c", "a"])], spy, replicates=5)
    (_, first), (_, second) = seen[2:4]  # after the two calls for the estimate
    np.testing.assert_array_equal(first[:, 0], first[:, 2])
    drawn = first[:, 0] > 0  # replicates in which a split tests no one are left out
    np.testing.assert_array_equal(first[drawn, 0], second[drawn, 1])


def test_interval_of_independent_rows_is_the_closed_form():
    rng = np.random.default_rng(0)
    n = 800
    hits = (rng.random(n) < 0.7).astype(float)
    found = bootstrap([np.arange(n).astype(str)], mean_of(hits), replicates=2000)["mean"]
    p = hits.mean()
    half = 1.96 * np.sqrt(p * (1 - p) / n)
    assert found.mean == pytest.approx(p)
    assert found.ci95 == pytest.approx((p - half, p + half), abs=0.1 * half)


def test_equal_splits_give_the_interval_of_one():
    """Splits that test the same patients add no information, so nothing may shrink."""
    rng = np.random.default_rng(1)
    values, groups = rng.random(60), rng.integers(20, size=60).astype(str)
    one = bootstrap([groups], mean_of(values))["mean"]
    three = bootstrap([groups] * 3, mean_of(values, values, values))["mean"]
    assert three.ci95 == pytest.approx(one.ci95)
    assert three.per_seed == pytest.approx([values.mean()] * 3)


def test_chunks_change_nothing_and_the_seed_does(monkeypatch):
    rng = np.random.default_rng(2)
    values, groups = rng.random(50), rng.integers(20, size=50).astype(str)
    first = bootstrap([groups], mean_of(values), replicates=100)["mean"]
    assert bootstrap([groups], mean_of(values), replicates=100, seed=1)["mean"] != first
    monkeypatch.setattr("slimp.evaluation.bootstrap.CHUNK", 7)
    assert bootstrap([groups], mean_of(values), replicates=100)["mean"] == first


def test_covers_the_truth_where_rows_are_clustered_and_rows_alone_do_not():
    """30 patients of 8 rows whose difficulty is shared: 95 % means about 95 %."""
    rng = np.random.default_rng(4)
    patients, rows, trials = 30, 8, 200
    groups = np.arange(patients).repeat(rows).astype(str)
    lonely = np.arange(patients * rows).astype(str)
    covered = {"patients": 0, "rows": 0}
    for trial in range(trials):
        difficulty = rng.beta(2, 2, size=patients).repeat(rows)  # mean 0.5
        hits = (rng.random(patients * rows) < difficulty).astype(float)
        for name, g in (("patients", groups), ("rows", lonely)):
            low, high = bootstrap([g], mean_of(hits), replicates=200, seed=trial)["mean"].ci95
            covered[name] += low <= 0.5 <= high
    assert 0.88 <= covered["patients"] / trials <= 0.98
    assert covered["rows"] / trials < 0.82


def test_an_undefined_replicate_is_left_out():
    def statistic(split, w):
        with np.errstate(invalid="ignore"):
            return {"recall": w[:, 0] / w[:, 0], "never": np.full(len(w), np.nan)}

    found = bootstrap([np.array(["a", "b"])], statistic, replicates=50)
    assert found["recall"].ci95 == (1.0, 1.0)
    assert np.isnan(found["never"].mean)


def test_a_biased_statistic_is_mirrored_around_its_estimate():
    """|mean| of noise around 0 only grows under resampling, like a calibration error."""
    values = np.random.default_rng(5).normal(size=40)
    values -= values.mean() - 0.02
    groups = [np.arange(40).astype(str)]

    def statistic(split, w):
        return {"x": np.abs(w @ values / w.sum(axis=1))}

    plain = bootstrap(groups, statistic)["x"]
    mirrored = bootstrap(groups, statistic, reflect=("x",))["x"]
    low, high = mirrored.ci95
    assert low == pytest.approx(max(0.0, 2 * plain.mean - plain.ci95[1]))
    assert low <= mirrored.mean <= high


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_undefined_is_null(value):
    found = Estimate(mean=float(value), ci95=(0.0, float(value)), per_seed=(1.0, float(value)))
    assert found.to_dict() == {"mean": None, "ci95": [0.0, None], "per_seed": [1.0, None]}


def test_refuses_no_replicates():
    with pytest.raises(UserError, match="replicates must be at least 1, got 0"):
        bootstrap([np.array(["a"])], mean_of(np.ones(1)), replicates=0)
