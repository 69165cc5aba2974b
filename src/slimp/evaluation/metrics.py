"""Classification metrics under many row weightings at once, so that a bootstrap stays cheap.

A replicate of the bootstrap is a weight per test row. All metrics take `weights` of shape
(r, n) and return r values; with one row of ones they are the plain metrics. A class whose rows
all have weight 0 is absent from that replicate: averages run over the classes present.

Axis names: n = test rows, k = classes, r = replicates (weightings), g = distinct scores, b = bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

Array = np.ndarray[Any, np.dtype[Any]]
ECE_BINS = 15
"""Equal-width bins of confidence over (0, 1]."""
MIN_TPR = 0.8
"""Of ISIC 2024's partial AUC."""
SPECIFICITIES = (0.90, 0.95)
"""At which the sensitivity is read off the ROC curve."""


def metrics(
    y: Int[Array, " n"],
    probabilities: Float[Array, "n k"],
    predicted: Int[Array, " n"],
    weights: Float[Array, "r n"],
) -> dict[str, Float[Array, " r"]]:
    """Every metric of this file by name; some for two classes only, see `ranking_metrics`.

    Args:
        y: true class per row, 0..k-1.
        probabilities: per row and class; rows add up to 1.
        predicted: class decided on per row.
        weights: not negative; a row of it must not be 0 throughout.
    """
    k = probabilities.shape[1]
    return {
        "balanced_accuracy": mean_over_present(recall_per_class(y, predicted, weights, k)),
        "accuracy": ratio(weights @ (predicted == y), weights.sum(axis=1)),
        "f1_macro": f1_macro(y, predicted, weights, k),
        **ranking_metrics(y, probabilities, weights),
        "ece": ece(y, probabilities, weights),
        "brier": brier(y, probabilities, weights),
    }


def recall_per_class(
    y: Int[Array, " n"], predicted: Int[Array, " n"], weights: Float[Array, "r n"], k: int
) -> Float[Array, "r k"]:
    """Fraction of each class's rows that are found; NaN where a class is absent."""
    truth = np.eye(k)[y]  # (n, k)
    return ratio(weights @ (truth * (predicted == y)[:, None]), weights @ truth)


def f1_macro(
    y: Int[Array, " n"], predicted: Int[Array, " n"], weights: Float[Array, "r n"], k: int
) -> Float[Array, " r"]:
    """Mean over the classes present of 2 TP / (rows of the class + rows decided to be it)."""
    truth, decided = np.eye(k)[y], np.eye(k)[predicted]  # (n, k) each
    positive = weights @ truth
    f1 = ratio(2 * (weights @ (truth * decided)), positive + weights @ decided)
    return mean_over_present(np.where(positive > 0, f1, np.nan))


def ranking_metrics(
    y: Int[Array, " n"], probabilities: Float[Array, "n k"], weights: Float[Array, "r n"]
) -> dict[str, Float[Array, " r"]]:
    """Each class against the rest, mean over classes present; chance where there is only one.

    For two classes also `pauc_above_80tpr`, `sensitivity_at_90_specificity` and `..._95_...` of
    the last one. Tied scores share one threshold, as in scikit-learn.
    """
    k = probabilities.shape[1]
    auroc, precision = np.empty((len(weights), k)), np.empty((len(weights), k))
    for c in range(k):
        found, false = _cumulative(y == c, probabilities[:, c], weights)
        above, all_above = found[:, 1:], found[:, 1:] + false[:, 1:]
        area = (np.diff(false) * (above + found[:, :-1])).sum(axis=1) / 2  # a tie: half
        auroc[:, c] = ratio(area, found[:, -1] * false[:, -1])
        # Precision x gain in recall, without interpolation, as in scikit-learn.
        exact = np.divide(above, all_above, out=np.zeros_like(all_above), where=all_above > 0)
        precision[:, c] = ratio((exact * np.diff(found)).sum(axis=1), found[:, -1])
    undefined = np.isnan(auroc).all(axis=1)
    out = {
        "auroc_macro_ovr": np.where(undefined, 0.5, mean_over_present(auroc)),
        "average_precision_macro": mean_over_present(precision),
    }
    if k == 2:  # found and false are those of the last class
        tpr, fpr = ratio(found, found[:, -1:]), ratio(false, false[:, -1:])
        pauc = _partial_auc(tpr, fpr)
        out["pauc_above_80tpr"] = np.where(undefined, (1 - MIN_TPR) ** 2 / 2, pauc)
        for least in SPECIFICITIES:
            # The best threshold among the scores, without interpolation: ties go together.
            best = np.where(fpr <= 1 - least + 1e-12, tpr, 0.0).max(axis=1)
            name = f"sensitivity_at_{round(100 * least)}_specificity"
            out[name] = np.where(undefined, 1 - least, best)
    return out


