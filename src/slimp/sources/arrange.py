"""A table, as it was read, becomes a table with a row per image and the columns of its schema.

Text in, text out; rows keep the file and number that a person sees, so that messages can name
them. What was done is noted in `attrs`, beside what was assumed.
"""

from __future__ import annotations

import glob
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from fnmatch import translate
from typing import TypeAlias

import numpy as np
import pandas as pd

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.joins import Origin, join_table
from slimp.sources.layout import Derive, Join, Keep, TableLayout
from slimp.sources.level_tables import ASSUMED
from slimp.sources.parse_cells import (
    JOINED,
    as_whole,
    fold,
    image_ending,
    image_key,
    require_columns,
)

CELL_END = "\0"
"""Between a cell and a `*` beside it: no number goes on across it, or patient 1 would have the
images of 10 and of 21."""
ReadJoin: TypeAlias = Callable[[Join], pd.DataFrame | None]
"""The table of a join, as `read_table` gives it; None: it is not there, and need not be."""


def arrange(
    table: pd.DataFrame,
    layout: TableLayout,
    schema: Schema,
    *,
    read_join: ReadJoin,
    files: Sequence[str] = (),
    roots: Sequence[str] = (),
) -> pd.DataFrame:
    """The table with the further tables' columns, a row per image, and its image column.

    Args:
        table: as `read_table` gives it.
        layout: what to do.
        schema: its image column names the image then; what it says of ids holds in joins.
        read_join: reads a further table.
        files: paths of the image files from the image folder on.
        roots: absolute paths of the folder of the data; in the image column they are cut off.

    Raises:
        TableError: a column is not there, or the ids of a further table are no key.
    """
    file, attrs, notes = table.index[0][0], table.attrs, list(table.attrs.get(ASSUMED, ()))
    image = schema.image
    table, joined = _joined(table, layout, schema, read_join, notes)
    if layout.keep is not None:
        table = _keep(table, layout.keep, notes)
    for rule in layout.derive:
        table = _derive(table, rule, notes)
    if layout.row_id is not None:
        _require_free(table, layout.row_id, "give row_id under [table] another name")
        several = table.index.get_level_values(0).nunique() > 1  # then each file has a row 2
        numbers = [f"{name}:{row}" if several else str(row) for name, row in table.index]
        table = table.assign(**{layout.row_id: pd.array(numbers, dtype="str")})
    if layout.image_names is not None or layout.images or layout.separator:
        spread = _named_images if layout.image_names is not None else _listed_images
        found = spread(table, layout, image, files, notes)
        table = _row_per_image(table.drop(columns=list(layout.images)), image, found, notes)
    if image in table:
        table = table.assign(**{image: _from_the_folder_on(table[image], layout, roots)})
    require_columns(table, file, dict.fromkeys(layout.drop, "drop"), "in [table]")
    table = table.drop(columns=list(layout.drop))
    table.attrs = {**attrs, JOINED: joined, ASSUMED: notes}
    return table


def _require_free(table: pd.DataFrame, column: str, remedy: str) -> None:
    if column in table:
        raise TableError(f"{table.index[0][0]}: there is a column '{column}' already; {remedy}.")


def _joined(
    table: pd.DataFrame,
    layout: TableLayout,
    schema: Schema,
    read_join: ReadJoin,
    notes: list[str],
) -> tuple[pd.DataFrame, dict[str, list[Origin]]]:
    """The table with the further tables' columns, and where those are from, by their new names."""
    added, own = dict[str, list[Origin]](), set(table)
    for join in layout.joins:
        if (further := read_join(join)) is not None:
            notes += further.attrs.get(ASSUMED, ())
            table, origins, said = join_table(table, join, further, schema)
            notes += said
            for name in origins.keys() - own:
                added.setdefault(name, []).append(origins[name])

    def now(name: str) -> str:
        return layout.rename.get(name, name)

    joined = {
        now(name): [(file, now(key), lost) for file, key, lost in origins]
        for name, origins in added.items()
    }
    table = table.rename(columns=now)
    if len(twice := table.columns[table.columns.duplicated()]):
        raise TableError(
            f"{table.index[0][0]}: two columns would be called '{twice[0]}'. Give one "
            "of them another name: rename, under [table]."
        )
    return table, joined


def _keep(table: pd.DataFrame, rule: Keep, notes: list[str]) -> pd.DataFrame:
    file = table.index[0][0]
    require_columns(table, file, {rule.column: "keep"}, "in [table]")
    stays = table[rule.column].str.strip().str.startswith(rule.begins)
    if not stays.any():
        raise TableError(
            f"{file}: no cell of '{rule.column}' begins with '{rule.begins}', so no row is known "
            "to be of this dataset."
        )
    count = f"{int(stays.sum())} of {len(table)} rows"
    notes.append(f"{count}, whose {rule.column} begins with {rule.begins}, were kept.")
    return table[stays]


def _derive(table: pd.DataFrame, rule: Derive, notes: list[str]) -> pd.DataFrame:
    for group in rule.groups:
        cells = {name: table[name].str.strip() for name in group if name in table}
        if not any((column != "").any() for column in cells.values()):
            continue
        if [*cells] == [rule.column] and not rule.values:
            return table
        result = pd.Series("", index=table.index, dtype="str")
        for name, column in cells.items():
            if rule.values:
                own = column if name == rule.column else ""
                column = column.map(dict(rule.values)).fillna(own).astype("str")
            result = result.where(result != "", column)
        if [*cells] != [rule.column]:
            notes.append(f"{rule.column} is made from {' or '.join(cells)}.")
        return table.assign(**{rule.column: result})
    return table


