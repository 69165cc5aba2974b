"""A table, as it was read, becomes a table with a row per image and the columns of its schema.

Text in, text out; rows keep the file and number that a person sees, so that messages can name
them. What was done is noted in `attrs`, beside what was assumed.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from fnmatch import translate
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from slimp.errors import TableError
from slimp.sources.joins import join_table
from slimp.sources.layout import Derive, Join, Keep, TableLayout
from slimp.sources.level_tables import ASSUMED
from slimp.sources.parse_cells import JOINED, as_whole, fold, image_key, require_columns

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
ReadJoin: TypeAlias = Callable[[Join], pd.DataFrame | None]
"""The table of a join, as `read_table` gives it; None: it is not there, and need not be."""


def arrange(
    table: pd.DataFrame,
    layout: TableLayout,
    image: str,
    *,
    read_join: ReadJoin,
    files: Sequence[str] = (),
    roots: Sequence[str] = (),
) -> pd.DataFrame:
    """The table with the further tables' columns, a row per image, and a column called `image`.

    Args:
        table: as `read_table` gives it.
        layout: what to do.
        image: column that names the image then.
        read_join: reads a further table.
        files: paths of the image files from the image folder on.
        roots: absolute paths of the folder of the data; in the image column they are cut off.

    Raises:
        TableError: a column is not there, or the ids of a further table are no key.
    """
    table, attrs, notes = _joined(table, layout, read_join)
    if layout.keep is not None:
        table, note = _keep(table, layout.keep)
        notes += note
    for rule in layout.derive:
        table, note = _derive(table, rule)
        notes += note
    count = len(table)
    if layout.row_id is not None:
        if layout.row_id in table:
            raise TableError(
                f"{table.index[0][0]}: there is a column '{layout.row_id}' already; give row_id "
                "under [table] another name."
            )
        numbers = [str(row) for row in table.index.get_level_values(-1)]
        table = table.assign(**{layout.row_id: pd.array(numbers, dtype="str")})
    if layout.image_names is not None:
        table, note = _name_images(table, layout, image, files)
        notes += note
    elif layout.images or layout.separator:
        table, note = _row_per_image(table, layout, image)
        notes += note
    if len(table) != count:
        notes.append(f"{count} rows of the table became {len(table)}, one per image.")
    if image in table:
        table = table.assign(**{image: _from_the_folder_on(table[image], layout, roots)})
    require_columns(table, table.index[0][0], dict.fromkeys(layout.drop, "drop"), "in [table]")
    table = table.drop(columns=list(layout.drop))
    table.attrs = attrs | {ASSUMED: notes}
    return table


def _joined(
    table: pd.DataFrame, layout: TableLayout, read_join: ReadJoin
) -> tuple[pd.DataFrame, dict[Any, Any], list[str]]:
    """The table with the further tables' columns under their new names, its `attrs`, and notes."""
    attrs: dict[Any, Any] = {**table.attrs, JOINED: {}}
    notes = list(attrs.get(ASSUMED, ()))
    for join in layout.joins:
        further = read_join(join)
        if further is None:
            continue
        notes += further.attrs.get(ASSUMED, ())
        joined = join_table(table, join, further, layout)
        table = joined.table
        notes += joined.notes
        attrs[JOINED] |= joined.new
    new = dict(layout.rename)
    table = table.rename(columns=new)
    attrs[JOINED] = {
        new.get(name, name): (file, new.get(key, key), rows)
        for name, (file, key, rows) in attrs[JOINED].items()
    }
    return table, attrs, notes


def _keep(table: pd.DataFrame, rule: Keep) -> tuple[pd.DataFrame, list[str]]:
    file = table.index[0][0]
    require_columns(table, file, {rule.column: "keep"}, "in [table]")
    stays = table[rule.column].str.strip().str.startswith(rule.begins)
    if not stays.any():
        raise TableError(
            f"{file}: no cell of '{rule.column}' begins with '{rule.begins}', so no row is known "
            "to be of this dataset."
        )
    count = f"{int(stays.sum())} of {len(table)} rows"
    return table[stays], [f"{count}, whose {rule.column} begins with {rule.begins}, were kept."]


def _derive(table: pd.DataFrame, rule: Derive) -> tuple[pd.DataFrame, list[str]]:
    for group in rule.groups:
        sources = [name for name in group if name in table.columns]
        if not any((table[name].str.strip() != "").any() for name in sources):
            continue
        if sources == [rule.column] and not rule.values:
            return table, []
        result = pd.Series("", index=table.index, dtype="str")
        for name in sources:
            cells = table[name].str.strip()
            if rule.values:
                known = cells.map(dict(rule.values))
                cells = known.fillna(cells if name == rule.column else "").astype("str")
            result = result.where(result != "", cells)
        origin = " or ".join(sources)
        notes = [] if sources == [rule.column] else [f"{rule.column} is made from {origin}."]
        return table.assign(**{rule.column: result}), notes
    return table, []


