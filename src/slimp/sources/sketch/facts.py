"""What the cells of one column are, whatever it is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from slimp.data.schema import Feature
from slimp.sources.parse_cells import IMAGE_ENDING, TICKS, WITH_UNIT, read_numbers
from slimp.sources.sketch.words import header_unit, hints_at, plain, words

Look = Literal["empty", "number", "date", "checkbox", "category", "code", "text"]
STYLES: tuple[tuple[str, str | None], ...] = (
    (".", None),
    (",", None),
    (",", "."),
    (".", ","),
    (".", "'"),
    (".", " "),
    (",", " "),
)
"""Marks of decimals and thousands; the first that reads most cells counts."""
CODES = ("-1", "-9", "-99", "-999", "-9999", "999", "9999")
"""Numbers that stand for missing where all others are far away."""
FEW = 7
"""A column of whole numbers with at most so many values may be one of codes."""
MANY = 60
"""A column of words with more values is no category."""
SPELLINGS = 20
"""Of yes and no in one column, at most."""
STRAYS = 0.1
"""Share of the cells of a column of numbers, or dates, that may be something else."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a column seems to hold."""

    name: str
    look: Look
    cells: pd.Series
    """Trimmed; missing as ''."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Distinct cells that are not missing, most frequent first."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Words that mean missing -> cells."""
    strays: Mapping[str, int] = field(default_factory=dict)
    """Cells unlike all others, to be counted as missing -> how many."""
    codes: tuple[str, ...] = ()
    """Of `missing`, numbers that may after all be values."""
    decimal: str = "."
    thousands: str | None = None
    unclear: str | None = None
    """A cell, if the mark before decimals could be one between thousands in all that have it."""
    unit: str | None = None
    units: Mapping[str, float] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    """Of dates; with several, it is not clear which."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Cell -> spelling to take for it."""

    @property
    def filled(self) -> int:
        """Cells that are not missing."""
        return sum(self.counts.values())

    @property
    def distinct(self) -> int:
        return len(self.counts)


def facts_of(column: pd.Series) -> Facts:
    """What the column of text cells, never null, seems to hold."""
    cells = column.str.strip()
    counts = {str(cell): int(n) for cell, n in cells[cells != ""].value_counts().items()}
    known = set(words()["cells"]["missing"])
    missing = {cell: n for cell, n in counts.items() if plain(cell) in known or cell in ("?", "-")}
    counts = {cell: n for cell, n in counts.items() if cell not in missing}
    facts = Facts(
        name=str(column.name),
        look="empty",
        cells=cells.where(~cells.isin(list(missing)), ""),
        counts=counts,
        missing=missing,
    )
    if not counts:
        return facts
    for reading in (_as_checkbox, _as_dates, _as_numbers):
        if (found := reading(facts)) is not None:
            return (_as_checkbox(found) or found) if found.codes else found
    facts = _without_codes(facts)
    return _as_checkbox(facts) or _as_words(facts)


def _as_checkbox(facts: Facts) -> Facts | None:
    if facts.distinct > SPELLINGS:
        return None
    said = {cell: plain(cell) for cell in facts.counts}
    yes, no = (set(words()["cells"][side]) for side in ("yes", "no"))
    ticks = {cell: "yes" if word in yes else "no" for cell, word in said.items()}
    if not all(word in yes | no for word in said.values()):
        return None
    if len(set(ticks.values())) < 2 and not set(said.values()) <= {"true", "false", "x", "+"}:
        return None  # a column of nothing but 1 may be anything
    aliases = {cell: tick for cell, tick in ticks.items() if cell.lower() not in TICKS}
    return replace(facts, look="checkbox", aliases=aliases)


