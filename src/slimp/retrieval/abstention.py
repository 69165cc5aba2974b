"""When to impute nothing: similarity thresholds with a stated, and a verified, target coverage.

Metadata are imputed for an in-distribution image with at least the stated probability
(split-conformal prediction; see `slimp.evaluation.conformal`). The thresholds come from patients of
the reference that pre-training did not learn from, each searched among all the others.

The similarity of an image and the metadata that it retrieves says little about whether the image is
in distribution: a projection finds something near for everything. So the similarity to the nearest
images has a threshold as well, whatever the route.

Axis names: i = images, e = width of the image encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Shaped
from scipy.stats import rankdata

from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.evaluation.conformal import conformal_quantile, equal_shares
from slimp.evaluation.metrics import Array
from slimp.retrieval.index import Vectors
from slimp.retrieval.routes import Retrieved

UNSEEN = ("held_out", "validation")
"""Parts of a run whose patients its weights did not learn from."""
IMAGES = "nearest images"
"""Key of the threshold on `mean_image_similarity`, beside those of the levels."""
NEIGHBOURS = 10
"""Images of the reference that the mean is taken over."""
REPEATS = 50
"""Random halves of the patients that verify the coverage."""


@dataclass(frozen=True, kw_only=True)
class Abstention:
    """Thresholds below which nothing is imputed for an image."""

    coverage: float
    """Stated for images of new patients who resemble those of the reference."""
    thresholds: Mapping[str, float]
    """Least similarity, per level and for `IMAGES`; -inf: too few patients to say."""
    n: int
    """Calibration images."""
    n_patients: int
    achieved: Estimate | None
    """Coverage found on patients that did not calibrate; None: too few patients."""
    unseen: bool
    """Whether pre-training did not learn from the patients who calibrated."""
    caution: str = ""
    """Why the stated coverage may not hold, as a sentence."""

    def abstains(
        self, retrieved: Retrieved, image_similarity: Float32[Array, " i"]
    ) -> Bool[Array, " i"]:
        """Images without a neighbour that is near enough."""
        far = ~(image_similarity >= self.thresholds.get(IMAGES, -np.inf))
        out = np.zeros(len(far), dtype=bool)
        for name, similarity in retrieved.nearest.items():
            near = similarity >= self.thresholds[name]  # false where there is none
            out |= retrieved.levels[name].imputed & (far | ~near)
        return out


def calibration_patients(
    reference_patients: Shaped[Array, " p"], parts: Mapping[str, str] | None
) -> tuple[frozenset[str], str]:
    """Patients to calibrate on, and a caution if pre-training learned from them or may have.

    `parts` names the part of pre-training of each patient; None: not known.
    """
    everyone = frozenset(reference_patients.tolist())
    unseen = frozenset(p for p in everyone if parts and parts.get(p) in UNSEEN)
    if len(unseen) > 1:
        return unseen, ""
    if parts is None:
        why = "The run does not say which patients it learned from"
    elif any(parts.get(patient) == "train" for patient in everyone):
        why = "Pre-training learned from all patients of the reference"
    else:  # another cohort than the run's
        return everyone, ""
    return everyone, (
        f"{why}, so the threshold is calibrated on patients who may look more familiar than new "
        "ones, and more images of new patients may be refused than stated."
    )


def mean_image_similarity(
    reference: Vectors,
    images: Float32[Array, "i e"],
    patients: Shaped[Array, " i"],
    *,
    device: torch.device | str = "cpu",
) -> Float32[Array, " i"]:
    """Mean cosine of each image to its nearest images of other patients; NaN: there are none."""
    k = min(NEIGHBOURS, len(reference.row))
    _, similarity, _ = reference.nearest(images, patients, k, device=device)
    count = np.isfinite(similarity).sum(axis=1)
    mean = np.where(count > 0, np.nansum(similarity, axis=1) / np.maximum(count, 1), np.nan)
    return mean.astype(np.float32)


def calibrate_thresholds(
    similarity: Mapping[str, Float[Array, " i"]],
    patients: Shaped[Array, " i"],
    coverage: float,
    *,
    caution: str = "",
    seed: int = 0,
    replicates: int = 1000,
) -> Abstention:
    """Thresholds that images of new patients pass with at least this probability, all together.

    Each level gets the similarity of the same rank among the calibration images, as high as the
    coverage allows. Each patient has the same weight, however many images there are. `similarity`
    is that of `Calibration`, `caution` is kept with the result.

    Raises:
        UserError: there is no image.
    """
    if not len(patients):
        raise UserError("no image to calibrate the threshold on: the reference is empty.")
    codes = np.unique(patients, return_inverse=True)[1]
    score = np.column_stack([np.nan_to_num(s, nan=-np.inf) for s in similarity.values()])
    score = score.astype(np.float64)  # (i, levels)
    thresholds, count = _thresholds(score, codes, coverage), int(codes.max()) + 1
    cautions = [caution] if caution else []
    if np.isinf(thresholds).all():
        cautions.append(
            f"{count} patient(s) are too few to calibrate a coverage of {coverage:.0%}, so no "
            "image is refused as out of distribution."
        )
    return Abstention(
        coverage=coverage,
        thresholds=dict(zip(similarity, thresholds.tolist(), strict=True)),
        n=len(patients),
        n_patients=count,
        achieved=_verify(score, codes, coverage, seed, replicates) if count > 1 else None,
        unseen=not caution,
        caution=" ".join(cautions),
    )


def _thresholds(
    score: Float[Array, "i levels"], patients: Shaped[Array, " i"], coverage: float
) -> Float[Array, " levels"]:
    worst = rankdata(score, method="max", axis=0).min(axis=1)  # (i,) of an image's worst level
    limit = conformal_quantile(-worst.astype(np.float64), coverage, patients)
    # A calibration image is ranked among all with itself, a new one among the others: with
    # several levels at once that is worth a rank, or the coverage falls short.
    position = -limit - 1 - (score.shape[1] > 1)
    if position < 0:
        return np.full(score.shape[1], -np.inf)
    return np.asarray(np.sort(score, axis=0)[int(position)])


def _verify(
    score: Float[Array, "i levels"],
    codes: Shaped[Array, " i"],
    coverage: float,
    seed: int,
    replicates: int,
) -> Estimate:
    """Fraction of images that pass thresholds from the other half of the patients."""
    rng, count = np.random.default_rng(seed), int(codes.max()) + 1
    tested, kept = [], []
    for _ in range(REPEATS):
        half = (rng.permutation(count) < count // 2)[codes]
        limits = _thresholds(score[half], codes[half], coverage)
        tested.append(codes[~half])
        kept.append((score[~half] >= limits).all(axis=1))

    def statistic(repeat: int, weights: Array) -> dict[str, Array]:
        own = weights * equal_shares(tested[repeat])  # (r, i)
        return {"coverage": own @ kept[repeat] / own.sum(axis=1)}

    return bootstrap(tested, statistic, replicates=replicates, seed=seed)["coverage"]
