"""What the cells of one column are, whatever it is called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pandas as pd

from slimp.data.schema import Feature
from slimp.sources.parse_cells import TICKS, WITH_UNIT, read_numbers
from slimp.sources.parse_ids import EXPONENT
from slimp.sources.sketch.schema_text import value_text
from slimp.sources.words import header_unit, hints_at, is_called_id, plain, spaced, words

ColumnKind = Literal["empty", "number", "date", "checkbox", "category", "code", "text"]
MARKS = ((".", None), (",", None), (",", "."), (".", ","), (".", "'"), (".", " "), (",", " "))
"""Marks of decimals and thousands; the first pair that reads most cells counts."""
MISSING_CODES = ("-1", "-9", "-99", "-999", "-9999", "999", "9999")
"""Numbers that stand for missing where all others are far away."""
SHORT_CODES = ("8", "9", "88", "99", "888")
"""Likewise, if they recur among words, or among whole numbers that are no code of other things."""
FAR = 3
"""Times the largest other number, at least, that a number for missing is."""
FEW, MANY = 7, 60
"""Distinct values, at most, of a column of numeric codes, and of a category."""
DATE_LIKE = r"[0-9]{1,4}([-./ ])\w{2,3}\1[0-9]{2,4}(?![0-9])|[0-9]{8}$"
NUMBERED_DATES = (YEAR := r"(?:19|20)[0-9]{2}", r"[1-6][0-9]{4}(?:\.0)?")
"""Years, and days as a spreadsheet counts them; no format reads these."""
READ = 0.9
"""Share of the cells, at least, that can be read in a column of numbers or of dates; the others
count as missing."""
SENTENCE = 4
"""Words per cell, on average, from which cells are text and no category."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column seems to hold."""

    name: str
    kind: ColumnKind
    cells: pd.Series
    """Trimmed; missing as ''."""
    counts: Mapping[str, int]
    """Distinct cells that are not missing, most frequent first."""
    missing: tuple[str, ...] = ()
    """Cells that mean missing, besides the empty one."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the feature that it may become, by their names in a schema file; of dates `formats`."""
    numbers: pd.Series | None = None
    """The cells of a column of numbers as float64."""
    unclear: bool = False
    """Whether the mark before decimals could be one between thousands in all cells that have it."""
    doubts: tuple[str, ...] = ()

    @property
    def filled(self) -> int:
        return sum(self.counts.values())

    @property
    def distinct(self) -> int:
        return len(self.counts)

    @property
    def values(self) -> pd.Series:
        """What the cells say, however it is spelled; missing as NA."""
        if self.numbers is not None:
            return self.numbers
        known = self.cells.where(self.cells != "").replace(dict(self.settings.get("aliases", {})))
        return known.str.lower().map(TICKS) if self.kind == "checkbox" else known

    @property
    def is_whole(self) -> bool:
        """Whether every cell is a whole number, as ids may be, if a spreadsheet has damaged it."""
        return all(re.fullmatch(rf"-?[0-9]+(\.0)?|{EXPONENT.pattern}", c) for c in self.counts)


class _Found(NamedTuple):
    kind: ColumnKind
    settings: dict[str, Any] = {}  # noqa: RUF012  # never written to
    doubts: tuple[str, ...] = ()
    unread: Sequence[str] = ()
    unclear: bool = False
    numbers: pd.Series | None = None
    """Of each distinct cell."""


def describe(column: pd.Series) -> Column:
    """What the column of text cells, never null, seems to hold."""
    name, said = str(column.name), set(words()["cells"]["missing"])
    cells = column.str.strip().reset_index(drop=True)
    counts = cells[cells != ""].value_counts()
    said -= {"-"} if "+" in counts else set()  # then it means no
    missing = [cell for cell in counts.index if plain(cell) in said]
    missing += _missing_codes(name, counts.drop(missing))
    known, found = counts.drop(missing), _Found("empty")
    if len(known):
        readers = (_checkbox, _dates, _numbers, _words)
        found = next(f for read in readers if (f := read(name, known, len(cells))) is not None)
    missing += found.unread
    doubts = list(found.doubts)
    if missing:
        shown = [f"'{cell}' ({counts[cell]} cells)" for cell in missing[:6]]
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        doubts.append(f"counted as missing: {', '.join(shown)}{more}.")
    if odd := [f"'{cell}'" for cell in missing if plain(cell) not in said][:6]:
        doubts.append(
            f"of these, {', '.join(odd)} are only unlike all other cells. If one means a value, "
            'give it with aliases = { "..." = "..." } instead.'
        )
    return Column(
        name=name,
        kind=found.kind,
        cells=cells.mask(cells.isin(missing), ""),
        counts={str(cell): int(n) for cell, n in counts.drop(missing).items()},
        missing=tuple(missing),
        settings=found.settings,
        numbers=None if found.numbers is None else cells.map(found.numbers),
        unclear=found.unclear,
        doubts=tuple(doubts),
    )


