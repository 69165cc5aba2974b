"""Sets of classes that hold the truth as often as promised: split-conformal prediction.

A threshold is read off patients whom neither encoder nor probe learned from. What is promised:
an image drawn at random from a new patient, who comes from where the calibration patients came
from, has its class in the set with at least the stated probability. That is marginal over
patients: it is no statement about one patient, and none about another clinic or camera. Images of
one patient are not exchangeable with those of others, but patients are; so each patient weighs
the same, however many images there are of them (Lee, Barber, Willett, arXiv 2306.06342). Weighing
images equally is an option; it aims at the share of images, and holds for many patients only.

Axis names: n = images, k = classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, or_none, resample

Array = np.ndarray[Any, np.dtype[Any]]
Score = Literal["lac", "aps"]
"""How strange a class is for an image.

`lac`: 1 - its probability. The default: of all scores it has the smallest sets on average (Sadinle,
Lei, Wasserman, arXiv 1609.00451), it needs no random numbers, and its weakness, that classes with
small probabilities are missed, is mended by a threshold per class.
`aps`: the probabilities of this class and all likelier ones added up (Romano, Sesia, Candes,
arXiv 2006.02544), without the random part. Sets grow with the ambiguity of the image, and may
hold the truth more often than promised, because the last class of all has a score of 1 always.
"""
Weigh = Literal["patients", "images"]
"""What counts equally: patients (the guarantee holds), or images."""
ROUNDING = 1e-9
"""Slack of the comparison with the coverage, so that 0.07 * 100 counts as 7."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conformal:
    """Thresholds, ready for new images."""

    coverage: float
    """Nominal, in (0, 1)."""
    per_class: bool
    """The coverage is promised for each class, and not only on average over them."""
    score: Score
    weigh: Weigh
    thresholds: Float[Array, " k"]
    """A class with a score up to its threshold is in the set; inf: calibration has too few
    patients with the class ever to leave it out."""
    n: int
    """Images it was calibrated on."""
    n_patients: int

    def sets(
        self, probabilities: Float[Array, "n k"], decided: Int[Array, " n"] | None = None
    ) -> Bool[Array, "n k"]:
        """Which classes are in the set of each image; see `prediction_sets`."""
        return prediction_sets(probabilities, self.thresholds, score=self.score, decided=decided)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What sets were found to hold on patients that their thresholds did not come from."""

    nominal: float
    coverage: Estimate
    """Share of truths that were in the set; the interval is over patients."""
    set_size: Estimate
    """Classes in a set."""
    single: float
    """Share of sets with one class."""
    per_class: tuple[float, ...]
    """Coverage of the images of each class; NaN: none was tested."""
    n: int
    """Images, each calibrating in about half of the repeats and tested in the others."""
    n_patients: int
    repeats: int

    def to_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """For JSON; figures per repeat are left out."""
        per_class = zip(classes, self.per_class, strict=True)
        return {
            "nominal": self.nominal,
            "coverage": self.coverage.to_dict(per_seed=False),
            "set_size": self.set_size.to_dict(per_seed=False),
            "single": self.single,
            "per_class": {c: or_none(v) for c, v in per_class},
            "n": self.n,
            "n_patients": self.n_patients,
            "repeats": self.repeats,
        }


def conformal_quantile(
    scores: Float[Array, " n"], coverage: float, groups: Shaped[Array, " n"] | None = None
) -> float:
    """The threshold that a new score stays at or below with probability `coverage` or more.

    Without groups, the ceil((n + 1) * coverage)-th smallest score. With them each group weighs
    1 / (groups + 1), shared by its scores, as does the new group, whose scores count as infinite.

    Args:
        scores: of exchangeable rows, or of exchangeable groups of rows.
        coverage: in (0, 1).
        groups: such as the patient of each row.

    Returns:
        inf where there are too few rows or groups for any finite threshold.

    Raises:
        UserError: coverage is not in (0, 1).

    Example:
        >>> conformal_quantile(np.array([0.3, 0.1, 0.2, 0.4]), 0.8)
        0.4
        >>> conformal_quantile(np.array([0.3, 0.1, 0.2]), 0.8)
        inf
    """
    if not 0 < coverage < 1:
        raise UserError(f"coverage must be in (0, 1), got {coverage}.")
    if not len(scores):
        return float("inf")
    share = np.ones(len(scores)) if groups is None else equal_shares(groups)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(share[order]) >= coverage * (round(share.sum()) + 1) - ROUNDING
    return float(scores[order[np.argmax(reached)]]) if reached.any() else float("inf")


def equal_shares(groups: Shaped[Array, " n"]) -> Float[Array, " n"]:
    """A weight per row: 1 over the number of rows of its group."""
    _, codes, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[codes])


def nonconformity(
    probabilities: Float[Array, "n k"],
    score: Score = "lac",
    decided: Int[Array, " n"] | None = None,
) -> Float[Array, "n k"]:
    """How strange each class is for each image, in [0, 1]; -1 for the class decided on.

    That one is thus in every set, so that no set is empty or contradicts the decision, and
    calibration makes the sets as much smaller as this makes them larger.

    Args:
        probabilities: per image and class.
        score: see `Score`.
        decided: class decided on; None: the most probable one.
    """
    if score == "lac":
        scores = 1 - probabilities
    else:
        order = np.argsort(-probabilities, axis=1, kind="stable")
        sums = np.cumsum(np.take_along_axis(probabilities, order, axis=1), axis=1)
        scores = np.empty_like(probabilities)
        np.put_along_axis(scores, order, sums, axis=1)
    decided = probabilities.argmax(axis=1) if decided is None else decided
    scores[np.arange(len(scores)), decided] = -1
    return scores


def prediction_sets(
    probabilities: Float[Array, "n k"],
    threshold: float | Float[Array, " k"],
    *,
    score: Score = "lac",
    decided: Int[Array, " n"] | None = None,
) -> Bool[Array, "n k"]:
    """Which classes are in the set of each image: those whose score is within the threshold.

    Args:
        probabilities: per image and class.
        threshold: one for all classes, or one per class.
        score: that the threshold was made with.
        decided: class decided on, which is always in; None: the most probable one.
    """
    inside = nonconformity(probabilities, score, decided) <= np.maximum(threshold, -1)
    return np.asarray(inside)


def calibrate(
    probabilities: Float[Array, "n k"],
    y: Int[Array, " n"],
    groups: Shaped[Array, " n"],
    coverage: float = 0.9,
    *,
    decided: Int[Array, " n"] | None = None,
    per_class: bool = True,
    score: Score = "lac",
    weigh: Weigh = "patients",
) -> Conformal:
    """Thresholds from images that the classifier did not learn from.

    Args:
        probabilities: per image and class.
        y: true class per image.
        groups: patient per image.
        coverage: in (0, 1).
        decided: class decided on; see `nonconformity`.
        per_class: a threshold per class, from its own images (Mondrian). Rare classes, the
            malignant ones among them, are then covered as often as the others; a class with
            fewer than coverage / (1 - coverage) patients is in every set.
        score: see `Score`.
        weigh: see `Weigh`.

    Raises:
        UserError: coverage is not in (0, 1), or there is no image.
    """
    if not len(y):
        raise UserError("no image to calibrate on: conformal sets need labelled test images.")
    own = nonconformity(probabilities, score, decided)[np.arange(len(y)), y]

    def threshold(rows: Array) -> float:
        return conformal_quantile(
            own[rows], coverage, groups[rows] if weigh == "patients" else None
        )

    k = probabilities.shape[1]
    everyone = np.ones(len(y), dtype=bool)
    found = [threshold(y == c) for c in range(k)] if per_class else [threshold(everyone)] * k
    return Conformal(
        coverage=coverage,
        per_class=per_class,
        score=score,
        weigh=weigh,
        thresholds=np.array(found),
        n=len(y),
        n_patients=len(np.unique(groups)),
    )


def verified_coverage(
    probabilities: Float[Array, "n k"],
    y: Int[Array, " n"],
    groups: Shaped[Array, " n"],
    coverage: float = 0.9,
    *,
    decided: Int[Array, " n"] | None = None,
    per_class: bool = True,
    score: Score = "lac",
    weigh: Weigh = "patients",
    repeats: int = 20,
    seed: int = 0,
    replicates: int = 1000,
) -> Coverage:
    """The coverage that is found when half of the patients calibrate and the others are counted.

    Repeated with random halves. What is counted weighs as in calibration. With half of the
    patients thresholds are a little wider than with all of them, never less safe.

    Args:
        probabilities: per image and class, of images that the classifier did not learn from.
        y: true class per image.
        groups: patient per image.
        coverage: nominal, in (0, 1).
        decided: as in `calibrate`.
        per_class: as in `calibrate`.
        score: as in `calibrate`.
        weigh: as in `calibrate`.
        repeats: random halves.
        seed: of the halves and of the bootstrap.
        replicates: of the bootstrap over patients.

    Raises:
        UserError: there are fewer than 2 patients, or the coverage is not in (0, 1).
    """
    patients, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len(patients) < 2:
        raise UserError("coverage can only be verified with at least 2 labelled test patients.")
    if repeats < 1:
        raise UserError(f"repeats must be at least 1, got {repeats}.")
    rng = np.random.default_rng(seed)
    tested, inside = [], []
    for _ in range(repeats):
        calibrates = (rng.permutation(len(patients)) < len(patients) // 2)[codes]
        fitted = calibrate(
            probabilities[calibrates],
            y[calibrates],
            codes[calibrates],
            coverage,
            decided=None if decided is None else decided[calibrates],
            per_class=per_class,
            score=score,
            weigh=weigh,
        )
        rows = np.flatnonzero(~calibrates)
        tested.append(rows)
        inside.append(fitted.sets(probabilities[rows], None if decided is None else decided[rows]))

    def statistic(repeat: int, weights: Array) -> dict[str, Array]:
        rows = tested[repeat]
        return _counted(weights, y[rows], codes[rows], inside[repeat], weigh)

    halves, draws = resample(
        [codes[rows] for rows in tested], statistic, replicates=replicates, seed=seed
    )
    return Coverage(
        nominal=coverage,
        coverage=_estimate(halves["coverage"], draws["coverage"]),
        set_size=_estimate(halves["set_size"], draws["set_size"]),
        single=float(halves["single"].mean()),
        per_class=tuple(_mean(halves[f"class {c}"]) for c in range(probabilities.shape[1])),
        n=len(y),
        n_patients=len(patients),
        repeats=repeats,
    )


def _counted(
    weights: Array, y: Array, patients: Array, inside: Array, weigh: Weigh
) -> dict[str, Array]:
    """Figures per row of `weights` (r, n), which says how often each image's patient counts."""
    equal = weigh == "patients"
    hit, size = inside[np.arange(len(y)), y].astype(np.float64), inside.sum(axis=1)
    own = weights * equal_shares(patients) if equal else weights  # (r, n)
    total = own.sum(axis=1)
    found = {
        "coverage": own @ hit / total,
        "set_size": own @ size / total,
        "single": own @ (size == 1) / total,
    }
    for c in range(inside.shape[1]):
        of_class = np.flatnonzero(y == c)
        part = weights[:, of_class]
        if equal and len(of_class):
            part = part * equal_shares(patients[of_class])
        total = part.sum(axis=1)
        found[f"class {c}"] = np.divide(
            part @ hit[of_class], total, out=np.full(len(total), np.nan), where=total > 0
        )
    return found


def _mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _estimate(halves: Array, draws: Array) -> Estimate:
    low, high = np.nanquantile(draws, [0.025, 0.975]).tolist()
    return Estimate(mean=float(halves.mean()), ci95=(low, high), per_seed=tuple(halves.tolist()))
