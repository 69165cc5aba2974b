"""Which of the layouts in which a dataset is handed around lies in RAW, and its table and images.

The layouts stand in the dataset's TOML file, `[[dataset.layout]]`, so that no code names a column
or a file; what each key means is said at the fields of `Layout` and `Rows`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.hdf5 import HDF5_ENDING, HDF5Images
from slimp.sources.image_files import Images
from slimp.sources.raw import OpenImage, RawTable
from slimp.sources.raw_files import Place, one_file
from slimp.sources.read_table import join_tables, table_at
from slimp.sources.rework import Derive, Join, Keep, OneHot, rework

Part = TypeVar("Part")


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
    rename: Mapping[str, str] = field(default_factory=dict)
    """Published column -> its name here."""
    join: tuple[Join, ...] = ()
    one_hot: OneHot | None = None
    keep: Keep | None = None
    may_lack: tuple[str, ...] = ()
    """Columns of the schema that this layout does not always have; '*' is any but the image."""
    note: str = ""
    """What one must know about data in this layout; shown in the import report."""
    instead: str = ""
    """Why this is not the source for such data; then the import is refused."""

    def __str__(self) -> str:
        joins = [f" with {' or '.join(join.file)}" for join in self.join if join.needed]
        instead = f" (not this source: {self.instead})" if self.instead else ""
        return f"{self.name}: {self.files}{''.join(joins)}{instead}"

    @property
    def files(self) -> str:
        """The main tables, for messages."""
        return " or ".join(name for rows in self.rows for name in rows.file)


def read_published(
    toml: Path, raw: Path, *, table: str | None = None, images: str | None = None
) -> RawTable:
    """The table and images of the dataset that `toml` describes.

    Args:
        toml: the reviewed file.
        raw: folder or zip file.
        table: a table that replaces the usual ones, as a path from `raw` on.
        images: a folder, zip or HDF5 file that replaces the usual ones.

    Raises:
        TableError: no layout fits, which says what each of them lacks; or a file is at fault.
    """
    facts = tomllib.loads(toml.read_text(encoding="utf-8"))["dataset"]
    layouts = layouts_of(facts)
    derive = tuple(Derive(**entry) for entry in facts.get("derive", ()))
    usual = " or ".join(dict.fromkeys([table] if table else [layout.files for layout in layouts]))
    place = Place(raw, holds=usual)
    try:
        search = _Search(place, table)
        layout, published, found = search.recognise(layouts)
        published, notes = rework(
            published,
            joins=[(join, search.table(join.file)) for join in layout.join],
            rename=layout.rename,
            one_hot=layout.one_hot,
            keep=layout.keep,
            derive=derive,
        )
        openers, looked_in = _openers(place, layout, images)
    except BaseException:
        place.close()
        raise
    return RawTable(
        table=published,
        open_image=_first_of(openers),
        looked_in=looked_in,
        close=_closing(place, openers),
        layout="; ".join(note for note in (layout.name, found, layout.note, *notes) if note),
        may_lack=layout.may_lack,
    )


def layouts_of(facts: Mapping[str, Any]) -> tuple[Layout, ...]:
    """The layouts that the table `[dataset]` of a source describes."""
    return tuple(_layout(entry) for entry in facts["layout"])


def fitted(schema: Schema, published: RawTable) -> tuple[Schema, RawTable]:
    """The schema without the columns that the table lacks, as far as its layout may lack them.

    What was left out is added to `published.layout`.
    """
    any_column = "*" in published.may_lack

    def absent(column: str | None) -> bool:
        may = any_column or column in published.may_lack
        return column is not None and may and column not in published.table.columns

    gone = [column for level in schema.levels for column in level.columns if absent(column)]
    levels = tuple(
        replace(level, features=tuple(f for f in level.features if not any(map(absent, f.columns))))
        for level in schema.levels
    )
    ids: dict[str, Any] = {}
    for role in ("lesion", "patient", "label", "split"):
        if absent(getattr(schema, role)):
            gone.append(getattr(schema, role))
            ids[role] = None
    if not gone:
        return schema, published
    layout = f"{published.layout}; without {', '.join(dict.fromkeys(gone))}"
    return replace(schema, levels=levels, **ids), replace(published, layout=layout)


class _Search:
    """Looks for tables in a place; each is read once.

    Args:
        place: where to look.
        given: the main table, as a path from RAW on, if the user named it.
    """

    def __init__(self, place: Place, given: str | None) -> None:
        self._place, self._given = place, given
        self._read = lru_cache(maxsize=None)(partial(table_at, place))

    def recognise(self, layouts: Sequence[Layout]) -> tuple[Layout, pd.DataFrame, str]:
        """The first layout that fits, its rows, and where they are.

        Raises:
            TableError: none fits.
        """
        near = list[str]()  # what layouts lack of which something is there
        for layout in layouts:
            found = list(self._tables(layout))
            paths = " and ".join(self._place.paths[number] for _, number in found)
            if not found:
                continue
            if lack := self._lacks(layout, [number for _, number in found]):
                near.append(f"{paths} {lack}")
                continue
            if layout.instead:
                raise TableError(f"{self._place.raw}: {paths} is {layout.name}. {layout.instead}")
            tables = [self._read(number).assign(**rows.set) for rows, number in found]
            joined = join_tables(tables) if len(tables) > 1 else tables[0]
            return layout, joined, f"table {paths}"
        files = [f"{layout.files} ({layout.name})" for layout in layouts if not layout.instead]
        if self._given is not None and not near:
            files = [self._given]
        hint = f" But {'; '.join(dict.fromkeys(near))}." if near else ""
        raise TableError(
            f"{self._place.raw}: there is no table {'; or '.join(files)}.{hint} Name another with "
            "--table."
        )

    def table(self, patterns: Sequence[str]) -> pd.DataFrame | None:
        """The first table that is there."""
        number = self._first(patterns)
        return None if number is None else self._read(number)

    def _tables(self, layout: Layout) -> Iterator[tuple[Rows, int]]:
        if self._given is None:
            for rows in layout.rows:
                number = self._first(rows.file, layout.columns)
                if number is not None:
                    yield rows, number
            return
        number = self._place.number(self._given)
        if number is not None:
            name = self._place.paths[number].rpartition("/")[2]
            fitting = [rows for rows in layout.rows if rows.begins and name.startswith(rows.begins)]
            yield (fitting or list(layout.rows))[0], number

    def _lacks(self, layout: Layout, numbers: Sequence[int]) -> str:
        """What keeps the tables from being this layout, or ''."""
        for number in numbers:
            if missing := [c for c in layout.columns if c not in self._read(number).columns]:
                return f"has no column '{missing[0]}'"
        for join in layout.join:
            if join.needed and self._first(join.file) is None:
                return f"is there without {' or '.join(join.file)} ({layout.name})"
        return ""

    def _first(self, patterns: Sequence[str], columns: Sequence[str] = ()) -> int | None:
        """The first file that is there; of several, those with the columns count, if any."""
        for pattern in patterns:
            numbers = self._place.files(pattern)
            if len(numbers) > 1 and columns:
                fitting = [n for n in numbers if set(columns) <= set(self._read(n).columns)]
                numbers = fitting or numbers
            if numbers:
                return one_file(self._place, numbers)
        return None


def _openers(place: Place, layout: Layout, given: str | None) -> tuple[list[OpenImage], str]:
    """What finds an image by its cell, the cheapest first, and where it looks."""
    groups = layout.images
    if given is None:
        folders, files = _image_places(place, groups)
    else:
        folders, files = _given_images(place, given)
    direct, packed = list[OpenImage](), list[OpenImage]()
    for number in files:
        images = HDF5Images(place, number)
        (packed if place.inside_zip(number) else direct).append(images)
    looked_in = [str(place.shown(number)) for number in files]
    if folders:
        direct.append(Images(place, _outermost(folders)))
        looked_in.append(str(direct[-1]))
    usual = [f"{place.raw}/{pattern}" for group in groups for pattern in group if pattern != "."]
    return [*direct, *packed], " and ".join(looked_in) or ", ".join(usual)


def _image_places(place: Place, groups: Sequence[Sequence[str]]) -> tuple[list[str], list[int]]:
    """Folders and HDF5 files of the first group that has any."""
    for group in groups:
        folders = [path for pattern in group for path in place.folders(pattern)]
        files = [number for pattern in group for number in place.files(pattern)]
        files = [number for number in files if HDF5_ENDING.search(place.paths[number])]
        if folders or files:
            return folders, files
    return [], []


def _given_images(place: Place, given: str) -> tuple[list[str], list[int]]:
    number = place.number(given)
    if number is not None and HDF5_ENDING.search(given):
        return [], [number]
    return [place.folder(given)], []


def _outermost(folders: Sequence[str]) -> list[str]:
    kept = list(dict.fromkeys(folders))
    return [f for f in kept if not any(o != f and (not o or f.startswith(f"{o}/")) for o in kept)]


def _first_of(openers: Sequence[OpenImage]) -> OpenImage:
    def open_image(cell: str) -> bytes | None:
        found = (opener(cell) for opener in openers)
        return next((encoded for encoded in found if encoded is not None), None)

    return open_image


def _closing(place: Place, openers: Sequence[OpenImage]) -> Callable[[], None]:
    def close() -> None:
        for opener in openers:
            if isinstance(opener, HDF5Images):
                opener.close()
        place.close()

    return close


def _layout(entry: Mapping[str, Any]) -> Layout:
    """The layout that an entry of `[[dataset.layout]]` describes."""
    content = dict(entry)
    content["rows"] = tuple(_made(Rows, rows) for rows in content["rows"])
    content["join"] = tuple(_made(Join, join) for join in content.get("join", ()))
    for key, kind in (("one_hot", OneHot), ("keep", Keep)):
        if key in content:
            content[key] = _made(kind, content[key])
    if "images" in content:
        content["images"] = tuple(tuple(group) for group in content["images"])
    return _made(Layout, content)


def _made(kind: type[Part], entry: Mapping[str, Any]) -> Part:
    """A dataclass from a TOML table, whose lists are its tuples."""
    unknown = set(entry) - {f.name for f in fields(kind)}  # type: ignore[arg-type]
    assert not unknown, f"{kind.__name__} has no {unknown}"
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})
