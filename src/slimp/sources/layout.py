"""How a table becomes a row per image: what `[table]` of a schema file may say.

The same section serves anyone's own table and each published layout of a public dataset. What is
not set is detected, or not done. How a single column writes its numbers belongs to its feature.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Literal

from slimp.data.schema import TABLE_DEFAULTS
from slimp.data.settings import as_table, as_texts, read_settings
from slimp.errors import TableError
from slimp.sources.parse_cells import points_outside


@dataclass(frozen=True, kw_only=True)
class Join:
    """A further table, whose columns are added to the rows that it is about."""

    on: Mapping[str, str] = field(default_factory=dict)
    """Column of the table so far -> the column there that holds the same ids, in full a key."""
    by: Literal["row"] | None = None
    """`row`: the further table lists rows of the main table by number."""
    first: int = 0
    """Number of the first row, below the header, where rows are listed by number."""
    file: tuple[str, ...] = ()
    """Paths beside the main table, or ends of paths with `*` within a name; the first that is
    there counts. Empty: another sheet of the same file."""
    sheet: str | None = None
    columns: tuple[str, ...] | None = None
    """Those to add; None: all."""
    set: Mapping[str, str] = field(default_factory=dict)
    """Columns that the rows listed get, each with its cell, as in split = "train"."""
    needed: bool = True
    """Whether a layout is not this one, and an import is refused, without it."""

    def __post_init__(self) -> None:
        if bool(self.on) == (self.by is not None):
            raise TableError("a [[table.join]] needs 'on', the column that both tables have, or by")
        if not self.file and self.sheet is None:
            raise TableError("a [[table.join]] needs 'file', or 'sheet' of the same file.")
        if outside := [file for file in self.file if points_outside(file)]:
            raise TableError(
                f"[[table.join]]: '{outside[0]}' points outside the folder of the data. Copy the "
                "table there, and write its path from that folder on."
            )


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which rows are of this dataset, where a table mixes several."""

    column: str
    begins: str
    """Cells of the rows that stay begin so."""


@dataclass(frozen=True, kw_only=True)
class Derive:
    """A column of the schema that releases of a dataset hold under several names."""

    column: str
    groups: tuple[tuple[str, ...], ...]
    """The first group with a filled cell counts; within it, row by row, the first filled cell."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Published cell -> the cell here. If given, other cells of other columns do not count."""


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """What a table file looks like and what is made of it, in the order of the fields.

    Raises:
        TableError: a setting makes no sense.
    """

    encoding: str | None = None
    """As Python calls it; detected: UTF-8, UTF-16, else Windows-1252 with a note."""
    delimiter: str | None = None
    """Detected: that of `, ; tab |` which cuts most rows into equally many cells."""
    header: int | None = None
    """Row that names the columns, the first of the file being 1."""
    sheet: str | None = None
    """Of a spreadsheet with several."""
    joins: tuple[Join, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    """Published column -> its name here."""
    keep: Keep | None = None
    derive: tuple[Derive, ...] = ()
    row_id: str | None = None
    """Column to make that tells the rows of the table apart, where a row is a lesion without id."""
    images: tuple[str, ...] = ()
    """Columns that each name an image: a row becomes one row per filled cell of them."""
    separator: str | None = None
    """Between several image names in one cell."""
    image_names: str | None = None
    """Names of the images where no column has them: `{column}` stands for that cell, `{column:06}`
    for its number with zeros up to six digits, `*` for anything: a row becomes one per image."""
    image_root: str | None = None
    """Start of the paths in the image column that stands for the image folder."""
    drop: tuple[str, ...] = ()
    """Columns that are never read into anything, because they name a person."""

    def __post_init__(self) -> None:
        try:
            "".encode(self.encoding or "utf-8")
        except (LookupError, ValueError):
            raise TableError(
                f"[table]: there is no encoding '{self.encoding}'. Common ones: utf-8, utf-16, "
                "cp1252 (Windows in Western Europe), cp1250 (in Central Europe), mac-roman."
            ) from None
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise TableError(
                f"[table]: delimiter must be one character such as ';', got {self.delimiter!r}."
            )
        if self.header is not None and self.header < 1:
            raise TableError(f"[table]: header is a row, the first being 1; got {self.header}.")
        if self.separator is not None and not self.separator.strip(" "):
            raise TableError(f"[table]: separator must be a mark, got {self.separator!r}.")
        if self.name_parts and (self.images or self.separator):
            raise TableError("[table]: give 'images' and 'separator', or 'image_names'.")

    @property
    def name_parts(self) -> tuple[tuple[str, str | None, int], ...]:
        """`image_names` as (text, the column that follows it, if any, digits of its number)."""
        try:
            parts = list(Formatter().parse(self.image_names or ""))
        except ValueError as error:
            raise TableError(f"[table]: image_names '{self.image_names}': {error}.") from None
        for _, _, width, conversion in parts:
            if conversion or (width and not re.fullmatch("0[1-9][0-9]?", width)):
                raise TableError(
                    f"[table]: image_names '{self.image_names}': write {{column}}, or "
                    "{column:06} for a number with zeros in front, of six digits in all."
                )
        return tuple((literal, name, int(width or 0)) for literal, name, width, _ in parts)

    @classmethod
    def from_dict(cls, content: object) -> TableLayout:
        """The layout from the parsed table `[table]`.

        Raises:
            TableError: a key is unknown, or of the wrong type.
        """
        entry = {k: v for k, v in as_table(content, "[table]").items() if k not in TABLE_DEFAULTS}
        joins = entry.pop("join", [])
        if not isinstance(joins, list):
            raise TableError("[table]: write a join as [[table.join]], with two brackets.")
        return read_settings(cls, entry, "[table]", joins=tuple(map(_join, joins)))


def _join(content: object) -> Join:
    where = "[[table.join]]"
    entry = dict(as_table(content, where))
    for key in ("on", "file"):  # one name, a list of names or, as to ids, { here = "there" }
        if isinstance(entry.get(key), str):
            entry[key] = [entry[key]]
    if isinstance(entry.get("on"), list):
        entry["on"] = {name: name for name in as_texts(entry["on"], f"{where}: 'on'")}
    return read_settings(Join, entry, where)
