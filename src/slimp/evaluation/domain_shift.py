"""Are two sets of embeddings from the same population?

Axis names: n and m = rows of the two sides, r = rows drawn of both, d = width, e = directions
kept, p = patients, t = permutations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped
from scipy.stats import rankdata

from slimp.errors import UserError
from slimp.evaluation.bootstrap import Record, bootstrap
from slimp.evaluation.metrics import Array, ranking_metrics

DIRECTIONS = 64
"""Principal directions that the classifier sees, at most."""
RIDGE = 0.1
"""Added to the variances of the directions, which are 1."""
ROWS = 2000
"""Of each side, at most."""
PERMUTATIONS = 499
REPLICATES = 500
SIGNIFICANT = 0.01
NOTABLE = 0.6
"""AUROC that the interval must lie above: enough rows make any difference significant."""


@dataclass(frozen=True, kw_only=True)
class Shift(Record):
    """How well a classifier separates two sides, on patients that it was not fitted on."""

    auroc: float
    """0.5: not at all; 1: always."""
    ci95: tuple[float, float]
    """Over the patients tested."""
    balanced_accuracy: float
    """Of assigning each row to the side whose mean is nearer."""
    p_value: float
    """Fraction of permutations of the patients between the sides that separate as well."""
    rows: tuple[int, int]
    """Drawn of either side."""
    patients: tuple[int, int]
    """Of these rows."""
    flagged: bool
    """The sides differ beyond chance (p < 0.01) and notably (interval above AUROC 0.6)."""


def two_sample_test(
    a: Float[Array, "n d"],
    b: Float[Array, "m d"],
    groups_a: Shaped[Array, " n"],
    groups_b: Shaped[Array, " m"],
    *,
    folds: int = 5,
    seed: int = 0,
) -> Shift:
    """Whether two sides come from one population (classifier two-sample test).

    Patients are what is permuted between the sides: rows of one patient resemble each other, and
    permuting rows would find a shift wherever there are patients. The permutation keeps the
    folds, and so how many patients of each side a fold has.

    Reference: Lopez-Paz & Oquab, arXiv 1610.06545. Differs: the statistic is the AUROC, so that
    sides may differ in size; the classifier is a linear discriminant, whose closed form lets one
    product of matrices serve all permutations.

    Swapping the sides changes nothing. `groups_a` and `groups_b` name the patient of each row;
    equal names on both sides are one patient. `folds` are disjoint in patients; each is scored by
    a classifier of the others.

    Raises:
        UserError: a side has fewer than 2 patients per fold, or a value is not finite.
    """
    sides = [_draw(x, np.asarray(g).astype(str), seed) for x, g in ((a, groups_a), (b, groups_b))]
    counts = [_checked(*side, name, folds) for side, name in zip(sides, "ab", strict=True)]
    x, patients = (np.concatenate(both) for both in zip(*sides, strict=True))
    side = np.repeat([0, 1], [len(x) for x, _ in sides])
    order = np.lexsort((side, patients))  # the order must not reveal the sides
    x, patients, side = x[order].astype(np.float64), patients[order], side[order]
    fold = _assign_folds(patients, side, folds, seed)
    labels = np.column_stack([side, *_permuted(side, patients, fold, seed)])  # (r, 1 + t)
    scores = _out_of_fold(x, labels, fold)
    separations, score = _aurocs(scores, labels), scores[:, 0]
    both = np.column_stack([-score, score])
    interval = bootstrap(
        [patients],
        lambda _, weights: {"auroc": ranking_metrics(side, both, weights)["auroc_macro_ovr"]},
        replicates=REPLICATES,
        seed=seed,
    )["auroc"]
    p_value = float(np.mean(separations >= separations[0] - 1e-9))
    return Shift(
        auroc=float(separations[0]),
        ci95=interval.ci95,
        balanced_accuracy=float(np.mean([((score > 0) == s)[side == s].mean() for s in (0, 1)])),
        p_value=p_value,
        rows=(len(sides[0][0]), len(sides[1][0])),
        patients=(counts[0], counts[1]),
        flagged=p_value < SIGNIFICANT and interval.ci95[0] > NOTABLE,
    )


def _draw(x: Array, patients: Array, seed: int) -> tuple[Array, Array]:
    """At most `ROWS` rows: one of each patient in random order, then a second one, and so on.

    Which ones does not depend on the order of the rows.
    """
    rng = np.random.default_rng(seed)
    names, code = np.unique(patients, return_inverse=True)
    content = np.einsum("nd,d->n", x.astype(np.float64), rng.standard_normal(x.shape[1]))
    order = np.lexsort((content, code))
    shuffled = order[rng.permutation(len(order))]
    shuffled = shuffled[np.argsort(code[shuffled], kind="stable")]
    starts = np.cumsum(np.bincount(code, minlength=len(names)))
    turn = np.arange(len(shuffled)) - np.concatenate([[0], starts[:-1]])[code[shuffled]]
    place = rng.permutation(len(names))[code[shuffled]]
    kept = shuffled[np.lexsort((place, turn))[:ROWS]]
    return x[kept], patients[kept]


def _checked(x: Array, patients: Array, name: str, folds: int) -> int:
    """The number of patients of a side that can be tested."""
    count = len(np.unique(patients))
    if count < 2 * folds:
        raise UserError(
            f"side {name} of the two-sample test has {count} patients, but {folds} folds need "
            f"{2 * folds} or more. Take fewer folds or more patients."
        )
    if not np.isfinite(x).all():
        raise UserError(f"side {name} of the two-sample test has values that are not finite.")
    return count


def _assign_folds(patients: Array, side: Array, folds: int, seed: int) -> Int[Array, " r"]:
    """Fold of each row; no patient is in two, and the sides are balanced."""
    names, code = np.unique(patients, return_inverse=True)
    on = [np.bincount(code, side == s, len(names)) > 0 for s in (0, 1)]
    fold = np.empty(len(names), np.int64)
    for kind in ((True, False), (False, True), (True, True)):
        members = np.flatnonzero((on[0] == kind[0]) & (on[1] == kind[1]))
        order = np.random.default_rng(seed).permutation(len(members))
        fold[members[order]] = np.arange(len(members)) % folds
    return np.asarray(fold[code])


def _permuted(side: Array, patients: Array, fold: Array, seed: int) -> Iterator[Int[Array, " r"]]:
    """Sides of the rows, permuted among the patients of a fold."""
    keys = np.char.add(np.char.add(patients, "\0"), side.astype(str))
    _, first, unit = np.unique(keys, return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(fold[first] == f) for f in np.unique(fold)]
    for _ in range(PERMUTATIONS):
        swapped = side[first]
        for some in members:
            swapped[some] = swapped[rng.permutation(some)]
        yield swapped[unit]


def _out_of_fold(
    x: Float64[Array, "r d"], labels: Int[Array, "r t"], fold: Int[Array, " r"]
) -> Float64[Array, "r t"]:
    """Linear discriminant of each column of labels, fitted on the other folds; above 0: side 1."""
    scores = np.empty(labels.shape)
    for f in np.unique(fold):
        train, test = fold != f, fold == f
        z, held_out = _whitened(x[train], x[test])
        y = labels[train]
        # Both means have the same weight, so that 0 is half way between them.
        ones, zeros = y.sum(axis=0), (1 - y).sum(axis=0)
        means = z.T @ y / ones, z.T @ (1 - y) / zeros  # (e, t)
        half_way = ((means[0] + means[1]) / 2 * (means[0] - means[1])).sum(axis=0)
        scores[test] = held_out @ (means[0] - means[1]) - half_way
    return scores


def _whitened(train: Array, test: Array) -> tuple[Array, Array]:
    """Both in the principal directions of `train`, in each of which that has variance 1 - RIDGE."""
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale[scale < 1e-9 * np.maximum(np.abs(mean), 1)] = np.inf  # constant, up to rounding
    z = (train - mean) / scale
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    kept = slice(max(0, len(values) - min(DIRECTIONS, len(z) // 10)), None)
    project = vectors[:, kept] / np.sqrt(np.maximum(values[kept], 0) + RIDGE)
    return z @ project, (test - mean) / scale @ project


def _aurocs(scores: Float64[Array, "r t"], labels: Int[Array, "r t"]) -> Float64[Array, " t"]:
    ranks = rankdata(scores, axis=0)
    ones = labels.sum(axis=0)
    above = (ranks * labels).sum(axis=0) - ones * (ones + 1) / 2
    return np.asarray(above / (ones * (len(labels) - ones)))
