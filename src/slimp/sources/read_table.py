"""A published table file as text cells, each row with its place in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from slimp.errors import TableError
from slimp.sources.header import refuse_data_as_header
from slimp.sources.layout import TableLayout
from slimp.sources.level_tables import ASSUMED
from slimp.sources.read_parquet import EMBEDDED, read_parquet
from slimp.sources.read_spreadsheet import read_spreadsheet
from slimp.sources.read_text import read_text

_SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""How .xlsx and .ods begin, and how .xls does."""
_ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".parquet", ".xlsx", ".xls", ".ods")
"""Of files that are named where another one is missing."""


def read_table(
    path: Path, *, content: bytes | None = None, layout: TableLayout | None = None
) -> pd.DataFrame:
    """Every cell as text, never null; the index holds (file name, row) as a spreadsheet counts.

    Letters are composed (NFC), so that two ways to write an accent are not two categories.
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
    try:
        content = path.read_bytes() if content is None else content
    except OSError as error:
        near = sorted(x.name for x in path.parent.glob("*.*") if x.suffix.lower() in _ENDINGS)
        hint = f" In {path.parent}: {', '.join(near[:5])}." if near else ""
        reason = f"there is no table to be read ({error.strerror})."
        raise TableError(f"{path}: {reason}{hint}") from None
    place, notes, embedded = str(path), list[str](), None
    if is_parquet := content.startswith(b"PAR1"):
        table, embedded = read_parquet(content, place)
    elif content.startswith(_SPREADSHEETS):
        table, notes = read_spreadsheet(content, place, layout)
    else:
        table, notes = read_text(content, place, layout)
    filled = (table != "").any(axis=1)
    if not filled.any():
        raise TableError(f"{place}: has no rows, only a header.")
    header = int(table.index[0]) - 1
    if not is_parquet and layout.header is None:
        refuse_data_as_header(table, place, header)
    if header > 1 and layout.header is None:
        notes.append(
            f"row {header} was taken for the header ({', '.join(table.columns[:3])}, ...), the "
            "rows above it for titles. If that is wrong, set header under [table]."
        )
    table = table if filled.all() else table[filled]
    table.index = pd.MultiIndex.from_product([[path.name], table.index])
    table.attrs = {ASSUMED: [f"{path.name}: {note}" for note in notes], EMBEDDED: embedded}
    return table


def join_tables(by_path: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of several tables under the columns of all; a cell that a table lacks is empty.

    Where two files have one name, the index holds their paths instead, so that no row is another.

    Raises:
        TableError: images that lie in two of the files have one name, or columns differ in letter
            case alone.
    """
    tables = list(by_path.values())
    if len(tables) == 1:
        return tables[0]
    if len({table.index[0][0] for table in tables}) < len(tables):
        tables = [
            table.set_axis(pd.MultiIndex.from_product([[path], table.index.get_level_values(1)]))
            for path, table in by_path.items()
        ]
    joined = pd.concat(tables).fillna("")
    columns = {table.attrs[EMBEDDED] for table in tables}
    column = columns.pop() if len(columns) == 1 else None
    if column is not None and (twice := joined[column].duplicated()).any():
        file, name = joined.index[int(twice.argmax())][0], joined[column][twice].iloc[0]
        raise TableError(
            f"{file}: holds an image '{name}', as another file does. Give the images different "
            f"paths in column '{column}', or import one file at a time with --table."
        )
    notes = [note for table in tables for note in table.attrs[ASSUMED]]
    for table in tables:
        own = {str(name).casefold(): name for name in table}
        if lacking := [str(name) for name in joined if name not in table]:
            if twin := next((name for name in lacking if name.casefold() in own), None):
                raise TableError(
                    f"{table.index[0][0]}: has a column '{own[twin.casefold()]}', other files "
                    f"'{twin}'. Write them alike."
                )
            named = ", ".join(f"'{n}'" for n in lacking[:5]) + ", ..." * (len(lacking) > 5)
            notes.append(
                f"{table.index[0][0]}: has no column {named}, as other files have; its cells there "
                "are empty."
            )
    joined.attrs = {ASSUMED: notes, EMBEDDED: column}
    return joined
