"""The figures of the pages: curves, histograms, a reliability diagram, a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from markupsafe import Markup
from sklearn.manifold import TSNE

from slimp.evaluation.low_shot import LowShot
from slimp.evaluation.metrics import Array
from slimp.evaluation.similarity import Similarity
from slimp.report.svg import INK, MARKERS, MUTED, OTHER, PAPER, SERIES, drawing, legend, svg

CURVE_POINTS = 150
"""Points of a training curve; each is the mean of its share of the steps."""
PER_EPOCH = ("validation_", "recall_at_", "knn_")
"""Starts of the columns of a log that belong to its rows of epochs, not of steps."""
FRACTIONS = ("Recall", "kNN")
"""Starts of the titles of curves of fractions: from 0, however few points there are."""
MOST_ROWS = 1000
"""Rows of the map, at most: t-SNE takes seconds for these, and the page stays light."""
FEWEST_ROWS = 10
"""Of a map; below it says nothing."""
COMPONENTS = 50
PERPLEXITY = 30.0


def curve_figures(log: pd.DataFrame, chance: Mapping[str, float] | None = None) -> list[Markup]:
    """Loss, loss per level, recall@k, kNN probe, learning rate and temperature, where logged.

    `chance`: column -> what it is by chance, a dotted line.
    """
    columns = list(map(str, log.columns))
    levels = [c.removeprefix("loss_") for c in columns if c.startswith("loss_")]
    recalls = sorted(
        (c for c in columns if c.startswith("recall_at_")), key=lambda c: int(c.split("_")[-1])
    )
    temperatures = [c for c in columns if c.startswith("temperature")]
    panels: dict[str, dict[str, str]] = {
        "Loss": {"loss": "training", "validation_loss": "validation"},
        "Loss per level": {
            f"{start}loss_{level}": f"{level}, {part}"
            for start, part in (("", "training"), ("validation_", "validation"))
            for level in levels
        },
        "Recall at k, image to metadata": {c: f"k = {c.split('_')[-1]}" for c in recalls},
        "kNN probe, balanced accuracy": {"knn_balanced_accuracy": "validation"},
        "Learning rate": {"learning_rate": ""},
        "Temperature": {c: c.removeprefix("temperature").removeprefix("_") for c in temperatures},
    }
    figures = []
    for title, labels in panels.items():
        curves = {column: _curve(log, column) for column in labels if column in log}
        known = {column: curve for column, curve in curves.items() if len(curve)}
        if known:
            figures.append(_curves(title, known, labels, chance or {}))
    return figures


def _curve(log: pd.DataFrame, column: str) -> Array:
    """(points, 2) steps and values, at most `CURVE_POINTS`: means of consecutive rows."""
    kind = "epoch" if column.startswith(PER_EPOCH) else "step"
    rows = log.loc[log["kind"] == kind, ["step", column]].dropna().to_numpy(dtype=float)
    blocks = np.array_split(rows, min(len(rows), CURVE_POINTS) or 1)
    return np.array([block.mean(axis=0) for block in blocks]) if len(rows) else rows


def _curves(
    title: str,
    curves: Mapping[str, Array],
    labels: Mapping[str, str],
    chance: Mapping[str, float],
) -> Markup:
    # Validation has the colour of the training curve of the same level.
    colours = list(dict.fromkeys(column.removeprefix("validation_") for column in curves))
    summary, highest = [], 0.0
    with drawing(title) as (figure, axes):
        for column, points in curves.items():
            x, y = points.T
            highest = max(highest, y.max(), chance.get(column, 0.0))
            axes.plot(
                x,
                y,
                "--" if column.startswith("validation_") else "-",
                color=SERIES[colours.index(column.removeprefix("validation_")) % len(SERIES)],
                label=labels[column],
                marker="o" if column.startswith(PER_EPOCH) else "",
                markersize=3.5,
            )
            summary.append(f"{labels[column] or column} from {y[0]:.3g} to {y[-1]:.3g}")
            if column in chance:
                axes.axhline(chance[column], color=axes.lines[-1].get_color(), linestyle=":")
                summary[-1] += f" (by chance {chance[column]:.3g})"
        axes.set(title=title, xlabel="step", xlim=(0, None))
        if title.startswith(FRACTIONS):
            axes.set_ylim(0, min(1.0, 1.15 * highest or 1.0))
        if "Learning rate" in title:
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        if len(curves) > 1:
            legend(figure)
        return svg(figure, f"{title} over training steps: {'; '.join(summary)}.")


def similarity_figure(level: str, found: Similarity) -> Markup:
    """Histograms of matching and non-matching cosines, with their medians."""
    return _histograms(
        level,
        {"matching": found.matching, "non-matching": found.nonmatching},
        [
            (found.median_matching, "matching, median", SERIES[0], "--"),
            (found.median_nonmatching, "non-matching, median", SERIES[1], ":"),
        ],
        bins=int(np.clip(2 * np.sqrt(len(found.matching)), 15, 50)),
        xlabel="cosine similarity of image and metadata",
    )


def neighbour_figure(level: str, target: Array, calibration: Array, threshold: float) -> Markup:
    """Histograms of the cosines of images and their nearest neighbours, and the threshold."""
    return _histograms(
        level,
        {"reference": calibration, "target": target},
        [(threshold, "threshold", INK, "--")] if np.isfinite(threshold) else [],
        bins=40,
        xlabel="cosine similarity of an image and its nearest neighbour",
    )


def _histograms(
    level: str,
    groups: Mapping[str, Array],
    lines: Sequence[tuple[float, str, str, str]],
    *,
    bins: int,
    xlabel: str,
) -> Markup:
    """Densities of cosines over one another, and vertical lines of (x, label, colour, style)."""
    everything = np.concatenate(list(groups.values()))
    low, high = max(everything.min() - 0.05, -1.01), min(everything.max() + 0.05, 1.01)
    edges = np.linspace(low, high, bins + 1).tolist()
    with drawing(f"{xlabel} {level}") as (figure, axes):
        for k, (name, values) in enumerate(groups.items()):
            kwargs: dict[str, Any] = {"bins": edges, "density": True, "color": SERIES[k]}
            axes.hist(values, histtype="stepfilled", alpha=0.28, linewidth=0, **kwargs)
            axes.hist(values, histtype="step", linewidth=1.3, label=name, **kwargs)
        for x, label, colour, style in lines:
            axes.axvline(x, color=colour, linestyle=style, label=f"{label} {x:.3f}")
        title = f"{level.capitalize()} level"
        axes.set(title=title, xlabel=xlabel, ylabel="density", xlim=(low, high))
        legend(figure)
        medians = ", ".join(f"{name} {np.median(v):.3f}" for name, v in groups.items())
        return svg(figure, f"{level} level: histograms of {xlabel}. Medians: {medians}.")


def reliability_figure(bins: pd.DataFrame) -> Markup:
    """How often the most probable class is right, by its probability; the diagonal is perfect."""
    with drawing("reliability") as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
        x, y = bins["confidence"], bins["accuracy"]
        look: dict[str, Any] = {"color": SERIES[0], "marker": MARKERS[0]}
        axes.plot(x, y, linewidth=0.9, markersize=3, **look)
        # An area per point, so that a bin of few images looks like one.
        area = 6 + 90 * bins["rows"] / bins["rows"].max()
        axes.scatter(x, y, s=area, alpha=0.75, zorder=3, **look)
        gap = np.average(np.abs(x - y), weights=bins["rows"])
        axes.set(title="Reliability", xlim=(0, 1), ylim=(0, 1))
        axes.set(xlabel="probability of the most probable class", ylabel="fraction that is right")
        return svg(figure, f"Reliability diagram over bins of probability; mean gap {gap:.3f}.")


def low_shot_figure(found: LowShot) -> Markup:
    """Balanced accuracy against the images learned from, with 95 % intervals."""
    summary = []
    words = {"fraction": "fractions of the patients", "shots": "images per class"}
    kinds = dict.fromkeys(point.kind for point in found.points)
    with drawing("low-shot") as (figure, axes):
        for k, kind in enumerate(kinds):
            points = [point for point in found.points if point.kind == kind]
            x = [point.n_images for point in points]
            y = [point.balanced_accuracy.mean for point in points]
            low, high = zip(*(point.balanced_accuracy.ci95 for point in points), strict=True)
            axes.plot(x, y, color=SERIES[k], marker=MARKERS[k], markersize=4.5, label=words[kind])
            axes.fill_between(x, low, high, color=SERIES[k], alpha=0.18, linewidth=0)
            summary.append(f"{words[kind]}: from {y[0]:.3f} to {y[-1]:.3f}")
        axes.set(title="Few labels", xscale="log")
        axes.set(xlabel="labelled images learned from", ylabel="balanced accuracy")
        axes.xaxis.set_major_formatter("{x:g}")  # the default one writes mathematics
        axes.xaxis.set_minor_formatter("")
        legend(figure)
        return svg(figure, f"Balanced accuracy against labelled images. {'; '.join(summary)}.")


def map_figure(points: Array, labels: pd.Series) -> Markup:
    """A scatter of (n, 2) points; the commonest classes have a colour and a shape, others grey."""
    labels = labels.astype(object)
    counts = {str(name): int(n) for name, n in labels.value_counts().sort_index().items()}
    classes = sorted(counts, key=lambda name: -counts[name])
    marks = dict(zip(classes, zip(SERIES, MARKERS, strict=True), strict=False))
    with drawing("map", size=(7.2, 4.9)) as (figure, axes):
        groups = [(f"{name} ({counts[name]:,})", labels == name) for name in classes]
        if (unknown := labels.isna()).any():
            groups.append((f"no label ({unknown.sum():,})", unknown))
        for k, (text, where) in enumerate(groups):
            name = classes[k] if k < len(classes) else ""
            colour, marker = marks.get(name, (OTHER, "."))
            axes.plot(
                *points[where.to_numpy()].T,
                linestyle="",
                marker=marker,
                markersize=4.5 if len(points) > 500 else 6,
                markeredgewidth=0.3,
                markeredgecolor=PAPER,
                color=colour,
                alpha=0.8,
                label=text,
                zorder=2 if name in marks else 1,
            )
        axes.set_axis_off()
        legend(figure, columns=5)
        return svg(figure, f"Scatter of {len(points)} images by class: {', '.join(classes)}.")


def draw_rows(count: int, seed: int) -> Array:
    """Which of `count` rows a map shows, in order: all, or `MOST_ROWS` drawn ones."""
    if count <= MOST_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size=MOST_ROWS, replace=False))


def project(embedding: Float[Array, "n d"], seed: int) -> Float[Array, "n 2"]:
    """Two coordinates per row, by PCA and t-SNE, which keep neighbours; distances mean nothing."""
    x = embedding.astype(np.float64)
    x = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    x = (u * s)[:, :COMPONENTS]  # (n, components)
    if s[0] < 1e-9 * max(1.0, np.abs(embedding).max()):  # one point, as far as numbers can tell
        return np.zeros((len(x), 2), dtype=np.float32)
    x /= x[:, 0].std()
    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(x) - 1) / 3),
        init=(1e-4 * x[:, :2]).astype(np.float32) if x.shape[1] > 1 else "random",
        random_state=seed,
        max_iter=500,
    )
    points: Array = tsne.fit_transform(x).astype(np.float32)
    return points