def _missing_codes(name: str, counts: pd.Series) -> list[str]:
    """Numbers as people write for missing: among words, or far from all other numbers."""
    whole = {str(cell): str(cell).removesuffix(".0") for cell in counts.index}
    codes = [cell for cell, number in whole.items() if number in MISSING_CODES]
    short = [c for c, number in whole.items() if number in SHORT_CODES and counts[c] > 1]
    of_code = is_called_id(name) or hints_at(name, "code", "patient", "lesion", "label")
    rest = [number for cell, number in whole.items() if cell not in codes + short]
    if not of_code and (all(map(str.isdecimal, rest)) or not re.search(r"\d", "".join(rest))):
        codes += short
    others = pd.Series([cell for cell in whole if cell not in codes], dtype="str")
    if not codes or others.empty or others.str.contains(r"[^\W\d_]").all():
        return codes if len(others) else []
    numbers = pd.to_numeric(others.str.replace(",", "."), errors="coerce")
    low, high = numbers.min(), numbers.max()
    return [c for c in codes if (low >= 0 if float(c) < 0 else float(c) > FAR * max(high, 1))]


def _checkbox(name: str, counts: pd.Series, rows: int) -> _Found | None:
    said = {cell: plain(cell) for cell in counts.index}
    yes, no = (set(words()["cells"][side]) for side in ("yes", "no"))
    if not set(said.values()) <= yes | no:
        return None
    ticks = {cell: "yes" if word in yes else "no" for cell, word in said.items()}
    aliases = {cell: tick for cell, tick in ticks.items() if cell.lower() not in TICKS}
    blank = 1 - counts.sum() / rows
    vague = not blank or any(len(w) < 2 or w[0] in "01" for w in said.values())
    if len(set(ticks.values())) < 2 and vague and not set(said.values()) <= {"true", "false", "x"}:
        return None  # nothing but 1, or one word in every row, may be anything
    doubts = (
        f"'{counts.index[0]}' or nothing: {blank:.0%} of the cells are blank. As it stands, blank "
        "means not known. If blank means no, add to the line: aliases = "
        f"{value_text({**aliases, '': 'no'})}",
    )
    return _Found("checkbox", {"aliases": aliases}, doubts * (len(counts) < 2))


def _dates(name: str, counts: pd.Series, rows: int) -> _Found | None:
    cells = pd.Series(counts.index, index=counts.index, dtype="str")
    dated = hints_at(name, "birth", "visit") or header_unit(name) == "years"
    for form in NUMBERED_DATES if dated and not is_called_id(name) else ():
        like = cells.str.fullmatch(form)
        if counts[like].sum() >= READ * counts.sum():
            settings = {"formats": ("%Y",) * (form == YEAR)}
            return _Found("date", settings, unread=[*cells[~like]])
    if not cells.head(50).str.match(DATE_LIKE).mean() > 0.5:
        return None
    read = {}
    for style in words()["dates"]["formats"]:
        days = cells.str.slice(0, 10) if style == "%Y-%m-%d" else cells
        read[style] = pd.to_datetime(days, format=style, errors="coerce").dt.year.between(
            1880, 2100
        )
    fits = {style: int(counts[good].sum()) for style, good in read.items()}
    most = max(fits.values())
    if most < READ * counts.sum():
        return None
    formats = tuple(style for style, count in fits.items() if count == most)
    return _Found("date", {"formats": formats}, unread=[*cells[~read[formats[0]]]])


def _numbers(name: str, counts: pd.Series, rows: int) -> _Found | None:
    cells = pd.Series(counts.index, index=counts.index, dtype="str")
    with_digit = cells.str.contains(r"[0-9]")
    if not with_digit.any():
        return None
    aim = READ * counts.sum()
    if (~with_digit).sum() == 1 and with_digit.sum() > FEW:  # a word for missing, in no list
        aim = max(READ * counts[with_digit].sum(), counts.sum() / 2)
    unit, units = _units(name, counts)
    feature: dict[str, Any] = {"name": "x", "kind": "continuous", "columns": ("x",)}
    most, numbers, (decimal, thousands) = 0, pd.Series(dtype="float64"), MARKS[0]
    for marks in MARKS:
        one = Feature(**feature, unit=unit, units=units, decimal=marks[0], thousands=marks[1])
        read = read_numbers(cells, one)
        if (count := int(counts[read.notna()].sum())) > most:
            most, numbers, (decimal, thousands) = count, read, marks
        if count == counts.sum():
            break
    if most < aim or most == 0:
        return None
    good = numbers.notna()
    whole = bool(cells[good].str.fullmatch(r"-?[0-9]+(\.0)?").all())
    few = len(counts) <= FEW and 3 * len(counts) <= counts.sum() and whole and unit is None
    if few and good.all() and (hints_at(name, "code") or len(counts) <= 2):
        could = "whole numbers with few values: they could be continuous as well."
        return _Found("category", doubts=(could,))
    settings: dict[str, Any] = {"unit": unit, "units": units, "thousands": thousands}
    other, doubts = "," if decimal == "." else ".", list[str]()
    if units:
        factors = ", ".join(f"1 {spelled} as {value:.6g}" for spelled, value in units.items())
        doubts.append(f"some cells end in other units, counted in {unit}: {factors}.")
    bare = int(counts[good & ~cells.str.match(WITH_UNIT)].sum())
    if unit and header_unit(name) is None and bare:
        doubts.append(f"{bare} cells name no unit: they count as {unit}. Is that so?")
    marked = cells[good & cells.str.contains(decimal, regex=False)]
    grouped = rf"[+-]?[1-9][0-9]{{0,2}}(?:{re.escape(decimal)}[0-9]{{3}})+(?:[^0-9].*)?"
    unclear = thousands is None and len(marked) > 0 and marked.str.fullmatch(grouped).all()
    if unclear:
        example = str(marked.iloc[0])
        doubts.append(
            f"{example} was read as {example.replace(decimal, '.')}, but the mark could be one "
            "between thousands, as in all cells that have it. If it means "
            f'{example.replace(decimal, "")}, write: decimal = "{other}", thousands = "{decimal}"'
        )
    if len(marked) or thousands:
        settings["decimal"] = decimal if len(marked) else "," if thousands == "." else "."
    return _Found("number", settings, tuple(doubts), [*cells[~good]], bool(unclear), numbers)


