"""Tables in text files: encoding, delimiter and header are found, and every cell is text."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator

import pandas as pd
import pyarrow as pa
from pyarrow.csv import ConvertOptions, InvalidRow, ParseOptions, ReadOptions, read_csv

from slimp.errors import TableError
from slimp.sources.header import SEARCHED, find_header, header_note
from slimp.sources.layout import TableLayout

DELIMITERS = (",", ";", "\t", "|")
BLOCK_BYTES = 1 << 24
"""Read at a time; a row is never longer."""
SAMPLE_BYTES = 1 << 18
"""From the top, to find delimiter and header in."""
BYTE_ORDER_MARKS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def read_text(
    buffer: pa.Buffer, place: str, layout: TableLayout
) -> tuple[pd.DataFrame, int, list[str]]:
    """Text cells, the row of the header, and notes of what was assumed.

    Raises:
        TableError: as `read_table.read_table`.
    """
    text, notes = as_utf8(buffer, place, layout.encoding)
    sample = text.slice(0, min(text.size, SAMPLE_BYTES)).to_pybytes().decode("utf-8", "ignore")
    if text.size > SAMPLE_BYTES and "\n" in sample:
        sample = sample[: sample.rindex("\n") + 1]
    hint = re.match(r'"?sep=(.)"?\r?\n', sample)  # Excel's own way to name the delimiter
    try:
        mark = layout.delimiter or (hint[1] if hint else _find_delimiter(sample))
        records = list(_records(sample, mark, most=max(SEARCHED, layout.header or 0)))
    except csv.Error as error:
        raise TableError(f"{place}: the header cannot be read ({error}).") from None
    rows = [cells for cells, _ in records]
    if hint and layout.delimiter is None and rows:
        rows[0] = []
    at, names = find_header(rows, place, layout.header)
    above = records[at - 1][1] if at else 0
    lines = io.StringIO(sample, newline="")
    skipped = sum(len(lines.readline().encode()) for _ in range(above))
    table = _read_cells(text.slice(skipped), mark, names, place, at + 1)
    return table, at + 1, notes + (header_note(place, at, names) if layout.header is None else [])


def as_utf8(buffer: pa.Buffer, place: str, encoding: str | None) -> tuple[pa.Buffer, list[str]]:
    """The text in UTF-8 without a byte-order mark, and a note if its encoding is a guess.

    The note is stored in the cohort, so it quotes no cell: those may name people.

    Raises:
        TableError: it is no text, or in an encoding that is not recognised.
    """
    view = memoryview(buffer).cast("B")
    head = bytes(view[:4096])
    named = encoding or next((n for mark, n in BYTE_ORDER_MARKS if head.startswith(mark)), None)
    if named is None and head.count(0) > len(head) / 4:
        # Latin letters in UTF-16 have a 0 in every other byte.
        little = head[1::2].count(0) >= head[0::2].count(0)
        named = "utf-16-le" if little else "utf-16-be"
    try:
        text = str(view, named or "utf-8")
        if named is None:
            return buffer.slice(3 * head.startswith(codecs.BOM_UTF8)), []
        return pa.py_buffer(text.removeprefix("\ufeff").encode()), []
    except UnicodeDecodeError as error:
        if named is None:
            return _western(view, place, error.start)
        reason = error.reason
    except (UnicodeError, NotImplementedError) as error:
        reason = str(error)
    raise TableError(
        f"{place}: is not text in the encoding {named} ({reason}). Save it as 'CSV UTF-8', "
        "or name another encoding under [table]."
    )


def _western(view: memoryview, place: str, fault: int) -> tuple[pa.Buffer, list[str]]:
    """Text that is not UTF-8 as Windows-1252, unless it is UTF-8 with a few broken bytes."""

    def byte(position: int) -> str:
        line = bytes(view[:position]).count(b"\n") + 1
        return f"line {line} holds the byte 0x{view[position]:02x}"

    if b"\0" in bytes(view[:4096]):
        raise TableError(f"{place}: is not a table: neither text nor Parquet nor a spreadsheet.")
    lossy = str(view, "utf-8", "replace")
    broken = lossy.count("\N{REPLACEMENT CHARACTER}")
    if len(lossy) - len(lossy.encode("ascii", "ignore")) > 2 * broken:
        raise TableError(
            f"{place}: is UTF-8 text, but for {broken} place(s): {byte(fault)}. Repair it, "
            'or name its encoding under [table], as in encoding = "cp1252".'
        )
    try:
        text = str(view, "cp1252")
    except UnicodeDecodeError as error:
        raise TableError(
            f"{place}: is neither UTF-8 nor Windows-1252 text ({byte(error.start)}). Save it as "
            "'CSV UTF-8', or name its encoding under [table], as in encoding = \"cp850\"."
        ) from None
    note = (
        f"{place}: is not UTF-8 ({byte(fault)}); it was read as Windows-1252, which contains "
        "Latin-1. If that is wrong, set encoding under [table]."
    )
    return pa.py_buffer(text.encode()), [note]


def _records(sample: str, mark: str, most: int) -> Iterator[tuple[list[str], int]]:
    """The first rows, each with the number of lines read by its end."""
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=mark)
    for cells, _ in zip(reader, range(most), strict=False):
        yield cells, reader.line_num


def _find_delimiter(sample: str) -> str:
    """The mark that cuts nearly all rows into equally many cells; of several, into most."""

    def fitness(mark: str) -> tuple[bool, int]:
        try:
            widths = [len(cells) for cells, _ in _records(sample, mark, SEARCHED) if any(cells)]
        except csv.Error:
            widths = []
        if not widths:
            return False, 0
        width, times = max(Counter(widths).items(), key=lambda item: (item[1], item[0]))
        return width > 1 and times >= 0.9 * len(widths), width

    return max(DELIMITERS, key=fitness)


def _read_cells(
    text: pa.Buffer, mark: str, names: list[str], place: str, header: int
) -> pd.DataFrame:
    """The cells below the header; pandas would fill short rows in silence, so pyarrow reads."""
    misfits: list[InvalidRow] = []

    def skip(row: InvalidRow) -> str:
        misfits.append(row)
        return "skip"

    places = [str(number) for number in range(len(names))]  # names may be empty
    try:
        cells = read_csv(
            pa.BufferReader(text),
            read_options=ReadOptions(
                use_threads=False,  # or misfits would not know their row
                block_size=BLOCK_BYTES,
                column_names=places,
            ),
            parse_options=ParseOptions(
                delimiter=mark,
                newlines_in_values=True,
                ignore_empty_lines=False,  # or the rows below would be misnumbered
                invalid_row_handler=skip,
            ),
            convert_options=ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise TableError(f"{place}: cannot be read as a table: {error}.") from None
    if misfits:
        row = (misfits[0].number or 0) + header - 1
        raise TableError(
            f"{place}, row {row}: has {misfits[0].actual_columns} cells, but the "
            f"header names {len(names)} columns (delimiter {mark!r}). A cell that "
            "holds the delimiter, a quote or a line break must stand in double quotes."
        )
    table: pd.DataFrame = cells.slice(1).to_pandas().set_axis(names, axis="columns")
    if len(table) and "\n" in str(table.iloc[-1, -1]):
        end = text.slice(max(0, text.size - 4096)).to_pybytes()
        if not end.rstrip().endswith(b'"'):  # it swallowed the rest of the file
            raise TableError(
                f"{place}, row {header + len(table)}: a double quote is opened and never closed. "
                "Close it, or double it if it is part of the text."
            )
    return table
