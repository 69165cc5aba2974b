"""Sets of classes that contain the true one as often as promised: split-conformal prediction.

A threshold is calibrated on patients that neither encoder nor probe learned from. For an image
drawn at random from a new patient of the same population, the set then contains its class with at
least the stated probability. That is no statement about one patient, or another clinic. Images of
a patient are not exchangeable with those of others, but patients are; so each has the same weight,
however many images there are (Lee, Barber, Willett, arXiv 2306.06342).

A class's score is 1 - its probability: of all scores this gives the smallest sets on average
(Sadinle, Lei, Wasserman, arXiv 1609.00451). A threshold per class keeps classes of small
probability from being missed.

Axis names: n = images, k = classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, bootstrap, plain
from slimp.evaluation.metrics import Array, ratio
from slimp.evaluation.result import Predictions

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
    """Largest score of a class in the set; inf: too few patients have it to leave it ever out."""
    n: int
    """Images it was calibrated on."""
    n_patients: int

    def sets(
        self, probabilities: Float[Array, "n k"], decided: Int[Array, " n"]
    ) -> Bool[Array, "n k"]:
        """Which classes are in the set of each image; the one decided on always is."""
        return np.asarray(_scores(probabilities, decided) <= np.maximum(self.thresholds, -1))


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
        per_class = dict(zip(classes, self.per_class, strict=True))
        content = {**vars(self), "per_class": per_class, "repeats": REPEATS}
        return {name: plain(value, per_seed=False) for name, value in content.items()}


def conformal_quantile(
    scores: Float[Array, " n"], coverage: float, groups: Shaped[Array, " n"]
) -> float:
    """The threshold that a new score stays at or below with probability `coverage` or more.

    Each group has weight 1 / (groups + 1), divided among its scores, as has the new group, whose
    scores count as infinite. inf where there are too few groups for any finite threshold.

    Raises:
        UserError: coverage is not in (0, 1).

    Example:
        >>> conformal_quantile(np.array([0.3, 0.1, 0.2, 0.4]), 0.8, np.array(list("abcd")))
        0.4
        >>> conformal_quantile(np.array([0.3, 0.1, 0.2]), 0.8, np.array(list("abc")))
        inf
    """
    if not 0 < coverage < 1:
        raise UserError(f"coverage must be in (0, 1), got {coverage}.")
    if not len(scores):
        return float("inf")
    weights, order = equal_shares(groups), np.argsort(scores, kind="stable")
    reached = np.cumsum(weights[order]) >= coverage * (round(weights.sum()) + 1) - ROUNDING
    return float(scores[order[np.argmax(reached)]]) if reached.any() else float("inf")


def equal_shares(groups: Shaped[Array, " n"]) -> Float[Array, " n"]:
    """A weight per row: 1 over the number of rows of its group."""
    _, codes, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[codes])


def calibrate(found: Predictions, coverage: float = 0.9, *, per_class: bool = True) -> Conformal:
    """Thresholds from images that the classifier did not learn from.

    With a threshold per class, from its own images (Mondrian), rare classes, the malignant ones
    among them, are covered as often as the others; a class with fewer than
    coverage / (1 - coverage) patients is in every set.

    Raises:
        UserError: there is no image, or the coverage is not in (0, 1).
    """
    if not len(found.y):
        raise UserError("no image to calibrate on: conformal sets need labelled test images.")
    own = _scores(found.probabilities, found.predicted)[np.arange(len(found.y)), found.y]
    k = found.probabilities.shape[1]
    classes = [found.y == c if per_class else found.y >= 0 for c in range(k)]
    limits = [conformal_quantile(own[rows], coverage, found.patients[rows]) for rows in classes]
    return Conformal(
        coverage=coverage,
        per_class=per_class,
        thresholds=np.array(limits),
        n=len(own),
        n_patients=len(np.unique(found.patients)),
    )


def verified_coverage(
    found: Predictions, coverage: float = 0.9, *, per_class: bool = True, replicates: int = 1000
) -> Coverage:
    """The coverage that is found when half of the patients calibrate and the others are counted.

    Mean over random halves, each patient with the same weight. With half of the patients
    thresholds are a little wider than with all of them, never less safe. The interval is of a
    bootstrap over patients.

    Raises:
        UserError: there are fewer than 2 patients, or the coverage is not in (0, 1).
    """
    patients, codes = np.unique(found.patients, return_inverse=True)
    if len(patients) < 2:
        raise UserError("coverage can only be verified with at least 2 labelled test patients.")
    found, rng = replace(found, patients=codes), np.random.default_rng(0)
    tested, tops, bottoms = list[Array](), list[Array](), list[Array]()
    k = found.probabilities.shape[1]
    for _ in range(REPEATS):
        half = (rng.permutation(len(patients)) < len(patients) // 2)[codes]
        fitted = calibrate(found.select(half), coverage, per_class=per_class)
        others = found.select(~half)
        sets = fitted.sets(others.probabilities, others.predicted)
        hit, size = sets[np.arange(len(sets)), others.y], sets.sum(axis=1)
        everyone = np.ones(len(hit), dtype=bool)
        rows = [*(others.y == c for c in range(k)), everyone, everyone, everyone]
        # A mean per column, with the same weight for each patient.
        bottom = np.zeros((len(hit), len(rows)))
        for column, own in enumerate(rows):
            bottom[own, column] = equal_shares(others.patients[own])
        tested.append(others.patients)
        tops.append(bottom * np.column_stack([*[hit] * (k + 1), size, size == 1]))
        bottoms.append(bottom)

    def statistic(repeat: int, weights: Array) -> dict[str, Array]:
        means = ratio(weights @ tops[repeat], weights @ bottoms[repeat])  # (r, k + 3)
        return dict(
            zip([*map(str, range(k)), "coverage", "set size", "single"], means.T, strict=True)
        )

    counted = bootstrap(tested, statistic, replicates=replicates)
    return Coverage(
        nominal=coverage,
        coverage=counted["coverage"],
        set_size=counted["set size"],
        single=counted["single"].mean,
        per_class=tuple(counted[str(c)].mean for c in range(k)),
        n=len(found.y),
        n_patients=len(patients),
    )


def _scores(probabilities: Float[Array, "n k"], decided: Int[Array, " n"]) -> Float[Array, "n k"]:
    """1 - probability of each class; -1 for the one decided on, which is thus in every set."""
    scores = 1 - probabilities
    scores[np.arange(len(scores)), decided] = -1
    return scores
