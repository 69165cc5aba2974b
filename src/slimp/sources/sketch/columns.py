"""What the cells of one column are, whatever it is called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from slimp.data.schema import Feature
from slimp.sources.parse_cells import TICKS, WITH_UNIT, read_numbers
from slimp.sources.sketch.words import header_unit, hints_at, plain, words

ColumnKind = Literal["empty", "number", "date", "checkbox", "category", "code", "text"]
MARKS = ((".", None), (",", None), (",", "."), (".", ","), (".", "'"), (".", " "), (",", " "))
"""Marks of decimals and thousands; the first pair that reads most cells counts."""
MISSING_CODES = ("-1", "-9", "-99", "-999", "-9999", "999", "9999")
"""Numbers that stand for missing where all others are far away."""
FEW, MANY = 7, 60
"""Distinct values, at most, of a column of numeric codes, and of a category."""
DATE_LIKE = r"[0-9]{1,4}([-./ ])\w{2,3}\1[0-9]{2,4}(?![0-9])|[0-9]{8}$"
READ = 0.9
"""Share of the cells, at least, that can be read in a column of numbers or of dates; the others
count as missing."""
SENTENCE = 4
"""Words per cell, on average, from which cells are text and no category."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column seems to hold."""

    name: str
    kind: ColumnKind = "empty"
    cells: pd.Series
    """Trimmed; missing as ''."""
    counts: Mapping[str, int]
    """Distinct cells that are not missing, most frequent first."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """What means missing -> cells."""
    decimal: str | None = None
    """None: no number has decimals."""
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
    def distinct(self) -> int:
        return len(self.counts)

    @property
    def is_whole(self) -> bool:
        """Whether every cell is a whole number, as ids may be."""
        return all(re.fullmatch(r"-?[0-9]+(\.0)?", cell) for cell in self.counts)

    def without(self, cells: Collection[str]) -> Column:
        """The column with these cells counted as missing."""
        gone = {cell: self.counts[cell] for cell in cells}
        return replace(
            self,
            cells=self.cells.mask(self.cells.isin(list(gone)), ""),
            counts={cell: n for cell, n in self.counts.items() if cell not in gone},
            missing={**self.missing, **gone},
        )


def describe(column: pd.Series) -> Column:
    """What the column of text cells, never null, seems to hold."""
    cells, known = column.str.strip(), set(words()["cells"]["missing"])
    counts = {str(cell): int(n) for cell, n in cells[cells != ""].value_counts().items()}
    found = Column(name=str(column.name), cells=cells, counts=counts)
    found = found.without([cell for cell in counts if plain(cell) in known])
    found = found.without(_missing_codes(list(found.counts)))
    if not found.counts:
        return found
    return _as_checkbox(found) or _as_dates(found) or _as_numbers(found) or _as_words(found)


def _missing_codes(cells: list[str]) -> list[str]:
    """Numbers as people write for missing: among words, or far from all other numbers."""
    codes = [cell for cell in cells if cell.removesuffix(".0") in MISSING_CODES]
    others = pd.Series([cell for cell in cells if cell not in codes], dtype="str")
    if not codes or others.empty or others.str.contains(r"[^\W\d_]").all():
        return codes if len(others) else []
    numbers = pd.to_numeric(others.str.replace(",", "."), errors="coerce")
    low, high = numbers.min(), numbers.max()
    return [c for c in codes if (low >= 0 if float(c) < 0 else float(c) > 5 * max(high, 1))]


def _as_checkbox(column: Column) -> Column | None:
    said = {cell: plain(cell) for cell in column.counts}
    yes, no = (set(words()["cells"][side]) for side in ("yes", "no"))
    if not set(said.values()) <= yes | no:
        return None
    ticks = {cell: "yes" if word in yes else "no" for cell, word in said.items()}
    has_blanks = column.filled < len(column.cells)
    vague = not has_blanks or any(len(w) < 2 or w[0] in "01" for w in said.values())
    if len(set(ticks.values())) < 2 and vague and not set(said.values()) <= {"true", "false", "x"}:
        return None  # nothing but 1, or one word in every row, may be anything
    aliases = {cell: tick for cell, tick in ticks.items() if cell.lower() not in TICKS}
    return replace(column, kind="checkbox", aliases=aliases)


def _as_dates(column: Column) -> Column | None:
    distinct, times = pd.Series(list(column.counts), dtype="str"), list(column.counts.values())
    if not distinct.head(50).str.match(DATE_LIKE).mean() > 0.5:
        return None
    read: dict[str, pd.Series] = {}
    for style in words()["dates"]["formats"]:
        text = distinct.str.slice(0, 10) if style == "%Y-%m-%d" else distinct
        days = pd.to_datetime(text, format=style, errors="coerce")
        read[style] = days.dt.year.between(1880, 2100)
    counts = {style: int(np.dot(times, good)) for style, good in read.items()}
    most = max(counts.values())
    if most < READ * column.filled:
        return None
    formats = tuple(style for style, count in counts.items() if count == most)
    unread = distinct[~read[formats[0]]].tolist()
    return replace(column.without(unread), kind="date", formats=formats)


def _as_numbers(column: Column) -> Column | None:
    distinct, times = pd.Series(list(column.counts), dtype="str"), list(column.counts.values())
    unit, units = _units(column)
    feature = Feature(name="x", kind="continuous", columns=("x",), unit=unit, units=units)
    most, good, (decimal, thousands) = 0, distinct.isna(), MARKS[0]
    for marks in MARKS:
        one = replace(feature, decimal=marks[0], thousands=marks[1])
        read = read_numbers(distinct, one).notna()
        if (count := int(np.dot(times, read))) > most:
            most, good, (decimal, thousands) = count, read, marks
    if most < READ * column.filled or most == 0:
        return None
    column, cells = column.without(distinct[~good].tolist()), distinct[good]
    few = column.distinct <= FEW and 3 * column.distinct <= column.filled and column.is_whole
    coded = hints_at(column.name, "code") or column.distinct <= 2
    if few and coded and unit is None and good.all():
        return replace(column, kind="category")
    marked = cells[cells.str.contains(decimal, regex=False)]
    grouped = rf"[+-]?[1-9][0-9]{{0,2}}(?:{re.escape(decimal)}[0-9]{{3}})+(?:[^0-9].*)?"
    unclear = thousands is None and len(marked) > 0 and marked.str.fullmatch(grouped).all()
    return replace(
        column,
        kind="number",
        decimal=decimal if len(marked) else None,
        thousands=thousands,
        unclear=str(marked.iloc[0]) if unclear else None,
        unit=unit,
        units=units,
    )


def _units(column: Column) -> tuple[str | None, dict[str, float]]:
    """The unit of a column of numbers, and what other units in its cells are multiplied by."""
    known = words()["units"]
    spelled = {word: unit for unit, said in known.items() for word in said["cells"]}
    found = Counter[str]()
    for cell, times in column.counts.items():
        if (parts := re.match(WITH_UNIT, cell)) and plain(parts["unit"]) in spelled:
            found[parts["unit"].strip()] += times
    units = {word: known[spelled[plain(word)]] for word in found}
    unit = header_unit(column.name)
    if found and (unit is None or known[unit]["of"] not in [u["of"] for u in units.values()]):
        unit = spelled[plain(found.most_common(1)[0][0])]
    return unit, {
        word: float(one["is"] / known[unit]["is"])
        for word, one in units.items()
        if one["of"] == known[unit]["of"] and plain(word) != unit
    }


def _as_words(column: Column) -> Column:
    cells = list(column.counts)
    kept: dict[str, str] = {}  # of spellings that differ in case or marks alone, the most frequent
    first = {c: kept.setdefault(re.sub(r"[\s_-]+", " ", c).strip().casefold(), c) for c in cells}
    aliases = {cell: other for cell, other in first.items() if cell != other}
    tokens = sum(len(cell.split()) for cell in cells) / len(cells)
    short = sum(map(len, cells)) <= 30 * len(cells)
    is_text = tokens >= SENTENCE or hints_at(column.name, "text")
    if short and not is_text and len(kept) <= min(MANY, max(3, column.filled / 2)):
        return replace(column, kind="category", aliases=aliases)
    with_digits = sum(any(mark.isdigit() for mark in cell) for cell in cells)
    shapes = {re.sub(r"[0-9]+", "9", re.sub(r"[^\W\d_]+", "a", cell)) for cell in cells}
    uniform = tokens <= 1.1 or (tokens <= 2.5 and len(shapes) <= 3)
    is_code = with_digits >= 0.9 * len(cells) and uniform
    return replace(column, kind="code" if is_code else "text")
