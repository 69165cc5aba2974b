"""Sets of classes that contain the true one as often as promised: split-conformal prediction.

A threshold is calibrated on patients that neither encoder nor probe learned from. The promise: for
an image drawn at random from a new patient of the same population, the set contains its class
with at least the stated probability. That is marginal over patients: no statement about one
patient, nor about another clinic or camera. Images of one patient are not exchangeable with those
of others, but patients are; so each patient has the same weight, however many images there are
(Lee, Barber, Willett, arXiv 2306.06342).

A class's score is 1 - its probability. Of all scores this gives the smallest sets on average
(Sadinle, Lei, Wasserman, arXiv 1609.00451); that it misses classes of small probability is mended
by a threshold per class.

Axis names: n = images, k = classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from slimp.errors import UserError
from slimp.evaluation.bootstrap import Array, Estimate, bootstrap, or_none
from slimp.evaluation.metrics import ratio

REPEATS = 20
"""Random halves of the patients that verify the coverage."""
ROUNDING = 1e-9
"""Slack of the comparison with the coverage, so that 0.07 * 100 counts as 7."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conformal:
    """Thresholds, ready for new images."""

    coverage: float
    """Nominal, in (0, 1)."""
    per_class: bool
    """The coverage is promised for each class, and not only on average over them."""
    thresholds: Float[Array, " k"]
    """A class with a score up to its threshold is in the set; inf: calibration has too few
    patients with the class ever to leave it out."""
    n: int
    """Images it was calibrated on."""
    n_patients: int

    def sets(
        self, probabilities: Float[Array, "n k"], decided: Int[Array, " n"] | None = None
    ) -> Bool[Array, "n k"]:
        """Which classes are in the set of each image; the one decided on always is."""
        limits = np.maximum(self.thresholds, -1)
        return np.asarray(nonconformity(probabilities, decided) <= limits)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What sets were found to contain on patients that their thresholds did not come from."""

    nominal: float
    coverage: Estimate
    """Fraction of images whose class was in the set; the interval is over patients."""
    set_size: Estimate
    """Classes in a set."""
    single: float
    """Fraction of sets with one class."""
    per_class: tuple[float, ...]
    """Coverage of the images of each class; NaN: none was tested."""
    n: int
    """Images, each calibrating in about half of the repeats and tested in the others."""
    n_patients: int

    def to_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """For JSON; figures per repeat are left out."""
        per_class = zip(classes, self.per_class, strict=True)
        return {
            **vars(self),
            "coverage": self.coverage.to_dict(per_seed=False),
            "set_size": self.set_size.to_dict(per_seed=False),
            "per_class": {c: or_none(v) for c, v in per_class},
            "repeats": REPEATS,
        }


def conformal_quantile(
    scores: Float[Array, " n"], coverage: float, groups: Shaped[Array, " n"] | None = None
) -> float:
    """The threshold that a new score stays at or below with probability `coverage` or more.

    Without groups, the ceil((n + 1) * coverage)-th smallest score. With them each group has weight
    1 / (groups + 1), divided among its scores, as does the new group, whose scores count as
    infinite. inf where there are too few rows or groups for any finite threshold.

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
    weights = np.ones(len(scores)) if groups is None else equal_shares(groups)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(weights[order]) >= coverage * (round(weights.sum()) + 1) - ROUNDING
    return float(scores[order[np.argmax(reached)]]) if reached.any() else float("inf")


def equal_shares(groups: Shaped[Array, " n"]) -> Float[Array, " n"]:
    """A weight per row: 1 over the number of rows of its group."""
    _, codes, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[codes])


def nonconformity(
    probabilities: Float[Array, "n k"], decided: Int[Array, " n"] | None = None
) -> Float[Array, "n k"]:
    """Score of each class for each image, in [0, 1]; -1 for the class decided on.

    That one (None: the most probable one) is thus in every set, so that no set is empty or
    contradicts the decision; calibration makes the other thresholds smaller in return.
    """
    scores = 1 - probabilities
    decided = probabilities.argmax(axis=1) if decided is None else decided
    scores[np.arange(len(scores)), decided] = -1
    return scores


