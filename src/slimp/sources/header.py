"""Which row of a table names its columns, what they are called, and whether it does at all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from slimp.errors import TableError
from slimp.sources.parse_cells import IMAGE_ENDING, NUMBER
from slimp.sources.parse_ids import is_missing

SEARCHED = 30
"""Rows from the top among which the header is looked for."""
LIKE, ROWS = 0.9, 200
"""Share of a column's cells that must be of one form, and rows that are looked at."""
_NUMERIC = re.compile(r"[-+]?[\d.,:/\s%-]+")


def find_header(
    rows: Sequence[Sequence[str]], place: str, row: int | None
) -> tuple[int, list[str]]:
    """Position of the row that names the columns, and their names: trimmed, one for each column.

    It is the first row that holds anything, unless all above some later row are titles: filled
    in half of that row's cells or fewer, where that row itself looks like names (at least three,
    all different, none a number) and spans the table. Or it is the `row` that is given, from 1 on.
    """
    at = row - 1 if row is not None else _first_names(rows)
    if at >= len(rows) > 0:
        raise TableError(f"{place}: has no row {at + 1}, where [table] expects the header.")
    names = [" ".join(cell.split()) for cell in rows[at]] if rows else []
    if not any(names):
        raise TableError(f"{place}: row {at + 1} is empty; it must name the columns.")
    if row is None and sum(map(bool, names)) == 1 and len(names) > 4:
        raise TableError(
            f"{place}: row {at + 1} names 1 of {len(names)} columns ('{max(names)}'). If another "
            "row is the header, set header under [table]."
        )
    names = [name or f"unnamed_{number}" for number, name in enumerate(names, start=1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(f"{place}: two columns are called '{twice[0]}'. Rename one of them.")
    return at, names


def _first_names(rows: Sequence[Sequence[str]]) -> int:
    counts = [sum(bool(cell.strip()) for cell in row) for row in rows]
    first = next((place for place, count in enumerate(counts) if count), 0)
    for place, row in enumerate(rows[:SEARCHED]):
        names = [cell.strip() for cell in row if cell.strip()]
        spans = len(names) >= max(3, 0.8 * max(counts))
        if spans and len(set(names)) == len(names) and not any(map(_NUMERIC.fullmatch, names)):
            # of a group's title over several columns; names that span both rows are no titles
            above = [
                sum(x != "" and x not in names for x in map(str.strip, r)) for r in rows[:place]
            ]
            return place if all(2 * count <= len(names) for count in above) else first
    return first


def refuse_data_as_header(table: pd.DataFrame, place: str, row: int) -> None:
    """Refuses a table whose first row is data like the rows below, so that no row is lost.

    It is data if some of its cells have the form that their columns have throughout (a number, a
    file name, an id with digits), or two of them occur below again, and none contradicts the form
    of its column.
    """
    top = table.head(ROWS)
    names = [str(name) for name in top]
    if (top == names).all(axis=1).any():
        return  # a header that stands there again, as where files were strung together
    numbers = [int(name) for name in names if name.isdecimal()]
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        names = [name for name in names if not name.isdecimal()]  # columns that are numbered
    alike = [_is_like_its_column(name, top[name].tolist()) for name in names]
    again = sum(name in set(top[name]) for name in names)
    if False not in alike and (True in alike or again > 1):
        raise TableError(
            f"{place}: row {row} ({', '.join(names[:3])}, ...) looks like the rows below it, so "
            "the table seems to have no header. Write a first row that names the columns; if this "
            f"row does, set header = {row} under [table]."
        )


def _is_like_its_column(name: str, cells: Sequence[str]) -> bool | None:
    """Whether a name has the form of nearly all cells below it; None if they have none."""
    known = [cell.strip() for cell in cells if not is_missing(cell.strip(), ())]
    blank = name.startswith("unnamed_") and "" in cells
    if not known or blank or is_missing(name, ()):
        return None
    form, count = Counter(map(_form, known)).most_common(1)[0]
    return _form(name) == form if form and count >= LIKE * len(known) else None


def _form(cell: str) -> str:
    """What a number, a file name or an id with digits looks like; '' for words."""
    if re.fullmatch(NUMBER, cell.replace(",", ".")):
        return "number"
    if IMAGE_ENDING.search(cell):
        return "image"
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", cell)) if re.search(r"\d", cell) else ""
