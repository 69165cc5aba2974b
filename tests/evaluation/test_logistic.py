"""The logistic probe on blocks: against scikit-learn, its search, its decision and its files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from slimp.data.schema import LEVELS, Schema
from slimp.errors import CheckpointError, UserError
from slimp.evaluation import blocks, multinomial
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.logistic import LinearProbe, decide, fit_logistic
from slimp.evaluation.probe_config import ProbeConfig
from slimp.features.design import Design, RawTable, one_hot

LADDER = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
CONFIG = ProbeConfig(strengths=LADDER)


def draw(seed: int = 0, k: int = 3, n: int = 120, d: int = 6, signal: float = 1.0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k).repeat(2), rng.integers(k, size=n - 2 * k)])
    centres = signal * rng.normal(size=(k, d))
    x = 3 + 5 * (centres[y] + rng.normal(size=(n, d)))  # far from standardised
    groups = rng.integers(n // 2, size=n).astype(str)
    groups[: 2 * k] = [f"own{i}" for i in range(2 * k)]
    return x, y, groups


def fit(x, y, groups, k, **changes) -> LinearProbe:
    design = x if isinstance(x, Design) else Design(blocks={"image": x})
    config = replace(CONFIG, **changes)
    return fit_logistic(design, y, groups, tuple("abcdefg"[:k]), config, seed=0)


def make_table(y, seed: int = 0) -> RawTable:
    """A category that says the class, a number that nearly does, a box that says nothing."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "site": pd.Series(np.array(["arm", "leg", "toe"])[y % 3], dtype="str"),
            "age": 40.0 + 10 * y + rng.normal(size=len(y)),
            "itch": pd.array(rng.choice([True, False, None], size=len(y)), dtype="boolean"),
        }
    )
    frame.loc[rng.random(len(y)) < 0.3, "site"] = None
    frame.loc[rng.random(len(y)) < 0.3, "age"] = np.nan
    lesion = {"site": {"kind": "categorical"}, "itch": {"kind": "checkbox"}}
    schema = {"lesion_metadata": lesion, "patient_metadata": {"age": {"kind": "continuous"}}}
    return RawTable(schema=Schema.from_dict({"image": "image_id", **schema}), frame=frame)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_equals_scikit_learn_at_the_chosen_strengths(k):
    """A penalty per block is a factor per block and one penalty; no class weights."""
    x, y, groups = draw(k, k)
    found = fit(Design(blocks={"image": x[:, :4], "lesion": x[:, 4:]}), y, groups, k)
    z = StandardScaler().fit_transform(x)
    z[:, :4] *= found.strengths["image"] ** 0.5
    z[:, 4:] *= found.strengths["lesion"] ** 0.5
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000)
    wanted = theirs.fit(z, y).predict_proba(z)
    np.testing.assert_allclose(found.predict_proba(x), wanted, atol=1e-3)
    np.testing.assert_allclose(found.predict_proba(x).mean(axis=0), found.priors, atol=1e-2)
    assert found.converged


@pytest.mark.parametrize("n", [60, 300])
def test_components_that_lose_nothing_change_nothing(n):
    """A wide block of low rank: as if all standardised columns were there, shrunk."""
    rng = np.random.default_rng(0)
    x, y, groups = draw(0, n=n, d=20)
    wide = (x @ rng.normal(size=(20, 200))).astype(np.float32)
    found = fit(wide, y, groups, 3, strengths=(0.1,))
    z = StandardScaler().fit_transform(wide.astype(np.float64))
    theirs = LogisticRegression(C=0.1 * blocks.SIZE / 200, tol=1e-8, max_iter=5000)
    wanted = theirs.fit(z, y).predict_proba(z)
    np.testing.assert_allclose(found.predict_proba(wide), wanted, atol=2e-3)
    assert found.coef.shape == (3, 200)


