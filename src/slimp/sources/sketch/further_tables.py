"""Further tables beside one: the one that holds its label is joined, others are named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from slimp.errors import TableError
from slimp.sources.read_table import read_table
from slimp.sources.sketch.columns import describe
from slimp.sources.sketch.roles import find_roles

ENDINGS = {".csv", ".tsv", ".tab", ".txt", ".parquet", ".xlsx"}
TABLES, BYTES = 12, 64 << 20
"""Files beside the table that are looked at, and how large each may be, at most."""
SHARED = 0.5
"""Share of the rows that must find their id in a further table."""


@dataclass(frozen=True, kw_only=True)
class FurtherTable:
    """A table with a row per id that the first table has too."""

    file: str
    key: str
    columns: tuple[str, ...]
    """That the first table lacks."""
    label: tuple[str, ...]
    """Those of them that hold the label."""
    cells: pd.DataFrame
    """The label, a row per row of the first table."""


def further_tables(table: Path, rows: pd.DataFrame) -> Iterator[FurtherTable]:
    """The tables in the folder of `table` that share a key with its `rows`."""
    beside = [p for p in sorted(table.absolute().parent.iterdir()) if p.suffix.lower() in ENDINGS]
    for path in [p for p in beside if p.name != table.name and p.is_file()][:TABLES]:
        try:
            other = read_table(path) if path.stat().st_size <= BYTES else pd.DataFrame()
        except TableError:
            continue
        new = [str(name) for name in other if name not in rows]
        key = _shared_key(rows, other)
        if key is not None and new:
            label = find_roles([describe(other[name]) for name in new], ()).label_columns
            there = other.set_index(other[key].str.strip())[list(label)]
            found = there[there.index != ""].reindex(rows[key].str.strip()).fillna("")
            yield FurtherTable(
                file=path.name,
                key=key,
                columns=tuple(new),
                label=label,
                cells=found.set_axis(rows.index),
            )


def _shared_key(rows: pd.DataFrame, other: pd.DataFrame) -> str | None:
    """A column that both have and that tells the other's rows apart; row counters are none."""
    for name in (str(name) for name in rows if name in other):
        there = describe(other[name])
        is_key = there.filled == there.distinct > 0 and not there.is_counter
        if is_key and rows[name].str.strip().isin(list(there.counts)).mean() >= SHARED:
            return name
    return None
