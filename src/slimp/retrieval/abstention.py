"""When to lend nothing: thresholds of similarity with a stated, and a verified, coverage.

An image like those of the reference is to be lent something with at least the stated probability
(split-conformal prediction; see `slimp.evaluation.conformal`). The thresholds come from patients of
the reference that pre-training did not learn from, each searched among all the others.

The similarity of an image and the metadata that it finds says little about whether the image is
like any that is known: a projection finds something near for everything. So how near the nearest
images are counts as well, whatever the route.

Axis names: i = images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped
from scipy.stats import rankdata

from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.evaluation.conformal import conformal_quantile, equal_shares
from slimp.retrieval.routes import Loans, Search

Array = np.ndarray[Any, np.dtype[Any]]
UNSEEN = ("held_out", "validation")
"""Parts of a run whose patients its weights did not learn from."""
IMAGES = "nearest images"
"""Key of the threshold on `mean_image_similarity`, beside those of the levels."""
NEIGHBOURS = 10
"""Images of the reference that the mean is taken over."""


@dataclass(frozen=True, kw_only=True)
class Abstention:
    """Thresholds below which an image is lent nothing."""

    coverage: float
    """Promised for images of new patients who resemble those of the reference."""
    thresholds: Mapping[str, float]
    """Least similarity that is lent, per level and for `IMAGES`; -inf: too few patients to say."""
    n: int
    """Images that calibrated."""
    n_patients: int
    achieved: Estimate | None
    """Coverage found on patients that did not calibrate; None: too few patients."""
    unseen: bool
    """Whether pre-training did not learn from the patients who calibrated."""
    caution: str = ""
    """What stands against the promise, as a sentence."""

    def abstains(
        self, loans: Loans, image_similarity: Float32[Array, " i"] | None = None
    ) -> Bool[Array, " i"]:
        """Images that are to be lent nothing, or for which there is no lender."""
        far = np.zeros(len(next(iter(loans.levels.values())).borrows), dtype=bool)
        if image_similarity is not None:
            far = ~(image_similarity >= self.thresholds[IMAGES])
        out = np.zeros(len(far), dtype=bool)
        for name, loan in loans.levels.items():
            near = loan.similarity[:, 0] >= self.thresholds[name]  # false where there is none
            out |= loan.borrows & (far | ~near)
        return out

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`."""
        achieved = self.achieved
        return {
            "coverage": self.coverage,
            "thresholds": {k: v if np.isfinite(v) else None for k, v in self.thresholds.items()},
            "calibration_images": self.n,
            "calibration_patients": self.n_patients,
            "calibrated_on_unseen_patients": self.unseen,
            "achieved_coverage": achieved and achieved.to_dict(per_seed=False),
            "caution": self.caution,
        }


def calibration_patients(
    reference_patients: Shaped[Array, " p"], parts: Mapping[str, str] | None
) -> tuple[frozenset[str], str]:
    """Patients to calibrate on, and a caution if pre-training learned from them or may have.

    Args:
        reference_patients: ids of those of the reference.
        parts: patient -> part of pre-training; None: not known.
    """
    everyone = frozenset(reference_patients.tolist())
    unseen = frozenset(p for p in everyone if parts and parts.get(p) in UNSEEN)
    if len(unseen) > 1:
        return unseen, ""
    if parts is None:
        why = "the run does not say which patients it learned from"
    elif any(parts.get(patient) == "train" for patient in everyone):
        why = "pre-training learned from all patients of the reference"
    else:  # another cohort than the run's
        return everyone, ""
    return everyone, (
        f"CAUTION: {why}, so the threshold is calibrated on patients who may look more familiar "
        "than new ones, and more images of new patients may be refused than promised."
    )