def out_of_fold(z, y, groups, strength: float):
    """Of scikit-learn, each row by a fit that did not see its patient."""
    folds, out = grouped_folds(y, groups, 5, seed=0), np.zeros((len(y), y.max() + 1))
    for f in range(5):
        model = LogisticRegression(C=strength, max_iter=5000)
        out[folds == f] = model.fit(z[folds != f], y[folds != f]).predict_proba(z[folds == f])
    return out


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_strength_is_the_best_of_a_full_search(seed):
    """Warm starts, rough fits and the early stop must not change the choice."""
    x, y, groups = draw(seed, signal=0.4)
    z = StandardScaler().fit_transform(x)
    losses = [log_loss(y, out_of_fold(z, y, groups, c)) for c in LADDER]
    chosen = fit(x, y, groups, 3).strengths["image"]
    assert losses[LADDER.index(chosen)] < min(losses) + blocks.GAIN


def test_noise_beside_a_block_is_penalised_away():
    """Two hundred columns of noise cost little beside what six columns say."""
    x, y, groups = draw(3, n=240, signal=0.7)
    noise = np.random.default_rng(1).normal(size=(len(x), 200))
    found = fit(Design(blocks={"image": noise, "lesion": x}), y, groups, 3)
    assert found.strengths["image"] < found.strengths["lesion"] / 5
    new, truth, _ = draw(3, n=240, signal=0.7)
    alone = fit(x, y, groups, 3).predict_proba(new)
    both = found.predict_proba(np.hstack([noise, new]))
    assert log_loss(truth, both) < log_loss(truth, alone) + 0.1


def test_directions_of_pre_training_count_before_all_others_where_labels_are_few():
    """The class lies along two directions of three hundred; sixty rows do not find them alone."""
    rng, d = np.random.default_rng(0), 300
    head = rng.normal(size=(d, 2)).astype(np.float32)
    axes = np.linalg.qr(head)[0].astype(np.float32)

    def rows(n: int):
        x = rng.normal(size=(n, d)).astype(np.float32)
        y = rng.permutation(np.arange(n) % 3)
        return 5 + x + 2 * np.array([[2, 0], [-1, 2], [-1, -2]])[y] @ axes.T / 2, y

    (x, y), (new, truth) = rows(60), rows(600)
    groups = np.arange(len(y)).astype(str)
    alone = fit(x, y, groups, 3)
    found = fit(Design(blocks={"image": x}, projection=head), y, groups, 3)
    losses = [log_loss(truth, one.predict_proba(new)) for one in (alone, found)]
    assert losses[1] < 0.7 * losses[0]
    assert found.strengths["image, projected"] > 10 * found.strengths["image"]
    assert dict(found.blocks) == {"image": d}  # folded in: it predicts from the image alone


@pytest.mark.parametrize("share", [0.005, 0.05])
def test_directions_that_no_head_holds_are_found_however_rare_the_class(share):
    """Its log-loss is small, and the first steps from a strong penalty hardly lower it."""
    n, d = 2000, 384
    rng = np.random.default_rng(0)
    axis = np.linalg.qr(rng.normal(size=(d, 1)))[0]
    head = rng.normal(size=(d, 64))
    head -= axis @ axis.T @ head  # holds nothing of the axis that tells the class
    y = (np.arange(n) < share * n).astype(int)

    def rows():
        return rng.normal(size=(n, d)) + 6 * y[:, None] * axis.T

    (x, new), groups = (rows(), rows()), np.arange(n).astype(str)
    found = fit(
        Design(blocks={"image": x}, projection=head),
        y,
        groups,
        2,
        strengths=ProbeConfig().strengths,
    )
    assert roc_auc_score(y, found.predict_proba(new)[:, 1]) > 0.97


def test_copies_of_a_patients_rows_do_not_make_a_part_more_certain():
    """Directions of noise beside heads: taken in as rarely with each row four times as once."""
    taken = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        y, x = np.arange(60) % 2, rng.normal(size=(60, 20))
        for copies in (1, 4):
            rows = np.tile(np.arange(60), copies)
            design = Design(blocks={"image": x[rows]}, projection=rng.normal(size=(20, 2)))
            found = fit(design, y[rows], rows.astype(str), 2)
            taken.append((copies, found.strengths["image"] > min(LADDER)))
    assert sum(t for c, t in taken if c == 4) <= sum(t for c, t in taken if c == 1) + 1