def _as_dates(facts: Facts) -> Facts | None:
    distinct = pd.Series(list(facts.counts), dtype="str")
    times = np.array(list(facts.counts.values()))
    best: list[tuple[int, str, pd.Series]] = []
    if not distinct.head(50).str.contains(r"[0-9].*[0-9]", regex=True).mean() > 0.5:
        return None
    for style in words()["dates"]["formats"]:
        few = distinct.head(200).str.slice(0, 10 if style == "%Y-%m-%d" else None)
        if pd.to_datetime(few, format=style, errors="coerce").notna().mean() < 0.5:
            continue  # spares most columns the work below
        text = distinct.str.slice(0, 10) if style == "%Y-%m-%d" else distinct
        days = pd.to_datetime(text, format=style, errors="coerce")
        days = days.where(days.dt.year.between(1880, 2100))
        best.append((int(times[days.notna()].sum()), style, days))
    most = max((read for read, _, _ in best), default=0)
    if most < (1 - STRAYS) * facts.filled:
        return None
    styles = tuple(style for read, style, _ in best if read == most)
    days = next(days for read, _, days in best if read == most)
    strays = {cell: facts.counts[cell] for cell in distinct[days.isna()]}
    return replace(facts, look="date", formats=styles, strays=strays)


def _as_numbers(facts: Facts) -> Facts | None:
    distinct = pd.Series(list(facts.counts), dtype="str")
    times = np.array(list(facts.counts.values()))
    suffixes = _suffixes(facts)
    unit, units = _units(facts.name, suffixes)
    read, values, style = -1, np.array([]), STYLES[0]
    for decimal, thousands in STYLES:
        feature = Feature(
            name="x",
            kind="continuous",
            columns=("x",),
            unit=unit,
            units=units,
            decimal=decimal,
            thousands=thousands,
        )
        numbers = read_numbers(distinct, feature).to_numpy()
        good = int(times[~np.isnan(numbers)].sum())
        if good > read:
            read, values, style = good, numbers, (decimal, thousands)
    if read < (1 - STRAYS) * facts.filled or read == 0:
        return None
    unread = np.isnan(values)
    strays = {cell: facts.counts[cell] for cell in distinct[unread]}
    codes = _codes(distinct[~unread].tolist(), values[~unread])
    counts = {c: n for c, n in facts.counts.items() if c not in codes}
    missing = {**facts.missing, **{code: facts.counts[code] for code in codes}}
    found = replace(
        facts,
        look="number",
        cells=facts.cells.where(~facts.cells.isin(list(codes)), ""),
        counts=counts,
        missing=missing,
        codes=codes,
        strays=strays,
        decimal=style[0],
        thousands=style[1],
        unclear=_unclear(distinct[~unread], style),
        unit=unit,
        units=units,
    )
    whole = bool(np.all(values[~unread] == np.round(values[~unread])))
    few = len(counts) <= FEW and (3 * len(counts) <= found.filled)
    coded = whole and few and not strays and unit is None
    if coded and (hints_at(facts.name, "code") or len(counts) <= 2):
        return replace(found, look="category", decimal=".", thousands=None)
    return found


def _unclear(cells: pd.Series, style: tuple[str, str | None]) -> str | None:
    """A cell such as 1,234 if all with that mark are like it, so that it may mean 1234."""
    decimal, thousands = style
    marked = cells[cells.str.contains(decimal, regex=False)]
    if thousands is not None or marked.empty:
        return None
    numbers = marked.where(
        ~marked.str.match(WITH_UNIT), marked.str.replace(r"[^0-9]+$", "", regex=True)
    )
    grouped = numbers.str.fullmatch(rf"[+-]?[1-9][0-9]{{0,2}}(?:{re.escape(decimal)}[0-9]{{3}})+")
    return str(numbers.iloc[0]) if grouped.all() else None


def _suffixes(facts: Facts) -> dict[str, int]:
    """Words behind the numbers -> cells."""
    suffixes: dict[str, int] = {}
    for cell, times in list(facts.counts.items())[:2000]:
        found = re.match(WITH_UNIT, cell)
        if found and re.fullmatch(r"[\d.,' +-]+", found["number"]):
            unit = found["unit"].strip()
            suffixes[unit] = suffixes.get(unit, 0) + times
    return suffixes


