"""SLICE-3D (ISIC 2024) in its official layout: per part a CSV, and JPEGs in an HDF5 file or folder.

The part (train or test) becomes the column `part`.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from slimp.cells import image_key
from slimp.errors import TableError
from slimp.sources.raw import ImageFolder, RawTable, first_file
from slimp.sources.reading import join_tables, read_table

PARTS = ("train", "test")


class HDF5Images:
    """Encoded images in an HDF5 file, a dataset of bytes per image, named after it."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise TableError(f"{path}: not a readable HDF5 file ({error}).") from None
        self.close = self._file.close

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None."""
        item = self._file.get(image_key(cell))
        if not isinstance(item, h5py.Dataset):
            return None
        value = item[()]  # np.bytes_, np.void or an array of bytes
        return bytes(value) if isinstance(value, bytes) else np.asarray(value).tobytes()


def read(raw: Path, *, table: str | None = None, images: str | None = None) -> RawTable:
    """The tables of both parts, or of the one that is there, and their images.

    Args:
        raw: the folder.
        table: reads this table alone; its part is `test` if its name begins so, else `train`.
        images: an image folder or HDF5 file that replaces the usual ones.

    Raises:
        TableError: no table is there, or a file is unreadable.
    """
    names = [f"{part}-metadata.csv" for part in PARTS]
    there = [name for name in names if (raw / name).is_file()]
    wanted = [table] if table or not there else there
    paths = [first_file(raw, names, name) for name in wanted]
    tables = [
        read_table(path).assign(part="test" if path.name.startswith("test") else "train")
        for path in paths
    ]
    places = [raw / images] if images else _image_places(raw)
    files = [HDF5Images(path) for path in places if path.is_file()]
    openers: list[HDF5Images | ImageFolder] = [
        *files,
        ImageFolder([path for path in places if path.is_dir()]),
    ]

    def open_image(cell: str) -> bytes | None:
        found = (opener(cell) for opener in openers)
        return next((encoded for encoded in found if encoded is not None), None)

    def close() -> None:
        for file in files:
            file.close()

    usual = f"{raw}/train-image.hdf5, {raw}/train-image"
    looked_in = " and ".join(map(str, places)) or usual
    return RawTable(
        table=join_tables(tables), open_image=open_image, looked_in=looked_in, close=close
    )


def _image_places(raw: Path) -> list[Path]:
    """Per part the HDF5 file and the image folder, those that are there."""
    names = [f"{part}-image{ending}" for part in PARTS for ending in (".hdf5", "")]
    return [raw / name for name in names if (raw / name).exists()]
