"""Anyone's table, as it was read, becomes a table with a row per image and one image column.

Text in, text out; rows keep the file and number that a person sees, so that messages can name
them. What was done is noted in `attrs`, beside what was assumed.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from fnmatch import translate
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from slimp.errors import TableError
from slimp.sources.layout import Join, TableLayout
from slimp.sources.level_tables import ASSUMED, JOINED
from slimp.sources.parse_cells import NUMERIC, image_key

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
ReadJoin: TypeAlias = Callable[[Join], pd.DataFrame]
"""The table of a join, as `reading.read_table` gives it."""


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
        table: as `reading.read_table` gives it.
        layout: what to do.
        image: column that names the image then.
        read_join: reads a further table.
        files: paths of the image files from the image folder on.
        roots: absolute paths of the folder of the data; in the image column they are cut off.

    Raises:
        TableError: a column is not there, or the ids of a further table are no key.
    """
    attrs: dict[Any, Any] = {NUMERIC: [], **table.attrs, JOINED: {}}
    notes = list(attrs.get(ASSUMED, ()))
    for join in layout.joins:
        further = read_join(join)
        table, added, note = _join(table, join, further)
        notes += [*further.attrs.get(ASSUMED, ()), *note]
        file = further.index[0][0]
        attrs[JOINED] |= dict.fromkeys(added, (file, next(iter(join.on))))
        numeric = {column for column in further.attrs.get(NUMERIC, ()) if column in added}
        attrs[NUMERIC] = [*attrs[NUMERIC], *numeric]
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
    elif layout.images or layout.separator:
        table, note = _row_per_image(table, layout, image)
    else:
        note = []
    notes += note
    if len(table) != count:
        notes.append(f"{count} rows of the table became {len(table)}, one per image.")
    if image in table:
        table = table.assign(**{image: _from_the_folder_on(table[image], layout, roots)})
    _require(table, layout.drop, "drop")
    table = table.drop(columns=list(layout.drop))
    table.attrs = attrs | {ASSUMED: notes}
    return table


