"""Figures as inline SVG whose colours and fonts are the page's own, so that they follow its theme.

matplotlib draws with stand-in colours; each becomes a CSS variable. Text stays text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from slimp.evaluation.calibration import Reliability
from slimp.evaluation.low_shot import LowShot, LowShotPoint
from slimp.evaluation.similarity import Similarity

INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#01020{k}" for k in range(1, 9))
"""Stand-ins for the page's eight colours, which are told apart without colour vision as well."""
OTHER = "#010209"
"""Stand-in for classes beyond the eighth."""
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--paper)",
    **{colour: f"var(--series-{k})" for k, colour in enumerate(SERIES, start=1)},
    OTHER: "var(--series-other)",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
"""Shape per class beside its colour."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text as text
    "svg.hashsalt": "slimp",  # the same input gives the same bytes
    "text.parse_math": False,  # a class may be called $x$
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}
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
    said = []
    with _axes() as (figure, axes):
        for k, (column, label) in enumerate(on_steps.items()):
            x, y = _thin(steps[["step", column]].dropna())
            axes.plot(x, y, color=SERIES[k % 8], label=label)
            said.append(f"{label or column} from {y[0]:.3g} to {y[-1]:.3g}")
        # Paired with the training curve of the same level, where there is one.
        for k, (column, label) in enumerate(on_epochs.items()):
            rows = epochs[["step", column]].dropna()
            x, y = rows["step"].to_numpy(), rows[column].to_numpy(dtype=float)
            beside = bool(on_steps) and len(on_steps) == len(on_epochs) and len(on_steps) > 1
            colour = SERIES[(k if beside or not on_steps else k + len(on_steps)) % 8]
            line = "--" if on_steps else "-"
            axes.plot(x, y, line, color=colour, label=label, marker="o", markersize=3.5)
            said.append(f"{label} from {y[0]:.3g} to {y[-1]:.3g}")
        axes.set_title(title)
        axes.set_xlabel("step")
        if "Recall" in title:
            axes.set_ylim(0, None)
        if "Learning rate" in title:
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        if any((*on_steps.values(), *on_epochs.values())) and len(on_steps) + len(on_epochs) > 1:
            _legend(figure)
        return _svg(figure, title, f"{title} over training steps: {'; '.join(said)}.")


def similarity_figure(level: str, found: Similarity) -> Markup:
    """Histograms of matching and non-matching cosines, with their medians."""
    everything = np.concatenate([found.matching, found.nonmatching])
    low, high = max(everything.min() - 0.05, -1.01), min(everything.max() + 0.05, 1.01)
    count = int(np.clip(2 * np.sqrt(len(found.matching)), 15, 50))
    bins = np.linspace(low, high, count + 1).tolist()
    with _axes() as (figure, axes):
        groups = (
            ("non-matching", found.nonmatching, found.median_nonmatching, SERIES[1], ":"),
            ("matching", found.matching, found.median_matching, SERIES[0], "--"),
        )
        for label, values, median, colour, line in groups:
            kwargs: dict[str, Any] = {"bins": bins, "density": True, "color": colour}
            axes.hist(values, histtype="stepfilled", alpha=0.28, linewidth=0, **kwargs)
            axes.hist(values, histtype="step", linewidth=1.3, **kwargs)
            axes.axvline(
                median, color=colour, linestyle=line, label=f"{label}, median {median:.3f}"
            )
        axes.set_title(f"{level.capitalize()} level")
        axes.set_xlabel("cosine similarity of image and metadata")
        axes.set_ylabel("density")
        axes.set_xlim(low, high)
        _legend(figure)
        alt = (
            f"{level} level: histograms of cosine similarity. Matching pairs have the median "
            f"{found.median_matching:.3f}, non-matching pairs {found.median_nonmatching:.3f}."
        )
        return _svg(figure, f"similarity {level}", alt)


def reliability_figure(found: Mapping[str, Reliability]) -> Markup:
    """How often the most probable class is right, by its probability; the diagonal is perfect."""
    said = []
    with _axes() as (figure, axes):
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
            said.append(f"{name}: mean gap {gap:.3f}")
        axes.set_title("Reliability")
        axes.set_xlabel("probability of the most probable class")
        axes.set_ylabel("share that is right")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        _legend(figure)
        alt = f"Reliability diagram over bins of probability. {'; '.join(said)}."
        return _svg(figure, "reliability", alt)


def low_shot_figure(found: LowShot) -> Markup:
    """Balanced accuracy against the images learned from, with 95 % intervals."""
    said = []
    with _axes() as (figure, axes):
        kinds: dict[str, list[LowShotPoint]] = {}
        for point in found.points:
            kinds.setdefault(point.kind, []).append(point)
        words = {"fraction": "shares of the patients", "shots": "images per class"}
        for k, (kind, points) in enumerate(kinds.items()):
            x = [point.n_images for point in points]
            y = [point.balanced_accuracy.mean for point in points]
            low, high = zip(*(point.balanced_accuracy.ci95 for point in points), strict=True)
            axes.plot(x, y, color=SERIES[k], marker=MARKERS[k], markersize=4.5, label=words[kind])
            axes.fill_between(x, low, high, color=SERIES[k], alpha=0.18, linewidth=0)
            said.append(f"{words[kind]}: from {y[0]:.3f} to {y[-1]:.3f}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # the default one writes mathematics
        axes.xaxis.set_minor_formatter("")
        axes.set_title("Few labels")
        axes.set_xlabel("labelled images learned from")
        axes.set_ylabel("balanced accuracy")
        _legend(figure)
        alt = f"Balanced accuracy against labelled images. {'; '.join(said)}."
        return _svg(figure, "low-shot", alt)


def loan_figure(
    level: str, target: NDArray[Any], calibration: NDArray[Any], threshold: float
) -> Markup:
    """Histograms of the cosines of images and their lenders, and below which none is lent."""
    everything = np.concatenate([target, calibration])
    low, high = max(everything.min() - 0.05, -1.01), min(everything.max() + 0.05, 1.01)
    bins = np.linspace(low, high, 41).tolist()
    with _axes() as (figure, axes):
        groups = (("reference", calibration, SERIES[0]), ("target", target, SERIES[1]))
        for label, values, colour in groups:
            kwargs: dict[str, Any] = {"bins": bins, "density": True, "color": colour}
            axes.hist(values, histtype="stepfilled", alpha=0.28, linewidth=0, **kwargs)
            axes.hist(values, histtype="step", linewidth=1.3, label=label, **kwargs)
        if np.isfinite(threshold):
            axes.axvline(threshold, color=INK, linestyle="--", label=f"threshold {threshold:.3f}")
        axes.set_title(f"{level.capitalize()} level")
        axes.set_xlabel("cosine similarity of an image and its nearest lender")
        axes.set_ylabel("density")
        axes.set_xlim(low, high)
        _legend(figure)
        medians = ", ".join(f"{name} {np.median(values):.3f}" for name, values, _ in groups)
        alt = f"{level} level: histograms of the similarity of lenders. Medians: {medians}."
        return _svg(figure, f"loans {level}", alt)


def map_figure(points: NDArray[Any], codes: NDArray[Any], classes: Sequence[str]) -> Markup:
    """A scatter of points in two dimensions; code k has colour and shape k, others are grey.

    Args:
        points: (n, 2).
        codes: (n,) position of each row's class in `classes`; -1 for no class.
        classes: names, for the alternative text; beyond the eighth they share the grey.
    """
    with _axes(size=(7.2, 4.7)) as (figure, axes):
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
        return _svg(figure, "map", alt)


def _legend(figure: Figure) -> None:
    """Below the axes, where no curve can run through it."""
    entries = len(figure.axes[0].get_legend_handles_labels()[0])
    columns = entries if entries <= 3 else 2
    figure.legend(loc="outside lower left", ncols=columns, handlelength=1.8, columnspacing=1.4)


def _known(rows: pd.DataFrame, column: str) -> bool:
    return column in rows and bool(rows[column].notna().any())


def _thin(rows: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means of consecutive rows, at most `CURVE_POINTS` of them."""
    blocks = np.array_split(rows.to_numpy(dtype=float), min(len(rows), CURVE_POINTS))
    means = np.array([block.mean(axis=0) for block in blocks])  # (points, 2)
    return means[:, 0], means[:, 1]


