"""Tables in text files: encoding, delimiter and header are found, and every cell is text."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter
from itertools import islice

import pandas as pd
import pyarrow as pa
from pyarrow.csv import ConvertOptions, InvalidRow, ParseOptions, ReadOptions, read_csv

from slimp.errors import TableError
from slimp.sources.header import SEARCHED, find_header
from slimp.sources.layout import TableLayout

DELIMITERS = (",", ";", "\t", "|")
BLOCK_BYTES = 1 << 24
"""Read at a time; a row is never longer."""
SAMPLE_BYTES = 1 << 18
"""From the top, to find delimiter and header in."""


def read_text(content: bytes, place: str, layout: TableLayout) -> tuple[pd.DataFrame, list[str]]:
    """Text cells, by the number of their row, and notes of what was assumed."""
    text, notes = _as_utf8(content, place, layout.encoding)
    sample = text[:SAMPLE_BYTES].decode("utf-8", "ignore")
    hint = re.match(r'"?sep=(.)"?\r?\n', sample)  # Excel's own way to name the delimiter
    try:
        mark = layout.delimiter or (hint[1] if hint else _find_delimiter(sample))
        rows = _first_rows(sample, mark, max(SEARCHED, layout.header or 0))
    except csv.Error as error:
        raise TableError(f"{place}: the header cannot be read ({error}).") from None
    if hint:
        rows[0] = []
    at, names = find_header(rows, place, layout.header)
    return _read_cells(text, mark, names, at + 1, place), notes


def _as_utf8(content: bytes, place: str, encoding: str | None) -> tuple[bytes, list[str]]:
    """The text in UTF-8 without a byte-order mark, and a note if its encoding is a guess.

    The note is stored in the cohort, so it quotes no cell: those may name people.
    """
    if encoding is None and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    notes = list[str]()
    try:
        text = content.decode(encoding or "utf-8").removeprefix("\ufeff")
        recoded = unicodedata.normalize("NFC", text).encode()
    except (UnicodeError, NotImplementedError) as error:
        if encoding is not None:
            raise TableError(
                f"{place}: is not text in the encoding {encoding} ({error}). Save it as "
                "'CSV UTF-8', or name another encoding under [table]."
            ) from None
        text, note = _western(content, place)
        recoded, notes = unicodedata.normalize("NFC", text).encode(), [note]
    if re.match(r"\s*(?:<(?:!doctype|\?xml|html|table)|[\[{]\s*[\"{\[])", text, re.IGNORECASE):
        raise TableError(
            f"{place}: is HTML, XML or JSON, whatever its name. Save it as 'CSV UTF-8'."
        )
    if "\0" in text:
        raise TableError(
            f"{place}: is not a table: neither text nor Parquet nor a spreadsheet. If it is "
            'UTF-16 without a mark, name its encoding under [table]: encoding = "utf-16-le".'
        )
    return recoded, notes


def _western(content: bytes, place: str) -> tuple[str, str]:
    """Text that is not UTF-8 as Windows-1252, unless it is UTF-8 with a few broken bytes."""
    lossy = content.decode("utf-8", "replace")
    broken = lossy.count("\N{REPLACEMENT CHARACTER}")
    special = len(lossy) - len(lossy.encode("ascii", "ignore"))
    fault = len(lossy.partition("\N{REPLACEMENT CHARACTER}")[0].encode())
    line = content.count(b"\n", 0, fault) + 1
    where = f"line {line} holds the byte 0x{content[fault]:02x}"
    try:
        if special > 2 * broken:
            raise UnicodeError
        note = f"is not UTF-8 ({where}); it was read as Windows-1252, which contains Latin-1."
        return content.decode("cp1252"), f"{note} If that is wrong, set encoding under [table]."
    except UnicodeError:
        raise TableError(
            f"{place}: is neither UTF-8 nor Windows-1252 text ({where}). Save it as 'CSV UTF-8', "
            'or name its encoding under [table], as in encoding = "cp850".'
        ) from None


def _first_rows(sample: str, mark: str, most: int) -> list[list[str]]:
    return list(islice(csv.reader(io.StringIO(sample, newline=""), delimiter=mark), most))


def _find_delimiter(sample: str) -> str:
    """The mark that cuts nearly all rows into equally many cells; of several, into most.

    One that cuts all rows so goes first: decimal commas are in all rows but the header.
    """

    def fitness(mark: str) -> tuple[bool, bool, int]:
        try:
            widths = Counter(
                len(cells) for cells in _first_rows(sample, mark, SEARCHED) if any(cells)
            )
        except csv.Error:
            return False, False, 0
        width, times = max(widths.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
        fits = width > 1 and times >= 0.9 * widths.total()
        return fits, fits and times == widths.total(), width

    return max(DELIMITERS, key=fitness)


def _read_cells(text: bytes, mark: str, names: list[str], header: int, place: str) -> pd.DataFrame:
    """The cells below the header; pandas would fill short rows in silence, so pyarrow reads."""
    misfits: list[InvalidRow] = []

    def skip(row: InvalidRow) -> str:
        misfits.append(row)
        return "skip"

    try:
        cells = read_csv(
            pa.BufferReader(text),
            read_options=ReadOptions(
                use_threads=False,  # or misfits would not know their row
                block_size=BLOCK_BYTES,
                column_names=names,
                skip_rows_after_names=header,
            ),
            parse_options=ParseOptions(
                delimiter=mark,
                newlines_in_values=True,
                ignore_empty_lines=False,  # or the rows below would be misnumbered
                invalid_row_handler=skip,
            ),
            convert_options=ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise TableError(f"{place}: cannot be read as a table: {error}.") from None
    if misfits:
        raise TableError(
            f"{place}, row {misfits[0].number}: has {misfits[0].actual_columns} cells, but the "
            f"header names {len(names)} columns (delimiter {mark!r}). A cell that "
            "holds the delimiter, a quote or a line break must stand in double quotes; if another "
            "row is the header, set header under [table]."
        )
    table: pd.DataFrame = cells.to_pandas()
    if b'="' in text:  # how some programs keep Excel from changing an id: ="007"
        table = table.replace(r'^="(.*)"$', r"\1", regex=True)
    table.index += header + 1
    unclosed = len(table) and "\n" in str(table.iloc[-1, -1])
    if unclosed and not text[-4096:].rstrip().endswith(b'"'):
        raise TableError(
            f"{place}, row {table.index[-1]}: a double quote is opened and never closed. "
            "Close it, or double it if it is part of the text."
        )
    return table