def test_a_head_is_one_part_more_of_the_same_columns():
    """Against scikit-learn on the block and its projected columns, each with its penalty."""
    (x, y, groups), rng = draw(1), np.random.default_rng(5)
    head = rng.normal(size=(6, 3))
    found = fit(Design(blocks={"image": x, "lesion": x[:, :2]}, projection=head), y, groups, 3)
    parts = {"image": x, "image, projected": x @ head, "lesion": x[:, :2]}
    assert list(found.strengths) == list(parts)
    scaled = [
        StandardScaler().fit_transform(v) * found.strengths[n] ** 0.5 for n, v in parts.items()
    ]
    z = np.hstack(scaled)
    wanted = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(z, y).predict_proba(z)
    got = found.predict_proba(np.hstack([x, x[:, :2]]))
    np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_a_class_that_a_fold_cannot_train_on_is_survived():
    """Class 2 belongs to one patient: its fold trains without it and gives it probability 0."""
    x, y, groups = draw(6)
    groups[y == 2] = "only"
    assert np.isfinite(fit(x, y, groups, 3).predict_proba(x)).all()
    x, y = x[:4], np.array([0, 0, 1, 1])  # each fold trains on a single class
    found = fit(x, y, np.array(["p", "p", "q", "q"]), 3)
    assert found.strengths["image"] == blocks.START
    assert (found.predict_proba(x)[:, 2] == 0).all()
    assert (found.decide(found.predict_proba(x)) < 2).all()


def test_tells_when_a_fit_did_not_converge(monkeypatch):
    monkeypatch.setattr(multinomial, "MAX_ITER", 1)
    assert not fit(*draw(7), 3).converged


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 3, 6])
def test_the_solver_finds_scikit_learn_s_minimum_on_columns_that_hang_together(k, dtype):
    """Variances that differ by a factor of thousands, penalties too, from a warm start."""
    x, y, _ = draw(k, k, n=300, d=30)
    mixed = x @ np.random.default_rng(0).normal(size=(30, 30)) * np.geomspace(1, 30, 30)
    z = StandardScaler().fit_transform(mixed)
    strengths = np.geomspace(1e-2, 10, 30)
    theirs = LogisticRegression(C=1.0, tol=1e-9, max_iter=100_000).fit(z * strengths**0.5, y)
    rows, tolerance = multinomial.Multinomial(z.astype(dtype), y), 1e-7
    start = rows.fit(np.ones(30), tolerance=1e-2)
    found = rows.fit(
        1 / strengths, start=start, tolerance=tolerance if dtype == np.float64 else 1e-5
    )
    logits = z @ found.coef.T + found.intercept
    p = softmax(logits if k > 2 else np.hstack([0 * logits, logits]), axis=1)
    wanted = theirs.predict_proba(z * strengths**0.5)
    np.testing.assert_allclose(p, wanted, atol=1e-5 if dtype == np.float64 else 1e-3)
    if dtype == np.float64:
        assert found.converged
        np.testing.assert_allclose(found.coef, theirs.coef_ * strengths**0.5, atol=1e-4)


def test_columns_that_say_the_same_have_a_fit_with_a_weak_penalty():
    """In 32 bits their products have negative eigenvalues, larger than the penalty."""
    x, y, _ = draw(0, n=4000, d=4)
    z = StandardScaler().fit_transform(x @ np.random.default_rng(0).normal(size=(4, 64)))
    rows = multinomial.Multinomial(z.astype(np.float32), y)
    found = rows.fit(np.full(64, 1e-5), tolerance=1e-4)
    assert np.isfinite(found.coef).all()
    assert ((z @ found.coef.T + found.intercept).argmax(axis=1) == y).mean() > 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused_before_the_solver_steps(value):
    x, y, _ = draw(0, d=4)
    x[3, 1] = value
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="infs or NaNs"):
        multinomial.Multinomial(x, y).fit(np.ones(4), tolerance=1e-4)