def _row_per_image(
    table: pd.DataFrame, layout: TableLayout, image: str
) -> tuple[pd.DataFrame, list[str]]:
    columns, file = list(layout.images) or [image], table.index[0][0]
    require_columns(table, file, dict.fromkeys(columns, "images"), "in [table]")
    if image in table and image not in columns:
        raise TableError(
            f"{file}: there is a column '{image}' already. Give the column that "
            f"{', '.join(columns)} become another name: image = ... on top of the schema."
        )
    filled = np.stack([table[c].str.strip().to_numpy() != "" for c in columns], axis=1)  # (n, k)
    cells = table[columns].to_numpy()[filled]
    rows = np.repeat(np.arange(len(table)), filled.sum(axis=1))
    if layout.separator is not None:
        lists = pd.Series(cells, dtype="str").str.split(layout.separator.strip() or " ")
        single = lists.explode().str.strip()
        single = single[single != ""]
        rows, cells = rows[single.index.to_numpy()], single.to_numpy()
    return _spread(table.drop(columns=columns), rows, cells, image)


def _spread(
    table: pd.DataFrame, rows: Array, cells: Sequence[str] | Array, image: str
) -> tuple[pd.DataFrame, list[str]]:
    """The table with these of its rows, and their images."""
    without = len(table) - len(np.unique(rows))
    if not len(rows):
        raise TableError(f"{table.index[0][0]}: no row names an image.")
    note = [f"{without} row(s) of the table name no image; they were left out."] if without else []
    spread = table.iloc[rows]
    return spread.assign(**{image: pd.array(list(cells), dtype="str")}), note


def _name_images(
    table: pd.DataFrame, layout: TableLayout, image: str, files: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """A row per image file that answers to `image_names`, where a `*` is in it."""
    columns = [name for _, name, _ in layout.name_parts if name is not None]
    require_columns(table, table.index[0][0], dict.fromkeys(columns, "image_names"), "in [table]")
    if image in table and image not in columns:
        raise TableError(
            f"{table.index[0][0]}: there is a column '{image}', and image_names too. Remove one, "
            "or give the images another column: image = ... on top of the schema."
        )
    known = np.ones(len(table), dtype=bool)
    for column in columns:
        known &= table[column].str.strip().to_numpy() != ""
    rows = np.flatnonzero(known)
    if "*" not in (layout.image_names or ""):
        columns_of_text = [
            [literal] * len(rows)
            if name is None
            else [literal + cell for cell in _name_cells(table, name, digits, rows)]
            for literal, name, digits in layout.name_parts
        ]
        names = ["".join(texts) for texts in zip(*columns_of_text, strict=True)]
        return _spread(table, rows, names, image)
    by_key = sorted((fold(image_key(file)), file) for file in files)
    keys = [key for key, _ in by_key]
    found_rows, found = list[int](), list[str]()
    for row, *texts in zip(rows, *_patterns(table, layout, rows), strict=True):
        pattern = "".join(texts)
        start = re.split(r"[*\[?]", pattern, maxsplit=1)[0]
        matches = re.compile(translate(pattern)).fullmatch
        at = bisect_left(keys, start)
        while at < len(keys) and keys[at].startswith(start):
            if matches(keys[at]):
                found_rows.append(int(row))
                found.append(by_key[at][1])
            at += 1
    return _spread(table, np.array(found_rows, dtype=np.int64), found, image)


def _name_cells(table: pd.DataFrame, column: str, digits: int, rows: Array) -> list[str]:
    """The cells of a column of ids, with zeros in front where `image_names` says so."""
    cells = table[column].str.strip().iloc[rows]
    if not digits:
        return cells.tolist()
    numbers = cells.map(as_whole)
    if numbers.isna().any():
        at = int(numbers.isna().to_numpy().argmax())
        file, row = cells.index[at]
        raise TableError(
            f"{file}, row {row}, column '{column}': '{cells.iloc[at]}' is no whole number, which "
            f"image_names asks for: {{{column}:{digits:02}}}. Write {{{column}}} for any text."
        )
    return numbers.str.zfill(digits).tolist()


def _patterns(table: pd.DataFrame, layout: TableLayout, rows: Array) -> list[list[str]]:
    """Per part of `image_names`, its text in each row; marks in cells stand for themselves."""
    parts = []
    last = len(layout.name_parts) - 1
    for place, (text, name, digits) in enumerate(layout.name_parts):
        plain = image_key(f"x{text}")[1:] if place == last and name is None else text
        literal = fold(plain.replace("\\", "/"))
        cells = [""] * len(rows)
        if name is not None:
            cells = [
                re.sub(r"([*?\[])", r"[\1]", fold(c))
                for c in _name_cells(table, name, digits, rows)
            ]
        parts.append([literal + cell for cell in cells])
    return parts


def _from_the_folder_on(cells: pd.Series, layout: TableLayout, roots: Sequence[str]) -> pd.Series:
    """Paths without the part that stands for the image folder, or for the folder of the data."""
    starts = [root for root in (layout.image_root, *roots) if root]
    starts = [start.replace("\\", "/").rstrip("/") + "/" for start in starts]
    paths = cells.str.strip().str.replace("\\", "/", regex=False)
    folded, cut = paths.str.lower(), pd.Series(False, index=cells.index)
    for start in starts:
        inside = folded.str.startswith(start.lower()) & ~cut
        if inside.any():
            cells = cells.where(~inside, paths.str.slice(len(start)))
            cut |= inside
    return cells