def _row_per_image(
    table: pd.DataFrame, image: str, found: tuple[Sequence[int], Sequence[str]], notes: list[str]
) -> pd.DataFrame:
    """The table with a row per image found: the position of its row, and what it is called."""
    rows, names = found
    if not len(rows):
        raise TableError(f"{table.index[0][0]}: no row names an image.")
    if without := len(table) - len({*rows}):
        notes.append(f"{without} row(s) of the table name no image; they were left out.")
    if len(rows) != len(table):
        notes.append(f"{len(table)} rows of the table became {len(rows)}, one per image.")
    return table.iloc[list(rows)].assign(**{image: pd.array(list(names), dtype="str")})


def _listed_images(
    table: pd.DataFrame, layout: TableLayout, image: str, files: Sequence[str], notes: list[str]
) -> tuple[Sequence[int], Sequence[str]]:
    """Each name in a cell of the image columns."""
    columns = list(dict.fromkeys(layout.images)) or [image]
    require_columns(table, table.index[0][0], dict.fromkeys(columns, "images"), "in [table]")
    if image not in columns:
        _require_free(table, image, "give the images another: image = ... on top of the schema")
    cells = table[columns].set_axis(range(len(table)), axis="index").stack().droplevel(1)
    if layout.separator is not None:
        cells = cells.str.split(layout.separator.strip() or " ", regex=False).explode()
    cells = cells.str.strip()[cells.str.strip() != ""]
    return cells.index.tolist(), cells.tolist()


def _named_images(
    table: pd.DataFrame, layout: TableLayout, image: str, files: Sequence[str], notes: list[str]
) -> tuple[Sequence[int], Sequence[str]]:
    """The name that `image_names` makes of each row; or each file that answers to it, if `*`."""
    columns = [name for _, name, _ in layout.name_parts if name is not None]
    require_columns(table, table.index[0][0], dict.fromkeys(columns, "image_names"), "in [table]")
    if image not in columns:
        _require_free(table, image, "give image_names or a column of images, not both")
    rows = np.flatnonzero((table[columns].map(str.strip) != "").all(axis=1)).tolist()
    pattern = "*" in str(layout.image_names)
    parts = list[Sequence[str]]()
    for text, name, digits in layout.name_parts:
        before = CELL_END if parts and text.startswith("*") else ""
        behind = CELL_END if name is not None and text.endswith("*") else ""
        parts.append([f"{before}{text}{behind}"] * len(rows))
        if name is not None:
            cells = _cells_of_names(table[name].iloc[rows], digits)
            parts.append([glob.escape(cell) for cell in cells] if pattern else cells)
    names = ["".join(texts) for texts in zip(*parts, strict=True)]
    if not pattern:
        return rows, names
    found, others = _fitting(names, files)
    if others:
        notes.append(
            f"{len(others)} file(s), such as {others[0]}, fit image_names but for their ending; "
            "they were left out. Without an ending, image_names finds images of any."
        )
    if others and not found:
        raise TableError(f"{table.index[0][0]}: no row names an image: {notes[-1]}")
    return [rows[at] for at, _ in found], [file for _, file in found]


def _fitting(
    patterns: Sequence[str], files: Sequence[str]
) -> tuple[list[tuple[int, str]], list[str]]:
    """The position of each pattern and the files that answer to it, and those but for the ending.

    An ending of images in a pattern is the file's, too: `1_*.jpg` is not to find `1_mask.png`.
    """
    known = sorted((fold(image_key(file)), file) for file in files)
    keys, found = [key for key, _ in known], list[tuple[int, str]]()
    others = dict[str, None]()
    for at, pattern in enumerate(patterns):
        wanted, ending = fold(image_key(pattern)), image_ending(pattern)
        start = re.split(rf"[{CELL_END}*\[?]", wanted, maxsplit=1)[0]
        near = slice(bisect_left(keys, start), bisect_left(keys, start + "\U0010ffff"))
        fits = re.compile(translate(wanted).replace(CELL_END, r"(?!(?<=\d)\d)")).fullmatch
        for file in (file for key, file in known[near] if fits(key)):
            if ending in ("", image_ending(file)):
                found.append((at, file))
            elif image_ending(file):
                others[file] = None
    return found, [*others]


def _cells_of_names(cells: pd.Series, digits: int) -> list[str]:
    """The cells of a column of ids, with zeros in front where `image_names` says so."""
    if not digits:
        return cells.str.strip().tolist()
    numbers = cells.map(as_whole)
    if numbers.isna().any():
        at = int(numbers.isna().to_numpy().argmax())
        file, row = cells.index[at]
        raise TableError(
            f"{file}, row {row}, column '{cells.name}': '{cells.iloc[at]}' is no whole number, "
            f"which image_names asks for: {{{cells.name}:{digits:02}}}. Write {{{cells.name}}} "
            "for any text."
        )
    return numbers.str.zfill(digits).tolist()


def _from_the_folder_on(cells: pd.Series, layout: TableLayout, roots: Sequence[str]) -> pd.Series:
    """Paths without the part that stands for the image folder, or for the folder of the data."""
    starts = [root.replace("\\", "/").rstrip("/") for root in (layout.image_root, *roots) if root]
    paths = cells.str.strip().str.replace("\\", "/", regex=False)
    pattern = f"^(?:{'|'.join(map(re.escape, starts))})/"
    inside = paths.str.contains(pattern, case=False) if starts else pd.Series(False, cells.index)
    return cells.mask(inside, paths.str.replace(pattern, "", case=False, regex=True))
