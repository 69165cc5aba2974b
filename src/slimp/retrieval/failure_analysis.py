"""Where retrieval fails: by similarity, by group, and the cases that are similar and wrong.

Axis names: i = images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped
from scipy.stats import rankdata

from slimp.data.schema import LevelName
from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.evaluation.metrics import Array
from slimp.retrieval.agreement import Compared, weighted_correlation

BINS = 5
MOST_CASES = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Failures:
    """Images of a target with what was retrieved for them, and the true values where known."""

    compared: Sequence[Compared]
    patients: Shaped[Array, " i"]
    replicates: int
    """Of the bootstrap over patients."""
    seed: int

    def agreement_per_image(self, level: LevelName | None = None) -> Float[Array, " i"]:
        """Fraction of an image's comparable values (of a level) that agree; NaN: none."""
        columns = [c.agrees for c in self.compared if level in (None, c.imputed.level)]
        none = np.full(len(self.patients), np.nan)
        return pd.DataFrame(np.array([none, *columns])).mean().to_numpy()

    def by_similarity(
        self, similarity: Mapping[LevelName, Float[Array, " i"]]
    ) -> tuple[list[dict[str, Any]], dict[LevelName, Estimate]]:
        """Agreement per fifth of the similarities, and the rank correlation of both, per level.

        If similarity tells good neighbours from bad ones, agreement rises with it. Rows are
        `level low high n agreement`.
        """
        bins, correlation = list[dict[str, Any]](), dict[LevelName, Estimate]()
        for level, values in similarity.items():
            score = self.agreement_per_image(level)
            use = np.flatnonzero(~np.isnan(score) & np.isfinite(values))
            if len(use) < BINS:
                continue
            x, y = values[use].astype(np.float64), score[use]
            ranks = rankdata(x), rankdata(y)
            correlation[level] = self._bootstrap(
                use, lambda w, ranks=ranks: weighted_correlation(w, *ranks)
            )
            for part in np.array_split(np.argsort(x, kind="stable"), BINS):
                span = {"low": float(x[part].min()), "high": float(x[part].max())}
                agreement = self._mean(score, use[part])
                bins.append({"level": level, **span, "n": len(part), "agreement": agreement})
        return bins, correlation

    def by_group(
        self,
        columns: Mapping[str, pd.Series],
        similarity: Float[Array, " i"],
        abstained: Bool[Array, " i"],
    ) -> Iterator[dict[str, Any]]:
        """A row per value of each column of `group_values`, and per answer of the abstention.

        Rows are `column value n n_patients mean_similarity abstained agreement`; None where
        undefined.
        """
        score = self.agreement_per_image()
        answer = pd.Categorical(np.where(abstained, "yes", "no"), categories=["no", "yes"])
        for name, cells in {"(abstained)": pd.Series(answer), **columns}.items():
            for value in cells.cat.categories:
                use = np.flatnonzero(cells == value)
                if not len(use):
                    continue
                near, truth = similarity[use], use[~np.isnan(score[use])]
                yield {
                    "column": name,
                    "value": value,
                    "n": len(use),
                    "n_patients": len(np.unique(self.patients[use])),
                    "mean_similarity": (
                        float(np.nanmean(near)) if np.isfinite(near).any() else None
                    ),
                    "abstained": self._mean(abstained.astype(np.float64), use),
                    "agreement": self._mean(score, truth) if len(truth) else None,
                }

    def worst_cases(
        self, similarity: Float[Array, " i"], neighbour: Shaped[Array, " i"]
    ) -> list[tuple[int, int, float]]:
        """(row of the target's images, of its neighbour in the reference, similarity) of some.

        Of the more similar half those that agree least, the most similar first; one per patient.
        Without truth: those of least similarity.
        """
        score = self.agreement_per_image()
        use = np.flatnonzero(np.isfinite(similarity) & (neighbour >= 0))
        if np.isfinite(score[use]).any():
            use = use[np.isfinite(score[use])]
            use = use[similarity[use] >= np.median(similarity[use])]
            order = use[np.lexsort((-similarity[use], score[use]))]
        else:
            order = use[np.argsort(similarity[use], kind="stable")]
        _, first = np.unique(self.patients[order], return_index=True)
        chosen = order[np.sort(first)][:MOST_CASES]
        return [(int(i), int(neighbour[i]), float(similarity[i])) for i in chosen]

    def _mean(self, values: Array, rows: Array) -> Estimate:
        return self._bootstrap(rows, lambda w: w @ values[rows] / w.sum(axis=1))

    def _bootstrap(self, rows: Array, statistic: Any) -> Estimate:
        found = bootstrap(
            [self.patients[rows]],
            lambda _, w: {"": statistic(w)},
            replicates=self.replicates,
            seed=self.seed,
        )[""]
        return found.of_patients(self.patients[rows])
