"""Encoded images in an HDF5 file: a dataset of bytes per image, named after it."""

from __future__ import annotations

import re
from contextlib import ExitStack
from functools import cached_property
from threading import Lock
from typing import IO

import h5py

from slimp.errors import TableError
from slimp.sources.image_files import MAX_IMAGE_BYTES
from slimp.sources.parse_cells import image_key
from slimp.sources.raw_files import Place

HDF5_ENDING = re.compile(r"\.(?:hdf5|h5)$", re.IGNORECASE)


class HDF5Images:
    """Images of an HDF5 file, found by what a table calls them; it is opened at the first call.

    They are read at their place in the file, which takes half of h5py's time.
    """

    def __init__(self, place: Place, path: str) -> None:
        self._place, self._path = place, path
        self._lock, self._open = Lock(), ExitStack()

    @cached_property
    def _file(self) -> tuple[h5py.h5f.FileID, IO[bytes]]:
        path = self._place.unpacked(self._path)
        try:
            index = self._open.enter_context(h5py.File(path, "r"))
            return index.id, self._open.enter_context(path.open("rb"))
        except (OSError, RuntimeError, ValueError) as error:
            shown = self._place.raw / self._path
            raise TableError(f"{shown}: not a readable HDF5 file ({error}).") from None

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None.

        Raises:
            TableError: it is not a readable HDF5 file, or the image is not in it in one piece.
            OSError: the image cannot be read.
        """
        key = image_key(cell)
        with self._lock:
            index, file = self._file
            try:
                item = h5py.h5d.open(index, key.encode() or b"/")
            except (KeyError, RuntimeError, TypeError, ValueError):
                return None
            place, size, kind = item.get_offset(), item.get_storage_size(), item.get_type()
            text = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str()
            padded = text and kind.get_strpad() == h5py.h5t.STR_NULLPAD
            numbers = kind.get_class() == h5py.h5t.INTEGER and kind.get_size() == 1
            if (
                place is None
                or size > MAX_IMAGE_BYTES
                or not (padded or numbers or kind.get_class() == h5py.h5t.OPAQUE)
                or h5py.h5f.get_name(item) != h5py.h5f.get_name(index)
            ):
                raise TableError(
                    f"{self._place.raw / self._path}: the image '{key}' is not read: it lies in "
                    f"another file or in pieces, is compressed, has over {MAX_IMAGE_BYTES:,} "
                    "bytes, or is of other values than bytes. Write the encoded image as one "
                    "dataset of bytes, as h5py does without options."
                )
            file.seek(place)
            content = file.read(size)
        return content.rstrip(b"\0") if padded else content  # as numpy writes bytes, and reads

    def close(self) -> None:
        """Closes the file."""
        self._open.close()
