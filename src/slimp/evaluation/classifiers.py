"""The other methods of a probe, kept in memory only: trees, a vote of neighbours, a mean of two.

Axis names: n = training rows, m = rows to classify, d = columns, k = classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from sklearn.ensemble import HistGradientBoostingClassifier

from slimp.data.encoding import Encoding
from slimp.evaluation.blocks import SMALLEST, Reduced, encoded, side_by_side
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.logistic import fit_logistic
from slimp.evaluation.metrics import Array
from slimp.evaluation.probe_config import ProbeConfig
from slimp.features.design import Design, as_columns
from slimp.features.knn import knn_predict

COMPONENTS = 32
"""Principal components of each block of embeddings that trees read, at most."""
MOST_CATEGORIES = 250
"""Of one column as such; scikit-learn allows 255. One with more is read as a number."""
LEAVES = (3, 8)
"""Candidates for the leaves of a tree."""
TREES = 100
"""Per class, at most; how many is chosen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A fitted method that is no `LinearProbe`."""

    predict_proba: Callable[[Design], Float[Array, "m k"]]
    """Probability per row and class where classes are as frequent as in training."""
    priors: Float[Array, " k"]
    """Class frequencies of the training rows."""
    strengths: Mapping[str, float] = field(default_factory=dict)
    """What was chosen by cross-validation."""
    converged: bool = True
    """Whether every fit reached its optimum."""


def fit_both(*rows: Any, **options: Any) -> Classifier:
    """The mean of logistic regression and boosting: they err on different rows."""
    linear, trees = fit_logistic(*rows, **options), fit_boosting(*rows, **options)
    return Classifier(
        predict_proba=lambda x: (linear.predict_proba(x) + trees.predict_proba(x)) / 2,
        priors=linear.priors,
        strengths={**linear.strengths, **trees.strengths},
        converged=linear.converged,
    )


def fit_neighbours(
    design: Design,
    y: Int[Array, " n"],
    groups: Shaped[Array, " n"],
    classes: tuple[str, ...],
    config: ProbeConfig,
    *,
    seed: int,
) -> Classifier:
    """The vote of the nearest of these rows, on a scale that gives each block the same variance.

    See `fit_logistic` for the arguments.
    """
    encodings = encoded(design)
    reduced = Reduced.of(side_by_side(design, encodings))
    spreads = np.split(reduced.z.var(axis=0), np.cumsum([*reduced.parts.values()])[:-1])
    factor = np.concatenate([np.full(len(s), s.sum() ** 0.5 or 1.0) for s in spreads])

    def vote(new: Design) -> Float[Array, "m k"]:
        x = reduced.project(side_by_side(new, encodings))
        return knn_predict(
            torch.from_numpy(reduced.z / factor),
            torch.from_numpy(y),
            torch.from_numpy(x / factor),
            classes=len(classes),
            neighbours=config.neighbours,
            temperature=config.temperature,
            balanced=False,  # the decision is
        ).numpy()

    return Classifier(predict_proba=vote, priors=np.bincount(y, minlength=len(classes)) / len(y))


def fit_boosting(
    design: Design,
    y: Int[Array, " n"],
    groups: Shaped[Array, " n"],
    classes: tuple[str, ...],
    config: ProbeConfig,
    *,
    seed: int,
) -> Classifier:
    """Gradient-boosted trees on components of the embeddings and on the table as it is.

    Their size and number have the least log-loss in patient-disjoint folds. See `fit_logistic` for
    the arguments.

    Raises:
        UserError: there is only one patient.
    """
    encodings, reduced = encoded(design), None
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
    model, present = _grow(x, y, leaves, trees, categorical, seed), np.unique(y)

    def predict(new: Design) -> Float[Array, "m k"]:
        p = np.zeros((len(new), len(classes)))
        p[:, present] = model.predict_proba(_columns(new, encodings, reduced)[0])
        return p

    return Classifier(
        predict_proba=predict,
        priors=np.bincount(y, minlength=len(classes)) / len(y),
        strengths={"leaves": float(leaves), "trees": float(trees)},
    )


def _staged_loss(model: Any, x: Array, y: Array) -> Float[Array, " trees"]:
    """Summed log-loss after each round; a class that the fold did not know counts alike in all."""
    known = np.flatnonzero(np.isin(y, model.classes_))
    column = np.searchsorted(model.classes_, y[known])
    rounds = (p[known, column] for p in model.staged_predict_proba(x))
    return np.array([-np.log(np.maximum(p, SMALLEST)).sum() for p in rounds])


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
