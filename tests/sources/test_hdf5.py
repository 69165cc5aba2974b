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


def opened(path: Path) -> HDF5Images:
    place = Place(path.parent)
    return HDF5Images(place, place.number(path.name))


@pytest.fixture
def path(tmp_path) -> Path:
    with h5py.File(tmp_path / "images.hdf5", "w") as file:
        file["opaque"] = np.void(CONTENT)
        file["bytes"] = np.frombuffer(CONTENT, dtype=np.uint8)
        file["folder/deep"] = np.void(CONTENT)
        file.create_dataset("packed", data=np.frombuffer(CONTENT, np.uint8), compression="gzip")
        file.create_dataset("bomb", shape=(1 << 40,), dtype=np.uint8, chunks=(1 << 20,))
        file["link"] = h5py.SoftLink("/opaque")
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


@pytest.fixture(params=["in a folder", "in a zip"])
def images(request, path):
    raw = path.parent
    if request.param == "in a zip":
        raw = raw / "raw.zip"
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, path.name)
    place = Place(raw)
    images = HDF5Images(place, place.number(path.name))
    yield images
    images.close()
    place.close()


@pytest.mark.parametrize("cell", ["opaque", "bytes.jpg", "folder/deep.png", "packed", "link"])
def test_finds(images, cell):
    assert images(cell) == CONTENT


def test_bytes_are_those_that_h5py_reads(path, monkeypatch):
    """Fixed strings lose the zeros behind them; longer strings and numbers are left to h5py."""
    with h5py.File(path, "a") as file:
        file["string"] = np.bytes_(CONTENT[:-1])
        file.create_dataset("padded", data=np.bytes_(CONTENT[:-1]), dtype="S40")
        terminated = h5py.string_dtype("ascii", 40)
        file.create_dataset("terminated", data=CONTENT[:-1].strip(), dtype=terminated)
        file["numbers"] = np.arange(6, dtype=">u2")
        file["empty"] = np.zeros(0, np.uint8)
    images = opened(path)
    cells = ("opaque", "bytes", "string", "padded", "terminated", "numbers", "empty")
    quick = [images(cell) for cell in cells]
    monkeypatch.setattr(images, "_in_one_piece", lambda key: None)
    assert quick == [images(cell) for cell in cells]
    assert quick[2] == quick[3] == CONTENT[:-1]
    images.close()


@pytest.mark.parametrize("cell", ["", "nothing", "folder", "opaque/more", "gone"])
def test_what_is_not_there(images, cell):
    assert images(cell) is None


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("outside", "images.hdf5: the image 'outside' lies in another file"),
        ("virtual", "the image 'virtual' lies in another file"),
        ("bomb", "the image 'bomb' says that it has 1,099,511,627,776 bytes"),
    ],
)
def test_what_is_not_read(images, cell, message):
    with pytest.raises(TableError, match=message):
        images(cell)


def test_a_link_to_another_file_is_not_followed(path):
    with pytest.raises(TableError, match="the image 'elsewhere' lies in another file"):
        opened(path)("elsewhere")


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + bytes(50)])
def test_what_is_no_hdf5_file(tmp_path, content):
    (tmp_path / "a.hdf5").write_bytes(content)
    with pytest.raises(TableError, match=r"a\.hdf5: not a readable HDF5 file"):
        opened(tmp_path / "a.hdf5")("x")
