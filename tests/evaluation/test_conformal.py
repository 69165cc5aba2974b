"""Conformal sets: closed forms, slow loops, and coverage on patients with several images."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from slimp.errors import UserError
from slimp.evaluation.conformal import (
    Conformal,
    calibrate,
    conformal_quantile,
    equal_shares,
    verified_coverage,
)
from slimp.evaluation.linear_probe import metadata_baseline
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Predictions, make_task
from slimp.features.design import RawTable
from slimp.sources import import_source

CLASSES = 4


def clustered(patients, rng, *, most=12, prior=None) -> Predictions:
    """Images of a patient share class and difficulty.

    Patients with many images are the difficult ones, so that images and patients differ.
    """
    counts = rng.integers(1, most + 1, size=patients)
    y = rng.choice(CLASSES, size=patients, p=[0.55, 0.25, 0.12, 0.08])
    ease = rng.normal(2.0 - counts / 6, 1.0)
    logits = rng.normal(size=(patients, CLASSES)) + ease[:, None] * np.eye(CLASSES)[y]
    codes = np.repeat(np.arange(patients), counts)
    images = logits[codes] + 0.5 * rng.normal(size=(len(codes), CLASSES))
    p = softmax(images, axis=1)
    if prior is not None:
        p = p * prior / (p * prior).sum(axis=1, keepdims=True)
    return Predictions(y=y[codes], patients=codes, probabilities=p, predicted=p.argmax(axis=1))


def covered(fitted, found: Predictions, rows=None) -> float:
    """Fraction of some rows whose class is in the set, each patient with the same weight."""
    found = found if rows is None else found.select(rows)
    hit = fitted.sets(found.probabilities, found.predicted)[np.arange(len(found.y)), found.y]
    return float(np.average(hit, weights=equal_shares(found.patients)))


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=30),
    st.integers(1, 99),
)
def test_the_quantile_is_an_order_statistic(scores, percent):
    k = -(-(len(scores) + 1) * percent // 100)  # in whole numbers
    want = sorted(scores)[k - 1] if k <= len(scores) else math.inf
    assert (
        conformal_quantile(np.array(scores, dtype=float), percent / 100, np.arange(len(scores)))
        == want
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 99), st.randoms())
@settings(max_examples=25)
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


def test_sets_grow_with_the_threshold_and_hold_the_decision():
    rng = np.random.default_rng(2)
    p, decided = rng.dirichlet(np.ones(5), size=50), rng.integers(0, 5, size=50)

    def sets(threshold, decided=p.argmax(axis=1)):  # noqa: B008
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
    found = clustered(200, np.random.default_rng(3))
    rare = found.patients[found.y == 3][0]  # the one patient of the rare class who is left
    found = found.select((found.y != 3) | (found.patients == rare))
    fitted = calibrate(found, 0.9)
    assert math.isinf(fitted.thresholds[3])
    assert np.isfinite(fitted.thresholds[:3]).all()
    assert fitted.sets(found.probabilities, found.predicted)[:, 3].all()


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_new_patients_are_covered_as_promised(coverage):
    rng = np.random.default_rng(4)
    drawn = [(clustered(150, rng), clustered(150, rng)) for _ in range(60)]
    found = [covered(calibrate(own, coverage, per_class=False), new) for own, new in drawn]
    assert coverage - 0.01 <= np.mean(found) <= coverage + 0.02


def test_a_decision_by_threshold_is_covered_too():
    """The class decided on need not be the most probable one."""
    rng = np.random.default_rng(7)

    def decided(found: Predictions) -> Predictions:
        weighted = found.probabilities * np.array([0.3, 1.0, 1.0, 2.0])
        return replace(found, predicted=weighted.argmax(axis=1))

    found = []
    for _ in range(40):
        own, new = (decided(clustered(150, rng)) for _ in range(2))
        fitted = calibrate(own, 0.9, per_class=False)
        assert fitted.sets(new.probabilities, new.predicted)[
            np.arange(len(new.y)), new.predicted
        ].all()
        found.append(covered(fitted, new))
    assert 0.89 <= np.mean(found) <= 0.92


def test_each_class_is_covered_where_one_threshold_misses_the_rare_one():
    rng, prior = np.random.default_rng(5), np.array([0.55, 0.25, 0.12, 0.08])
    found = {True: [], False: []}
    for _ in range(30):
        own, new = (clustered(600, rng, prior=prior) for _ in range(2))
        for per_class, rates in found.items():
            rates.append(covered(calibrate(own, 0.8, per_class=per_class), new, new.y == 3))
    assert 0.78 <= np.mean(found[True]) <= 0.84
    assert np.mean(found[False]) < 0.7


def test_verified_coverage_is_near_nominal_on_clustered_data():
    own = clustered(500, np.random.default_rng(6))
    found = verified_coverage(own, 0.9, per_class=False, replicates=200)
    assert 0.88 <= found.coverage.mean <= 0.92
    assert found.coverage.ci95[0] < found.coverage.mean < found.coverage.ci95[1]
    assert (found.n, found.n_patients) == (len(own.y), 500)
    assert 1 <= found.set_size.mean < CLASSES


def test_a_class_without_images_is_null_in_the_file():
    own = clustered(80, np.random.default_rng(8))
    found = verified_coverage(own.select(own.y != 3), 0.9, replicates=50)
    assert found.to_dict(tuple("wxyz"))["per_class"]["z"] is None


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(("source", "seeds"), [("pad-ufes-20", 2), ("ham10000", 1)])
def test_held_out_patients_are_covered_within_two_points(real_data, tmp_path, source, seeds):
    """By a classifier of the published metadata, which takes no encoder; the mean over splits."""
    cohort = import_source(source, real_data / source, tmp_path / source)
    config = ProbeConfig(seeds=seeds, strengths=(0.01,), folds=2, replicates=1)
    task = make_task(cohort.images, config)
    result = metadata_baseline(RawTable.of(cohort), task, config)
    found = {True: [], False: []}
    for own in Predictions.per_seed(result.predictions, result.classes):
        for per_class, rates in found.items():
            own = replace(own, predicted=own.probabilities.argmax(axis=1))
            counted = verified_coverage(own, 0.9, per_class=per_class, replicates=1)
            rates.append(counted.coverage.mean)
    assert np.mean(found[False]) == pytest.approx(0.9, abs=0.02)
    assert np.mean(found[True]) >= 0.88  # more where a class has too few patients to leave it out


def test_refusals():
    for coverage in (0.0, 1.0, 90.0):
        with pytest.raises(UserError, match="coverage"):
            conformal_quantile(np.array([0.1]), coverage, np.array(["a"]))
    own = clustered(1, np.random.default_rng(0))
    with pytest.raises(UserError, match="at least 2 labelled test patients"):
        verified_coverage(own)
    with pytest.raises(UserError, match="no image to calibrate on"):
        calibrate(own.select(own.y < 0))
