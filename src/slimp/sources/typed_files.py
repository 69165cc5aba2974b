"""Tables whose cells have types, Parquet and spreadsheets, as text cells without loss."""

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
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slimp.errors import TableError
from slimp.sources.header import SEARCHED, column_names, find_header
from slimp.sources.layout import TableLayout

UNPACKED_BYTES = 1 << 30
"""Size of a spreadsheet's parts above which it is refused unread."""
WHOLE = 2.0**53
"""Below this, every whole number is exact as a float."""


def read_parquet(buffer: pa.Buffer, place: str) -> tuple[pd.DataFrame, list[str]]:
    """The cells as text, and the columns of numbers.

    A null is empty, whole numbers have no point, dates are written as ISO 8601 has it.

    Raises:
        TableError: the file is damaged, or a column holds lists, structures or bytes.
    """
    try:
        table = pq.read_table(pa.BufferReader(buffer))
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{place}: is a damaged Parquet file: {error}.") from None
    names = column_names(table.column_names, place, 1)
    columns = [
        _as_text(column, name, place) for column, name in zip(table.columns, names, strict=True)
    ]
    numeric = [
        name
        for name, kind in zip(names, table.schema.types, strict=True)
        if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    ]
    return pa.table(columns, names=names).to_pandas(), numeric


def _as_text(column: pa.ChunkedArray, name: str, place: str) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise TableError(
            f"{place}, column '{name}': holds {kind}, but a cell must be one text, number or date. "
            "Write the column in another form, or leave it out."
        )
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), WHOLE))
        plain = pc.if_else(whole, column, 0).cast(pa.int64(), safe=False).cast(pa.string())
        column = pc.if_else(whole, plain, column.cast(pa.string()))
    elif pa.types.is_timestamp(kind):
        midnight = pc.equal(pc.floor_temporal(column, unit="day"), column)
        dates = pc.all(midnight).as_py() is not False and kind.tz is None
        column = column.cast(pa.date32() if dates else kind)
    try:
        return pc.fill_null(column.cast(pa.string()), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise TableError(
            f"{place}, column '{name}': values of type {kind} cannot be read as text. Write the "
            "column in another form, or leave it out."
        ) from None


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
    return _from_rows(rows, merged, f"{place}, sheet '{sheet.name}'", layout)


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


def _from_rows(
    rows: list[list[Any]], merged: Sequence[Any], place: str, layout: TableLayout
) -> tuple[pd.DataFrame, int, list[str], list[str]]:
    notes = list[str]()
    top = [[cell_text(cell) for cell in row] for row in rows[: max(SEARCHED, layout.header or 0)]]
    at = layout.header - 1 if layout.header is not None else find_header(top)
    if at is not None and at >= len(rows):
        raise TableError(f"{place}: has no row {at + 1}, where [table] expects the header.")
    names = column_names([] if at is None else top[at], place, 1 if at is None else at + 1)
    assert at is not None  # column_names refuses a table without rows
    if at > 0 and layout.header is None:
        notes.append(
            f"{place}: row {at + 1} was taken for the header ({', '.join(names[:3])}, ...), the "
            "rows above it for titles. If that is wrong, set header under [table]."
        )
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
        cells[name] = list(map(cell_text, column))
        if kinds in ({float}, {int, float}):
            numeric.append(name)
        elif float in kinds:  # beside text, whose marks are the schema's
            cells[name] = [
                decimal_text(text) if isinstance(cell, float) else text
                for cell, text in zip(column, cells[name], strict=True)
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
