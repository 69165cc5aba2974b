"""HAM10000 as published: `HAM10000_metadata`, and JPEGs in one folder or in two parts."""

from __future__ import annotations

from pathlib import Path

from slimp.sources.raw import ImageFolder, RawTable, first_file, image_folders
from slimp.sources.reading import read_table

TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata")
FOLDERS = ("images", "[Hh][Aa][Mm]10000_images_part_*", "**/[Hh][Aa][Mm]10000_images_part_*")


def read(raw: Path, *, table: str | None = None, images: str | None = None) -> RawTable:
    """The table and images under `raw`.

    Raises:
        TableError: the table is missing or unreadable.
    """
    published = read_table(first_file(raw, TABLES, table))
    folder = ImageFolder(image_folders(raw, FOLDERS, images))
    looked_in = str(folder) if folder.folders else f"{raw}/images, {raw}/HAM10000_images_part_1, _2"
    return RawTable(table=published, open_image=folder, looked_in=looked_in)
