"""How a table file is laid out: what the reader cannot tell from the file itself.

The table `[table]` of a schema file (`docs/schema.md`) holds these settings; what is not set is
detected. How a single column writes its numbers belongs to its feature (`slimp.data.schema`).
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from slimp.data.schema import TABLE_DEFAULTS
from slimp.data.settings import read_toml
from slimp.errors import TableError
from slimp.sources.parse_cells import points_outside


@dataclass(frozen=True, kw_only=True)
class Join:
    """A further table, whose columns are added to the rows that it is about."""

    on: Mapping[str, str]
    """Column of the table so far -> the column there that holds the same ids, in full a key."""
    file: str | None = None
    """Beside the main table; None: another sheet of the same file."""
    sheet: str | None = None
    columns: tuple[str, ...] | None = None
    """Those to add; None: all."""

    def __post_init__(self) -> None:
        if not self.on:
            raise TableError("a [[table.join]] needs 'on': the column that both tables have.")
        if self.file is None and self.sheet is None:
            raise TableError("a [[table.join]] needs 'file', or 'sheet' of the same file.")
        if self.file is not None and points_outside(self.file):
            raise TableError(
                f"[[table.join]]: '{self.file}' points outside the folder of the data. Copy the "
                "table there, and write its path from that folder on."
            )


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """What a table file looks like. None, or empty: detected, or not there.

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
    images: tuple[str, ...] = ()
    """Columns that each name an image: a row becomes one row per filled cell of them."""
    separator: str | None = None
    """Between several image names in one cell."""
    image_names: str | None = None
    """Names of the images where no column has them: `{column}` stands for that cell, `*` for
    anything. A row becomes one row per image that answers."""
    image_root: str | None = None
    """Start of the paths in the image column that stands for the image folder."""
    row_id: str | None = None
    """Column to make that tells the rows of the table apart, where a row is a lesion without id."""
    drop: tuple[str, ...] = ()
    """Columns that are never read into anything, because they name a person."""
    joins: tuple[Join, ...] = ()

    def __post_init__(self) -> None:
        if self.encoding is not None:
            _check_encoding(self.encoding)
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise TableError(
                f"[table]: delimiter must be one character such as ';', got {self.delimiter!r}."
            )
        if self.header is not None and self.header < 1:
            raise TableError(f"[table]: header is a row, the first being 1; got {self.header}.")
        if self.separator is not None and not self.separator.strip(" "):
            raise TableError(f"[table]: separator must be a mark, got {self.separator!r}.")
        if self.image_names is not None:
            if self.images or self.separator:
                raise TableError("[table]: give 'images' and 'separator', or 'image_names'.")
            self.name_columns  # noqa: B018 - refuses a pattern that cannot be read

    @property
    def name_columns(self) -> tuple[str, ...]:
        """The columns that `image_names` is made of, in order."""
        try:
            parts = list(Formatter().parse(self.image_names or ""))
        except ValueError as error:
            raise TableError(f"[table]: image_names '{self.image_names}': {error}.") from None
        if any(spec or conversion for _, _, spec, conversion in parts):
            raise TableError(f"[table]: image_names '{self.image_names}': write {{column}} only.")
        return tuple(name for _, name, _, _ in parts if name is not None)

    @property
    def name_parts(self) -> tuple[tuple[str, str | None], ...]:
        """`image_names` as (text, the column that follows it, if any)."""
        return tuple((text, name) for text, name, _, _ in Formatter().parse(self.image_names or ""))

    @classmethod
    def from_toml(cls, path: Path) -> TableLayout:
        """The layout in a schema file; `Schema.from_toml` reads the rest of it."""
        content = read_toml(path)
        try:
            return cls.from_dict(content.get("table", {}))
        except TableError as error:
            raise TableError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, content: object) -> TableLayout:
        """The layout from the parsed table `[table]`; `decimal` and `thousands` are the schema's.

        Raises:
            TableError: a key is unknown, or of the wrong type.
        """
        entry = _entry(content, _KEYS | TABLE_DEFAULTS, "[table]")
        joins = entry.get("join", [])
        if not isinstance(joins, list):
            raise TableError("[table]: write a join as [[table.join]], with two brackets.")
        return cls(
            header=_whole_number(entry, "header"),
            images=_names(entry, "images") or (),
            drop=_names(entry, "drop") or (),
            joins=tuple(_join(join) for join in joins),
            **{key: _text(entry, key) for key in _TEXTS},
        )


_TEXTS = ("encoding", "delimiter", "sheet", "separator", "image_names", "image_root", "row_id")
_KEYS = frozenset({*_TEXTS, "header", "images", "drop", "join"})


def _join(content: object) -> Join:
    entry = _entry(content, frozenset({"file", "sheet", "on", "columns"}), "[[table.join]]")
    on = entry.get("on", {})
    on = [on] if isinstance(on, str) else on
    if isinstance(on, list) and all(isinstance(name, str) for name in on):
        on = {name: name for name in on}
    if not isinstance(on, Mapping) or not all(isinstance(name, str) for name in on.values()):
        raise TableError(
            "[[table.join]]: 'on' is a column of both tables, a list of those, or "
            f"{{ column = 'column there' }}; got {on!r}."
        )
    columns = _names(entry, "columns")
    return Join(on=on, file=_text(entry, "file"), sheet=_text(entry, "sheet"), columns=columns)


def _check_encoding(name: str) -> None:
    try:
        known = codecs.lookup(name)
        "".encode(name)  # refuses what is a codec but not of text, such as base64
    except (LookupError, ValueError):
        known = None
    if known is None:
        raise TableError(
            f"[table]: there is no encoding '{name}'. Common ones: utf-8, utf-16, cp1252 (Windows "
            "in Western Europe), cp1250 (in Central Europe), mac-roman."
        )


def _entry(content: object, allowed: frozenset[str], where: str) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise TableError(f"{where} must be a table of settings, got {content!r}.")
    if unknown := sorted(set(content) - allowed):
        raise TableError(
            f"{where}: unknown key '{unknown[0]}'; it has: {', '.join(sorted(allowed))}."
        )
    return content


def _text(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise TableError(f"[table]: '{key}' must be a string, got {value!r}.")
    return value


def _whole_number(entry: Mapping[str, Any], key: str) -> int | None:
    value = entry.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TableError(f"[table]: '{key}' must be a whole number, got {value!r}.")
    return value


def _names(entry: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TableError(f"[table]: '{key}' must be a list of columns, got {value!r}.")
    return tuple(value)