def _units(name: str, counts: pd.Series) -> tuple[str | None, dict[str, float]]:
    """The unit of a column of numbers, and what other units in its cells are multiplied by."""
    known = words()["units"]
    spelled = {word: unit for unit, said in known.items() for word in said["cells"]}
    found = Counter[str]()
    for cell, times in counts.items():
        if (parts := re.match(WITH_UNIT, str(cell))) and plain(parts["unit"]) in spelled:
            found[parts["unit"].strip()] += times
    units = {word: known[spelled[plain(word)]] for word in found}
    unit = header_unit(name)
    if found and (unit is None or known[unit]["of"] not in [u["of"] for u in units.values()]):
        unit = spelled[plain(found.most_common(1)[0][0])]
    return unit, {
        word: float(one["is"] / known[unit]["is"])
        for word, one in units.items()
        if one["of"] == known[unit]["of"] and plain(word) != unit
    }


def _words(name: str, counts: pd.Series, rows: int) -> _Found:
    cells, kept = list(map(str, counts.index)), dict[str, str]()
    sexes = _sexes(cells) if hints_at(name, "sex") else {}
    # of spellings of a sex, or that differ in case or marks alone, the most frequent; words first
    first = {
        c: kept.setdefault(sexes.get(c, re.sub(r"[\s_-]+", " ", c).strip().casefold()), c)
        for c in sorted(cells, key=lambda c: c in sexes and len(c) < 3)
    }
    tokens = sum(len(cell.split()) for cell in cells) / len(cells)
    short = sum(map(len, cells)) <= 30 * len(cells)
    is_text = tokens >= SENTENCE or hints_at(name, "text")
    if short and not is_text and len(kept) <= min(MANY, max(3, counts.sum() / 2)):
        return _Found("category", {"aliases": {c: o for c, o in first.items() if c != o}})
    with_digits = sum(any(mark.isdigit() for mark in cell) for cell in cells)
    shapes = {re.sub(r"[0-9]+", "9", re.sub(r"[^\W\d_]+", "a", cell)) for cell in cells}
    uniform = tokens <= 1.1 or (tokens <= 2.5 and len(shapes) <= 3)
    return _Found("code" if with_digits >= 0.9 * len(cells) and uniform else "text")


def _sexes(cells: Sequence[str]) -> dict[str, str]:
    """'female' or 'male' for each cell that can mean nothing else beside the others.

    A letter means what the words of the column that begin with it mean. M, of 'male' or 'Mujer',
    stays as it is where another letter may be of that sex: H, M, male and female are two tables'.
    """
    known = {word: sex for sex in ("female", "male") for word in words()["cells"][sex]}
    said = {cell: spaced(cell).rstrip(".") for cell in cells}
    full = {word for word in said.values() if len(word) > 1}
    meant = {  # a word that is not known is a meaning of its own
        letter: {known.get(w, w) for w in {*full, *known.keys() & {letter}} if w[0] == letter}
        for letter in {*said.values()} - {"", *full}
    }
    sexes = {word: known[word] for word in full & known.keys()}
    for sex, other, letters in (("male", "female", "hv"), ("female", "male", "fwv")):
        rivals = {letter for letter in letters if meant.get(letter, {other}) != {other}}
        for letter, meanings in meant.items() if sex in sexes.values() else ():
            if meanings == {sex} and (letter in known or not rivals - {letter}):
                sexes[letter] = sex
    return {cell: sexes[word] for cell, word in said.items() if word in sexes}