def mean_image_similarity(
    queries: Float32[Array, "i e"],
    images: Float32[Array, "n e"],
    search: Search,
    groups: tuple[Array, Array] | None,
) -> Float32[Array, " i"]:
    """Mean cosine of each image to its nearest images of the reference; NaN where there are none.

    Args:
        queries: image embeddings.
        images: those of the reference.
        search: what finds nearest rows.
        groups: patients of both, if they may be the same ones; nobody counts for himself.
    """
    found = search(queries, images, min(NEIGHBOURS, len(images)), groups)
    known = found.row >= 0
    total = np.where(known, found.similarity, 0.0).sum(axis=1)
    count = known.sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(queries), np.nan), where=count > 0)
    return np.asarray(mean, dtype=np.float32)


def calibrate_thresholds(
    similarity: Mapping[str, Float[Array, " i"]],
    patients: Shaped[Array, " i"],
    coverage: float,
    *,
    caution: str = "",
    repeats: int = 50,
    seed: int = 0,
    replicates: int = 1000,
) -> Abstention:
    """Thresholds that images of new patients pass with at least this probability, all together.

    Each level gets the similarity of the same rank among the calibration images, as high as the
    coverage allows. Patients weigh the same, however many images there are of them.

    Args:
        similarity: per level, of each calibration image and its nearest lender of another
            patient; and for `IMAGES` that of its nearest images. NaN where there is none.
        patients: of each image.
        coverage: in (0, 1).
        caution: to be kept with the result.
        repeats: random halves of the patients that verify the coverage.
        seed: of the halves.
        replicates: of the bootstrap over patients.

    Raises:
        UserError: there is no image, or the coverage is not in (0, 1).
    """
    if not len(patients):
        raise UserError("no image to calibrate the threshold on: the reference is empty.")
    unseen = not caution
    score = np.column_stack([np.nan_to_num(s, nan=-np.inf) for s in similarity.values()])
    score = score.astype(np.float64)  # (i, levels)
    thresholds = _thresholds(score, patients, coverage)
    if np.isinf(thresholds).all():
        lacking = (
            f"CAUTION: {len(np.unique(patients))} patient(s) are too few to calibrate a coverage "
            f"of {coverage:.0%}, so no image is refused for being unlike the reference."
        )
        caution = f"{caution} {lacking}".strip()
    return Abstention(
        coverage=coverage,
        thresholds=dict(zip(similarity, thresholds.tolist(), strict=True)),
        n=len(patients),
        n_patients=len(np.unique(patients)),
        achieved=_verify(score, patients, coverage, repeats, seed, replicates),
        unseen=unseen,
        caution=caution,
    )


def _thresholds(
    score: Float[Array, "i levels"], patients: Shaped[Array, " i"], coverage: float
) -> Float[Array, " levels"]:
    rank = np.column_stack([rankdata(column, method="max") for column in score.T])
    worst = rank.min(axis=1)  # (i,) of the level at which an image fares worst
    limit = conformal_quantile(-worst.astype(np.float64), coverage, patients)
    position = -1.0 if np.isinf(limit) else -limit - 1
    if score.shape[1] > 1:
        # A calibration image is ranked among all with itself, a new one among the others: with
        # several levels at once that is worth a rank, or the coverage falls short.
        position -= 1
    if position < 0:
        return np.full(score.shape[1], -np.inf)
    return np.asarray(np.sort(score, axis=0)[int(position)])


def _verify(
    score: Float[Array, "i levels"],
    patients: Shaped[Array, " i"],
    coverage: float,
    repeats: int,
    seed: int,
    replicates: int,
) -> Estimate | None:
    """Share of images that pass thresholds from the other half of the patients."""
    names, codes = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return None
    rng = np.random.default_rng(seed)
    tested, kept = [], []
    for _ in range(repeats):
        half = (rng.permutation(len(names)) < len(names) // 2)[codes]
        limits = _thresholds(score[half], codes[half], coverage)
        tested.append(np.flatnonzero(~half))
        kept.append((score[~half] >= limits).all(axis=1))

    def statistic(repeat: int, weights: Array) -> dict[str, Array]:
        own = weights * equal_shares(codes[tested[repeat]])  # (r, i)
        return {"coverage": own @ kept[repeat] / own.sum(axis=1)}

    groups = [codes[rows] for rows in tested]
    return bootstrap(groups, statistic, replicates=replicates, seed=seed)["coverage"]
