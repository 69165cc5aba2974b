"""A published table file as text cells, each row with its place in the file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow.csv import ConvertOptions, InvalidRow, ParseOptions, ReadOptions, read_csv

from slimp.errors import TableError

DELIMITERS = (",", ";", "\t")
"""A table's delimiter is the one of these that makes most columns of its header."""
BLOCK_BYTES = 1 << 24
"""Read at a time; a row is never longer."""


def read_table(path: Path) -> pd.DataFrame:
    """Every cell as text, never null; the index holds (file name, row), the header being row 1.

    Rows without any content are left out; the others keep their numbers.

    Raises:
        TableError: the file is missing, is not UTF-8, has no rows, names two columns alike, or
            has a row with more or fewer cells than the header.
    """
    header, delimiter = _header(path)
    misfits: list[InvalidRow] = []

    def skip(row: InvalidRow) -> str:
        misfits.append(row)
        return "skip"

    places = [str(number) for number in range(len(header))]  # names may be empty
    try:
        cells = read_csv(
            path,
            read_options=ReadOptions(
                use_threads=False,  # or misfits would not know their row
                block_size=BLOCK_BYTES,
                column_names=places,
            ),
            parse_options=ParseOptions(
                delimiter=delimiter,
                newlines_in_values=True,
                ignore_empty_lines=False,  # or the rows below would be misnumbered
                invalid_row_handler=skip,
            ),
            convert_options=ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise _not_utf8(path) from None
        raise TableError(f"{path}: cannot be read as a table: {error}.") from None
    if misfits:
        raise TableError(
            f"{path}, row {misfits[0].number}: has {misfits[0].actual_columns} cells, but the "
            f"header names {len(header)} columns (delimiter {delimiter!r}). A cell that holds the "
            "delimiter, a quote or a line break must stand in double quotes."
        )
    table: pd.DataFrame = cells.slice(1).to_pandas().set_axis(header, axis="columns")
    _check_last_quote(path, table)
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
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    if not line.strip():
        raise TableError(f"{path}: the first row is empty; it must name the columns.")
    try:
        names = {mark: next(csv.reader([line], delimiter=mark)) for mark in DELIMITERS}
    except csv.Error as error:
        raise TableError(f"{path}: the header cannot be read ({error}).") from None
    delimiter = max(DELIMITERS, key=lambda mark: len(names[mark]))
    header = [
        name.strip() or f"unnamed_{number}" for number, name in enumerate(names[delimiter], start=1)
    ]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise TableError(f"{path}: two columns are called '{twice[0]}'. Rename one of them.")
    return header, delimiter


def _check_last_quote(path: Path, table: pd.DataFrame) -> None:
    """Refuses a quote that was never closed: it swallows the rest of the file."""
    if table.empty or "\n" not in str(table.iloc[-1, -1]):
        return
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 4096), 2)
        if not file.read().rstrip().endswith(b'"'):
            raise TableError(
                f"{path}, row {len(table) + 1}: a double quote is opened and never closed. "
                "Close it, or double it if it is part of the text."
            )


def _not_utf8(path: Path) -> TableError:
    with path.open("rb") as file:
        for row, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = f"line {row} holds the byte 0x{line[error.start]:02x}"
                break
        else:
            byte = "a character is cut in two"
    return TableError(
        f"{path}: is not UTF-8 text ({byte}). Save it as 'CSV UTF-8'; a spreadsheet (.xlsx) is "
        "not a table of this kind."
    )