def _units(header: str, suffixes: Mapping[str, int]) -> tuple[str | None, dict[str, float]]:
    """The unit of a column of numbers, and what other units in its cells count."""
    known = words()["cells"]["units"]
    written = {suffix: known[plain(suffix)] for suffix in suffixes if plain(suffix) in known}
    named = header_unit(header)
    if not written:
        return named, {}
    unit = str(next(iter(written.values()))[0])
    if named is not None and named not in (unit, *(str(to) for to, _ in written.values())):
        unit = named if plain(named) in known and known[plain(named)][0] == unit else unit
    return unit, {
        suffix: float(factor)
        for suffix, (to, factor) in written.items()
        if to == unit and plain(suffix) != plain(unit)
    }


def _codes(
    cells: list[str], values: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> tuple[str, ...]:
    """Cells that are numbers far from all others, as people write for missing."""
    suspects = np.array([cell.removesuffix(".0") in CODES for cell in cells])
    if not suspects.any() or suspects.all():
        return ()
    low, high = values[~suspects].min(), values[~suspects].max()
    return tuple(
        cell
        for cell, value, suspect in zip(cells, values, suspects, strict=True)
        if suspect and ((value < 0 <= low) or (value > 0 and value > 5 * max(high, 1)))
    )


def _without_codes(facts: Facts) -> Facts:
    """The column without numbers that stand for missing, where all other cells hold letters."""
    codes = tuple(cell for cell in facts.counts if cell.removesuffix(".0") in CODES)
    counts = {cell: n for cell, n in facts.counts.items() if cell not in codes}
    if not codes or not counts or not all(re.search(r"[^\W\d_]", cell) for cell in counts):
        return facts
    return replace(
        facts,
        cells=facts.cells.where(~facts.cells.isin(list(codes)), ""),
        counts=counts,
        missing={**facts.missing, **{code: facts.counts[code] for code in codes}},
        codes=codes,
    )


def _as_words(facts: Facts) -> Facts:
    aliases = _spellings(facts.counts)
    values = facts.distinct - len(aliases)
    lengths = [len(cell) for cell in facts.counts]
    short = sum(lengths) / len(lengths) <= 30
    shapes = {re.sub(r"[0-9]+", "9", re.sub(r"[^\W\d_]+", "a", cell)) for cell in facts.counts}
    repeats = values <= max(2, facts.filled / 2)
    if short and repeats and values <= MANY:
        return replace(facts, look="category", aliases=aliases)
    digits = sum(any(mark.isdigit() for mark in cell) for cell in facts.counts)
    blanks = sum(" " in cell for cell in facts.counts)
    files = sum(bool(IMAGE_ENDING.search(cell)) for cell in facts.counts)
    brief = sum(len(cell.split()) for cell in facts.counts) <= 2.5 * facts.distinct
    if digits >= 0.9 * facts.distinct and (
        blanks <= 0.1 * facts.distinct or files or (brief and len(shapes) <= 3)
    ):
        return replace(facts, look="code")
    small = facts.filled < 20 and values <= 10 and blanks == 0 and short
    if small and not hints_at(facts.name, "text") and not hints_at(facts.name, "person"):
        return replace(facts, look="category", aliases=aliases)
    return replace(facts, look="text")


def _spellings(counts: Mapping[str, int]) -> dict[str, str]:
    """Spellings that differ from a more frequent one in case, blanks or marks alone."""
    kept: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for cell in counts:
        key = re.sub(r"[\s_-]+", " ", cell).strip().casefold()
        if key in kept:
            aliases[cell] = kept[key]
        else:
            kept[key] = cell
    return aliases


def is_whole(facts: Facts) -> bool:
    """Whether every cell is a whole number, as ids may be."""
    return all(re.fullmatch(r"[0-9]+(\.0)?", cell) for cell in facts.counts)


def is_coded(facts: Facts) -> bool:
    """Whether the cells are codes of one make, such as P-01 or 2024/17, as ids are."""
    cells = list(facts.counts)[:1000]
    shapes = {re.sub(r"[0-9]+", "9", re.sub(r"[^\W\d_]", "a", cell)) for cell in cells}
    return len(shapes) == 1 and all(re.search(r"[0-9]", c) and len(c) > 2 for c in cells)
