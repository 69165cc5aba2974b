"""Encoded images in an HDF5 file: a dataset of bytes per image, named after it."""

from __future__ import annotations

import os
import re
from functools import cached_property
from threading import Lock

import h5py
import numpy as np

from slimp.errors import TableError
from slimp.sources.image_files import MAX_IMAGE_BYTES
from slimp.sources.parse_cells import image_key
from slimp.sources.raw_files import Place

HDF5_ENDING = re.compile(r"\.(?:hdf5|h5)$", re.IGNORECASE)


class HDF5Images:
    """Images of an HDF5 file, found by what a table calls them; it is opened at the first call.

    Args:
        place: where the file is.
        number: of the file there.
    """

    def __init__(self, place: Place, number: int) -> None:
        self._place, self._number = place, number
        self._lock = Lock()

    @cached_property
    def _file(self) -> h5py.File:
        try:
            return h5py.File(self._place.path(self._number), "r")
        except (OSError, RuntimeError, ValueError) as error:
            shown = self._place.shown(self._number)
            raise TableError(f"{shown}: not a readable HDF5 file ({error}).") from None

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None.

        Raises:
            TableError: it is not a readable HDF5 file, or the image is not to be read.
            OSError: the image is damaged.
        """
        key = image_key(cell)
        if not key:
            return None
        with self._lock:
            if (content := self._in_one_piece(key)) is not None:
                return content
            shown = self._place.shown(self._number)
            try:
                item = self._file.get(key)
                if not isinstance(item, h5py.Dataset):
                    return None
                if problem := self._problem(item):
                    raise TableError(f"{shown}: the image '{key}' {problem}.")
                value = item[()]  # np.bytes_, np.void or an array of bytes
            except TableError:
                raise
            except (KeyError, RuntimeError, ValueError) as error:
                raise OSError(f"damaged in {shown.name} ({error})") from None
        return bytes(value) if isinstance(value, bytes) else np.asarray(value).tobytes()

    def _in_one_piece(self, key: str) -> bytes | None:
        """The bytes of a dataset that lies in this file as it is; None: it takes h5py to read it.

        As SLICE-3D has them, and in a sixth of the time.
        """
        if "/" in key or not hasattr(os, "pread"):
            return None
        try:
            if self._file.id.links.get_info(key.encode()).type != h5py.h5l.TYPE_HARD:
                return None
            item = h5py.h5d.open(self._file.id, key.encode())
            kind, place, size = item.get_type(), item.get_offset(), item.get_storage_size()
        except (KeyError, RuntimeError, TypeError, ValueError):
            return None
        if place is None or not 0 < size <= MAX_IMAGE_BYTES:
            return None
        text = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str()
        padded = text and kind.get_strpad() == h5py.h5t.STR_NULLPAD
        numbers = kind.get_class() == h5py.h5t.INTEGER and kind.get_size() == 1
        if not (padded or numbers or kind.get_class() == h5py.h5t.OPAQUE):
            return None
        content = os.pread(self._file.id.get_vfd_handle(), size, place)
        return content.rstrip(b"\0") if padded else content  # as numpy writes bytes, and reads

    def _problem(self, item: h5py.Dataset) -> str:
        """Why the bytes are not to be read, or ''."""
        if item.file.filename != self._file.filename or item.external or item.is_virtual:
            return "lies in another file, which is not read"
        if item.nbytes > MAX_IMAGE_BYTES:
            return f"says that it has {item.nbytes:,} bytes, more than are read. Remove it"
        return ""

    def close(self) -> None:
        """Closes the file."""
        if "_file" in self.__dict__:
            self._file.close()
