"""Temperature scaling, for classifiers whose probabilities are of equally frequent classes.

Calibrated probabilities are softmax(z / T + log frequency), z being the logits; only T is fitted.
Axis names: n = rows, k = classes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from slimp.evaluation.metrics import Array

TEMPERATURES = (0.05, 20.0)
"""Bounds; reached where the rows are separated, or where the classifier knows nothing."""
SMALLEST = 1e-300
"""Stands for a probability of 0, so that its logarithm is finite."""


def fit_temperature(
    probabilities: Float[Array, "n k"], y: Int[Array, " n"], priors: Float[Array, " k"]
) -> float:
    """The temperature with the least log-loss of `apply_temperature` on these rows (Guo et al.).

    Rows whose true class has probability 0 are left out: their fold did not know the class.
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
