"""Probabilities that mean what they say: temperature scaling, and class shares put back.

A probe whose classes weigh the same speaks of a population in which all classes are equally
frequent. Calibrated probabilities speak of one with the class shares of the training rows: they
are softmax(z / T + log share), z being the logits. The temperature T is the only number that is
fitted; the shares are counted.

Axis names: n = rows, k = classes, r = replicates, b = bins of confidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from slimp.evaluation.metrics import ECE_BINS, bin_of

Array = np.ndarray[Any, np.dtype[Any]]
TEMPERATURES = (0.05, 20.0)
"""Bounds; reached only where the rows are separated, or where the probe says nothing."""
SMALLEST = 1e-300
"""Stands for a probability of 0, so that its logarithm is finite."""


def fit_temperature(
    probabilities: Float[Array, "n k"], y: Int[Array, " n"], shares: Float[Array, " k"]
) -> float:
    """The temperature with the least log-loss of `apply_temperature` on these rows (Guo et al.).

    The log-loss is convex in 1 / T, so there is one optimum. Rows whose true class has
    probability 0 are left out: a fold without the class says nothing about the temperature.

    Args:
        probabilities: of rows that the probe was not fitted on.
        y: true class per row.
        shares: of each class; all alike is plain temperature scaling.
    """
    known = probabilities[np.arange(len(y)), y] > 0
    if not known.any():
        return 1.0
    z, y = np.log(np.maximum(probabilities[known], SMALLEST)), y[known]
    bias = np.log(np.maximum(shares, SMALLEST))

    def loss(inverse: float) -> float:
        logits = inverse * z + bias
        return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]))

    low, high = TEMPERATURES
    found = minimize_scalar(loss, bounds=(1 / high, 1 / low), method="bounded")
    return float(1 / found.x)


def apply_temperature(
    probabilities: Float[Array, "n k"], temperature: float, shares: Float[Array, " k"]
) -> Float[Array, "n k"]:
    """Probabilities at this temperature, of a population with these class shares.

    Equal shares leave the most probable class as it is; a temperature of 1 too, then, everything.

    Args:
        probabilities: of a population in which all classes are equally frequent.
        temperature: above 1 is less sure.
        shares: of each class, up to a factor.
    """
    z = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    return np.asarray(softmax(z + np.log(np.maximum(shares, SMALLEST)), axis=1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """A reliability diagram: how often the most probable class is right, by its probability."""

    edges: Float[Array, " edges"]
    """Of the bins; one more than there are bins."""
    counts: Int[Array, " b"]
    """Rows per bin."""
    confidence: Float[Array, " b"]
    """Mean probability of the most probable class; NaN in an empty bin."""
    accuracy: Float[Array, " b"]
    """Share of rows whose most probable class is the true one; NaN in an empty bin."""


def reliability(
    y: Int[Array, " n"], probabilities: Float[Array, "n k"], *, bins: int = ECE_BINS
) -> Reliability:
    """The diagram whose gaps, weighted by their rows, add up to the `ece` of these rows."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == y
    place = bin_of(confidence, bins)
    counts = np.bincount(place, minlength=bins)
    filled = np.maximum(counts, 1)

    def mean(values: Array) -> Array:
        sums = np.bincount(place, weights=values, minlength=bins)
        return np.where(counts > 0, sums / filled, np.nan)

    return Reliability(
        edges=np.linspace(0, 1, bins + 1),
        counts=counts,
        confidence=mean(confidence),
        accuracy=mean(right.astype(np.float64)),
    )
