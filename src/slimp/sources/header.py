"""Which row of a table names its columns, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slimp.errors import TableError

SEARCHED = 30
"""Rows from the top among which the header is looked for."""
_NUMBER = re.compile(r"[-+]?[\d.,:/\s%-]+")


def find_header(rows: Sequence[Sequence[str]]) -> int | None:
    """Position of the row that names the columns; None if no row holds anything.

    It is the first row that holds anything, unless all above some later row are titles: filled
    in half of that row's cells or fewer, where that row itself looks like names (at least three,
    all different, none a number) and spans the table.
    """
    counts = [sum(bool(cell.strip()) for cell in row) for row in rows]
    first = next((place for place, count in enumerate(counts) if count), None)
    if first is None:
        return None
    widest = max(counts)
    for place in range(first, min(len(rows), SEARCHED)):
        names = [cell.strip() for cell in rows[place] if cell.strip()]
        spans = len(names) >= max(3, 0.8 * widest)
        if spans and len(set(names)) == len(names) and not any(map(_NUMBER.fullmatch, names)):
            return place if all(2 * count <= len(names) for count in counts[:place]) else first
    return first


def column_names(cells: Sequence[str], place: str, row: int) -> list[str]:
    """The names as they are used from here on: trimmed, in one line, a name for each column.

    Raises:
        TableError: the row is empty, or two columns bear one name.
    """
    names = [" ".join(cell.split()) for cell in cells]
    if not any(names):
        which = "the first row" if row == 1 else f"row {row}"
        raise TableError(f"{place}: {which} is empty; it must name the columns.")
    names = [name or f"unnamed_{number}" for number, name in enumerate(names, start=1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(f"{place}: two columns are called '{twice[0]}'. Rename one of them.")
    return names
