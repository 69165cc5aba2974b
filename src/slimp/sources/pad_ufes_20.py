"""PAD-UFES-20 as published: `metadata.csv`, and PNG photographs in one folder or in three parts."""

from __future__ import annotations

from pathlib import Path

from slimp.sources.raw import ImageFolder, RawTable, first_file, image_folders
from slimp.sources.reading import read_table

FOLDERS = ("images", "imgs_part_*", "**/imgs_part_*")


def read(raw: Path, *, table: str | None = None, images: str | None = None) -> RawTable:
    """The table and images under `raw`.

    Raises:
        TableError: the table is missing or unreadable.
    """
    published = read_table(first_file(raw, ["metadata.csv"], table))
    folder = ImageFolder(image_folders(raw, FOLDERS, images))
    looked_in = str(folder) if folder.folders else f"{raw}/images, {raw}/imgs_part_1 to _3"
    return RawTable(table=published, open_image=folder, looked_in=looked_in)
