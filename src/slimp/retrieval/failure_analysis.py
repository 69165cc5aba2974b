"""Where lending fails: by similarity, by group, and the cases in which it errs most confidently.

Axis names: i = images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped
from scipy.stats import rankdata

from slimp.data.schema import LevelName
from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.retrieval.agreement import Compared, weighted_correlation

Array = np.ndarray[Any, np.dtype[Any]]
BINS = 5


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images of one fifth of the similarities of a level."""

    level: LevelName
    low: float
    high: float
    n: int
    agreement: Estimate
    """Share of the comparable imputed values that agree."""


@dataclass(frozen=True, kw_only=True)
class LoanGroup:
    """Images that share a value of a column."""

    column: str
    value: str
    n: int
    n_patients: int
    similarity: float
    """Mean of the finest level that is imputed."""
    abstained: Estimate
    agreement: Estimate | None
    """Share of the comparable imputed values that agree; None where there is no truth."""

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`."""
        return {
            "column": self.column,
            "value": self.value,
            "n": self.n,
            "n_patients": self.n_patients,
            "mean_similarity": None if np.isnan(self.similarity) else self.similarity,
            "abstained": self.abstained.to_dict(per_seed=False),
            "agreement": self.agreement and self.agreement.to_dict(per_seed=False),
        }


@dataclass(frozen=True, kw_only=True)
class LoanCase:
    """One image and its nearest lender."""

    image: int
    """Row of the target's images."""
    lender: int
    """Row of the reference's images."""
    similarity: float
    agreement: float
    """Of the comparable values; NaN where there are none."""


def agreement_per_image(
    compared: Sequence[Compared], n: int, level: LevelName | None = None
) -> Float[Array, " i"]:
    """Share of an image's comparable imputed values (of a level) that agree; NaN: none."""
    columns = [c.agrees for c in compared if level in (None, c.imputed.level)]
    if not columns:
        return np.full(n, np.nan)
    values = np.stack(columns)  # (columns, i)
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(n, np.nan), where=count > 0))


def by_similarity(
    similarity: Mapping[LevelName, Float[Array, " i"]],
    compared: Sequence[Compared],
    patients: Shaped[Array, " i"],
    *,
    replicates: int,
    seed: int,
) -> tuple[list[Bin], dict[LevelName, Estimate]]:
    """Agreement per fifth of the similarities, and the rank correlation of both, per level.

    If similarity tells good loans from bad ones, agreement rises with it.
    """
    bins, correlation = list[Bin](), dict[LevelName, Estimate]()
    for level, values in similarity.items():
        score = agreement_per_image(compared, len(values), level)
        use = np.flatnonzero(~np.isnan(score) & np.isfinite(values))
        if len(use) < BINS:
            continue
        x, y, groups = values[use].astype(np.float64), score[use], patients[use]
        correlation[level] = _correlation(rankdata(x), rankdata(y), groups, replicates, seed)
        for part in np.array_split(np.argsort(x, kind="stable"), BINS):
            estimate = _mean(y[part], groups[part], replicates, seed)
            low, high = float(x[part].min()), float(x[part].max())
            bins.append(Bin(level=level, low=low, high=high, n=len(part), agreement=estimate))
    return bins, correlation


def by_group(
    columns: Mapping[str, pd.Series],
    similarity: Float[Array, " i"],
    abstained: Bool[Array, " i"],
    compared: Sequence[Compared],
    patients: Shaped[Array, " i"],
    *,
    replicates: int,
    seed: int,
) -> list[LoanGroup]:
    """A row per value of each column; and one for the images that were, or were not, abstained.

    Args:
        columns: name -> the group of each image, as `evaluate.groups.group_values` gives it; rows
            come in the order of its categories.
        similarity: of each image and its nearest lender.
        abstained: images for which nothing is imputed.
        compared: imputed values beside the truth.
        patients: of each image.
        replicates: of the bootstrap over patients.
        seed: of the bootstrap.
    """
    score = agreement_per_image(compared, len(patients))
    answer = pd.Series(pd.Categorical(np.where(abstained, "yes", "no"), categories=["no", "yes"]))
    found = []
    for name, cells in {"(abstained)": answer, **columns}.items():
        codes = cells.cat.codes.to_numpy()
        for code, value in enumerate(cells.cat.categories):
            use = np.flatnonzero(codes == code)
            if not len(use):
                continue
            groups, near = patients[use], similarity[use]
            truth = use[~np.isnan(score[use])]
            kept = abstained[use].astype(np.float64)
            found.append(
                LoanGroup(
                    column=name,
                    value=value,
                    n=len(use),
                    n_patients=len(np.unique(groups)),
                    similarity=float(np.nanmean(near)) if np.isfinite(near).any() else np.nan,
                    abstained=_mean(kept, groups, replicates, seed),
                    agreement=_mean(score[truth], patients[truth], replicates, seed)
                    if len(truth)
                    else None,
                )
            )
    return found


def worst_cases(
    similarity: Float[Array, " i"],
    lender: Shaped[Array, " i"],
    compared: Sequence[Compared],
    patients: Shaped[Array, " i"],
    *,
    count: int = 8,
) -> list[LoanCase]:
    """Of the more similar half those that agree least, the most similar first; one per patient.

    Without truth: those of least similarity.
    """
    score = agreement_per_image(compared, len(similarity))
    use = np.flatnonzero(np.isfinite(similarity) & (lender >= 0))
    if np.isfinite(score[use]).any():
        use = use[np.isfinite(score[use])]
        use = use[similarity[use] >= np.median(similarity[use])]
        order = use[np.lexsort((-similarity[use], score[use]))]
    else:
        order = use[np.argsort(similarity[use], kind="stable")]
    _, first = np.unique(patients[order], return_index=True)
    return [
        LoanCase(
            image=int(row),
            lender=int(lender[row]),
            similarity=float(similarity[row]),
            agreement=float(score[row]),
        )
        for row in order[np.sort(first)][:count]
    ]


def _mean(values: Array, patients: Array, replicates: int, seed: int) -> Estimate:
    def statistic(_: int, w: Array) -> dict[str, Array]:
        return {"mean": w @ values / w.sum(axis=1)}

    return bootstrap([patients], statistic, replicates=replicates, seed=seed)["mean"]


def _correlation(a: Array, b: Array, patients: Array, replicates: int, seed: int) -> Estimate:
    def statistic(_: int, w: Array) -> dict[str, Array]:
        return {"rho": weighted_correlation(w, a, b)}

    return bootstrap([patients], statistic, replicates=replicates, seed=seed)["rho"]
