"""Which of the layouts in which a dataset is handed around lies in RAW.

The layouts stand in the dataset's TOML file, `[[dataset.layout]]`, so that no code names a column
or a file; what each key means is said at the fields of `Layout` and `TableLayout`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.settings import read_settings
from slimp.errors import TableError
from slimp.sources.layout import Join, TableLayout
from slimp.sources.raw_files import Place, one_file
from slimp.sources.read_table import join_tables, read_table


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table that holds a row per image; a layout may have several, each with its own images."""

    file: tuple[str, ...]
    """Patterns of its path's end, the first that is there counts; `*` stands within a name."""
    set: Mapping[str, str] = field(default_factory=dict)
    """Columns that its rows get, each with its cell."""
    begins: str = ""
    """A table given with --table is this one if its name begins so."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which a dataset lies on people's disks."""

    name: str
    """For people, as in 'Harvard Dataverse'."""
    rows: tuple[Rows, ...]
    """At least one of them must be there."""
    columns: tuple[str, ...] = ()
    """That the table has: they tell layouts apart whose files are called alike."""
    images: tuple[tuple[str, ...], ...] = ((".",),)
    """Groups of patterns of folders, zips and HDF5 files; all that match in the first group with a
    match are searched. '.' is RAW itself."""
    table: TableLayout = field(default_factory=TableLayout)
    """What is made of the table: `[table]` of the file, and further settings of this layout."""
    one_hot: tuple[str, ...] = ()
    """Instead of the schema's label: a column per class."""
    may_lack: tuple[str, ...] = ()
    """Columns of the schema that this layout does not always have; '*' is any but the image."""
    note: str = ""
    """What one must know about data in this layout; shown in the import report."""
    instead: str = ""
    """Why this is not the source for such data; then the import is refused."""

    def __str__(self) -> str:
        joins = [f" with {' or '.join(join.file)}" for join in self.table.joins if join.needed]
        instead = f" (not this source: {self.instead})" if self.instead else ""
        return f"{self.name}: {self.files}{''.join(joins)}{instead}"

    @property
    def files(self) -> str:
        """The main tables, for messages."""
        return " or ".join(name for rows in self.rows for name in rows.file)


def layouts_of(content: Mapping[str, Any]) -> tuple[Layout, ...]:
    """The layouts that a dataset's TOML file describes."""
    common = content.get("table", {})
    layouts = []
    for entry in content["dataset"].get("layout", ()):
        own = {key: value for key, value in entry.items() if key != "table"}
        table = TableLayout.from_dict({**common, **entry.get("table", {})})
        layouts.append(read_settings(Layout, own, "[[dataset.layout]]", table=table))
    return tuple(layouts)


class Search:
    """Looks for tables in a place; each is read once. `given`: the path that the user named."""

    def __init__(self, place: Place, given: str | None) -> None:
        self._place, self._given = place, given
        self._known: dict[tuple[str, str | None], pd.DataFrame] = {}

    def recognise(self, layouts: Sequence[Layout]) -> tuple[Layout, list[str], pd.DataFrame]:
        """The first layout that fits, the files of its rows, and the rows.

        Raises:
            TableError: none fits.
        """
        near = list[str]()  # what layouts lack of which something is there
        for layout in layouts:
            if not (found := self._tables(layout)):
                continue
            paths = " and ".join(found)
            if lack := self._lacks(layout, found):
                near.append(f"{paths} {lack}")
                continue
            if layout.instead:
                raise TableError(f"{self._place.raw}: {paths} is {layout.name}. {layout.instead}")
            tables = {p: self._table(p, layout.table).assign(**r.set) for p, r in found.items()}
            return layout, list(found), join_tables(tables)
        usual = [f"{layout.files} ({layout.name})" for layout in layouts if not layout.instead]
        files = [self._given] if self._given and not near else usual
        hint = f" But {'; '.join(dict.fromkeys(near))}." if near else ""
        if self._given and Path(self._given).is_file():
            hint += f" --table is a path from {self._place.raw} on: begin it there, or move it."
        raise TableError(
            f"{self._place.raw}: there is no table {'; or '.join(files)}.{hint} Name another with "
            f"--table, or make one of folders of images: slimp data sketch {self._place.raw} --out "
            "schema.toml."
        )

    def further(self, join: Join, layout: TableLayout, main: str) -> pd.DataFrame | None:
        """The table of a join, beside the main one or by the end of its path; None if it may lack.

        Raises:
            TableError: it is not there.
        """
        if not join.file:
            return self._table(main, replace(layout, sheet=join.sheet))
        beside = Path(main).parent
        paths = filter(None, (self._place.at((beside / file).as_posix()) for file in join.file))
        if path := next(paths, None) or self._first(join.file):
            return self._table(path, TableLayout(sheet=join.sheet))
        if join.needed:
            named = " or ".join(join.file)
            raise TableError(
                f"{self._place.raw}: there is no table {named}, which [[table.join]] names."
            )
        return None

    def _table(self, path: str, layout: TableLayout) -> pd.DataFrame:
        key = path, layout.sheet
        if key not in self._known:
            shown = self._place.raw / path
            try:
                content = self._place.read(path)
            except OSError as error:
                raise TableError(f"{shown}: cannot be read: {error}. Download it again.") from None
            self._known[key] = read_table(shown, content=content, layout=layout)
        return self._known[key]

    def _tables(self, layout: Layout) -> dict[str, Rows]:
        """The files of the layout's rows; or the one that the user named, with a `*` its parts."""
        if (given := self._given) is None:
            usual = ((self._first(rows.file, layout), rows) for rows in layout.rows)
            return {path: rows for path, rows in usual if path is not None}
        parts = sorted(self._place.files(given)) if "*" in given else [self._place.at(given)]
        found = dict[str, Rows]()
        for path in filter(None, parts):
            name = path.rpartition("/")[2]
            named = [rows for rows in layout.rows if rows.begins and name.startswith(rows.begins)]
            found[path] = (named or list(layout.rows))[0]
        return found

    def _lacks(self, layout: Layout, paths: Collection[str]) -> str:
        """What keeps the tables from being this layout, or ''."""
        for path in paths if layout.columns else ():
            columns = self._table(path, layout.table).columns
            if missing := [column for column in layout.columns if column not in columns]:
                return f"has no column '{missing[0]}'"
        for join in layout.table.joins if layout.name else ():
            if join.needed and self._first(join.file) is None:
                return f"is there without {' or '.join(join.file)} ({layout.name})"
        return ""

    def _first(self, patterns: Sequence[str], layout: Layout | None = None) -> str | None:
        """The first file that is there; of several, those with the layout's columns, if any."""
        for pattern in patterns:
            paths = self._place.files(pattern)
            if len(paths) > 1 and layout is not None:
                paths = [path for path in paths if not self._lacks(layout, [path])] or paths
            if paths:
                return one_file(self._place, paths)
        return None
