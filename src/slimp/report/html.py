"""The one Jinja environment of all pages: how values are worded, and what every page has.

A page extends `base.html.j2`, which holds the heading, the cautions, the list of sections and the
footer; tables and scales are macros of `macros.html.j2`. Sections hand plain values to the tables,
whose cells word them by their type.
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

    The template extends `base.html.j2`. `lead` says what was found, in a sentence or two,
    `cautions` what a reader must know before trusting it; `command` (if any) and `date` (now,
    unless given) stand in the footer.
    """
    content = {"versions": versions(), **content, "title": title, "lead": lead}
    content |= {"cautions": cautions, "command": command, "date": date or datetime.now(UTC)}
    content["left_out"] = []  # sections without content, which the template collects
    return _environment().get_template(template).render(content)


def write_page(target: Path, template: str, **content: Any) -> Path:
    """Writes the page of `render_page`, whole or not at all."""
    page = render_page(template, **content)
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
    filters = (number, count, percent, estimate, cell)
    environment.filters |= {function.__name__: function for function in filters}
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


def cell(x: Any) -> str:
    """What a cell of a table shows, by the type of the value; text and markup as they are."""
    if isinstance(x, Estimate):
        mean, _, interval = estimate(x).partition(" ")
        return Markup("{} <small>{}</small>").format(mean, interval) if interval else mean
    if isinstance(x, str):
        return x
    return count(x) if isinstance(x, int | np.integer) else number(x)


def value(x: Any) -> str:
    """A setting or a value of metadata, as people write it."""
    if isinstance(x, Mapping):
        return ", ".join(f"{key} {value(entry)}" for key, entry in x.items()) or "none"
    if isinstance(x, bool | np.bool_):
        return "yes" if x else "no"
    if pd.api.types.is_scalar(x) and pd.isna(x):
        return "not known"
    if isinstance(x, float | np.floating):
        return f"{x:g}"
    return count(x) if isinstance(x, int | np.integer) else str(x)


def _css(share: SupportsFloat) -> str:
    """A CSS length for a value of 0 to 1, cut there: a position on a scale, a width."""
    return f"{100 * min(max(float(share), 0.0), 1.0):.2f}%"


def track(found: Estimate | None, limit: float | None = None) -> Markup:
    """A figure on a scale from 0 to 1: interval, folds or seeds, mean, dashed line at `limit`."""
    marks = [] if limit is None or math.isnan(limit) else [("limit", f"--limit:{_css(limit)}")]
    if found is not None and not math.isnan(found.mean):
        low, high = found.ci95
        if not math.isnan(low + high):
            marks.append(("interval", f"--low:{_css(low)};--high:{_css(high)}"))
        marks += [
            ("seed", f"--seed:{_css(x)}")
            for x in found.per_fold or found.per_seed
            if not math.isnan(x)
        ]
        marks.append(("mean", f"--mean:{_css(found.mean)}"))
    inner = Markup("").join(Markup('<i class="{}" style="{}"></i>').format(*mark) for mark in marks)
    return Markup('<span class="track">{}</span>').format(inner)


def bar(share: SupportsFloat) -> Markup:
    """A share of 0 to 1 as a bar and in percent."""
    text = '<span class="bar" style="--share:{}"></span> {}'
    return Markup(text).format(_css(share), percent(share))
