"""Anyone's own data: a table with a row per image, and a folder of images."""

from __future__ import annotations

from pathlib import Path

from slimp.sources.raw import ImageFolder, RawTable, first_file, image_folders
from slimp.sources.reading import read_table


def read(raw: Path, *, table: str | None = None, images: str | None = None) -> RawTable:
    """The table (default `metadata.csv`) and the images (default in `images`) under `raw`.

    Raises:
        TableError: the table or the image folder is missing, or the table is unreadable.
    """
    published = read_table(first_file(raw, ["metadata.csv"], table))
    folder = ImageFolder(image_folders(raw, [], images or "images"))
    return RawTable(table=published, open_image=folder, looked_in=str(folder))
