from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from slimp.errors import CheckpointError, UserError
from slimp.evaluation import logistic
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.logistic import (
    LinearProbe,
    balanced_log_loss,
    best_threshold,
    fit_at,
    fit_logistic,
    fit_temperature,
)

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def draw(seed: int = 0, k: int = 3, n: int = 120, d: int = 6, signal: float = 1.0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k).repeat(2), rng.integers(k, size=n - 2 * k)])
    centres = signal * rng.normal(size=(k, d))
    x = 3 + 5 * (centres[y] + rng.normal(size=(n, d)))  # far from standardised
    groups = rng.integers(n // 2, size=n).astype(str)
    groups[: 2 * k] = [f"own{i}" for i in range(2 * k)]
    return x, y, groups


def fit(x, y, groups, k):
    names = tuple("abcdefg"[:k])
    return fit_logistic(x, y, groups, names, strengths=STRENGTHS, folds=5, seed=0)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_equals_scikit_learn_at_the_chosen_strength(k):
    x, y, groups = draw(k, k)
    found = fit(x, y, groups, k)
    z = StandardScaler().fit_transform(x)
    theirs = LogisticRegression(C=found.strength, class_weight="balanced", tol=1e-8, max_iter=5000)
    wanted = theirs.fit(z, y).predict_proba(z)
    np.testing.assert_allclose(found.predict_proba(x), wanted, atol=1e-3)
    assert found.converged


def out_of_fold(x, y, groups, k: int, strength: float):
    """Of scikit-learn, each row by a fit that did not see its patient."""
    folds, out = grouped_folds(y, groups, 5, seed=0), np.zeros((len(y), k))
    for f in range(5):
        scaler = StandardScaler().fit(x[folds != f])
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000)
        model.fit(scaler.transform(x[folds != f]), y[folds != f])
        out[folds == f] = model.predict_proba(scaler.transform(x[folds == f]))
    return out


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_strength_is_the_best_of_a_full_search(seed):
    """Warm starts and the early stop must not change the choice."""
    x, y, groups = draw(seed, signal=0.4)
    losses = [balanced_log_loss(y, out_of_fold(x, y, groups, 3, c)) for c in STRENGTHS]
    assert fit(x, y, groups, 3).strength == STRENGTHS[int(np.argmin(losses))]


def test_a_class_that_a_fold_cannot_train_on_is_survived():
    """Class 2 belongs to one patient: its fold trains without it and gives it probability 0."""
    x, y, groups = draw(6)
    groups[y == 2] = "only"
    assert np.isfinite(fit(x, y, groups, 3).predict_proba(x)).all()
    x, y = x[:4], np.array([0, 0, 1, 1])  # each fold trains on a single class
    found = fit(x, y, np.array(["p", "p", "q", "q"]), 2)
    assert found.strength == STRENGTHS[0]


def test_tells_when_a_fit_did_not_converge(monkeypatch):
    monkeypatch.setattr(logistic, "MAX_ITER", 1)
    assert not fit(*draw(7), 3).converged


def balanced(y, positive) -> float:
    return float((positive[y == 1].mean() + (~positive[y == 0]).mean()) / 2)


def test_threshold_is_the_best_of_all_cuts():
    rng = np.random.default_rng(0)
    for _ in range(20):
        y = np.array([0, 1, *rng.integers(2, size=30)])
        scores = np.round(rng.random(32) * 0.5 + 0.2 * y, 2)
        cut = best_threshold(y, scores)
        everything = [balanced(y, scores >= c) for c in np.linspace(-0.1, 1, 1101)]
        assert balanced(y, scores >= cut) == pytest.approx(max(everything))


def test_only_two_classes_have_a_threshold_and_it_decides():
    assert fit(*draw(8), 3).threshold is None
    probe = fit(*draw(8, k=2, signal=0.5), 2)
    assert probe.threshold is not None
    p = np.array([[1 - probe.threshold, probe.threshold], [1.0, 0.0]])
    assert probe.decide(p).tolist() == [1, 0]


def test_saved_and_loaded_it_predicts_the_same(tmp_path):
    x, y, groups = draw(9, k=2)
    probe = replace(fit(x, y, groups, 2), features="image+lesion")
    probe.save(tmp_path)
    again = LinearProbe.load(tmp_path)
    np.testing.assert_array_equal(probe.predict_proba(x), again.predict_proba(x))
    np.testing.assert_array_equal(probe.calibrated_proba(x), again.calibrated_proba(x))
    assert (again.classes, again.features) == (("a", "b"), "image+lesion")
    assert again.threshold == probe.threshold


def test_other_warnings_are_passed_on_and_are_no_lack_of_convergence(monkeypatch):
    fitting = LogisticRegression.fit

    def noisy(self, z, y):
        warnings.warn("overflow", RuntimeWarning, stacklevel=1)
        return fitting(self, z, y)

    monkeypatch.setattr(LogisticRegression, "fit", noisy)
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert fit(*draw(2), 3).converged


def test_refusals(tmp_path):
    x, y, groups = draw(10)
    probe = replace(fit(x, y, groups, 3), features="image")
    with pytest.raises(UserError, match=r"fitted on 6 features \('image'\), got 5"):
        probe.predict_proba(x[:, :5])
    with pytest.raises(UserError, match="at least 2 training patients"):
        fit(x, y, np.full(len(y), "one"), 3)
    with pytest.raises(CheckpointError, match="no logistic probe here"):
        LinearProbe.load(tmp_path)
    probe.save(tmp_path)
    whole = (tmp_path / "probe.safetensors").read_bytes()
    (tmp_path / "probe.safetensors").write_bytes(whole[:40])
    with pytest.raises(CheckpointError, match=r"probe\.safetensors: missing or damaged"):
        LinearProbe.load(tmp_path)
    (tmp_path / "probe.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="written by another version"):
        LinearProbe.load(tmp_path)


@pytest.mark.parametrize("k", [2, 3])
def test_calibrated_probabilities_are_of_the_class_shares_and_decide_nothing(k):
    x, y, groups = draw(12, k=k, signal=0.5)
    y = np.where(np.random.default_rng(0).random(len(y)) < 0.6, 0, y)  # class 0 is frequent
    y[: 2 * k] = np.arange(k).repeat(2)
    probe = fit(x, y, groups, k)
    np.testing.assert_allclose(probe.priors, np.bincount(y) / len(y))
    q = probe.calibrated_proba(x)
    np.testing.assert_allclose(q.sum(axis=1), 1)
    out = out_of_fold(x, y, groups, k, probe.strength)
    assert probe.temperature == pytest.approx(fit_temperature(out, y, probe.priors), rel=1e-2)
    if k == 2:
        assert probe.threshold == pytest.approx(best_threshold(y, out[:, 1]), abs=1e-2)
    # Frequent in training, frequent on average; balanced probabilities say otherwise.
    assert q.mean(axis=0)[0] == pytest.approx(probe.priors[0], abs=0.1)
    assert probe.predict_proba(x).mean(axis=0)[0] < probe.priors[0]


def test_at_a_given_strength_it_is_the_fit_of_the_search():
    x, y, groups = draw(14)
    found = fit(x, y, groups, 3)
    alone = fit_at(x, y, ("a", "b", "c"), found.strength)
    np.testing.assert_allclose(alone.predict_proba(x), found.predict_proba(x), atol=1e-3)
    lacking = fit_at(x[y != 1], y[y != 1], ("a", "b", "c"), 1.0)
    assert (lacking.predict_proba(x)[:, 1] == 0).all()
