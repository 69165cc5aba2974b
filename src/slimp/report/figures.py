"""The figures of the pages: curves, histograms, a reliability diagram, a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from slimp.evaluation.calibration import Reliability
from slimp.evaluation.low_shot import LowShot, LowShotPoint
from slimp.evaluation.similarity import Similarity
from slimp.report.svg import INK, MARKERS, MUTED, OTHER, PAPER, SERIES, drawing, legend, svg

CURVE_POINTS = 150
"""Points of a training curve; each is the mean of its share of the steps."""


def curve_figures(log: pd.DataFrame) -> list[Markup]:
    """Loss, loss per level, recall@k, kNN probe, learning rate and temperature, where logged."""
    if log.empty:
        return []
    steps, epochs = log[log["kind"] == "step"], log[log["kind"] == "epoch"]
    levels = [c.removeprefix("loss_") for c in log.columns if c.startswith("loss_")]
    recalls = sorted(
        (c for c in log.columns if c.startswith("recall_at_")), key=lambda c: int(c.split("_")[-1])
    )
    temperatures = [c for c in log.columns if c.startswith("temperature_")] or ["temperature"]
    panels: list[tuple[str, dict[str, str], dict[str, str]]] = [
        ("Loss", {"loss": "training"}, {"validation_loss": "validation"}),
        (
            "Loss per level",
            {f"loss_{name}": f"{name}, training" for name in levels},
            {f"validation_loss_{name}": f"{name}, validation" for name in levels},
        ),
        (
            "Recall at k, image to metadata",
            {},
            {name: f"k = {name.removeprefix('recall_at_')}" for name in recalls},
        ),
        ("kNN probe, balanced accuracy", {}, {"knn_balanced_accuracy": "validation"}),
        ("Learning rate", {"learning_rate": ""}, {}),
        ("Temperature", {c: c.removeprefix("temperature_") for c in temperatures}, {}),
    ]
    figures = []
    for title, on_steps, on_epochs in panels:
        on_steps = {c: label for c, label in on_steps.items() if _known(steps, c)}
        on_epochs = {c: label for c, label in on_epochs.items() if _known(epochs, c)}
        if on_steps or on_epochs:
            figures.append(_curves(title, steps, on_steps, epochs, on_epochs))
    return figures


def _curves(
    title: str,
    steps: pd.DataFrame,
    on_steps: dict[str, str],
    epochs: pd.DataFrame,
    on_epochs: dict[str, str],
) -> Markup:
    summary = []
    with drawing() as (figure, axes):
        for k, (column, label) in enumerate(on_steps.items()):
            x, y = _thin(steps[["step", column]].dropna())
            axes.plot(x, y, color=SERIES[k % 8], label=label)
            summary.append(f"{label or column} from {y[0]:.3g} to {y[-1]:.3g}")
        # Paired with the training curve of the same level, where there is one.
        for k, (column, label) in enumerate(on_epochs.items()):
            rows = epochs[["step", column]].dropna()
            x, y = rows["step"].to_numpy(), rows[column].to_numpy(dtype=float)
            beside = bool(on_steps) and len(on_steps) == len(on_epochs) and len(on_steps) > 1
            colour = SERIES[(k if beside or not on_steps else k + len(on_steps)) % 8]
            line = "--" if on_steps else "-"
            axes.plot(x, y, line, color=colour, label=label, marker="o", markersize=3.5)
            summary.append(f"{label} from {y[0]:.3g} to {y[-1]:.3g}")
        axes.set_title(title)
        axes.set_xlabel("step")
        if "Recall" in title:
            axes.set_ylim(0, None)
        if "Learning rate" in title:
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        if any((*on_steps.values(), *on_epochs.values())) and len(on_steps) + len(on_epochs) > 1:
            legend(figure)
        return svg(figure, title, f"{title} over training steps: {'; '.join(summary)}.")


def similarity_figure(level: str, found: Similarity) -> Markup:
    """Histograms of matching and non-matching cosines, with their medians."""
    medians = found.median_matching, found.median_nonmatching
    lines = [
        (median, f"{name}, median {median:.3f}", SERIES[k], "--" if k == 0 else ":")
        for k, (name, median) in enumerate(zip(("matching", "non-matching"), medians, strict=True))
    ]
    return _histograms(
        level,
        {"matching": found.matching, "non-matching": found.nonmatching},
        lines,
        bins=int(np.clip(2 * np.sqrt(len(found.matching)), 15, 50)),
        xlabel="cosine similarity of image and metadata",
    )


def neighbour_figure(
    level: str, target: NDArray[Any], calibration: NDArray[Any], threshold: float
) -> Markup:
    """Histograms of the cosines of images and their nearest neighbours, and the threshold."""
    lines = [(threshold, f"threshold {threshold:.3f}", INK, "--")] if np.isfinite(threshold) else []
    return _histograms(
        level,
        {"reference": calibration, "target": target},
        lines,
        bins=40,
        xlabel="cosine similarity of an image and its nearest neighbour",
    )


def _histograms(
    level: str,
    groups: Mapping[str, NDArray[Any]],
    lines: Sequence[tuple[float, str, str, str]],
    *,
    bins: int,
    xlabel: str,
) -> Markup:
    """Densities of cosines over one another, and vertical lines of (x, label, colour, style)."""
    everything = np.concatenate(list(groups.values()))
    low, high = max(everything.min() - 0.05, -1.01), min(everything.max() + 0.05, 1.01)
    edges = np.linspace(low, high, bins + 1).tolist()
    with drawing() as (figure, axes):
        for k, (name, values) in enumerate(groups.items()):
            kwargs: dict[str, Any] = {"bins": edges, "density": True, "color": SERIES[k]}
            axes.hist(values, histtype="stepfilled", alpha=0.28, linewidth=0, **kwargs)
            axes.hist(values, histtype="step", linewidth=1.3, label=name, **kwargs)
        for x, label, colour, style in lines:
            axes.axvline(x, color=colour, linestyle=style, label=label)
        axes.set_title(f"{level.capitalize()} level")
        axes.set_xlabel(xlabel)
        axes.set_ylabel("density")
        axes.set_xlim(low, high)
        legend(figure)
        medians = ", ".join(f"{name} {np.median(v):.3f}" for name, v in groups.items())
        alt = f"{level} level: histograms of {xlabel}. Medians: {medians}."
        return svg(figure, f"{xlabel} {level}", alt)


def reliability_figure(found: Mapping[str, Reliability]) -> Markup:
    """How often the most probable class is right, by its probability; the diagonal is perfect."""
    summary = []
    with drawing() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
        for k, (name, diagram) in enumerate(found.items()):
            filled = diagram.counts > 0
            x, y = diagram.confidence[filled], diagram.accuracy[filled]
            axes.plot(
                x, y, color=SERIES[k], linewidth=0.9, marker=MARKERS[k], markersize=3, label=name
            )
            # An area per point, so that a bin of few images looks like one.
            area = 6 + 90 * diagram.counts[filled] / diagram.counts.max()
            axes.scatter(x, y, s=area, color=SERIES[k], marker=MARKERS[k], alpha=0.75, zorder=3)
            gap = np.average(np.abs(x - y), weights=diagram.counts[filled])
            summary.append(f"{name}: mean gap {gap:.3f}")
        axes.set_title("Reliability")
        axes.set_xlabel("probability of the most probable class")
        axes.set_ylabel("fraction that is right")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        legend(figure)
        alt = f"Reliability diagram over bins of probability. {'; '.join(summary)}."
        return svg(figure, "reliability", alt)


def low_shot_figure(found: LowShot) -> Markup:
    """Balanced accuracy against the images learned from, with 95 % intervals."""
    summary = []
    with drawing() as (figure, axes):
        kinds: dict[str, list[LowShotPoint]] = {}
        for point in found.points:
            kinds.setdefault(point.kind, []).append(point)
        words = {"fraction": "fractions of the patients", "shots": "images per class"}
        for k, (kind, points) in enumerate(kinds.items()):
            x = [point.n_images for point in points]
            y = [point.balanced_accuracy.mean for point in points]
            low, high = zip(*(point.balanced_accuracy.ci95 for point in points), strict=True)
            axes.plot(x, y, color=SERIES[k], marker=MARKERS[k], markersize=4.5, label=words[kind])
            axes.fill_between(x, low, high, color=SERIES[k], alpha=0.18, linewidth=0)
            summary.append(f"{words[kind]}: from {y[0]:.3f} to {y[-1]:.3f}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # the default one writes mathematics
        axes.xaxis.set_minor_formatter("")
        axes.set_title("Few labels")
        axes.set_xlabel("labelled images learned from")
        axes.set_ylabel("balanced accuracy")
        legend(figure)
        alt = f"Balanced accuracy against labelled images. {'; '.join(summary)}."
        return svg(figure, "low-shot", alt)


def map_figure(points: NDArray[Any], codes: NDArray[Any], classes: Sequence[str]) -> Markup:
    """A scatter of points in two dimensions; code k has colour and shape k, others are grey.

    Args:
        points: (n, 2).
        codes: (n,) position of each row's class in `classes`; -1 for no class.
        classes: names, for the alternative text; beyond the eighth they share the grey.
    """
    with drawing(size=(7.2, 4.7)) as (figure, axes):
        grouped = np.where(codes < len(SERIES), codes, -1)
        for code in np.unique(grouped):  # no class first, so that it lies below
            where = grouped == code
            axes.plot(
                points[where, 0],
                points[where, 1],
                linestyle="",
                marker="." if code < 0 else MARKERS[code],
                markersize=4.5 if len(points) > 500 else 6,
                markeredgewidth=0.3,
                markeredgecolor=PAPER,
                color=OTHER if code < 0 else SERIES[code],
                alpha=0.8,
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        alt = f"Scatter of {len(points)} images in two dimensions, by class: {', '.join(classes)}."
        return svg(figure, "map", alt)


def _known(rows: pd.DataFrame, column: str) -> bool:
    return column in rows and bool(rows[column].notna().any())


def _thin(rows: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means of consecutive rows, at most `CURVE_POINTS` of them."""
    blocks = np.array_split(rows.to_numpy(dtype=float), min(len(rows), CURVE_POINTS))
    means = np.array([block.mean(axis=0) for block in blocks])  # (points, 2)
    return means[:, 0], means[:, 1]