@contextmanager
def _axes(size: tuple[float, float] = (4.9, 3.0)) -> Iterator[tuple[Figure, Axes]]:
    """Axes on a canvas of their own, so that no global state of pyplot is touched."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # The browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        yield figure, figure.subplots()


def _svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure as an `<svg>` element that takes its colours and its font from the page.

    Args:
        figure: drawn in the stand-in colours.
        name: in front of its ids, which must be unique on the page.
        alt: alternative text.
    """
    buffer = io.BytesIO()
    nothing: dict[str, None] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):  # the page has a style of its own
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]  # inside HTML the namespace is implied
        element.attrib = _attributes(element, _slug(name))
    root.attrib = {"role": "img", "aria-label": alt, "viewBox": root.attrib["viewBox"]}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _attributes(element: ElementTree.Element, prefix: str) -> dict[str, str]:
    """What a browser needs of an element's attributes, in the page's colours."""
    out = {}
    for key, value in element.attrib.items():
        key = key.partition("}")[2] or key  # xlink:href -> href
        if key == "id":
            if element.tag == "g":
                continue  # nothing refers to a group
            value = f"{prefix}-{value}"
        elif key == "href":
            value = value.replace("#", f"#{prefix}-")
        elif key == "style":
            value = re.sub(r"font-family: [^;]*;? ?", "", value)
            for colour, variable in VARIABLES.items():
                value = value.replace(colour, variable)
        elif key == "clip-path":
            value = value.replace("url(#", f"url(#{prefix}-")
        elif key in ("d", "x", "y", "transform"):  # a hundredth of a point is fine enough
            value = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
        if (key, value) != ("transform", "") and not value.startswith("rotate(-0 "):
            out[key] = value
    return out


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower())
