"""The table and images of a dataset in RAW, whichever of its layouts lies there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.schema import Schema
from slimp.data.settings import read_toml
from slimp.sources.arrange import arrange
from slimp.sources.hdf5 import HDF5_ENDING, HDF5Images
from slimp.sources.image_files import Images
from slimp.sources.layout import TableLayout
from slimp.sources.raw import OpenImage, RawTable
from slimp.sources.raw_files import Place
from slimp.sources.read_parquet import EMBEDDED, ParquetImages
from slimp.sources.recognise import Layout, Rows, Search, layouts_of

TABLE, IMAGES = "metadata.csv", "images"
"""Where anyone's own table and images are, unless they are named."""


def read_published(
    toml: Path, raw: Path, *, table: str | None = None, images: str | None = None
) -> tuple[RawTable, Schema]:
    """The table and images of the dataset that `toml` describes; arguments as of `read_source`."""
    layouts = layouts_of(read_toml(toml))
    return read_source(layouts, Schema.from_toml(toml), raw, table=table, images=images)


def read_own(
    layout: TableLayout,
    schema: Schema,
    raw: Path,
    *,
    table: str | None = None,
    images: str | None = None,
) -> tuple[RawTable, Schema]:
    """Anyone's own table, by default `metadata.csv`, and images, by default below `images`."""
    own = Layout(name="", rows=(Rows(file=(table or TABLE,)),), table=layout)
    return read_source([own], schema, raw, table=table or TABLE, images=images or IMAGES)


def read_source(
    layouts: Sequence[Layout],
    schema: Schema,
    raw: Path,
    *,
    table: str | None = None,
    images: str | None = None,
) -> tuple[RawTable, Schema]:
    """The table and images of the first layout that lies in `raw`, and what the columns are.

    The schema returned lacks the columns that the layout may lack, and does. The caller closes
    the table.

    Args:
        layouts: to look for.
        schema: of the table.
        raw: folder or zip file.
        table: a table that replaces the usual ones, as a path from `raw` on.
        images: a folder, zip or HDF5 file that replaces the usual ones.

    Raises:
        TableError: no layout fits, which says what each of them lacks; or a file is at fault.
    """
    usual = " or ".join(dict.fromkeys([table] if table else [layout.files for layout in layouts]))
    place = Place(raw, holds=usual)
    try:
        search = Search(place, table)
        layout, numbers, published = search.recognise(layouts)
        if (column := published.attrs.get(EMBEDDED)) is None:
            openers, folders, looked_in = _openers(place, layout, images)
        else:
            openers, folders, looked_in = _embedded(place, numbers, column)
        outer = dict.fromkeys(str(path) for path in (raw.absolute(), raw.resolve()))
        inner = [f"{root}/{folder}" for root in outer for folder in folders.folders if folder]
        by_name = layout.table.image_names is not None
        published = arrange(
            published,
            layout.table,
            schema.image,
            read_join=lambda join: search.further(join, layout.table, numbers[0]),
            files=folders.files if by_name else (),
            roots=[*inner, *outer],
        )
    except BaseException:
        place.close()
        raise
    if layout.one_hot:
        schema = replace(schema, label=None, one_hot=layout.one_hot)
    schema, gone = fitted(schema, published, layout.may_lack)
    found = f"table {' and '.join(place.paths[number] for number in numbers)}"
    said = [layout.name, found, layout.note, f"without {', '.join(gone)}" if gone else ""]
    raw_table = RawTable(
        table=published,
        open_image=_first_of(openers),
        looked_in=looked_in,
        hint=folders.hint,
        close=_closing(place, openers),
        layout="; ".join(filter(None, said)),
    )
    return raw_table, schema


def fitted(
    schema: Schema, table: pd.DataFrame, may_lack: Sequence[str]
) -> tuple[Schema, tuple[str, ...]]:
    """The schema without the columns that the table lacks, as far as it may, and those columns."""

    def absent(column: str | None) -> bool:
        may = "*" in may_lack or column in may_lack
        return column is not None and may and column not in table.columns

    gone = [column for level in schema.levels for column in level.columns if absent(column)]
    levels = tuple(
        replace(level, features=tuple(f for f in level.features if not any(map(absent, f.columns))))
        for level in schema.levels
    )
    roles = [role for role in ("lesion", "patient", "label", "split") if absent(vars(schema)[role])]
    gone += [vars(schema)[role] for role in roles]
    without: dict[str, Any] = dict.fromkeys(roles)
    return replace(schema, levels=levels, **without), tuple(dict.fromkeys(gone))


def _openers(
    place: Place, layout: Layout, given: str | None
) -> tuple[list[OpenImage], Images, str]:
    """What finds an image by its cell, the cheapest first; the files among them; where it looks."""
    paths, files = _image_places(place, layout.images, given)
    direct, packed = list[OpenImage](), list[OpenImage]()
    for number in files:
        (packed if place.inside_zip(number) else direct).append(HDF5Images(place, number))
    looked_in = [str(place.shown(number)) for number in files]
    folders = Images(place, _outermost(paths))
    if paths:
        direct.append(folders)
        looked_in.append(str(folders))
    usual = [f"{place.raw}/{name}" for group in layout.images for name in group if name != "."]
    return [*direct, *packed], folders, " and ".join(looked_in) or ", ".join(usual)


def _embedded(
    place: Place, numbers: Sequence[int], column: str
) -> tuple[list[OpenImage], Images, str]:
    """As `_openers`, for images that lie in a column of the table."""
    openers: list[OpenImage] = [ParquetImages(place.path(number), column) for number in numbers]
    return openers, Images(place, ()), f"column '{column}' of the table"


def _image_places(
    place: Place, groups: Sequence[Sequence[str]], given: str | None
) -> tuple[list[str], list[int]]:
    """Folders and HDF5 files: those given, else all of the first group that has any."""
    if given is not None:
        number = place.number(given)
        is_file = number is not None and HDF5_ENDING.search(given)
        return ([], [number]) if is_file and number is not None else ([place.folder(given)], [])
    for group in groups:
        folders = [path for pattern in group for path in place.folders(pattern)]
        files = [number for pattern in group for number in place.files(pattern)]
        files = [number for number in files if HDF5_ENDING.search(place.paths[number])]
        if folders or files:
            return folders, files
    return [], []


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
            if isinstance(opener, HDF5Images | ParquetImages):
                opener.close()
        place.close()

    return close
