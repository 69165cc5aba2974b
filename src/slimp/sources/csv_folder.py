"""Anyone's own data: a table of images, perhaps further tables, and a folder of image files."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd

from slimp.errors import TableError
from slimp.sources.arrange import arrange, fold
from slimp.sources.image_files import Images
from slimp.sources.layout import Join, TableLayout
from slimp.sources.parse_cells import UNREAD_ENDING, image_key
from slimp.sources.raw import RawTable
from slimp.sources.raw_files import Place
from slimp.sources.read_table import table_at

TABLE = "metadata.csv"
IMAGES = "images"


def read(
    raw: Path,
    *,
    table: str | None = None,
    images: str | None = None,
    layout: TableLayout | None = None,
    image: str | None = None,
) -> RawTable:
    """The table (default `metadata.csv`) and the images (default in `images`) under `raw`.

    Args:
        raw: folder or zip file.
        table: the main table, as a path from `raw` on.
        images: the image folder, likewise.
        layout: what the table looks like, and what to make of it.
        image: column that names the image in the end; None: the table stays as it is.

    Raises:
        TableError: the table or the image folder is missing, or a table is unreadable.
    """
    layout, table = layout or TableLayout(), table or TABLE
    place = Place(raw, holds=table)
    number = place.number(table)
    if number is None:
        raise TableError(f"{raw}: there is no table {table}. Name another with --table.")
    folder = place.folder(images or IMAGES)
    opener = AnyCase(place, folder)
    published = table_at(place, number, layout)

    def read_join(join: Join) -> pd.DataFrame:
        beside = (Path(table).parent / join.file).as_posix() if join.file else table
        other = place.number(beside)
        if other is None:
            raise TableError(f"{raw}: there is no table {beside}, which [[table.join]] names.")
        encoding = layout.encoding if join.file is None else None
        return table_at(place, other, TableLayout(sheet=join.sheet, encoding=encoding))

    if image is not None:
        roots = dict.fromkeys(str(path) for path in (raw.absolute(), raw.resolve()))
        published = arrange(
            published,
            layout,
            image,
            read_join=read_join,
            files=opener.files if layout.image_names is not None else (),
            roots=[f"{root}/{folder}" for root in roots if folder] + list(roots),
        )
    return RawTable(table=published, open_image=opener, looked_in=str(opener), close=place.close)


class AnyCase:
    """Image files of a folder, found by name or path; if need be whatever case they are in.

    Args:
        place: where the folder is.
        folder: its path there.
    """

    def __init__(self, place: Place, folder: str) -> None:
        self._place, self._folder = place, folder
        self._images = Images(place, [folder])

    def __str__(self) -> str:
        return str(self._images)

    @cached_property
    def files(self) -> list[str]:
        """Paths of all files, from the folder on."""
        start = f"{self._folder}/" if self._folder else ""
        return [path[len(start) :] for path in self._place.paths if path.startswith(start)]

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None."""
        encoded = self._images(cell)
        if encoded is None and (other := self._spellings.get(fold(image_key(cell)))):
            encoded = self._images(other)
        return encoded

    @cached_property
    def _spellings(self) -> dict[str, str]:
        """Folded name or path -> the file's path; '' where several answer."""
        known = dict[str, str]()
        outer = self._folder.rpartition("/")[2]
        for file in sorted(self.files, key=lambda file: UNREAD_ENDING.search(file) is not None):
            path = fold(image_key(file))
            for key in {path, path.rpartition("/")[2], f"{fold(outer)}/{path}"}:
                if key in known and UNREAD_ENDING.search(file):
                    continue  # a phone's copy of an image that can be read
                known[key] = "" if key in known else file
        return known
