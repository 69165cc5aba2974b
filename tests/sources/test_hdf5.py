"""Encoded images in HDF5: every way of storing bytes, and what is not read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from slimp.errors import TableError
from slimp.sources.hdf5 import HDF5Images
from slimp.sources.raw_files import Place

CONTENT = b"\xff\xd8 an image \x00"


@pytest.fixture
def path(tmp_path) -> Path:
    with h5py.File(tmp_path / "images.hdf5", "w") as file:
        file["opaque"] = np.void(CONTENT)
        file["bytes"] = np.frombuffer(CONTENT, dtype=np.uint8)
        file["string"] = np.bytes_(CONTENT[:-1])
        file.create_dataset("padded", data=np.bytes_(CONTENT[:-1]), dtype="S40")
        file["folder/deep"] = np.void(CONTENT)
        file["link"] = h5py.SoftLink("/opaque")
        file.create_dataset("packed", data=np.frombuffer(CONTENT, np.uint8), compression="gzip")
        file.create_dataset("bomb", shape=(1 << 40,), dtype=np.uint8, chunks=(1 << 20,))
        file["numbers"] = np.arange(6, dtype=">u2")
        file["elsewhere"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/x")
        file["gone"] = h5py.ExternalLink(str(tmp_path / "nowhere.hdf5"), "/x")
        outside = [(str(tmp_path / "secret.txt"), 0, 6)]
        file.create_dataset("outside", shape=(6,), dtype=np.uint8, external=outside)
        virtual = h5py.VirtualLayout(shape=(6,), dtype=np.uint8)
        virtual[:] = h5py.VirtualSource(tmp_path / "other.hdf5", "x", shape=(6,))
        file.create_virtual_dataset("virtual", virtual)
    (tmp_path / "secret.txt").write_bytes(b"secret")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["x"] = np.frombuffer(b"secret", dtype=np.uint8)
    return tmp_path / "images.hdf5"


def opened(raw: Path, name: str) -> HDF5Images:
    place = Place(raw)
    return HDF5Images(place, name)


@pytest.mark.parametrize("packed", [False, True])
def test_images_as_bytes_of_any_type(path, packed):
    raw = path.parent
    if packed:
        raw = raw / "raw.zip"
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, path.name)
    images = opened(raw, path.name)
    for cell in ("opaque", "bytes.jpg", "folder/deep.png", "link"):
        assert images(cell) == CONTENT
    assert images("string") == images("padded") == CONTENT[:-1]
    for cell in ("", "nothing", "folder", "opaque/more", "gone"):
        assert images(cell) is None
    images.close()


@pytest.mark.parametrize("cell", ["outside", "virtual", "elsewhere", "bomb", "packed", "numbers"])
def test_what_is_not_read(path, cell):
    images = opened(path.parent, path.name)
    with pytest.raises(TableError, match=rf"images\.hdf5: the image '{cell}'"):
        images(cell)
    images.close()


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(50)])
def test_what_is_no_hdf5_file(tmp_path, content):
    (tmp_path / "a.hdf5").write_bytes(content)
    with pytest.raises(TableError, match=r"a\.hdf5: not a readable HDF5 file"):
        opened(tmp_path, "a.hdf5")("x")
