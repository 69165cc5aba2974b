"""Confidence intervals by a bootstrap over patients.

Rows of one patient resemble each other, so an interval that resamples rows is too narrow. Here a
replicate draws patients with replacement and keeps all rows of each.

Axis names: p = patients tested in any split, n = test rows of one split, r = replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from slimp.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]
Statistic = Callable[[int, Array], dict[str, Array]]
"""(split, weights (r, n)) -> values (r,) by name; NaN where undefined."""
CHUNK = 64
"""Replicates computed at once, so that the weights stay in cache; never changes the result."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its interval."""

    mean: float
    """Over the seeds."""
    ci95: tuple[float, float]
    """2.5th and 97.5th percentile over the replicates."""
    per_seed: tuple[float, ...]
    """NaN where a seed leaves it undefined; the mean is over the others."""

    def to_dict(self, *, per_seed: bool = True) -> dict[str, Any]:
        """For `metrics.json`; None where undefined."""
        content: dict[str, Any] = {
            "mean": or_none(self.mean),
            "ci95": [or_none(end) for end in self.ci95],
        }
        if per_seed:
            content["per_seed"] = [or_none(value) for value in self.per_seed]
        return content

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]"


def bootstrap(
    groups: Sequence[Array],
    statistic: Statistic,
    *,
    replicates: int = 1000,
    seed: int = 0,
    reflect: Collection[str] = (),
) -> dict[str, Estimate]:
    """Mean over splits of each statistic, with its 95 % percentile interval over patients.

    A replicate draws as many patients as there are from the union of the test patients of all
    splits; a patient tested in several splits counts equally often in each. Its value is the mean
    over splits, as the estimate is. So the interval covers which patients were tested; it does
    not cover which ones trained.

    Args:
        groups: per split, the patient of each test row.
        statistic: called as `statistic(split, weights)`.
        replicates: number of replicates.
        seed: of the draws.
        reflect: statistics that resampling only increases, such as a calibration error. Their
            interval is mirrored at the estimate (the "basic" bootstrap) and cut at 0.

    Raises:
        UserError: fewer than 1 replicate.
    """
    per_split, draws = resample(groups, statistic, replicates=replicates, seed=seed)
    return {
        name: _estimate(seeds, draws[name], reflect=name in reflect)
        for name, seeds in per_split.items()
    }


def resample(
    groups: Sequence[Array], statistic: Statistic, *, replicates: int = 1000, seed: int = 0
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Each statistic per split (splits,), and per replicate (r,); as in `bootstrap`."""
    if replicates < 1:
        raise UserError(f"replicates must be at least 1, got {replicates}.")
    names = np.concatenate([np.asarray(g).astype(str) for g in groups])
    patients, codes = np.unique(names, return_inverse=True)
    rows = np.split(codes, np.cumsum([len(g) for g in groups])[:-1])
    per_split = [statistic(s, np.ones((1, len(r)))) for s, r in enumerate(rows)]
    rng = np.random.default_rng(seed)
    draws = [
        _one_chunk(statistic, draw_patients(len(patients), min(CHUNK, replicates - i), rng), rows)
        for i in range(0, replicates, CHUNK)
    ]
    return (
        {name: np.array([split[name][0] for split in per_split]) for name in per_split[0]},
        {name: np.concatenate([draw[name] for draw in draws]) for name in per_split[0]},
    )


def draw_patients(patients: int, replicates: int, rng: np.random.Generator) -> Float[Array, "r p"]:
    """How often each patient occurs in each replicate; a row adds up to the number of patients."""
    drawn = rng.integers(patients, size=(replicates, patients))
    drawn += patients * np.arange(replicates)[:, None]  # so that one bincount serves all
    counts = np.bincount(drawn.ravel(), minlength=replicates * patients)
    return counts.reshape(replicates, patients).astype(np.float64)


def _one_chunk(statistic: Statistic, times: Array, rows: list[Array]) -> dict[str, Array]:
    """Mean over splits per replicate; a split in which a replicate tests no one is left out."""
    sums: dict[str, Array] = {}
    counts: dict[str, Array] = {}
    for s, index in enumerate(rows):
        weights = times[:, index]  # (r, n)
        empty = weights.sum(axis=1) == 0
        weights[empty] = 1.0  # any weights: the values are dropped below
        for name, values in statistic(s, weights).items():
            known = ~(np.isnan(values) | empty)
            sums[name] = sums.get(name, 0.0) + np.where(known, values, 0.0)
            counts[name] = counts.get(name, 0) + known
    return {
        name: np.divide(
            total, counts[name], out=np.full(len(total), np.nan), where=counts[name] > 0
        )
        for name, total in sums.items()
    }


def _estimate(seeds: Array, values: Array, *, reflect: bool) -> Estimate:
    known = seeds[~np.isnan(seeds)]
    mean = float(known.mean()) if len(known) else float("nan")
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, [0.025, 0.975]).tolist() if len(values) else (mean, mean)
    if reflect:
        low, high = max(0.0, 2 * mean - high), max(mean, 2 * mean - low)
    return Estimate(mean=mean, ci95=(low, high), per_seed=tuple(seeds.tolist()))


def or_none(value: float) -> float | None:
    """The value, None where it is undefined: JSON has neither NaN nor infinity."""
    return value if np.isfinite(value) else None
