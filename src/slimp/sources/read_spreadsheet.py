"""Tables in spreadsheets (.xlsx, .xls, .ods) as text cells without loss."""

from __future__ import annotations

import datetime as dt
import io
import re
import zipfile
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

from slimp.errors import TableError
from slimp.sources.header import SEARCHED, find_header, header_note
from slimp.sources.layout import TableLayout

UNPACKED_BYTES = 1 << 30
"""Size of a spreadsheet's parts above which it is refused unread."""
WHOLE = 2.0**53
"""Below this, every whole number is exact as a float."""


def read_spreadsheet(
    content: bytes, place: str, layout: TableLayout
) -> tuple[pd.DataFrame, int, list[str], list[str]]:
    """Text cells, the row of the header, notes, and the columns of numbers.

    All rows that a merged cell spans hold what it holds.

    Raises:
        TableError: it is damaged or protected, or has several sheets and none is chosen.
        TableError: the package that reads spreadsheets is not installed.
    """
    try:
        calamine = import_module("python_calamine")
    except ImportError:
        raise TableError(
            f"{place}: is a spreadsheet; reading those needs a further package: pip install "
            "'slimp[excel]'. Or save it as 'CSV UTF-8'."
        ) from None
    _refuse_bombs(content, place)
    try:
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
) -> tuple[pd.DataFrame, int, list[str], list[str]]:
    """As `read_spreadsheet`, of rows of typed cells and the corners of merged ones."""
    top = [[cell_text(cell) for cell in row] for row in rows[: max(SEARCHED, layout.header or 0)]]
    at, names = find_header(top, place, layout.header)
    notes = header_note(place, at, names) if layout.header is None else []
    shared = 0
    for (row, column), (last_row, last_column) in merged:
        if row > at and last_row < len(rows) and last_column < len(names):
            for r in range(row, last_row + 1):
                rows[r][column : last_column + 1] = [rows[row][column]] * (last_column + 1 - column)
            shared += 1
    if shared:
        notes.append(f"{place}: {shared} merged cell(s) count for every row that they span.")
    columns = list(zip(*rows[at + 1 :], strict=True)) or [() for _ in names]
    cells, numeric = dict[str, list[str]](), list[str]()
    for name, column in zip(names, columns, strict=True):
        kinds = {type(cell) for cell in column if cell not in (None, "")}
        if kinds in ({float}, {int, float}):
            numeric.append(name)
        mixed = float in kinds and name not in numeric  # beside text, whose marks are the schema's
        texts = ((cell, cell_text(cell)) for cell in column)
        cells[name] = [
            decimal_text(text) if mixed and isinstance(cell, float) else text
            for cell, text in texts
        ]
    return pd.DataFrame(cells, dtype="str"), at + 1, notes, numeric


def cell_text(cell: object) -> str:
    """A typed cell as text: whole numbers without a point, dates ISO, nothing as ''."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        if np.isnan(cell):
            return ""
        return str(int(cell)) if cell.is_integer() and abs(cell) < WHOLE else repr(cell)
    if isinstance(cell, dt.datetime):
        midnight = cell.time() == dt.time() and cell.tzinfo is None
        return cell.date().isoformat() if midnight else cell.isoformat(sep=" ")
    return str(cell)


def decimal_text(text: str) -> str:
    """The text of a number such that whatever a schema says, its point stands before decimals.

    1.234 becomes 1.2340: behind a point between thousands there are three digits.
    """
    return f"{text}0" if re.fullmatch(r"-?[0-9]{1,3}\.[0-9]{3}", text) else text


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
    if not filled:
        raise TableError(f"{place}: has no sheet that holds something.")
    if len(filled) > 1:
        names = ", ".join(sheet.name for sheet in filled)
        raise TableError(
            f"{place}: has {len(filled)} sheets that hold something ({names}). Keep one, or "
            "save the one as CSV; an import reads the one that its schema names under [table], as "
            f'in sheet = "{filled[0].name}".'
        )
    return filled[0]


def _refuse_bombs(content: bytes, place: str) -> None:
    """Refuses a spreadsheet (a zip, but for .xls) whose parts are absurdly large."""
    if not content.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise TableError(f"{place}: is a damaged spreadsheet or archive: {error}.") from None
    if size > UNPACKED_BYTES:
        raise TableError(
            f"{place}: unpacks to {size / 1e9:.1f} GB, more than a spreadsheet may. Save it as "
            "'CSV UTF-8'."
        )
