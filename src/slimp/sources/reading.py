"""A published table file as text cells, each row with its place in the file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from slimp.errors import TableError

DELIMITERS = (",", ";", "\t")
"""A table's delimiter is the one of these that makes most columns of its header."""


def read_table(path: Path) -> pd.DataFrame:
    """Every cell as text, never null; the index holds (file name, row), the header being row 1.

    Rows without any content are left out; the others keep their numbers.

    Raises:
        TableError: the file is missing, is not UTF-8, has no rows, names two columns alike, or
            has a row with more cells than the header.
    """
    header, delimiter = _header(path)
    try:
        table = pd.read_csv(
            path,
            sep=delimiter,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=False,  # or the rows below would be misnumbered
            encoding="utf-8-sig",
        )
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    except pd.errors.ParserError as error:
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise TableError(
            f"{path}: cannot be read as a table with the delimiter {delimiter!r}: {reason}. "
            "A cell that holds the delimiter or a line break must stand in double quotes."
        ) from None
    if not isinstance(table.index, pd.RangeIndex):
        raise TableError(
            f"{path}: its rows have more cells than its header has columns ({len(header)}). "
            "Give every column a name, and quote cells that hold the delimiter."
        )
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    rows = pd.MultiIndex.from_product([[path.name], range(2, len(table) + 2)])
    table = table.set_axis(rows, axis="index")
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise TableError(f"{path}: has no rows, only a header.")
    return table


def join_tables(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several tables under the columns of all; a cell that a table lacks is empty."""
    return pd.concat(tables).fillna("")


def _header(path: Path) -> tuple[list[str], str]:
    """The column names, and the delimiter between them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except FileNotFoundError:
        raise TableError(f"{path}: no such table.") from None
    except IsADirectoryError:
        raise TableError(f"{path}: is a folder, not a table.") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from None
    if not line.strip():
        raise TableError(f"{path}: the first row is empty; it must name the columns.")
    names = {delimiter: next(csv.reader([line], delimiter=delimiter)) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda delimiter: len(names[delimiter]))
    header = [name.strip() for name in names[delimiter]]
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise TableError(f"{path}: two columns are called '{twice[0]}'. Rename one of them.")
    return header, delimiter


def _not_utf8(path: Path, error: UnicodeDecodeError) -> TableError:
    return TableError(
        f"{path}: is not UTF-8 text (byte 0x{error.object[error.start]:02x}: {error.reason}). "
        "Save it as 'CSV UTF-8'; a spreadsheet file (.xlsx) is not a table."
    )
