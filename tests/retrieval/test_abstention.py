"""Thresholds keep their promise on patients who are like those that set them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slimp.errors import UserError
from slimp.retrieval import abstention
from slimp.retrieval.abstention import (
    IMAGES,
    Abstention,
    calibrate_thresholds,
    calibration_patients,
    mean_image_similarity,
)
from slimp.retrieval.index import Vectors
from slimp.retrieval.routes import Retrieved, RetrievedLevel


@pytest.fixture(autouse=True)
def few_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abstention, "REPEATS", 3)


def draw(rng: np.random.Generator, patients: int, levels: int = 2) -> tuple[dict, np.ndarray]:
    """Similarities of one to four images per patient, who share a shift and the levels' scales."""
    counts = rng.integers(1, 5, size=patients)
    shift = np.repeat(rng.normal(size=patients), counts)
    names = ("lesion", "patient")[:levels]
    found = {
        name: (10**i * (shift + rng.normal(size=len(shift)))).astype(np.float32)
        for i, name in enumerate(names)
    }
    return found, np.repeat(np.arange(patients), counts)


def kept_share(found: Abstention, similarity: dict, patients: np.ndarray) -> float:
    """Each patient counts once."""
    kept = np.all([similarity[name] >= t for name, t in found.thresholds.items()], axis=0)
    return float(np.mean([kept[patients == p].mean() for p in np.unique(patients)]))


@pytest.mark.parametrize("coverage", [0.8, 0.9])
@pytest.mark.parametrize("levels", [1, 2])
def test_new_patients_of_the_same_kind_pass_as_often_as_stated(coverage, levels):
    rng = np.random.default_rng(0)
    shares, achieved = [], []
    for _ in range(60):
        similarity, patients = draw(rng, 100, levels)
        found = calibrate_thresholds(similarity, patients, coverage, replicates=10)
        shares.append(kept_share(found, *draw(rng, 200, levels)))
        achieved.append(found.achieved.mean)
    # The mean over calibrations is at least the coverage, and above it by 1 / (patients + 1) and
    # some for the images of a patient that are counted together.
    assert coverage - 0.01 <= np.mean(shares) <= coverage + 0.02
    assert coverage - 0.015 <= np.mean(achieved) <= coverage + 0.03


def test_few_patients_and_three_independent_levels_keep_the_promise(monkeypatch):
    """19 patients of one image: without the rank that joint thresholds cost, 0.86 would pass."""
    monkeypatch.setattr(abstention, "REPEATS", 1)
    rng, shares = np.random.default_rng(0), []
    for _ in range(200):
        old, new = (
            {name: rng.normal(size=n).astype(np.float32) for name in "abc"} for n in (19, 200)
        )
        found = calibrate_thresholds(old, np.arange(19), 0.8, replicates=1)
        shares.append(kept_share(found, new, np.arange(200)))
    assert np.mean(shares) >= 0.795


def test_one_level_is_the_plain_conformal_threshold_and_others_have_its_rank():
    x = np.random.default_rng(1).permutation(np.arange(1, 20, dtype=np.float32)) / 20
    found = calibrate_thresholds({"lesion": x}, np.arange(19), 0.9, replicates=10)
    # the ceil(20 * 0.9) = 18th largest of 19, so that 2 of 20 may fall below
    assert found.thresholds["lesion"] == pytest.approx(2 / 20)
    both = {"lesion": x, "patient": x**3}
    found = calibrate_thresholds(both, np.arange(19), 0.8, replicates=10)
    assert found.thresholds["patient"] == pytest.approx(found.thresholds["lesion"] ** 3)


def test_too_few_patients_refuse_nobody():
    found = calibrate_thresholds(
        {"lesion": np.ones(3, np.float32)}, np.arange(3), 0.9, replicates=10
    )
    assert found.thresholds["lesion"] == -np.inf
    one = calibrate_thresholds({"lesion": np.ones(3, np.float32)}, np.zeros(3), 0.9, replicates=10)
    assert one.achieved is None
    with pytest.raises(UserError, match="no image to calibrate"):
        calibrate_thresholds({"lesion": np.ones(0, np.float32)}, np.zeros(0), 0.9)


def retrieved(**levels: tuple[list[float], list[bool]]) -> Retrieved:
    """Similarities to the nearest neighbour, and which images are imputed, per level."""
    n = len(next(iter(levels.values()))[0])
    found = {
        name: RetrievedLevel(
            imputed=np.array(imputed),
            row=np.zeros((n, 1), np.int64),
            image=np.zeros((n, 1), np.int64),
            similarity=np.array(similarity, np.float32)[:, None],
            weight=np.ones((n, 1), np.float32),
            embedding=np.zeros((n, 2), np.float32),
        )
        for name, (similarity, imputed) in levels.items()
    }
    return Retrieved(route="ilp", levels=found, shared_patients=0, excluded=0)


def test_an_image_is_refused_if_any_level_is_too_far_or_has_no_neighbour():
    found = Abstention(
        coverage=0.9,
        thresholds={"lesion": 0.5, "patient": 0.2},
        n=9,
        n_patients=9,
        achieved=None,
        unseen=True,
    )
    target = retrieved(
        lesion=([0.5, 0.4, 0.9, np.nan, np.nan], [True] * 4 + [False]),
        patient=([0.9, 0.9, 0.1, 0.9, 0.3], [True] * 5),
    )
    near = np.ones(5, np.float32)
    assert found.abstains(target, near).tolist() == [False, True, True, True, False]
    with_images = replace(found, thresholds={**found.thresholds, IMAGES: 0.3})
    near = np.array([0.2, 0.9, 0.9, 0.9, np.nan], np.float32)
    assert with_images.abstains(target, near).tolist() == [True, True, True, True, True]


def test_an_image_with_metadata_of_its_own_is_not_refused():
    found = calibrate_thresholds(
        {"lesion": np.ones(40, np.float32)}, np.arange(40), 0.9, replicates=10
    )
    target = retrieved(lesion=([np.nan, 1.0], [False, True]))
    found = replace(found, thresholds={**found.thresholds, IMAGES: 0.5})
    assert found.abstains(target, np.zeros(2, np.float32)).tolist() == [False, True]


def test_image_similarity_is_the_mean_over_the_nearest_images_of_others():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 5)).astype(np.float32)
    patients = np.repeat(np.arange(10), 3)

    def similarity(count: int):
        rows = Vectors(vectors=x[:count], patients=patients[:count], row=np.arange(count))
        return mean_image_similarity(rows, x[:count], patients[:count])

    unit, found = x / np.linalg.norm(x, axis=1, keepdims=True), similarity(30)
    for i in range(30):
        scores = sorted((unit[patients != patients[i]] @ unit[i]).tolist())
        assert found[i] == pytest.approx(np.mean(scores[-10:]), abs=1e-5)
    assert np.isnan(similarity(3)).all()


def test_who_calibrates():
    everyone = np.array(["a", "b", "c", "d"])
    parts = {"a": "train", "b": "held_out", "c": "validation", "x": "held_out"}
    assert calibration_patients(everyone, parts) == (frozenset("bc"), "")
    patients, caution = calibration_patients(everyone, dict.fromkeys("abcd", "train"))
    assert patients == frozenset("abcd")
    assert "learned from all patients of the reference" in caution
    assert "does not say" in calibration_patients(everyone, None)[1]
    assert calibration_patients(everyone, {}) == (frozenset("abcd"), "")
