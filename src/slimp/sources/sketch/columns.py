"""What the cells of one column are, whatever it is called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from slimp.data.schema import Feature
from slimp.sources.parse_cells import IMAGE_ENDING, TICKS, WITH_UNIT, read_numbers
from slimp.sources.sketch.words import header_unit, hints_at, plain, words

Look = Literal["empty", "number", "date", "checkbox", "category", "code", "text"]
MARKS = ((".", None), (",", None), (",", "."), (".", ","), (".", "'"), (".", " "), (",", " "))
"""Marks of decimals and thousands; the first pair that reads most cells counts."""
MISSING_CODES = ("-1", "-9", "-99", "-999", "-9999", "999", "9999")
"""Numbers that stand for missing where all others are far away."""
FEW, MANY = 7, 60
"""Distinct values, at most, of a column of numeric codes, and of a category."""
DATE_LIKE = r"[0-9]{1,4}([-./ ])\w{2,3}\1[0-9]{2,4}(?![0-9])|[0-9]{8}$"
UNPARSEABLE = 0.1
"""Share of the cells of a column of numbers, or dates, that may be something else."""
SENTENCE = 4
"""Words per cell, on average, from which cells are text and no category."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column seems to hold."""

    name: str
    look: Look
    cells: pd.Series
    """Trimmed; missing as ''."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Distinct cells that are not missing, most frequent first."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Words that mean missing -> cells."""
    odd: tuple[str, ...] = ()
    """Of `missing`, cells that are only unlike all others, and may after all be values."""
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
        return sum(self.counts.values())

    @property
    def share_filled(self) -> float:
        return self.filled / max(1, len(self.cells))

    @property
    def distinct(self) -> int:
        return len(self.counts)

    @property
    def is_whole(self) -> bool:
        """Whether every cell is a whole number, as ids may be."""
        return all(re.fullmatch(r"-?[0-9]+(\.0)?", cell) for cell in self.counts)

    @property
    def is_counter(self) -> bool:
        """Whether it counts the rows, as 0, 1, 2 or 1, 2, 3, in whatever order."""
        cells, n = self.counts, len(self.cells)
        if len(cells) != n or n < 3 or not all(re.fullmatch(r"[0-9]+(\.0)?", c) for c in cells):
            return False
        numbers = {int(float(cell)) for cell in cells}
        return len(numbers) == n and max(numbers) - min(numbers) == n - 1 and min(numbers) <= 1


def describe(column: pd.Series) -> Column:
    """What the column of text cells, never null, seems to hold."""
    cells = column.str.strip()
    counts = {str(cell): int(n) for cell, n in cells[cells != ""].value_counts().items()}
    known = set(words()["cells"]["missing"])
    missing = {cell: n for cell, n in counts.items() if plain(cell) in known}
    found = Column(
        name=str(column.name),
        look="empty",
        cells=cells.where(~cells.isin(list(missing)), ""),
        counts={cell: n for cell, n in counts.items() if cell not in missing},
        missing=missing,
    )
    if not found.counts:
        return found
    for reading in (_as_checkbox, _as_dates, _as_numbers):
        if (read := reading(found)) is not None:
            return (_as_checkbox(read) or read) if read.odd else read
    found = _codes_among_words(found)
    return _as_checkbox(found) or _as_words(found)


def _as_checkbox(column: Column) -> Column | None:
    said = {cell: plain(cell) for cell in column.counts}
    yes, no = (set(words()["cells"][side]) for side in ("yes", "no"))
    if not set(said.values()) <= yes | no:
        return None
    ticks = {cell: "yes" if word in yes else "no" for cell, word in said.items()}
    one_sided = len(set(ticks.values())) < 2
    plainly = set(said.values()) <= {"true", "false", "x", "+"}
    vague = column.share_filled == 1 or any(len(w) < 2 or w[0] in "01" for w in said.values())
    if one_sided and vague and not plainly:
        return None  # a column of nothing but 1, or of one word in every row, may be anything
    aliases = {cell: tick for cell, tick in ticks.items() if cell.lower() not in TICKS}
    return replace(column, look="checkbox", aliases=aliases)


def _as_dates(column: Column) -> Column | None:
    distinct = pd.Series(list(column.counts), dtype="str")
    times = np.array(list(column.counts.values()))
    if not distinct.head(50).str.match(DATE_LIKE).mean() > 0.5:
        return None
    read: dict[str, pd.Series] = {}
    for style in words()["dates"]["formats"]:
        text = distinct.str.slice(0, 10) if style == "%Y-%m-%d" else distinct
        if pd.to_datetime(text.head(200), format=style, errors="coerce").notna().mean() >= 0.5:
            days = pd.to_datetime(text, format=style, errors="coerce")
            read[style] = days.where(days.dt.year.between(1880, 2100)).notna()
    most = max((int(times[good].sum()) for good in read.values()), default=0)
    if most < (1 - UNPARSEABLE) * column.filled:
        return None
    formats = tuple(style for style, good in read.items() if times[good].sum() == most)
    odd = distinct[~read[formats[0]]].tolist()
    return replace(_without(column, odd), look="date", formats=formats)