def _cumulative(
    positive: Array, scores: Array, weights: Array
) -> tuple[Float[Array, "r g"], Float[Array, "r g"]]:
    """Weight of positives and of negatives above each threshold, thresholds falling from +inf."""
    order = np.argsort(-scores, kind="stable")
    misses = np.take(weights, order, axis=1)  # (r, n)
    hits = misses * positive[order]
    misses -= hits
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))  # (g - 1,) first row of a tie
    if len(starts) < len(order):
        hits, misses = (np.add.reduceat(x, starts, axis=1) for x in (hits, misses))
    found, false = np.zeros((2, len(weights), len(starts) + 1))  # nothing is above +inf
    np.cumsum(hits, axis=1, out=found[:, 1:])
    np.cumsum(misses, axis=1, out=false[:, 1:])
    return found, false


def _partial_auc(tpr: Float[Array, "r g"], fpr: Float[Array, "r g"]) -> Float[Array, " r"]:
    """Area between the ROC curve and TPR = 0.8, from 0 to 0.2 (ISIC 2024's official metric).

    The integral of 1 - FPR over TPR from 0.8 to 1, the ROC curve being linear between thresholds.
    """
    low, high = tpr[:, :-1], tpr[:, 1:]  # (r, g - 1) ends of each segment
    start = np.maximum(low, MIN_TPR)
    rise = np.maximum(high - start, 0)  # the part of the segment above MIN_TPR
    part = np.nan_to_num(ratio(start - low, high - low))
    fpr_start = fpr[:, :-1] + part * np.diff(fpr)
    return np.asarray((rise * (1 - (fpr_start + fpr[:, 1:]) / 2)).sum(axis=1))


def ece(
    y: Int[Array, " n"], probabilities: Float[Array, "n k"], weights: Float[Array, "r n"]
) -> Float[Array, " r"]:
    """Expected calibration error: mean gap of confidence and accuracy over bins of confidence.

    Confidence is the largest probability; accuracy is whether its class is the true one
    (Guo et al. 2017). 15 bins of equal width, weighted by their rows. Range 0 to 1.
    """
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == y) - confidence  # (n,)
    per_bin = weights @ (np.eye(ECE_BINS)[bin_of(confidence)] * gap[:, None])  # (r, bins)
    return ratio(np.abs(per_bin).sum(axis=1), weights.sum(axis=1))


def bin_of(confidence: Float[Array, " n"], bins: int = ECE_BINS) -> Int[Array, " n"]:
    """Bin of each confidence; a bin includes its upper edge."""
    return np.asarray(np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1))


def reliability(
    y: Int[Array, " n"], probabilities: Float[Array, "n k"], *, bins: int = ECE_BINS
) -> pd.DataFrame:
    """How often the most probable class is right, by its probability: a row per bin with rows.

    Columns `low high rows confidence accuracy`: the bin's edges and rows, the mean probability of
    the most probable class, the fraction where it is the true one. The gaps of the last two,
    weighted by the rows, add up to the `ece` where the bins are as many as its.
    """
    confidence = probabilities.max(axis=1)
    found = pd.DataFrame({"rows": 1, "confidence": confidence})
    found["accuracy"] = probabilities.argmax(axis=1) == y
    how = {"rows": "sum", "confidence": "mean", "accuracy": "mean"}
    found = found.groupby(bin_of(confidence, bins)).agg(how)
    edges = np.linspace(0, 1, bins + 1)
    return found.assign(low=edges[found.index], high=edges[found.index + 1])


def brier(
    y: Int[Array, " n"], probabilities: Float[Array, "n k"], weights: Float[Array, "r n"]
) -> Float[Array, " r"]:
    """Mean squared distance of the probabilities to the truth, summed over classes: 0 to 2."""
    truth = np.eye(probabilities.shape[1])[y]
    squares = ((probabilities - truth) ** 2).sum(axis=1)
    return ratio(weights @ squares, weights.sum(axis=1))


def standard_error(values: Float[Array, " n"], groups: Shaped[Array, " n"]) -> float:
    """Of their mean, where groups of rows were sampled; such a mean is a ratio of sums over groups.

    0 of a single group.
    """
    of_group = np.unique(groups, return_inverse=True)[1]
    spread = np.bincount(of_group, weights=values - values.mean())
    n = len(spread)
    return float(np.sqrt(n / max(n - 1, 1) * (spread**2).sum()) / len(values))


def mean_over_present(values: Array) -> Array:
    """Mean over the last axis of the values that are not NaN; NaN where all are."""
    present = ~np.isnan(values)
    return ratio(np.where(present, values, 0).sum(axis=-1), present.sum(axis=-1))


def ratio(top: Array, bottom: Array) -> Array:
    """Quotient; NaN where `bottom` is 0."""
    out: Array = np.full(np.broadcast_shapes(np.shape(top), np.shape(bottom)), np.nan)
    return np.divide(top, bottom, out=out, where=bottom > 0)
