"""Conformal sets: closed forms, slow loops, and coverage on patients with several images."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from slimp.errors import UserError
from slimp.evaluation.baselines import metadata_baseline
from slimp.evaluation.conformal import (
    Conformal,
    calibrate,
    conformal_quantile,
    equal_shares,
    nonconformity,
    verified_coverage,
)
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import codes_of
from slimp.sources import import_source

CLASSES = 4


def clustered(patients, rng, *, most=12):
    """Probabilities, classes and patients: images of a patient share class and difficulty.

    Patients with many images are the difficult ones, so that images and patients differ.
    """
    counts = rng.integers(1, most + 1, size=patients)
    y = rng.choice(CLASSES, size=patients, p=[0.55, 0.25, 0.12, 0.08])
    ease = rng.normal(2.0 - counts / 6, 1.0)
    logits = rng.normal(size=(patients, CLASSES)) + ease[:, None] * np.eye(CLASSES)[y]
    codes = np.repeat(np.arange(patients), counts)
    images = logits[codes] + 0.5 * rng.normal(size=(len(codes), CLASSES))
    return softmax(images, axis=1), y[codes], codes


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=30),
    st.integers(1, 99),
)
def test_the_quantile_is_an_order_statistic(scores, percent):
    k = -(-(len(scores) + 1) * percent // 100)  # in whole numbers
    want = sorted(scores)[k - 1] if k <= len(scores) else math.inf
    assert conformal_quantile(np.array(scores, dtype=float), percent / 100) == want


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 99), st.randoms())
@settings(max_examples=50)
def test_the_grouped_quantile_equals_a_slow_loop(groups, percent, random):
    scores = [random.random() for _ in groups]
    patients = set(groups)
    want = math.inf
    for candidate in sorted(scores, reverse=True):
        mass = 0.0
        for patient in patients:
            own = [s for s, g in zip(scores, groups, strict=True) if g == patient]
            mass += sum(s <= candidate for s in own) / len(own) / (len(patients) + 1)
        if mass >= percent / 100 - 1e-9:
            want = candidate
    assert conformal_quantile(np.array(scores), percent / 100, np.array(groups)) == want


def test_scores_of_a_known_row():
    row = np.array([[0.5, 0.2, 0.3]])
    np.testing.assert_allclose(nonconformity(row), [[-1, 0.8, 0.7]])
    np.testing.assert_allclose(nonconformity(row, np.array([2])), [[0.5, 0.8, -1]])


def test_sets_grow_with_the_threshold_and_hold_the_decision():
    rng = np.random.default_rng(2)
    p, decided = rng.dirichlet(np.ones(5), size=50), rng.integers(0, 5, size=50)

    def sets(threshold, decided=None):
        fitted = Conformal(
            coverage=0.9, per_class=False, thresholds=np.full(5, threshold), n=50, n_patients=50
        )
        return fitted.sets(p, decided)

    assert (sets(0.5) <= sets(0.8)).all()
    assert sets(0.5).sum() < sets(0.8).sum()
    assert sets(-math.inf).sum(axis=1).tolist() == [1] * 50
    assert sets(math.inf).all()
    assert sets(-1.0, decided)[np.arange(50), decided].all()


def test_a_class_of_too_few_patients_is_never_left_out():
    p, y, groups = clustered(200, np.random.default_rng(3))
    keep = (y != 3) | (groups == groups[y == 3][0])  # one patient of the rare class is left
    fitted = calibrate(p[keep], y[keep], groups[keep], 0.9)
    assert math.isinf(fitted.thresholds[3])
    assert np.isfinite(fitted.thresholds[:3]).all()
    assert fitted.sets(p)[:, 3].all()


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_new_patients_are_covered_within_two_points(coverage):
    """Counted on fresh patients, calibrated on 300; the mean over 40 such studies."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(40):
        p, y, groups = clustered(300, rng)
        fitted = calibrate(p, y, groups, coverage, per_class=False)
        p, y, groups = clustered(600, rng)
        share = equal_shares(groups)
        found.append((fitted.sets(p)[np.arange(len(y)), y] * share).sum() / share.sum())
    assert coverage - 0.01 <= np.mean(found) <= coverage + 0.02


