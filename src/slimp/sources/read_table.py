"""A published table file as text cells, each row with its place in the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from slimp.errors import TableError
from slimp.sources.header import refuse_data_as_header
from slimp.sources.layout import TableLayout
from slimp.sources.level_tables import ASSUMED
from slimp.sources.parse_cells import NUMERIC
from slimp.sources.raw_files import MAX_TABLE_BYTES, Place
from slimp.sources.read_parquet import EMBEDDED, read_parquet
from slimp.sources.read_spreadsheet import decimal_text, read_spreadsheet
from slimp.sources.read_text import read_text

_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""How .xlsx and .ods begin, and how .xls does."""


def read_table(
    path: Path, *, content: bytes | None = None, layout: TableLayout | None = None
) -> pd.DataFrame:
    """Every cell as text, never null; the index holds (file name, row) as a spreadsheet counts.

    A text file (CSV, TSV, ...), Parquet or a spreadsheet, recognised by how the file begins. Rows
    without any content are left out; the others keep their numbers. What had to be assumed is
    listed in `attrs["assumed"]`, for the import report.

    Args:
        path: of the file; only its name counts where `content` is given.
        content: the file's bytes, where it lies within an archive.
        layout: what is not to be detected; its joins and image columns are not this reader's.

    Raises:
        TableError: the file is missing or damaged, is no table, its encoding is unknown, it
            has no rows or no header, names two columns alike, or has a row with more or fewer
            cells than the header.
    """
    layout = layout or TableLayout()
    buffer, place = _content(path, content), str(path)
    head = buffer.slice(0, min(4, buffer.size)).to_pybytes()
    notes, numeric, embedded, header = list[str](), list[str](), None, 1
    if head == b"PAR1":
        table, numeric, embedded = read_parquet(buffer, place)
    elif head in _SPREADSHEETS:
        table, header, notes, numeric = read_spreadsheet(buffer.to_pybytes(), place, layout)
    else:
        table, header, notes = read_text(buffer, place, layout)
    if head != b"PAR1" and layout.header is None:
        refuse_data_as_header(table, place, header)
    first = header + 1
    rows = pd.MultiIndex.from_product([[path.name], range(first, len(table) + first)])
    table = table.set_axis(rows, axis="index")
    filled = (table != "").any(axis=1)
    table = table if filled.all() else table[filled]
    if table.empty:
        raise TableError(f"{place}: has no rows, only a header.")
    notes = [note.replace(place, path.name) for note in notes]
    table.attrs |= {ASSUMED: notes, NUMERIC: numeric, EMBEDDED: embedded}
    return table


def table_at(place: Place, number: int, layout: TableLayout | None = None) -> pd.DataFrame:
    """The table in that file of a place, in a zip or not, as `read_table` gives it.

    Raises:
        TableError: as `read_table`; or it is damaged in its zip.
    """
    path = place.shown(number)
    if not place.inside_zip(number):
        return read_table(path, layout=layout)
    try:
        content = place.read(number, limit=MAX_TABLE_BYTES)
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error}. Download it again.") from None
    return read_table(path, content=content, layout=layout)


def join_tables(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several tables under the columns of all; a cell that a table lacks is empty."""
    numeric = [set(table.attrs.get(NUMERIC, ())) for table in tables]
    everywhere = set.intersection(*numeric)
    plain = [
        table.assign(**{name: table[name].map(decimal_text) for name in sorted(own - everywhere)})
        for table, own in zip(tables, numeric, strict=True)
    ]
    joined = pd.concat(plain).fillna("")
    joined.attrs[ASSUMED] = [note for table in tables for note in table.attrs.get(ASSUMED, [])]
    joined.attrs[NUMERIC] = sorted(everywhere)
    embedded = {table.attrs.get(EMBEDDED) for table in tables}
    joined.attrs[EMBEDDED] = embedded.pop() if len(embedded) == 1 else None
    return joined


def _content(path: Path, content: bytes | None) -> pa.Buffer:
    if content is not None:
        return pa.py_buffer(content)
    try:
        if path.is_dir():
            raise TableError(f"{path}: is a folder, not a table.")
        if path.stat().st_size == 0:  # cannot be mapped
            return pa.py_buffer(b"")
        with pa.memory_map(str(path)) as file:
            return file.read_buffer()
    except FileNotFoundError:
        raise TableError(f"{path}: no such table.") from None
