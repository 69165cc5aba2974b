"""Calibrated probabilities: temperature scaling, with the class frequencies put back.

A probe with balanced class weights gives probabilities of a population in which all classes are
equally frequent. Calibrated probabilities are of one with the class frequencies of the training
rows: softmax(z / T + log frequency), z being the logits. Only the temperature T is fitted.

Axis names: n = rows, k = classes, b = bins of confidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from slimp.evaluation.bootstrap import Array
from slimp.evaluation.metrics import ECE_BINS, bin_of, ratio

TEMPERATURES = (0.05, 20.0)
"""Bounds; reached only where the rows are separated, or where the probe knows nothing."""
SMALLEST = 1e-300
"""Stands for a probability of 0, so that its logarithm is finite."""


def fit_temperature(
    probabilities: Float[Array, "n k"], y: Int[Array, " n"], priors: Float[Array, " k"]
) -> float:
    """The temperature with the least log-loss of `apply_temperature` on these rows (Guo et al.).

    The log-loss is convex in 1 / T, so there is one optimum. Rows whose true class has
    probability 0 are left out: a fold without the class says nothing about the temperature.
    """
    known = probabilities[np.arange(len(y)), y] > 0
    if not known.any():
        return 1.0
    z, y = np.log(np.maximum(probabilities[known], SMALLEST)), y[known]
    bias = np.log(np.maximum(priors, SMALLEST))

    def loss(inverse: float) -> float:
        logits = inverse * z + bias
        return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]))

    low, high = TEMPERATURES
    found = minimize_scalar(loss, bounds=(1 / high, 1 / low), method="bounded")
    return float(1 / found.x)


def apply_temperature(
    probabilities: Float[Array, "n k"], temperature: float, priors: Float[Array, " k"]
) -> Float[Array, "n k"]:
    """Balanced probabilities at this temperature, for a population with these class frequencies.

    A temperature above 1 is less certain. Equal `priors` keep the most probable class.
    """
    z = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    return np.asarray(softmax(z + np.log(np.maximum(priors, SMALLEST)), axis=1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """A reliability diagram: how often the most probable class is right, by its probability."""

    edges: Float[Array, " edges"]
    counts: Int[Array, " b"]
    """Rows per bin."""
    confidence: Float[Array, " b"]
    """Mean probability of the most probable class; NaN in an empty bin."""
    accuracy: Float[Array, " b"]
    """Fraction of rows whose most probable class is the true one; NaN in an empty bin."""


def reliability(y: Int[Array, " n"], probabilities: Float[Array, "n k"]) -> Reliability:
    """The diagram whose gaps, weighted by their rows, add up to the `ece` of these rows."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == y
    place = bin_of(confidence)
    counts = np.bincount(place, minlength=ECE_BINS)
    sums = [np.bincount(place, weights=v, minlength=ECE_BINS) for v in (confidence, right)]
    return Reliability(
        edges=np.linspace(0, 1, ECE_BINS + 1),
        counts=counts,
        confidence=ratio(sums[0], counts),
        accuracy=ratio(sums[1], counts),
    )
