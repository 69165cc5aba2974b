"""Multinomial logistic regression with a penalty per column, for columns that hang together.

What scikit-learn's `LogisticRegression` minimises, by the same L-BFGS, in coordinates in which the
loss is nearly round: embeddings have directions whose variances differ by a factor of thousands,
and in their own coordinates a weak penalty takes L-BFGS a thousand steps instead of thirty
(`benchmarks/peers.py`). The coordinates come from the bound of Boehning (1992) on the second
derivative of the loss, which is that of a least-squares fit.

Axis names: n = rows, r = columns, k = classes, m = logits that are free: 1 of two classes, else k.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from slimp.evaluation.metrics import Array

CURVATURE = 0.1
"""Stands for p (1 - p) in the second derivative: at most 1/4, less where a fit is sure. Half or
twice as much costs a few steps."""
ROWS = 1 << 14
"""Whose products are added up at once."""
MAX_ITER = 5000
"""Steps of L-BFGS; a fit that needs more is reported as not converged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """What `Multinomial.fit` found."""

    coef: Float[Array, "m r"]
    intercept: Float[Array, " m"]
    converged: bool
    """The gradient fell below the tolerance."""


class Multinomial:
    """The rows of a fit, for one choice of penalties after the other.

    Args:
        z: centred columns; products are taken in their number format.
        y: class per row, 0 to k - 1, each of which has rows. Two classes have one logit, that of
            the second, as in scikit-learn.
    """

    def __init__(self, z: Float[Array, "n r"], y: Int[Array, " n"]) -> None:
        self.z, (self.n, self.r) = z, z.shape
        k = int(y.max()) + 1
        self.m = 1 if k == 2 else k
        self.truth = np.equal.outer(y, [1] if k == 2 else np.arange(k)).astype(z.dtype)  # (n, m)
        # In 64 bits: rounding would outweigh a weak penalty, and the sum have no root.
        wide = (part.astype(np.float64) for part in np.array_split(z, 1 + self.n // ROWS))
        self.gram = sum((part.T @ part for part in wide), np.zeros((self.r, self.r))) / self.n

    def fit(
        self,
        penalty: Float[Array, " r"],
        *,
        start: Solution | None = None,
        tolerance: float,
    ) -> Solution:
        """The minimum of summed log-loss + sum of penalty * coef**2 / 2; intercepts are free.

        Args:
            penalty: above 0, per column: scikit-learn's 1 / C.
            start: where to begin.
            tolerance: largest gradient of the mean loss in the new coordinates.
        """
        root = cholesky(CURVATURE * self.gram + np.diag(penalty) / self.n, lower=True)
        back = solve_triangular(root, np.eye(self.r), lower=True)  # coordinates -> coefficients
        begin = np.zeros((self.m, self.r + 1))
        if start is not None:
            begin[:, : self.r] = start.coef @ root
            begin[:, self.r] = start.intercept * CURVATURE**0.5
        found = minimize(
            _Objective(self, penalty, back),
            begin.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MAX_ITER, "gtol": tolerance, "ftol": 0.0, "maxls": 50},
        )
        there = found.x.reshape(self.m, self.r + 1)
        return Solution(
            coef=there[:, : self.r] @ back,
            intercept=there[:, self.r] / CURVATURE**0.5,
            converged=bool(np.abs(found.jac).max() <= tolerance),
        )


class _Objective:
    """Mean loss and its gradient at some coordinates."""

    def __init__(self, rows: Multinomial, penalty: Array, back: Array) -> None:
        self.rows, dtype = rows, rows.z.dtype
        self.back, self.penalty = back.astype(dtype), (penalty / rows.n).astype(dtype)

    # What is not finite was refused by `cholesky`. OpenBLAS may still say "invalid value" of a
    # product, where it reads past the end of rows (numpy issue 24067); its numbers are right.
    @np.errstate(invalid="ignore")
    def __call__(self, flat: Float[Array, " _"]) -> tuple[float, Float[Array, " _"]]:
        z, truth, n = self.rows.z, self.rows.truth, self.rows.n
        there = flat.reshape(self.rows.m, -1).astype(z.dtype)  # (m, r + 1)
        coef = there[:, :-1] @ self.back
        logits = z @ coef.T + there[:, -1] / z.dtype.type(CURVATURE**0.5)  # (n, m)
        if self.rows.m == 1:
            loss, p = np.logaddexp(0, logits) - truth * logits, expit(logits)
        else:
            logs = log_softmax(logits, axis=1)
            loss, p = -truth * logs, np.exp(logs)
        shrunk = coef * self.penalty
        total = loss.sum(dtype=np.float64) / n + 0.5 * (coef * shrunk).sum(dtype=np.float64)
        error = (p - truth) / n
        gradient = np.empty_like(there)
        gradient[:, :-1] = (error.T @ z + shrunk) @ self.back.T
        gradient[:, -1] = error.sum(axis=0) / CURVATURE**0.5
        return float(total), gradient.ravel().astype(np.float64)
