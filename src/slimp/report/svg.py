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
    **{INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", PAPER: "var(--paper)"},
    **{colour: f"var(--series-{k})" for k, colour in enumerate(SERIES, start=1)},
    OTHER: "var(--series-other)",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
"""Shape per class beside its colour."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text as text
    "text.parse_math": False,  # a class may be called $x$
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
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
    "figure.constrained_layout.use": True,
}


@contextmanager
def drawing(name: str, size: tuple[float, float] = (4.9, 3.0)) -> Iterator[tuple[Figure, Axes]]:
    """Axes on a canvas of their own, so that no global state of pyplot is touched.

    The name, unique on the page, goes into the ids: the same input gives the same bytes.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        yield figure, figure.subplots()


def legend(figure: Figure, columns: int = 3) -> None:
    """Below the axes, where no curve can run through it."""
    entries = len(figure.axes[0].get_legend_handles_labels()[0])
    columns = entries if entries <= columns else columns - 1
    figure.legend(loc="outside lower left", ncols=columns, handlelength=1.8, columnspacing=1.4)


def svg(figure: Figure, alt: str) -> Markup:
    """The figure as an `<svg>` element in the page's colours and font, with alternative text."""
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
        element.attrib = {
            key.partition("}")[2] or key: _of_page(value)
            for key, value in element.attrib.items()
            if (element.tag, key) != ("g", "id")  # nothing refers to a group
        }
    root.attrib = {"role": "img", "aria-label": alt, "viewBox": root.attrib["viewBox"]}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _of_page(attribute: str) -> str:
    for colour, variable in VARIABLES.items():
        attribute = attribute.replace(colour, variable)
    attribute = re.sub(r"font-family: [^;]*;? ?", "", attribute)
    # A hundredth of a point is fine enough.
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(attribute.split()))
