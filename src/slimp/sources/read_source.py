"""The table and images of a dataset in RAW, whichever of its layouts lies there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.schema import Schema
from slimp.sources.arrange import arrange
from slimp.sources.hdf5 import HDF5_ENDING, HDF5Images
from slimp.sources.image_files import Images
from slimp.sources.importer import RawTable
from slimp.sources.raw_files import Place
from slimp.sources.read_parquet import EMBEDDED, ParquetImages
from slimp.sources.recognise import Layout, Search


def read_source(
    layouts: Sequence[Layout],
    schema: Schema,
    raw: Path,
    *,
    table: str | None = None,
    images: str | None = None,
    folder: str | None = None,
) -> tuple[RawTable, Schema]:
    """The table and images of the first layout in `raw`, and the schema of the columns it has.

    A `table`, and the folder, zip or HDF5 file of the `images`, may be named instead of the usual
    ones, as paths from `raw` on; `folder` is one that is no pattern. Images that lie in the table
    itself are read unless others are named. The caller closes the table.

    Raises:
        TableError: no layout fits, which says what each of them lacks; or a file is at fault.
    """
    usual = " or ".join(dict.fromkeys([table] if table else [layout.files for layout in layouts]))
    with ExitStack() as opened:
        place = opened.enter_context(closing(Place(raw, holds=usual)))
        search = Search(place, table)
        layout, paths, published = search.recognise(layouts)
        packed: list[HDF5Images] | list[ParquetImages]
        if images is not None or (column := published.attrs[EMBEDDED]) is None:
            folders, packed, looked_in = _images(place, layout, images or folder)
        else:
            folders, looked_in = Images(place, ()), f"column '{column}' of the table"
            packed = [ParquetImages(place.unpacked(path), column) for path in paths]
        for file in packed:
            opened.callback(file.close)
        outer = dict.fromkeys(str(path) for path in (raw.absolute(), raw.resolve()))
        inner = [f"{root}/{path}" for root in outer for path in folders.folders if path]
        published = arrange(
            published,
            layout.table,
            schema,
            read_join=lambda join: search.further(join, layout.table, paths[0]),
            files=() if layout.table.image_names is None else folders.files,
            roots=[*inner, *outer],
        )
        if layout.one_hot:
            schema = replace(schema, label=None, one_hot=layout.one_hot)
        schema, gone = fitted(schema, published, layout.may_lack)
        found = f"table {' and '.join(paths)}"
        said = [layout.name, found, layout.note, f"without {', '.join(gone)}" if gone else ""]

        def open_image(cell: str) -> bytes | None:
            return next((e for o in (folders, *packed) if (e := o(cell)) is not None), None)

        raw_table = RawTable(
            table=published,
            open_image=open_image,
            looked_in=looked_in,
            hint=folders.hint,
            notes=folders.notes,
            close=opened.pop_all().close,
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


def _images(
    place: Place, layout: Layout, given: str | None
) -> tuple[Images, list[HDF5Images], str]:
    """Image files in folders, HDF5 files, and where those are.

    They are the one that was given, else all of the layout's first group that has any.
    """
    folders, files = list[str](), list[str]()
    if given is not None:
        file = place.at(given) if HDF5_ENDING.search(given) else None
        folders, files = ([place.folder(given)], []) if file is None else ([], [file])
    for group in layout.images if given is None else ():
        folders = place.folders(*group)
        files = [path for pattern in group for path in place.files(pattern)]
        files = list(filter(HDF5_ENDING.search, files))
        if folders or files:
            break
    found = Images(place, folders)
    looked_in = [str(place.raw / path) for path in files] + [str(found)] * bool(folders)
    usual = [f"{place.raw}/{name}" for group in layout.images for name in group if name != "."]
    packed = [HDF5Images(place, path) for path in files]
    return found, packed, " and ".join(looked_in) or ", ".join(usual)
