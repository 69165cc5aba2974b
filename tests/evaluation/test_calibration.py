"""Temperature scaling: closed forms, what it must not change, and that it calibrates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from slimp.evaluation.metrics import ece, reliability
from slimp.evaluation.temperature import TEMPERATURES, apply_temperature, fit_temperature

SEEDS = st.integers(0, 10**6)


def draw(seed: int, k: int = 3, n: int = 4000, *, temperature: float = 1.0):
    """Balanced probabilities, class shares, and labels drawn from what they stand for."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, k))
    shares = rng.dirichlet(np.full(k, 3.0))
    truth = softmax(z / temperature + np.log(shares), axis=1)
    y = (truth.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return softmax(z, axis=1), np.minimum(y, k - 1), shares


def test_it_is_the_best_of_a_grid():
    p, y, shares = draw(1, temperature=2.0)
    rows = np.arange(len(y))

    def loss(temperature: float) -> float:
        return float(-np.log(apply_temperature(p, temperature, shares)[rows, y]).mean())

    best = loss(fit_temperature(p, y, shares))
    assert best <= min(loss(t) for t in np.geomspace(*TEMPERATURES, 400)) + 1e-9


@settings(max_examples=25)
@given(seed=SEEDS, k=st.integers(2, 6), temperature=st.floats(0.1, 10))
def test_with_equal_shares_the_most_probable_class_and_all_ranks_stay(seed, k, temperature):
    p = np.random.default_rng(seed).dirichlet(np.ones(k), size=20)
    q = apply_temperature(p, temperature, np.full(k, 1 / k))
    np.testing.assert_allclose(q.sum(axis=1), 1)
    np.testing.assert_array_equal(p.argmax(axis=1), q.argmax(axis=1))
    np.testing.assert_array_equal(np.argsort(p, axis=1), np.argsort(q, axis=1))


@settings(max_examples=15)
@given(seed=SEEDS, k=st.integers(2, 6))
def test_temperature_one_is_bayes_rule(seed, k):
    """Balanced posteriors times the class shares, made to add up to 1."""
    rng = np.random.default_rng(seed)
    p, shares = rng.dirichlet(np.ones(k), size=20), rng.dirichlet(np.ones(k))
    np.testing.assert_allclose(apply_temperature(p, 1.0, np.full(k, 1 / k)), p, atol=1e-12)
    wanted = p * shares / (p * shares).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(apply_temperature(p, 1.0, shares), wanted, atol=1e-12)
    np.testing.assert_allclose(apply_temperature(p, 1.0, 7 * shares), wanted, atol=1e-12)


def test_a_class_that_a_fold_did_not_know_says_nothing():
    p, y, shares = draw(3, n=500)
    gone = np.array([[0.5, 0.5, 0.0]] * 40)
    wider = np.vstack([p, gone]), np.concatenate([y, np.full(40, 2)])
    assert fit_temperature(*wider, shares) == fit_temperature(p, y, shares)
    assert fit_temperature(gone, np.full(40, 2), shares) == 1.0


def test_separated_rows_end_at_the_bound_and_noise_at_the_other():
    y = np.arange(3).repeat(10)
    sure = np.where(np.eye(3)[y] == 1, 0.8, 0.1)
    equal = np.full(3, 1 / 3)
    assert fit_temperature(sure, y, equal) == pytest.approx(TEMPERATURES[0], rel=0.25)
    assert fit_temperature(sure, np.roll(y, 10), equal) == pytest.approx(TEMPERATURES[1], rel=0.25)


@settings(max_examples=15)
@given(seed=SEEDS, k=st.integers(2, 5))
def test_the_diagrams_gaps_add_up_to_the_ece(seed, k):
    p, y, _ = draw(seed, k, n=60)
    found = reliability(y, p)
    assert found.counts.sum() == len(y)
    filled = found.counts > 0
    assert np.isnan(found.confidence[~filled]).all()
    inside = found.confidence[filled]
    assert (found.edges[:-1][filled] < inside).all()
    assert (inside <= found.edges[1:][filled] + 1e-12).all()
    gaps = np.abs(found.confidence - found.accuracy)[filled]
    total = np.average(gaps, weights=found.counts[filled])
    assert total == pytest.approx(ece(y, p, np.ones((1, len(y))))[0])
