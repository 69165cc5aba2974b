"""Gradient-boosted trees on blocks of features: components of embeddings, and the table as it is.

Axis names: n = rows, d = columns, k = classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.ensemble import HistGradientBoostingClassifier

from slimp.data.encoding import Encoding
from slimp.evaluation.blocks import SMALLEST, Reduced, side_by_side
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.metrics import Array
from slimp.evaluation.probe_config import ProbeConfig
from slimp.features.design import Design, as_columns

COMPONENTS = 32
"""Principal components of each block of embeddings, at most."""
MOST_CATEGORIES = 250
"""Of one column as such; scikit-learn allows 255. One with more is read as a number."""
LEAVES = (3, 8)
"""Candidates for the leaves of a tree."""
TREES = 100
"""Per class, at most; how many is chosen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BoostedProbe:
    """Fitted trees, kept in memory only: scikit-learn stores them as pickles, which run code."""

    encodings: tuple[Encoding, ...]
    reduced: Reduced | None
    """Of the embeddings; None: there are none."""
    model: HistGradientBoostingClassifier
    present: Int[Array, " p"]
    """Classes that training rows had."""
    priors: Float[Array, " k"]
    strengths: Mapping[str, float]
    """What was chosen: `leaves` and `trees`."""
    converged: bool = True

    def predict_proba(self, design: Design) -> Float[Array, "n k"]:
        """Probability per row and class where classes are as frequent as in training."""
        p = np.zeros((len(design), len(self.priors)))
        x, _ = _columns(design, self.encodings, self.reduced)
        p[:, self.present] = self.model.predict_proba(x)
        return p


def fit_boosting(
    design: Design,
    y: Int[Array, " n"],
    groups: Shaped[Array, " n"],
    classes: tuple[str, ...],
    config: ProbeConfig,
    *,
    seed: int,
) -> BoostedProbe:
    """Trees whose size and number have the least log-loss in patient-disjoint folds.

    See `fit_logistic` for the arguments.

    Raises:
        UserError: there is only one patient.
    """
    encodings = () if design.table is None else design.table.fit(design.levels)
    reduced = None
    if design.blocks:
        reduced = Reduced.of(side_by_side(design, ()), components=COMPONENTS)
    x, categorical = _columns(design, encodings, reduced)
    fold = grouped_folds(y, groups, config.folds, seed=seed)
    losses = {leaves: np.zeros(TREES) for leaves in LEAVES}
    for leaves in LEAVES:
        for f in np.unique(fold):
            rest, own = fold != f, fold == f
            if len(np.unique(y[rest])) < 2:
                continue
            model = _grow(x[rest], y[rest], leaves, TREES, categorical, seed)
            losses[leaves] += _staged_loss(model, x[own], y[own])
    leaves = min(LEAVES, key=lambda n: losses[n].min())
    trees = int(losses[leaves].argmin()) + 1
    return BoostedProbe(
        encodings=encodings,
        reduced=reduced,
        model=_grow(x, y, leaves, trees, categorical, seed),
        present=np.unique(y),
        priors=np.bincount(y, minlength=len(classes)) / len(y),
        strengths={"leaves": float(leaves), "trees": float(trees)},
    )


def _staged_loss(model: Any, x: Array, y: Array) -> Float[Array, " trees"]:
    """Summed log-loss after each round; a class that the fold did not know counts alike in all."""
    column = np.searchsorted(model.classes_, y)
    known = np.isin(y, model.classes_)
    return np.array(
        [
            -np.log(np.maximum(p[np.flatnonzero(known), column[known]], SMALLEST)).sum()
            for p in model.staged_predict_proba(x)
        ]
    )


def _grow(x: Array, y: Array, leaves: int, trees: int, categorical: Array, seed: int) -> Any:
    model = HistGradientBoostingClassifier(
        max_iter=trees,
        max_leaf_nodes=leaves,
        categorical_features=categorical,
        early_stopping=False,  # its own validation split would not be patient-disjoint
        random_state=seed,
    )
    # scikit-learn refuses a column without any value.
    return model.fit(np.where(np.isnan(x).all(axis=0), 0.0, x), y)


def _columns(
    design: Design, encodings: tuple[Encoding, ...], reduced: Reduced | None
) -> tuple[Float[Array, "n d"], Array]:
    """Components and the table's columns, NaN where missing; and which are categories."""
    parts, kinds = [np.empty((len(design), 0))], list[bool]()
    if reduced is not None:
        parts.append(reduced.project(side_by_side(design, ())))
        kinds += [False] * parts[-1].shape[1]
    for encoding, rows in zip(encodings, design.encode(encodings), strict=True):
        columns, categories = as_columns(encoding, rows)
        parts.append(columns)
        kinds += categories
    x = np.hstack(parts)
    return x, np.array(kinds) & (np.nan_to_num(x).max(axis=0, initial=0) <= MOST_CATEGORIES)
