"""Temperature scaling and the reliability diagram: slow loops, bounds, what must add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from slimp.evaluation.fine_tuning import TEMPERATURES, fit_temperature
from slimp.evaluation.metrics import ece, reliability


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
        return -log_softmax(np.log(p) / temperature + np.log(shares), axis=1)[rows, y].mean()

    best = loss(fit_temperature(p, y, shares))
    assert best <= min(loss(t) for t in np.geomspace(*TEMPERATURES, 400)) + 1e-9


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
@given(seed=st.integers(0, 10**6), k=st.integers(2, 5))
def test_the_diagrams_gaps_add_up_to_the_ece(seed, k):
    p, y, _ = draw(seed, k, n=60)
    found = reliability(y, p)
    assert found["rows"].sum() == len(y)
    assert (found["low"] < found["confidence"]).all()
    assert (found["confidence"] <= found["high"] + 1e-12).all()
    total = np.average((found["confidence"] - found["accuracy"]).abs(), weights=found["rows"])
    assert total == pytest.approx(ece(y, p, np.ones((1, len(y))))[0])
