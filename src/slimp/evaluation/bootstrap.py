"""Confidence intervals by a bootstrap over patients.

Rows of one patient resemble each other, so an interval that resamples rows is too narrow. Here a
replicate draws patients with replacement and keeps all rows of each.

Axis names: p = patients tested in any split, n = test rows of one split, r = replicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from slimp.errors import UserError
from slimp.evaluation.metrics import Array, mean_over_present

Statistic = Callable[[int, Array], dict[str, Array]]
"""(split, weights (r, n)) -> values (r,) by name; NaN where undefined."""
CHUNK = 64
"""Replicates computed at once, so that the weights stay in cache; never changes the result."""
FEWEST_PATIENTS = 10
"""Behind an interval; with fewer, percentiles of a bootstrap mean little (of one: no width)."""


class Record:
    """Base of results that are dataclasses and go into `metrics.json` as they are."""

    def _repr_html_(self) -> str | None:
        """In notebooks, the table of those that have one."""
        return self.to_frame().to_html() if hasattr(self, "to_frame") else None

    def to_dict(self) -> dict[str, Any]:
        """The fields; None where a number is undefined. Tables have files of their own."""
        fields = vars(self).items()
        return {name: plain(v) for name, v in fields if not isinstance(v, pd.DataFrame)}


@dataclass(frozen=True, kw_only=True)
class Estimate(Record):
    """A figure with its interval."""

    mean: float
    """Over the seeds."""
    ci95: tuple[float, float]
    """2.5th and 97.5th percentile over the replicates; NaN: too few patients for an interval."""
    per_seed: tuple[float, ...]
    """NaN where a seed leaves it undefined; the mean is over the others."""
    per_fold: tuple[float, ...] = ()
    """Seed by seed, of splits into folds; the mean is over these."""

    def to_dict(self, *, per_seed: bool = True) -> dict[str, Any]:
        """Also without the figures per seed."""
        kept = ("mean", "ci95", *(["per_seed"] * per_seed), *(["per_fold"] * bool(self.per_fold)))
        return {name: value for name, value in super().to_dict().items() if name in kept}

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        interval = f" [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]"
        return f"{self.mean:.3f}{'' if math.isnan(self.ci95[0]) else interval}"

    def of_patients(self, patients: Array) -> Estimate:
        """Without an interval where these, who have the figure, are too few for one."""
        few = len({*patients.tolist()}) < FEWEST_PATIENTS
        return replace(self, ci95=(math.nan, math.nan)) if few else self


def bootstrap(
    groups: Sequence[Array],
    statistic: Statistic,
    *,
    replicates: int = 1000,
    seed: int = 0,
    reflect: Collection[str] = (),
    folds: int = 1,
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
        folds: successive splits that are the folds of one seed.

    Raises:
        UserError: fewer than 1 replicate.
    """
    per_split, draws = resample(groups, statistic, replicates=replicates, seed=seed)
    found = {}
    for name, seeds in per_split.items():
        mean = float(mean_over_present(seeds[None])[0])
        low, high = percentiles(draws[name], mean)
        if name in reflect:
            low, high = max(0.0, 2 * mean - high), max(mean, 2 * mean - low)
        each = tuple(mean_over_present(seeds.reshape(-1, folds)).tolist())
        per_fold = tuple(seeds.tolist()) if folds > 1 else ()
        found[name] = Estimate(mean=mean, ci95=(low, high), per_seed=each, per_fold=per_fold)
    return found


def resample(
    groups: Sequence[Array], statistic: Statistic, *, replicates: int = 1000, seed: int = 0
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Each statistic per split (splits,), and per replicate (r,); as in `bootstrap`."""
    if replicates < 1:
        raise UserError(f"replicates must be at least 1, got {replicates}.")
    names = np.concatenate([np.asarray(g).astype(str) for g in groups])
    patients, codes = np.unique(names, return_inverse=True)
    rows = np.split(codes, np.cumsum([len(g) for g in groups])[:-1])
    once = [statistic(s, np.ones((1, len(r)))) for s, r in enumerate(rows)]
    rng = np.random.default_rng(seed)
    draws: dict[str, list[Array]] = {name: [] for name in once[0]}
    for first in range(0, replicates, CHUNK):
        times = draw_patients(len(patients), min(CHUNK, replicates - first), rng)
        found = [_of_split(statistic, s, times[:, index]) for s, index in enumerate(rows)]
        for name, values in draws.items():
            values.append(mean_over_present(np.stack([of[name] for of in found], axis=-1)))
    return (
        {name: np.array([split[name][0] for split in once]) for name in draws},
        {name: np.concatenate(values) for name, values in draws.items()},
    )


def percentiles(values: Array, otherwise: float) -> tuple[float, float]:
    """2.5th and 97.5th percentile of the values that are defined; `otherwise` if none is."""
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, [0.025, 0.975]).tolist() if len(known) else [otherwise] * 2
    return low, high


def draw_patients(patients: int, replicates: int, rng: np.random.Generator) -> Float[Array, "r p"]:
    """How often each patient occurs in each replicate; a row adds up to the number of patients."""
    drawn = rng.integers(patients, size=(replicates, patients))
    drawn += patients * np.arange(replicates)[:, None]  # so that one bincount serves all
    counts = np.bincount(drawn.ravel(), minlength=replicates * patients)
    return counts.reshape(replicates, patients).astype(np.float64)


def _of_split(statistic: Statistic, split: int, weights: Array) -> dict[str, Array]:
    """The statistics of a split, NaN in replicates that test none of its patients."""
    empty = weights.sum(axis=1) == 0
    weights[empty] = 1.0  # any weights: the values are dropped
    return {k: np.where(empty, np.nan, values) for k, values in statistic(split, weights).items()}


def plain(value: Any, *, per_seed: bool = True) -> Any:
    """The value as JSON has it: None for NaN and infinity, lists for tuples.

    Without `per_seed`, estimates outside of other records leave out their figures per seed.
    """
    if isinstance(value, Estimate):
        return value.to_dict(per_seed=per_seed)
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(entry, per_seed=per_seed) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, per_seed=per_seed) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