def test_a_decision_of_its_own_is_in_the_set_and_costs_no_coverage():
    rng = np.random.default_rng(9)
    found = []
    for _ in range(30):
        p, y, groups = clustered(300, rng)
        new_p, new_y, new_groups = clustered(600, rng)
        weigh = np.array([1.0, 2.0, 4.0, 6.0])  # decides for rare classes more readily
        decided, new_decided = ((q * weigh).argmax(axis=1) for q in (p, new_p))
        fitted = calibrate(p, y, groups, 0.9, decided=decided, per_class=False)
        sets = fitted.sets(new_p, new_decided)
        assert sets[np.arange(len(sets)), new_decided].all()
        share = equal_shares(new_groups)
        found.append((sets[np.arange(len(new_y)), new_y] * share).sum() / share.sum())
    assert 0.89 <= np.mean(found) <= 0.92


def test_each_class_is_covered_where_one_threshold_misses_the_rare_one():
    rng = np.random.default_rng(5)
    found = {True: [], False: []}
    for _ in range(30):
        p, y, groups = clustered(600, rng)
        new_p, new_y, new_groups = clustered(600, rng)
        prior = np.array([0.55, 0.25, 0.12, 0.08])
        p, new_p = (q * prior / (q * prior).sum(axis=1, keepdims=True) for q in (p, new_p))
        for per_class in found:
            sets = calibrate(p, y, groups, 0.8, per_class=per_class).sets(new_p)
            rows = np.flatnonzero(new_y == 3)
            share = equal_shares(new_groups[rows])
            found[per_class].append((sets[rows, 3] * share).sum() / share.sum())
    assert 0.78 <= np.mean(found[True]) <= 0.84
    assert np.mean(found[False]) < 0.7


def test_verified_coverage_is_near_nominal_on_clustered_data():
    p, y, groups = clustered(500, np.random.default_rng(6))
    found = verified_coverage(p, y, groups, 0.9, per_class=False)
    assert 0.88 <= found.coverage.mean <= 0.92
    assert found.coverage.ci95[0] < found.coverage.mean < found.coverage.ci95[1]
    assert (found.n, found.n_patients) == (len(y), 500)
    assert 1 <= found.set_size.mean < CLASSES


def test_a_class_without_images_is_null_in_the_file():
    p, y, groups = clustered(80, np.random.default_rng(8))
    y[y == 3] = 2
    found = verified_coverage(p, y, groups, 0.9, replicates=50)
    assert found.to_dict(tuple("wxyz"))["per_class"]["z"] is None


@pytest.mark.real_data
@pytest.mark.parametrize(("source", "seeds"), [("pad-ufes-20", 5), ("ham10000", 1)])
def test_held_out_patients_are_covered_within_two_points(real_data, tmp_path, source, seeds):
    """By a classifier of the published metadata, which takes no encoder; the mean over splits."""
    cohort = import_source(source, real_data / source, tmp_path / source)
    config = ProbeConfig(seeds=seeds, strengths=(0.01,), folds=2, replicates=1)
    result = metadata_baseline(cohort, config)
    names = [f"p_{c}" for c in result.classes]
    found = {True: [], False: []}
    for _, table in result.predictions.groupby("seed"):
        p, patients = table[names].to_numpy(), table["patient_id"].to_numpy(dtype=str)
        y = codes_of(table["label"], result.classes)
        for per_class in found:
            counted = verified_coverage(p, y, patients, 0.9, per_class=per_class, replicates=1)
            found[per_class].append(counted.coverage.mean)
    assert np.mean(found[False]) == pytest.approx(0.9, abs=0.02)
    assert np.mean(found[True]) >= 0.88  # more where a class has too few patients to leave it out


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.5, 90.0])
def test_a_coverage_outside_0_and_1_is_refused(coverage):
    with pytest.raises(UserError, match=r"coverage must be in \(0, 1\)"):
        conformal_quantile(np.array([0.1]), coverage)


def test_too_little_data_are_refused():
    p, y, groups = np.full((2, 2), 0.5), np.array([0, 1]), np.array(["a", "a"])
    with pytest.raises(UserError, match="at least 2 labelled test patients"):
        verified_coverage(p, y, groups)
    with pytest.raises(UserError, match="no image to calibrate on"):
        calibrate(p[:0], y[:0], groups[:0])