def _as_numbers(column: Column) -> Column | None:
    distinct = pd.Series(list(column.counts), dtype="str")
    times = np.array(list(column.counts.values()))
    unit, units = _units(column)
    feature = Feature(name="x", kind="continuous", columns=("x",), unit=unit, units=units)
    most, values = 0, np.array([])
    marks: tuple[str, str | None] = MARKS[0]
    for decimal, thousands in MARKS:
        numbers = read_numbers(distinct, replace(feature, decimal=decimal, thousands=thousands))
        read = int(times[numbers.notna().to_numpy()].sum())
        if read > most:
            most, values, marks = read, numbers.to_numpy(), (decimal, thousands)
        if most == column.filled:
            break
    if most < (1 - UNPARSEABLE) * column.filled or most == 0:
        return None
    unread = np.isnan(values)
    codes = _missing_codes(distinct[~unread].tolist(), values[~unread])
    found = replace(
        _without(column, [*distinct[unread], *codes]),
        look="number",
        decimal=marks[0],
        thousands=marks[1],
        unclear=_unclear(distinct[~unread], *marks),
        unit=unit,
        units=units,
    )
    whole = bool(np.all(values[~unread] == np.round(values[~unread])))
    few = found.distinct <= FEW and 3 * found.distinct <= found.filled
    coded = whole and few and not unread.any() and unit is None
    if coded and (hints_at(column.name, "code") or found.distinct <= 2):
        return replace(found, look="category", decimal=".", thousands=None)
    return found


def _unclear(cells: pd.Series, decimal: str, thousands: str | None) -> str | None:
    """A cell such as 1,234 if all with that mark are like it, so that it may mean 1234."""
    marked = cells[cells.str.contains(decimal, regex=False)]
    if thousands is not None or marked.empty:
        return None
    numbers = marked.where(
        ~marked.str.match(WITH_UNIT), marked.str.replace(r"[^0-9]+$", "", regex=True)
    )
    grouped = numbers.str.fullmatch(rf"[+-]?[1-9][0-9]{{0,2}}(?:{re.escape(decimal)}[0-9]{{3}})+")
    return str(numbers.iloc[0]) if grouped.all() else None


def _units(column: Column) -> tuple[str | None, dict[str, float]]:
    """The unit of a column of numbers, and what other units in its cells count."""
    known = words()["cells"]["units"]
    suffixes: dict[str, int] = {}
    for cell, times in list(column.counts.items())[:2000]:
        found = re.match(WITH_UNIT, cell)
        if found and re.fullmatch(r"[\d.,' +-]+", found["number"]):
            suffix = found["unit"].strip()
            suffixes[suffix] = suffixes.get(suffix, 0) + times
    written = {suffix: known[plain(suffix)] for suffix in suffixes if plain(suffix) in known}
    named = header_unit(column.name)
    if not written:
        return named, {}
    unit = str(next(iter(written.values()))[0])
    if named is not None and known.get(plain(named), [None])[0] == unit:
        unit = named
    return unit, {
        suffix: float(factor)
        for suffix, (to, factor) in written.items()
        if to == known.get(plain(unit), [unit])[0] and plain(suffix) != plain(unit)
    }


def _missing_codes(
    cells: list[str], values: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> list[str]:
    """Cells that are numbers far from all others, as people write for missing."""
    suspects = np.array([cell.removesuffix(".0") in MISSING_CODES for cell in cells])
    if not suspects.any() or suspects.all():
        return []
    low, high = values[~suspects].min(), values[~suspects].max()
    far = suspects & np.where(values < 0, low >= 0, values > 5 * max(high, 1))
    return [cell for cell, is_far in zip(cells, far, strict=True) if is_far]


def _codes_among_words(column: Column) -> Column:
    """The column without numbers that stand for missing, where all other cells hold letters."""
    codes = [cell for cell in column.counts if cell.removesuffix(".0") in MISSING_CODES]
    others = [cell for cell in column.counts if cell not in codes]
    if not others or not all(re.search(r"[^\W\d_]", cell) for cell in others):
        return column
    return _without(column, codes)


def _without(column: Column, odd: Sequence[str]) -> Column:
    return replace(
        column,
        cells=column.cells.where(~column.cells.isin(list(odd)), ""),
        counts={cell: n for cell, n in column.counts.items() if cell not in odd},
        missing={**column.missing, **{cell: column.counts[cell] for cell in odd}},
        odd=tuple(odd),
    )


def _as_words(column: Column) -> Column:
    cells = list(column.counts)
    aliases = _spellings(cells)
    values = column.distinct - len(aliases)
    short = sum(map(len, cells)) <= 30 * len(cells)
    tokens = sum(len(cell.split()) for cell in cells) / len(cells)
    is_text = tokens >= SENTENCE or any(hints_at(column.name, t) for t in ("text", "caption"))
    if short and not is_text and values <= min(MANY, max(2, column.filled / 2)):
        return replace(column, look="category", aliases=aliases)
    with_digits = sum(any(mark.isdigit() for mark in cell) for cell in cells)
    files = any(IMAGE_ENDING.search(cell) for cell in cells)
    shapes = {re.sub(r"[0-9]+", "9", re.sub(r"[^\W\d_]+", "a", cell)) for cell in cells}
    if with_digits >= 0.9 * len(cells) and (
        files or tokens <= 1.1 or (tokens <= 2.5 and len(shapes) <= 3)
    ):
        return replace(column, look="code")
    small = column.filled < 20 and values <= 10 and tokens == 1 and short
    if small and not is_text and not hints_at(column.name, "person"):
        return replace(column, look="category", aliases=aliases)
    return replace(column, look="text")


def _spellings(cells: list[str]) -> dict[str, str]:
    """Spellings that differ from a more frequent one in case, blanks or marks alone."""
    kept: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for cell in cells:
        key = re.sub(r"[\s_-]+", " ", cell).strip().casefold()
        if kept.setdefault(key, cell) != cell:
            aliases[cell] = kept[key]
    return aliases
