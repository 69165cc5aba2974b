"""Tables in text files: encoding, delimiter and header are found, and every cell is text."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
from pyarrow.csv import ConvertOptions, InvalidRow, ParseOptions, ReadOptions, read_csv

from slimp.errors import TableError
from slimp.sources.header import SEARCHED, column_names, find_header
from slimp.sources.layout import TableLayout

DELIMITERS = (",", ";", "\t", "|")
BLOCK_BYTES = 1 << 24
"""Read at a time; a row is never longer."""
SAMPLE_BYTES = 1 << 18
"""From the top, to find delimiter and header in."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where a table starts in a text, and how it is cut."""

    delimiter: str
    names: list[str]
    row: int
    """Of the header, as a person counts."""
    skipped: int
    """Bytes before the header."""


def read_text(
    buffer: pa.Buffer, place: str, layout: TableLayout
) -> tuple[pd.DataFrame, int, list[str]]:
    """Text cells, the row of the header, and notes of what was assumed.

    Raises:
        TableError: as `reading.read_table`.
    """
    text, notes = as_utf8(buffer, place, layout.encoding)
    found = _find_table(text, place, layout)
    if found.row > 1 and layout.header is None:
        names = ", ".join(found.names[:3])
        notes.append(
            f"{place}: row {found.row} was taken for the header ({names}, ...), the rows above it "
            "for titles. If that is wrong, set header under [table]."
        )
    return _read_cells(text.slice(found.skipped), place, found), found.row, notes