def calibrate(
    probabilities: Float[Array, "n k"],
    y: Int[Array, " n"],
    groups: Shaped[Array, " n"],
    coverage: float = 0.9,
    *,
    decided: Int[Array, " n"] | None = None,
    per_class: bool = True,
) -> Conformal:
    """Thresholds from images that the classifier did not learn from.

    With a threshold per class, from its own images (Mondrian), rare classes, the malignant ones
    among them, are covered as often as the others; a class with fewer than
    coverage / (1 - coverage) patients is in every set.

    Args:
        probabilities: per image and class.
        y: true class per image.
        groups: patient per image.
        coverage: in (0, 1).
        decided: class decided on; see `nonconformity`.
        per_class: a threshold per class, and not one for all.
    """
    if not len(y):
        raise UserError("no image to calibrate on: conformal sets need labelled test images.")
    own = nonconformity(probabilities, decided)[np.arange(len(y)), y]
    k = probabilities.shape[1]
    if per_class:
        found = [conformal_quantile(own[y == c], coverage, groups[y == c]) for c in range(k)]
    else:
        found = [conformal_quantile(own, coverage, groups)] * k
    return Conformal(
        coverage=coverage,
        per_class=per_class,
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
    replicates: int = 1000,
) -> Coverage:
    """The coverage that is found when half of the patients calibrate and the others are counted.

    Mean over random halves, each patient with the same weight. With half of the patients
    thresholds are a little wider than with all of them, never less safe.

    Arguments are those of `calibrate`, and the number of bootstrap replicates over patients.

    Raises:
        UserError: there are fewer than 2 patients, or the coverage is not in (0, 1).
    """
    patients, codes = np.unique(np.asarray(groups), return_inverse=True)
    if len(patients) < 2:
        raise UserError("coverage can only be verified with at least 2 labelled test patients.")
    decided = probabilities.argmax(axis=1) if decided is None else decided
    rng = np.random.default_rng(0)
    tested, inside = [], []
    for _ in range(REPEATS):
        half = (rng.permutation(len(patients)) < len(patients) // 2)[codes]
        fitted = calibrate(
            *(probabilities[half], y[half], codes[half], coverage),
            decided=decided[half],
            per_class=per_class,
        )
        tested.append(np.flatnonzero(~half))
        inside.append(fitted.sets(probabilities[~half], decided[~half]))

    def statistic(repeat: int, weights: Array) -> dict[str, Array]:
        rows = tested[repeat]
        return _counted(weights, y[rows], codes[rows], inside[repeat])

    by_patient = [codes[rows] for rows in tested]
    found = bootstrap(by_patient, statistic, replicates=replicates)
    return Coverage(
        nominal=coverage,
        coverage=found["coverage"],
        set_size=found["set_size"],
        single=found["single"].mean,
        per_class=tuple(found[f"class {c}"].mean for c in range(probabilities.shape[1])),
        n=len(y),
        n_patients=len(patients),
    )


def _counted(weights: Array, y: Array, patients: Array, inside: Array) -> dict[str, Array]:
    """Figures per row of `weights` (r, n), which says how often each image's patient counts."""
    hit, size = inside[np.arange(len(y)), y].astype(np.float64), inside.sum(axis=1)
    own = weights * equal_shares(patients)  # (r, n)
    total = own.sum(axis=1)
    found = {
        "coverage": own @ hit / total,
        "set_size": own @ size / total,
        "single": own @ (size == 1) / total,
    }
    for c in range(inside.shape[1]):
        rows = np.flatnonzero(y == c)
        part = weights[:, rows] * equal_shares(patients[rows])
        found[f"class {c}"] = ratio(part @ hit[rows], part.sum(axis=1))
    return found
