"""Tables in spreadsheets (.xlsx, .xls, .ods) as text cells without loss."""

from __future__ import annotations

import datetime as dt
import io
import re
import unicodedata
import zipfile
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

from slimp.errors import TableError
from slimp.sources.header import SEARCHED, find_header
from slimp.sources.layout import TableLayout

UNPACKED_BYTES = 1 << 30
"""Size of a spreadsheet's parts above which it is refused unread."""
WHOLE = 2.0**53
"""Below this, every whole number is exact as a float."""
GROUPED = r"^(-?[0-9]{1,3}\.[0-9]{3})$"
"""A decimal number that looks like one with a point between thousands."""


def read_spreadsheet(
    content: bytes, place: str, layout: TableLayout
) -> tuple[pd.DataFrame, list[str]]:
    """Text cells, by the number of their row, and notes of what was assumed.

    All rows that a merged cell spans hold what it holds.
    """
    try:
        calamine = import_module("python_calamine")
    except ImportError:
        raise TableError(
            f"{place}: is a spreadsheet; reading those needs a further package: pip install "
            "'slimp[excel]'. Or save it as 'CSV UTF-8'."
        ) from None
    try:
        if content.startswith(b"PK"):  # all but .xls are zip files
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                size = sum(part.file_size for part in archive.infolist())
            if size > UNPACKED_BYTES:
                raise TableError(
                    f"{place}: unpacks to {size / 1e9:.1f} GB, more than a spreadsheet may. Save "
                    "it as 'CSV UTF-8'."
                )
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
        sheet = _choose_sheet(book, place, layout.sheet)
        rows = sheet.to_python(skip_empty_area=False)
        merged = sheet.merged_cell_ranges or []
    except TableError:
        raise
    except BaseException as error:  # a panic in its Rust code is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TableError(f"{place}: cannot be read as a spreadsheet: {reason}.") from None
    return rows_as_text(rows, merged, f"{place}, sheet '{sheet.name}'", layout)


def rows_as_text(
    rows: list[list[Any]], merged: Sequence[Any], place: str, layout: TableLayout
) -> tuple[pd.DataFrame, list[str]]:
    """As `read_spreadsheet`, of rows of typed cells and the corners of merged ones."""
    top = [[cell_text(cell) for cell in row] for row in rows[: max(SEARCHED, layout.header or 0)]]
    for (row, column), (last_row, _) in merged:  # a name may span two rows of a header
        for cells in top[row + 1 : last_row + 1] if column < len(top[0]) else ():
            cells[column] = top[row][column]
    at, names = find_header(top, place, layout.header)
    shared = 0
    for (row, column), (last_row, last_column) in merged:
        if at < row < len(rows) and column < len(names):  # it may end beyond the cells in use
            end = min(last_column + 1, len(names))
            for cells in rows[row : last_row + 1]:
                cells[column:end] = [rows[row][column]] * (end - column)
            shared += 1
    notes = [f"{shared} merged cell(s) count for every row that they span."] * (shared > 0)
    texts = [[cell_text(cell) for cell in row] for row in rows[at + 1 :]]
    index = pd.RangeIndex(at + 2, len(rows) + 1)
    return pd.DataFrame(texts, columns=names, index=index, dtype="str"), notes


def cell_text(cell: object) -> str:
    """A typed cell as text without loss: whole numbers without a point, dates ISO, nothing as ''.

    Whatever marks a schema says, the point of a number stands before decimals: 1.234 becomes
    1.2340, as behind a point between thousands there are three digits.
    """
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return ""
    if isinstance(cell, float | np.floating):
        value = float(cell)
        if value.is_integer() and abs(value) < WHOLE:
            return str(int(value))
        return "" if np.isnan(value) else re.sub(GROUPED, r"\g<1>0", str(cell))
    if isinstance(cell, dt.datetime):
        midnight = cell.time() == dt.time() and cell.tzinfo is None
        return cell.date().isoformat() if midnight else cell.isoformat(sep=" ")
    return unicodedata.normalize("NFC", str(cell))


def _choose_sheet(book: Any, place: str, wanted: str | None) -> Any:
    if wanted is not None:
        if wanted not in book.sheet_names:
            raise TableError(
                f"{place}: has no sheet '{wanted}'. It has: {', '.join(book.sheet_names)}."
            )
        return book.get_sheet_by_name(wanted)
    shown = [s.name for s in book.sheets_metadata if str(s.visible).endswith("Visible")]
    sheets = [book.get_sheet_by_name(name) for name in shown or book.sheet_names]
    filled = [sheet for sheet in sheets if sheet.height]
    if len(filled) != 1:
        names = ", ".join(sheet.name for sheet in filled)
        raise TableError(
            f"{place}: has {len(filled)} sheets that hold something ({names}). Keep one, save one "
            'as CSV, or name one under [table], as in sheet = "Sheet1".'
        )
    return filled[0]