def _read_cells(text: pa.Buffer, place: str, found: Found) -> pd.DataFrame:
    misfits: list[InvalidRow] = []

    def skip(row: InvalidRow) -> str:
        misfits.append(row)
        return "skip"

    places = [str(number) for number in range(len(found.names))]  # names may be empty
    try:
        cells = read_csv(
            pa.BufferReader(text),
            read_options=ReadOptions(
                use_threads=False,  # or misfits would not know their row
                block_size=BLOCK_BYTES,
                column_names=places,
            ),
            parse_options=ParseOptions(
                delimiter=found.delimiter,
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
        row = (misfits[0].number or 0) + found.row - 1
        raise TableError(
            f"{place}, row {row}: has {misfits[0].actual_columns} cells, but the "
            f"header names {len(found.names)} columns (delimiter {found.delimiter!r}). A cell that "
            "holds the delimiter, a quote or a line break must stand in double quotes."
        )
    table: pd.DataFrame = cells.slice(1).to_pandas().set_axis(found.names, axis="columns")
    _check_last_quote(text, table, place, found.row)
    return table


def _find_table(text: pa.Buffer, place: str, layout: TableLayout) -> Found:
    whole = text.size <= SAMPLE_BYTES
    sample = text.slice(0, min(text.size, SAMPLE_BYTES)).to_pybytes().decode("utf-8", "ignore")
    if not whole and "\n" in sample:
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
    at = layout.header - 1 if layout.header is not None else find_header(rows)
    if at is not None and at >= len(rows):
        raise TableError(f"{place}: has no row {at + 1}, where [table] expects the header.")
    names = column_names([] if at is None else rows[at], place, 1 if at is None else at + 1)
    assert at is not None  # column_names refuses a table without rows
    lines = io.StringIO(sample, newline="")
    above = records[at - 1][1] if at else 0
    skipped = sum(len(lines.readline().encode()) for _ in range(above))
    return Found(delimiter=mark, names=names, row=at + 1, skipped=skipped)


def _records(sample: str, mark: str, most: int) -> Iterator[tuple[list[str], int]]:
    """The first rows, each with the number of lines read by its end."""
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=mark)
    for cells in reader:
        yield cells, reader.line_num
        most -= 1
        if most <= 0:
            return


def _find_delimiter(sample: str) -> str:
    """The mark that cuts nearly all rows into equally many cells; of several, into most."""

    def fitness(mark: str) -> tuple[bool, int]:
        try:
            widths = [len(cells) for cells, _ in _records(sample, mark, SEARCHED) if any(cells)]
        except csv.Error:
            return False, 0
        if not widths:
            return False, 0
        width, times = max(Counter(widths).items(), key=lambda item: (item[1], item[0]))
        return width > 1 and times >= 0.9 * len(widths), width

    return max(DELIMITERS, key=fitness)


def _check_last_quote(text: pa.Buffer, table: pd.DataFrame, place: str, header: int) -> None:
    """Refuses a quote that was never closed: it swallows the rest of the file."""
    if table.empty or "\n" not in str(table.iloc[-1, -1]):
        return
    if not text.slice(max(0, text.size - 4096)).to_pybytes().rstrip().endswith(b'"'):
        raise TableError(
            f"{place}, row {header + len(table)}: a double quote is opened and never closed. "
            "Close it, or double it if it is part of the text."
        )


def as_utf8(buffer: pa.Buffer, place: str, encoding: str | None) -> tuple[pa.Buffer, list[str]]:
    """The text in UTF-8 without a byte-order mark, and a note if its encoding is a guess.

    The note is stored in the cohort, so it quotes no cell: those may name people.

    Raises:
        TableError: it is no text, or in an encoding that cannot be told.
    """
    head = buffer.slice(0, min(4096, buffer.size)).to_pybytes()
    marked = next(((mark, name) for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), None)
    if encoding is not None:
        text = _recode(buffer, encoding, place)
        return (text.slice(3) if text.slice(0, 3).to_pybytes() == codecs.BOM_UTF8 else text), []
    if marked is not None and marked[1] != "utf-8":
        return _recode(buffer.slice(len(marked[0])), marked[1], place), []
    buffer = buffer if marked is None else buffer.slice(len(marked[0]))
    if head.count(0) > len(head) / 4:  # Latin letters in UTF-16 have a 0 in every other byte
        little = head[1::2].count(0) >= head[0::2].count(0)
        return _recode(buffer, "utf-16-le" if little else "utf-16-be", place), []
    fault = _first_fault(buffer, "utf-8")
    if fault is None:
        return buffer, []
    if b"\0" in head:
        raise TableError(f"{place}: is not a table: neither text nor Parquet nor a spreadsheet.")
    _refuse_broken_utf8(buffer, place, fault)
    if (strange := _first_fault(buffer, "cp1252")) is not None:
        raise TableError(
            f"{place}: is neither UTF-8 nor Windows-1252 text ({_byte(buffer, strange)}). Save it "
            "as 'CSV UTF-8', or name its encoding under [table], as in encoding = \"cp850\"."
        )
    text = _recode(buffer, "cp1252", place)
    return text, [
        f"{place}: is not UTF-8 ({_byte(buffer, fault)}); it was read as Windows-1252, which "
        "contains Latin-1. If that is wrong, set encoding under [table]."
    ]


def _chunks(buffer: pa.Buffer) -> Iterator[tuple[int, memoryview]]:
    view = memoryview(buffer)
    for start in range(0, len(view), 1 << 20):
        yield start, view[start : start + (1 << 20)]


def _first_fault(buffer: pa.Buffer, encoding: str) -> int | None:
    """Position of the first byte that is not of that encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    for start, chunk in _chunks(buffer):
        kept = len(decoder.getstate()[0])
        try:
            decoder.decode(chunk, final=start + len(chunk) == buffer.size)
        except UnicodeDecodeError as error:
            return start - kept + error.start
    return None


def _recode(buffer: pa.Buffer, encoding: str, place: str) -> pa.Buffer:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        parts = [decoder.decode(chunk).encode() for _, chunk in _chunks(buffer)]
        parts.append(decoder.decode(b"", final=True).encode())
    except (UnicodeError, NotImplementedError) as error:
        reason = getattr(error, "reason", error)
        raise TableError(
            f"{place}: is not text in the encoding {encoding} ({reason}). Save it as 'CSV UTF-8', "
            "or name another encoding under [table]."
        ) from None
    return pa.py_buffer(b"".join(parts))


def _refuse_broken_utf8(buffer: pa.Buffer, place: str, fault: int) -> None:
    """Refuses UTF-8 with a few broken bytes: read as Windows-1252, all its letters would be."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    good = bad = 0
    for _, chunk in _chunks(buffer):
        text = decoder.decode(chunk)
        broken = text.count("\N{REPLACEMENT CHARACTER}")
        good += len(re.findall(r"[^\x00-\x7f]", text)) - broken
        bad += broken
    if good > bad:
        raise TableError(
            f"{place}: is UTF-8 text, but for {bad} place(s): {_byte(buffer, fault)}. Repair it, "
            'or name its encoding under [table], as in encoding = "cp1252".'
        )


def _byte(buffer: pa.Buffer, position: int) -> str:
    before = buffer.slice(0, position).to_pybytes()
    value = buffer.slice(position, 1).to_pybytes()[0]
    return f"line {before.count(bytes([10])) + 1} holds the byte 0x{value:02x}"
