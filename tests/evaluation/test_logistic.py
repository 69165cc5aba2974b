from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from slimp.errors import CheckpointError, UserError
from slimp.evaluation import logistic
from slimp.evaluation.calibration import apply_temperature
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.logistic import (
    LinearProbe,
    balanced_log_loss,
    best_threshold,
    fit_at,
    fit_logistic,
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
    np.testing.assert_allclose(found.probe.predict_proba(x), wanted, atol=1e-3)
    assert found.converged


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_strength_is_the_best_of_a_full_search(seed):
    """Warm starts and the early stop must not change the choice."""
    x, y, groups = draw(seed, signal=0.4)
    found = fit(x, y, groups, 3)
    folds = grouped_folds(y, groups, 5, seed=0)
    losses = []
    for strength in STRENGTHS:
        out = np.zeros((len(y), 3))
        for f in range(5):
            scaler = StandardScaler().fit(x[folds != f])
            model = LogisticRegression(C=strength, class_weight="balanced", max_iter=5000)
            model.fit(scaler.transform(x[folds != f]), y[folds != f])
            out[folds == f] = model.predict_proba(scaler.transform(x[folds == f]))
        losses.append(balanced_log_loss(y, out))
    assert found.strength == STRENGTHS[int(np.argmin(losses))]
    tried = ~np.isnan(found.scores)
    np.testing.assert_allclose(found.scores[tried], np.array(losses)[tried], atol=1e-3)


def test_a_class_that_a_fold_cannot_train_on_is_survived():
    """Class 2 belongs to one patient: its fold trains without it and gives it probability 0."""
    x, y, groups = draw(6)
    groups[y == 2] = "only"
    assert np.isfinite(fit(x, y, groups, 3).scores[0])
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
    assert fit(*draw(8), 3).probe.threshold is None
    probe = fit(*draw(8, k=2, signal=0.5), 2).probe
    assert probe.threshold is not None
    p = np.array([[1 - probe.threshold, probe.threshold], [1.0, 0.0]])
    assert probe.decide(p).tolist() == [1, 0]


def test_saved_and_loaded_it_predicts_the_same(tmp_path):
    x, y, groups = draw(9, k=2)
    probe = replace(fit(x, y, groups, 2).probe, features="image+lesion")
    probe.save(tmp_path)
    again = LinearProbe.load(tmp_path)
    np.testing.assert_array_equal(probe.predict_proba(x), again.predict_proba(x))
    np.testing.assert_array_equal(probe.calibrated_proba(x), again.calibrated_proba(x))
    assert (again.classes, again.features) == (("a", "b"), "image+lesion")
    assert again.threshold == probe.threshold


def test_refusals(tmp_path):
    x, y, groups = draw(10)
    probe = replace(fit(x, y, groups, 3).probe, features="image")
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


def test_out_of_fold_probabilities_are_of_fits_that_did_not_see_the_patient():
    x, y, groups = draw(11)
    found = fit(x, y, groups, 3)
    folds = grouped_folds(y, groups, 5, seed=0)
    for f in range(5):
        seen = folds != f
        scaler = StandardScaler().fit(x[seen])
        model = LogisticRegression(C=found.strength, class_weight="balanced", max_iter=5000)
        model.fit(scaler.transform(x[seen]), y[seen])
        wanted = model.predict_proba(scaler.transform(x[~seen]))
        np.testing.assert_allclose(found.out_of_fold[~seen], wanted, atol=5e-3)


@pytest.mark.parametrize("k", [2, 3])
def test_calibrated_probabilities_are_of_the_class_shares_and_decide_nothing(k):
    x, y, groups = draw(12, k=k, signal=0.5)
    y = np.where(np.random.default_rng(0).random(len(y)) < 0.6, 0, y)  # class 0 is frequent
    y[: 2 * k] = np.arange(k).repeat(2)
    found = fit(x, y, groups, k)
    probe = found.probe
    np.testing.assert_allclose(probe.priors, np.bincount(y) / len(y))
    q = probe.calibrated_proba(x)
    np.testing.assert_allclose(q.sum(axis=1), 1)
    # On the rows it was fitted on, the temperature is an optimum: nudging it makes things worse.
    rows = np.arange(len(y))

    def loss(temperature: float) -> float:
        scaled = apply_temperature(found.out_of_fold, temperature, probe.priors)
        return float(-np.log(scaled[rows, y]).mean())

    assert loss(probe.temperature) <= min(
        loss(0.9 * probe.temperature), loss(1.1 * probe.temperature)
    )
    # Frequent in training, frequent on average; balanced probabilities say otherwise.
    assert q.mean(axis=0)[0] == pytest.approx(probe.priors[0], abs=0.1)
    assert probe.predict_proba(x).mean(axis=0)[0] < probe.priors[0]


def test_at_a_given_strength_it_is_the_fit_of_the_search():
    x, y, groups = draw(14)
    found = fit(x, y, groups, 3)
    alone = fit_at(x, y, ("a", "b", "c"), found.strength)
    np.testing.assert_allclose(alone.predict_proba(x), found.probe.predict_proba(x), atol=1e-3)
    lacking = fit_at(x[y != 1], y[y != 1], ("a", "b", "c"), 1.0)
    assert (lacking.predict_proba(x)[:, 1] == 0).all()
