from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from slimp.evaluation.metrics import brier, ece, metrics, recall_per_class

N = 40


def draw(seed: int, k: int, *, n: int = N, decimals: int | None = None):
    """Truth, probabilities (with ties where rounded), decisions and weights, some of them 0."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(k, size=n - k)])
    p = rng.dirichlet(np.ones(k), size=n)
    if decimals is not None:
        p = np.round(p, decimals)
    weights = rng.integers(4, size=(3, n)).astype(float)
    weights[:, :k] += 1  # every class present
    return y, p, p.argmax(axis=1), weights


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), k=st.integers(2, 5), decimals=st.sampled_from([None, 1, 0]))
def test_equal_to_scikit_learn_under_weights_and_ties(seed, k, decimals):
    y, p, predicted, weights = draw(seed, k, decimals=decimals)
    ours = metrics(y, p, predicted, weights)
    for r, w in enumerate(weights):
        keep = w > 0
        aurocs = [sk.roc_auc_score(y == c, p[:, c], sample_weight=w) for c in range(k)]
        precisions = [
            sk.average_precision_score(y == c, p[:, c], sample_weight=w) for c in range(k)
        ]
        theirs = {
            "accuracy": sk.accuracy_score(y, predicted, sample_weight=w),
            "balanced_accuracy": sk.recall_score(
                y[keep], predicted[keep], labels=range(k), average="macro", sample_weight=w[keep]
            ),
            "f1_macro": sk.f1_score(
                y, predicted, labels=range(k), average="macro", sample_weight=w, zero_division=0
            ),
            "auroc_macro_ovr": np.mean(aurocs),
            "average_precision_macro": np.mean(precisions),
        }
        for name, value in theirs.items():
            assert ours[name][r] == pytest.approx(value, abs=1e-12), name
    two = {"pauc_above_80tpr", "sensitivity_at_90_specificity", "sensitivity_at_95_specificity"}
    assert set(ours) & two == (two if k == 2 else set())


def official_pauc(y, scores, min_tpr=0.8):
    """ISIC 2024's scorer: flip labels and scores, then the area up to a false positive rate."""
    max_fpr = 1 - min_tpr
    fpr, tpr, _ = sk.roc_curve(1 - y, -scores)
    stop = np.searchsorted(fpr, max_fpr, "right")
    x, h = [fpr[stop - 1], fpr[stop]], [tpr[stop - 1], tpr[stop]]
    tpr = np.append(tpr[:stop], np.interp(max_fpr, x, h))
    return sk.auc(np.append(fpr[:stop], max_fpr), tpr)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), decimals=st.sampled_from([None, 1]))
def test_pauc_is_the_official_one_of_repeated_rows(seed, decimals):
    y, p, predicted, weights = draw(seed, 2, decimals=decimals)
    ours = metrics(y, p, predicted, weights)["pauc_above_80tpr"]
    for r, w in enumerate(weights):
        rows = np.repeat(np.arange(N), w.astype(int))
        assert ours[r] == pytest.approx(official_pauc(y[rows], p[rows, 1]), abs=1e-12)


def test_ece_and_brier_equal_slow_loops():
    y, p, _, weights = draw(3, 3)
    edges = np.linspace(0, 1, 16)
    for r, w in enumerate(weights):
        gaps = 0.0
        for low, high in pairwise(edges):
            inside = [i for i in range(N) if low < p[i].max() <= high]
            size = sum(w[i] for i in inside)
            if size:
                accuracy = sum(w[i] * (p[i].argmax() == y[i]) for i in inside) / size
                confidence = sum(w[i] * p[i].max() for i in inside) / size
                gaps += size / w.sum() * abs(accuracy - confidence)
        assert ece(y, p, weights)[r] == pytest.approx(gaps)
        squares = [sum((p[i, c] - (y[i] == c)) ** 2 for c in range(3)) for i in range(N)]
        assert brier(y, p, weights)[r] == pytest.approx(np.average(squares, weights=w))


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), absent=st.integers(0, 2))
def test_an_absent_class_is_left_out_of_averages(seed, absent):
    y, p, predicted, weights = draw(seed, 3)
    weights[:, y == absent] = 0
    out = metrics(y, p, predicted, weights)
    assert not any(np.isnan(values).any() for values in out.values())
    recall = recall_per_class(y, predicted, weights, 3)
    assert np.isnan(recall[:, absent]).all()
    np.testing.assert_allclose(out["balanced_accuracy"], np.nanmean(recall, axis=1))


def test_a_perfect_and_a_constant_classifier():
    y = np.arange(4).repeat(5)
    one = np.ones((1, 20))
    perfect = metrics(y, np.eye(4)[y], y, one)
    for name in perfect:
        assert perfect[name][0] == (0 if name in ("ece", "brier") else 1), name
    p = np.full((20, 4), 0.25)
    constant = metrics(y, p, np.zeros(20, dtype=int), one)
    assert constant["balanced_accuracy"][0] == 0.25
    assert constant["auroc_macro_ovr"][0] == 0.5
    assert constant["average_precision_macro"][0] == 0.25
    assert constant["ece"][0] == pytest.approx(0)


def slow_sensitivity(y, scores, specificity):
    """Every threshold that a score makes, one by one; nothing between them."""
    best = 0.0
    for cut in (np.inf, *scores):
        if (scores[y == 0] >= cut).mean() <= 1 - specificity + 1e-9:
            best = max(best, (scores[y == 1] >= cut).mean())
    return best


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), decimals=st.sampled_from([None, 1, 2]))
def test_sensitivity_at_a_specificity_equals_a_slow_loop_over_repeated_rows(seed, decimals):
    y, p, predicted, weights = draw(seed, 2, decimals=decimals)
    ours = metrics(y, p, predicted, weights)
    for r, w in enumerate(weights):
        rows = np.repeat(np.arange(N), w.astype(int))
        for share in (90, 95):
            wanted = slow_sensitivity(y[rows], p[rows, 1], share / 100)
            assert ours[f"sensitivity_at_{share}_specificity"][r] == pytest.approx(wanted)