def _join(
    table: pd.DataFrame, join: Join, further: pd.DataFrame
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The table with the columns of another, which of them are new, and what there is to say."""
    here, there = list(join.on), list(join.on.values())
    file = further.index[0][0]
    _require(table, here, "[[table.join]]")
    _require(further, [*there, *(join.columns or ())], "[[table.join]]")
    further = further[~further.duplicated().to_numpy()]
    named = _are_filled(further, there)
    if not named.any():
        raise TableError(f"{file}: no row of it has a cell in {', '.join(there)}, to join it by.")
    blank = int((~named).sum())
    further = further[named]
    keys, ids = _keys(further, there), _keys(table, here)
    twice = np.flatnonzero(keys.duplicated())
    if len(twice):
        first = int(np.flatnonzero(keys == keys[twice[0]])[0])
        raise TableError(
            f"{file}, row {further.index[twice[0]][1]}, column '{there[0]}': "
            f"'{further[there[0]].iloc[twice[0]]}' has a row already (row "
            f"{further.index[first][1]}), and they differ. A joined table has one row per "
            f"{', '.join(there)}; remove one of them."
        )
    rows = np.where(_are_filled(table, here), keys.get_indexer(ids), -1)
    lost = int((rows < 0).sum())
    if lost == len(table):
        raise TableError(
            f"{file}: no row of it is about any row of {table.index[0][0]}: '{here[0]}' there is "
            f"for instance '{table[here[0]].iloc[0]}', '{there[0]}' here "
            f"'{further[there[0]].iloc[0]}'. Name the columns that hold the same ids: on = ..."
        )
    new = list[str]()
    cells = dict[str, Any]()
    for column in join.columns or [str(c) for c in further if c not in there]:
        values = further[column].reset_index(drop=True).reindex(rows).fillna("").array
        if column not in table:
            new.append(column)
            cells[column] = values
        elif (differ := np.flatnonzero((table[column].array != values) & (rows >= 0))).size:
            raise TableError(
                f"{table.index[differ[0]][0]}, row {table.index[differ[0]][1]}, column "
                f"'{column}': '{table[column].iloc[differ[0]]}', but {file} has "
                f"'{values[differ[0]]}'. Both tables have this column. Rename one, or name those "
                "to add in [[table.join]]: columns = [...]."
            )
    spare = len(further) - len(np.unique(rows[rows >= 0]))
    counts = [f"{lost} row(s) of {table.index[0][0]} have none there"] * (lost > 0)
    counts += [f"{spare} of its rows are about none here"] * (spare > 0)
    counts += [f"{blank} of its rows have no id and were passed over"] * (blank > 0)
    note = [f"{file}, joined by {', '.join(there)}: {'; '.join(counts)}."] if counts else []
    return pd.concat([table, pd.DataFrame(cells, index=table.index)], axis=1), new, note


def _keys(table: pd.DataFrame, columns: Sequence[str]) -> pd.Index[Any]:
    parts = [table[column].str.strip() for column in columns]
    text = parts[0]
    for part in parts[1:]:
        text = text + "\x1f" + part
    return pd.Index(text.array)


def _are_filled(table: pd.DataFrame, columns: Sequence[str]) -> Array:
    """(rows,) whether no part of the key is empty: an empty id is nobody's, so it matches none."""
    filled: Array = np.all([table[c].str.strip().to_numpy() != "" for c in columns], axis=0)
    return filled


def _row_per_image(
    table: pd.DataFrame, layout: TableLayout, image: str
) -> tuple[pd.DataFrame, list[str]]:
    columns = list(layout.images) or [image]
    _require(table, columns, "images")
    if image in table and image not in columns:
        raise TableError(
            f"{table.index[0][0]}: there is a column '{image}' already. Give the column that "
            f"{', '.join(columns)} become another name: image = ... on top of the schema."
        )
    filled = np.stack([table[c].str.strip().to_numpy() != "" for c in columns], axis=1)  # (n, k)
    names = table[columns].to_numpy()[filled]
    rows = np.repeat(np.arange(len(table)), filled.sum(axis=1))
    if layout.separator is not None:
        cells = pd.Series(names, dtype="str").str.split(layout.separator.strip() or " ")
        single = cells.explode().str.strip()
        single = single[single != ""]
        rows, names = rows[single.index.to_numpy()], single.to_numpy()
    return _spread(table.drop(columns=columns), rows, names, image)


def _spread(
    table: pd.DataFrame, rows: Array, names: Array, image: str
) -> tuple[pd.DataFrame, list[str]]:
    """The table with these of its rows, and their images."""
    without = len(table) - len(np.unique(rows))
    if not len(rows):
        raise TableError(f"{table.index[0][0]}: no row names an image.")
    note = [f"{without} row(s) of the table name no image; they were left out."] if without else []
    spread = table.iloc[rows]
    return spread.assign(**{image: pd.array(list(names), dtype="str")}), note


def _name_images(
    table: pd.DataFrame, layout: TableLayout, image: str, files: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """A row per image file that answers to `image_names`, where a `*` is in it."""
    columns = layout.name_columns
    _require(table, columns, "image_names")
    if image in table:
        raise TableError(
            f"{table.index[0][0]}: there is a column '{image}', and image_names too. Remove one, "
            "or give the images another column: image = ... on top of the schema."
        )
    known = np.ones(len(table), dtype=bool)
    for column in columns:
        known &= table[column].str.strip().to_numpy() != ""
    rows = np.flatnonzero(known)
    if "*" not in (layout.image_names or ""):
        text = pd.Series("", index=table.index, dtype="str")
        for literal, name in layout.name_parts:
            text = text + literal + ("" if name is None else table[name].str.strip())
        return _spread(table, rows, text.to_numpy()[rows], image)
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
    return _spread(
        table, np.array(found_rows, dtype=np.int64), np.array(found, dtype=object), image
    )


def _patterns(table: pd.DataFrame, layout: TableLayout, rows: Array) -> list[list[str]]:
    """Per part of `image_names`, its text in each row; marks in cells stand for themselves."""
    parts = []
    last = len(layout.name_parts) - 1
    for place, (text, name) in enumerate(layout.name_parts):
        plain = image_key(f"x{text}")[1:] if place == last and name is None else text
        literal = fold(plain.replace("\\", "/"))
        cells = [""] * len(rows)
        if name is not None:
            cells = [re.sub(r"([*?\[])", r"[\1]", fold(c)) for c in table[name].str.strip()]
            cells = [cells[row] for row in rows]
        parts.append([literal + cell for cell in cells])
    return parts


def fold(text: str) -> str:
    """The text such that two spellings of one file name are one."""
    return unicodedata.normalize("NFC", text).casefold()


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


def _require(table: pd.DataFrame, columns: Sequence[str], setting: str) -> None:
    for column in columns:
        if column not in table:
            names = [str(name) for name in table.columns]
            near = difflib.get_close_matches(column, names, n=1, cutoff=0.6)
            has = f"Did you mean '{near[0]}'?" if near else f"It has: {', '.join(names[:20])}."
            raise TableError(
                f"{table.index[0][0]}: there is no column '{column}' (in {setting}). {has}"
            )