def test_the_rule_decides_and_the_probabilities_stay():
    p, priors = np.array([[0.7, 0.3], [0.85, 0.15], [0.75, 0.25]]), np.array([0.8, 0.2])
    assert decide(p, priors, "likeliest").tolist() == [0, 0, 0]
    assert decide(p, priors, "balanced").tolist() == [1, 0, 1]  # from the class share upwards
    x, y, groups = draw(12, k=2, signal=0.5)
    y = np.where(np.random.default_rng(0).random(len(y)) < 0.7, 0, y)
    y[:4] = [0, 0, 1, 1]
    balanced, likeliest = (
        fit(x, y, groups, 2, decision=rule) for rule in ("balanced", "likeliest")
    )
    p = balanced.predict_proba(x)
    np.testing.assert_array_equal(p, likeliest.predict_proba(x))
    np.testing.assert_array_equal(balanced.decide(p), p[:, 1] >= balanced.priors[1])
    np.testing.assert_array_equal(likeliest.decide(p), p[:, 1] > 0.5)


def test_the_table_is_one_hot_and_fitted_on_the_training_rows():
    table = RawTable(
        schema=make_table(np.zeros(1, int)).schema,
        frame=pd.DataFrame(
            {
                "age": [10.0, 30.0, np.nan, 20.0, np.nan, 30.0],
                "site": pd.Series(["arm", "leg", None, "arm", "face", "leg"], dtype="str"),
                "itch": pd.array([True, None, False, True, None, True], dtype="boolean"),
            }
        ),
    )
    encodings = table[np.arange(4)].fit(LEVELS)
    rows = Design(blocks={}, table=table).encode(encodings)
    lesion, patient = (one_hot(e, r) for e, r in zip(encodings, rows, strict=True))
    nan = np.nan  # site missing or unseen, itch missing | arm, leg | itch
    wanted = [[0, 0, 1, 0, 1], [0, 1, 0, 1, nan], [1, 0, nan, nan, 0], [0, 0, 1, 0, 1]]
    np.testing.assert_array_equal(lesion, [*wanted, [1, 1, nan, nan, nan], [0, 0, 0, 1, 1]])
    high = 10 / np.std([10, 30, 20])  # age missing, age
    age = [[0, -high], [0, high], [1, nan], [0, 0], [1, nan], [0, high]]
    np.testing.assert_allclose(patient, age, atol=1e-6)


def test_saved_and_loaded_it_predicts_the_same_with_a_table_or_without(tmp_path):
    x, y, groups = draw(9, signal=0.3)
    design = Design(blocks={"image": x}, table=make_table(y), levels=LEVELS)
    probe = fit(design, y, groups, 3, features="image+lesion", decision="likeliest")
    assert (probe.predict_proba(design).argmax(axis=1) == y).mean() > 0.8
    probe.save(tmp_path)
    again = LinearProbe.load(tmp_path)
    np.testing.assert_array_equal(probe.predict_proba(design), again.predict_proba(design))
    for name in ("classes", "features", "decision", "blocks", "strengths", "encodings"):
        assert getattr(again, name) == getattr(probe, name), name
    empty = RawTable(schema=design.table.schema, frame=pd.DataFrame(index=range(len(y))))
    missing = again.predict_proba(Design(blocks={"image": x}))
    np.testing.assert_array_equal(missing, again.predict_proba(replace(design, table=empty)))
    assert np.abs(missing - again.predict_proba(design)).max() > 0.1


def test_refusals(tmp_path):
    x, y, groups = draw(10)
    probe = fit(x, y, groups, 3, features="image")
    with pytest.raises(UserError, match=r"6 .*'image'.*5"):
        probe.predict_proba(x[:, :5])
    with pytest.raises(UserError, match="'lesion'"):
        probe.predict_proba(Design(blocks={"lesion": x}))
    with pytest.raises(CheckpointError, match=r"probe\.json"):
        LinearProbe.load(tmp_path)
    probe.save(tmp_path)
    whole = (tmp_path / "probe.safetensors").read_bytes()
    (tmp_path / "probe.safetensors").write_bytes(whole[:40])
    with pytest.raises(CheckpointError, match=r"probe\.safetensors"):
        LinearProbe.load(tmp_path)
    (tmp_path / "probe.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="version"):
        LinearProbe.load(tmp_path)
