"""A further table joined to the main one, by ids that both have or by the numbers of rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TypeAlias

import numpy as np
import pandas as pd

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.layout import Join
from slimp.sources.parse_cells import as_whole, require_columns
from slimp.sources.parse_ids import parse_ids, similar_form

KEY = "\0key"
"""Column of a join, which no table has."""
Origin: TypeAlias = tuple[str, str, frozenset[tuple[str, int]]]
"""Of a joined column: see `parse_cells.JOINED`."""


def join_table(
    table: pd.DataFrame, join: Join, further: pd.DataFrame, schema: Schema
) -> tuple[pd.DataFrame, dict[str, Origin], list[str]]:
    """The table with the columns of another, where those are from, and what there is to say.

    A row without a partner there has empty cells. Ids are read as `parse_ids` does; a missing one
    has no partner.

    Raises:
        TableError: a column is not there, an id has two rows, no id is in both tables, or the
            tables disagree in a column that both have.
    """
    main, file = table.index[0][0], further.index[0][0]
    further = further[~further.duplicated().to_numpy()]
    notes = list[str]()
    if join.by == "row":
        here, there = "row", [str(further.columns[0])]
        ids = pd.Series(np.arange(len(table)) + join.first, index=table.index).astype("str")
        keys = _row_numbers(further[there[0]], ids, main)
        notes.append(
            f"{file}: rows of {main} are counted from {join.first} (first = ... under "
            f"[[table.join]]), so that {join.first} means its row {table.index[0][1]}."
        )
    else:
        here, there = ", ".join(join.on), list(join.on.values())
        require_columns(table, main, dict.fromkeys(join.on, "on"), "in [[table.join]]")
        require_columns(further, file, dict.fromkeys(there, "on"), "in [[table.join]]")
        ids, keys = _keys(table, [*join.on], schema, notes), _keys(further, there, schema, notes)
    asked = dict.fromkeys(join.columns or (), "columns")
    require_columns(further, file, asked, "in [[table.join]]")
    _require_key(further, keys, there)
    partner = ids.isin(keys[keys != ""])
    if not partner.any():
        raise TableError(
            f"{file}: no row of it is about any row of {main}: '{here}' there is for instance "
            f"'{ids.iloc[0]}', '{there[0]}' here '{keys[keys != ''].iloc[0]}'. Name the columns "
            "that hold the same ids: on = ..."
        )
    if join.by is None:
        notes += _without_partner(ids, keys, f"{file}, joined by {', '.join(there)}", main)
    columns = join.columns or [str(name) for name in further if name not in there]
    cells = further[list(columns)].assign(**join.set, **{KEY: keys})[(keys != "").to_numpy()]
    merged = pd.DataFrame({KEY: ids}).merge(cells, on=KEY, how="left", validate="many_to_one")
    merged = merged.drop(columns=KEY).fillna("").astype("str").set_axis(table.index)
    lost = frozenset(table.index[~partner])
    origins = {str(name): (file, here, lost) for name in merged}
    for column in merged.columns.intersection(table.columns):
        said = [] if column in join.set else notes
        merged[column] = _agreed(table[column], merged[column], file, said)
    return table.assign(**{str(name): merged[name] for name in merged}), origins, notes


def _require_key(further: pd.DataFrame, keys: pd.Series, there: Sequence[str]) -> None:
    """Raises if no row of a further table has an id, or two rows have one."""
    file, known = further.index[0][0], (keys != "").to_numpy()
    if not known.any():
        raise TableError(f"{file}: no row of it has a cell in {', '.join(there)}, to join it by.")
    twice = keys.duplicated().to_numpy() & known
    if twice.any():
        second = int(twice.argmax())
        first = int((keys == keys.iloc[second]).to_numpy().argmax())
        raise TableError(
            f"{file}, row {further.index[second][1]}, column '{there[0]}': "
            f"'{further[there[0]].iloc[second]}' has a row already (row {further.index[first][1]}) "
            f"that differs. A joined table has one row per {', '.join(there)}; remove one of them."
        )


def _without_partner(ids: pd.Series, keys: pd.Series, joined: str, main: str) -> list[str]:
    """What to say of rows that are in one of the tables only."""
    lost, spare = ids[~ids.isin(keys) | (ids == "")], keys[~keys.isin(ids) | (keys == "")]
    alike = {*map(similar_form, lost)} & {*map(similar_form, spare)} - {""}
    counts = [f"{len(lost)} row(s) of {main} have none there"] * (len(lost) > 0)
    counts += [f"{len(spare)} of its rows are about none here"] * (len(spare) > 0)
    counts += [
        f"{len(alike)} id(s) would match but for letter case, leading zeros or spaces: set "
        'similar_ids = "same" on top of the schema to join them'
    ] * bool(alike)
    return [f"{joined}: {'; '.join(counts)}."] if counts else []


def _keys(
    table: pd.DataFrame, columns: Sequence[str], schema: Schema, notes: list[str]
) -> pd.Series:
    """The ids of each row as one text; '' where one of them is missing."""
    parts = list[pd.Series]()
    for column in columns:
        ids, said = parse_ids(
            table[column], lambda k: "{}, row {}".format(*table.index[k]), missing=schema.missing
        )
        notes += [note for note in said if "more than one way" not in note]
        parts.append(ids.map(similar_form) if schema.similar_ids == "same" else ids)
    known = np.all([part != "" for part in parts], axis=0)
    text = reduce(lambda some, part: some + "\x1f" + part, parts)
    return text.where(known, "").astype("str")


def _row_numbers(cells: pd.Series, ids: pd.Series, main: str) -> pd.Series:
    """Numbers of rows of the main table; refuses what is none of them."""
    numbers = cells.map(lambda cell: as_whole(cell) or "").astype("str")
    wrong = (~numbers.isin(ids) & (cells.str.strip() != "")).to_numpy()
    if wrong.any():
        position = int(wrong.argmax())
        file, row = cells.index[position]
        raise TableError(
            f"{file}, row {row}, column '{cells.name}': '{cells.iloc[position]}' is no row of "
            f"{main}, whose {len(ids)} rows are counted from {ids.iloc[0]} to {ids.iloc[-1]}. If "
            "they count from another number, say so under [[table.join]], as in first = 1."
        )
    return numbers


def _agreed(own: pd.Series, values: pd.Series, file: str, notes: list[str]) -> pd.Series:
    """A column that both tables have; cells that one of them leaves empty come from the other."""
    blank, other = (own.str.strip() == ""), (values.str.strip() == "")
    differ = (~blank & ~other & (own != values)).to_numpy()
    if differ.any():
        at = int(differ.argmax())
        raise TableError(
            f"{own.index[at][0]}, row {own.index[at][1]}, column '{own.name}': '{own.iloc[at]}', "
            f"but {file} has '{values.iloc[at]}'. Both tables have this column. Rename one, or "
            "name those to add in [[table.join]]: columns = [...]."
        )
    if filled := int((blank & ~other).sum()):
        notes.append(f"{file}: {filled} empty cell(s) of column '{own.name}' were filled from it.")
    return own.where(~blank, values)
