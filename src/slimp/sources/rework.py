"""The published table of one layout -> the columns that the dataset's schema names.

All of it is text in, text out; rows keep their file and number, so that messages can name them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from slimp.errors import TableError


@dataclass(frozen=True, kw_only=True)
class Join:
    """A further table about the same images."""

    file: tuple[str, ...]
    """Patterns of its path's end, the first that is there counts."""
    on: str
    """Column that both tables have, a key of this one."""
    needed: bool = True
    """Whether the layout is not that without it."""


@dataclass(frozen=True, kw_only=True)
class OneHot:
    """A column per class, 1 in the one that the image is of."""

    column: str
    """The label's column that they become."""
    classes: Mapping[str, str]
    """Column -> label; '' is none."""


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
    groups: Sequence[Sequence[str]]
    """The first group with a filled cell counts; within it, row by row, the first filled cell."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Published cell -> the cell here. If given, other cells of other columns do not count."""


def rework(
    table: pd.DataFrame,
    *,
    joins: Sequence[tuple[Join, pd.DataFrame | None]],
    rename: Mapping[str, str],
    one_hot: OneHot | None,
    keep: Keep | None,
    derive: Sequence[Derive],
) -> tuple[pd.DataFrame, list[str]]:
    """The table with the schema's columns, and what there is to say about how it came to them.

    Raises:
        TableError: a key is missing or not unique, or a row is of no class or of several.
    """
    attrs, notes = dict(table.attrs), list[str]()
    for join, further in joins:
        if further is not None:
            table, note = _join(table, join, further)
            notes += [note] if note else []
    if one_hot is not None:
        table = _one_hot(table, one_hot)
    table = table.rename(columns=dict(rename))
    if keep is not None:
        table, note = _keep(table, keep)
        notes.append(note)
    for rule in derive:
        table, note = _derive(table, rule)
        notes += [note] if note else []
    table.attrs = attrs
    return table, notes


def _join(table: pd.DataFrame, join: Join, further: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    place = further.index[0][0]
    for one, name in ((table, table.index[0][0]), (further, place)):
        if join.on not in one.columns:
            raise TableError(f"{name}: there is no column '{join.on}', which ties it to the other.")
    further = further[further[join.on].str.strip() != ""]  # an empty id is nobody's
    keys = further[join.on].str.strip()
    if keys.duplicated().any():
        row = further.index[keys.duplicated().to_numpy()][0][1]
        raise TableError(
            f"{place}, row {row}: '{keys[keys.duplicated()].iloc[0]}' has a row already. An image "
            "has one row in it; remove the wrong one."
        )
    added = [name for name in further.columns if name not in table.columns]
    columns = further[added].set_axis(pd.Index(keys), axis="index")
    wanted = table[join.on].str.strip()
    found = columns.reindex(wanted).fillna("").set_axis(table.index, axis="index")
    without = int((~wanted.isin(keys)).sum())
    note = f"{without} of {len(table)} rows are not in {place}" if without else ""
    return pd.concat([table, found], axis="columns"), note


def _one_hot(table: pd.DataFrame, rule: OneHot) -> pd.DataFrame:
    columns = list(rule.classes)
    for name in columns:
        if name not in table.columns:
            raise TableError(
                f"{table.index[0][0]}: there is no column '{name}', one of the classes."
            )
    marks = table[columns].apply(lambda cells: cells.str.strip()).isin(["1", "1.0", "1.00"])
    counts = marks.sum(axis="columns").to_numpy()
    filled = (table[columns] != "").any(axis="columns").to_numpy()  # not if no row was joined
    wrong = np.flatnonzero((counts != 1) & filled)
    if len(wrong):
        file, row = table.index[wrong[0]]
        raise TableError(
            f"{file}, row {row}: the image is marked as {counts[wrong[0]]} of the classes "
            f"{', '.join(columns)}; it must be one, with 1 in its column and 0 in the others."
        )
    labels = np.asarray([*rule.classes.values(), ""], dtype=object)
    chosen = np.where(filled, marks.to_numpy().argmax(axis=1), len(columns))
    label = pd.Series(labels[chosen], index=table.index, dtype="str")
    return table.drop(columns=columns).assign(**{rule.column: label})


def _keep(table: pd.DataFrame, rule: Keep) -> tuple[pd.DataFrame, str]:
    if rule.column not in table.columns:
        raise TableError(
            f"{table.index[0][0]}: there is no column '{rule.column}', which tells this dataset's "
            "rows from those of others in the same table."
        )
    stays = table[rule.column].str.strip().str.startswith(rule.begins)
    if not stays.any():
        raise TableError(
            f"{table.index[0][0]}: no cell of '{rule.column}' begins with '{rule.begins}', so no "
            "row is known to be of this dataset."
        )
    note = f"{int(stays.sum())} of {len(table)} rows, whose {rule.column} begins with {rule.begins}"
    return table[stays], note


def _derive(table: pd.DataFrame, rule: Derive) -> tuple[pd.DataFrame, str]:
    for group in rule.groups:
        sources = [name for name in group if name in table.columns]
        if not any((table[name].str.strip() != "").any() for name in sources):
            continue
        if sources == [rule.column] and not rule.values:
            return table, ""
        result = pd.Series("", index=table.index, dtype="str")
        for name in sources:
            cells = table[name].str.strip()
            if rule.values:
                known = cells.map(dict(rule.values))
                cells = known.fillna(cells if name == rule.column else "").astype("str")
            result = result.where(result != "", cells)
        origin = " or ".join(sources)
        note = "" if sources == [rule.column] else f"{rule.column} from {origin}"
        return table.assign(**{rule.column: result}), note
    return table, ""
