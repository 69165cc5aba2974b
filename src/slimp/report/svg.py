"""Inline SVG whose colours and fonts are the page's own, so that figures follow its theme.

matplotlib draws with stand-in colours; each becomes a CSS variable. Text stays text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#01020{k}" for k in range(1, 9))
"""Stand-ins for the page's eight colours, which are distinct without colour vision as well."""
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


def legend(figure: Figure) -> None:
    """Below the axes, where no curve can run through it."""
    entries = len(figure.axes[0].get_legend_handles_labels()[0])
    columns = entries if entries <= 3 else 2
    figure.legend(loc="outside lower left", ncols=columns, handlelength=1.8, columnspacing=1.4)


@contextmanager
def drawing(size: tuple[float, float] = (4.9, 3.0)) -> Iterator[tuple[Figure, Axes]]:
    """Axes on a canvas of their own, so that no global state of pyplot is touched."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # The browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        yield figure, figure.subplots()


def svg(figure: Figure, name: str, alt: str) -> Markup:
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
