"""The one Jinja environment of all pages: how numbers are worded, and what every page has.

A page extends `base.html.j2`, which holds the heading, the cautions, the list of sections and the
footer; tables and scales are macros of `macros.html.j2`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, SupportsFloat, SupportsInt

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from slimp.data.files import new_file
from slimp.evaluation.bootstrap import Estimate
from slimp.training.run_folder import versions

DASH = "\N{EN DASH}"
"""Stands for what is unknown."""
SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "M-4-4h8v8h-8z",
    "M0-5L5 4.5H-5z",
    "M0-5.5L5.5 0L0 5.5L-5.5 0z",
    "M0 5L5-4.5H-5z",
    "M-1.8-5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2z",
    "M-5-2.5L-2.5-5L0-2.5L2.5-5L5-2.5L2.5 0L5 2.5L2.5 5L0 2.5L-2.5 5L-5 2.5L-2.5 0z",
    "M0-5L4.8-1.5L3 4.2H-3L-4.8-1.5z",
)
"""Outlines of the marks `figures.MARKERS`, in the same order."""


def render_page(
    template: str,
    *,
    title: str,
    lead: str,
    cautions: Sequence[str] = (),
    command: str = "",
    date: datetime | None = None,
    **content: Any,
) -> str:
    """The page as HTML; the same arguments give the same bytes.

    Args:
        template: name of the template, which extends `base.html.j2`.
        title: heading of the page.
        lead: what it found, in a sentence or two.
        cautions: what a reader must know before trusting it.
        command: the line that made it, for the footer; empty: not shown.
        date: for the footer; now, unless given.
        content: what the template shows.
    """
    content = {"versions": versions(), **content}
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            lead=lead,
            cautions=cautions,
            command=command,
            date=date or datetime.now(UTC),
            **content,
        )
    )


def write_page(target: Path, page: str) -> Path:
    """Writes the file whole or not at all."""
    with new_file(target) as partial:
        partial.write_text(page, encoding="utf-8")
    return target


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("slimp", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (number, estimate, count, percent, figure, value, track, bar, glyph)
    environment.filters |= {function.__name__: function for function in filters}
    environment.tests["known"] = lambda x: x is not None and x == x
    environment.tests["table"] = lambda x: isinstance(x, Mapping)
    environment.tests["list"] = lambda x: isinstance(x, list | tuple)
    return environment


def number(x: SupportsFloat | None) -> str:
    """Three decimals, as everywhere; a dash where unknown."""
    return DASH if x is None or math.isnan(float(x)) else f"{float(x):.3f}"


def estimate(found: Estimate | None) -> str:
    """A figure with its interval, if it has one."""
    if found is None or math.isnan(found.mean):
        return DASH
    if any(map(math.isnan, found.ci95)):
        return number(found.mean)
    return f"{number(found.mean)} ({' to '.join(map(number, found.ci95))})"


def stacked(found: Estimate | None) -> Markup:
    """The same in two lines, for tables of many columns."""
    mean, _, interval = estimate(found).partition(" ")
    return Markup("{}<br><small>{}</small>").format(mean, interval) if interval else Markup(mean)


def count(n: SupportsInt) -> str:
    """Thousands apart."""
    return f"{int(n):,}"


def percent(share: SupportsFloat) -> str:
    """A share of 0 to 1 in percent; what only rounds to 0 or 100 says so."""
    share = float(share)
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def _css(share: SupportsFloat) -> str:
    """A CSS length for a value of 0 to 1, cut there: a position on a scale, a width."""
    return f"{100 * min(max(float(share), 0.0), 1.0):.2f}%"


def track(found: Estimate | None, limit: float | None = None) -> Markup:
    """A figure on a scale from 0 to 1: interval, seeds, mean, and a dashed line at `limit`."""
    marks = [] if limit is None or math.isnan(limit) else [("limit", f"--limit:{_css(limit)}")]
    if found is not None and not math.isnan(found.mean):
        low, high = found.ci95
        if not math.isnan(low + high):
            marks.append(("interval", f"--low:{_css(low)};--high:{_css(high)}"))
        marks += [("seed", f"--seed:{_css(x)}") for x in found.per_seed if not math.isnan(x)]
        marks.append(("mean", f"--mean:{_css(found.mean)}"))
    inner = Markup("").join(Markup('<i class="{}" style="{}"></i>').format(*mark) for mark in marks)
    return Markup('<span class="track">{}</span>').format(inner)


def bar(share: float) -> Markup:
    """A share of 0 to 1 as a bar and in percent."""
    text = '<span class="bar" style="--share:{}"></span> {}'
    return Markup(text).format(_css(share), percent(share))


def glyph(k: int) -> Markup:
    """The mark of the k-th class on the map, from 1; 0 is the mark of all others."""
    shape = SHAPES[k - 1] if k else "M-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0z"
    svg = (
        '<svg viewBox="-6 -6 12 12" aria-hidden="true">'
        '<path d="{}" style="fill:var(--series-{})"/></svg>'
    )
    return Markup(svg).format(shape, k or "other")


def figure(x: float) -> str:
    """Four digits, for measures of any size."""
    return f"{x:.4g}"


def value(x: Any) -> str:
    """A setting or a cell, as people write it."""
    if isinstance(x, bool | np.bool_):
        return "yes" if x else "no"
    if isinstance(x, Mapping):
        return ", ".join(f"{key} {value(entry)}" for key, entry in x.items()) or "none"
    if isinstance(x, list | tuple):
        return ", ".join(map(value, x)) or "none"
    if x is None or pd.isna(x):
        return "not known"
    if isinstance(x, float | np.floating):
        return f"{x:g}"
    return f"{x:,}" if isinstance(x, int | np.integer) else str(x)
