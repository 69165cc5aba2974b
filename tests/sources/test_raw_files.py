"""RAW as a folder, a zip file, and zips within: the same files, found by the same names."""

from __future__ import annotations

import io
import os
import stat
import struct
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_data import fill, zipped

from slimp.errors import TableError
from slimp.sources import raw_files
from slimp.sources.image_files import Images, is_image_file
from slimp.sources.raw_files import Place, one_file

FILES = {
    "a.jpg": b"a",
    "sub/b.PNG": b"b",
    "sub/deep/c.jpeg": b"c",
    "twice/d.jpg": b"d1",
    "again/d.jpg": b"d2",
    "same/e.jpg": b"e",
    "copy/e.jpg": b"e",
    "two.jpg": b"2j",
    "two.png": b"2p",
    "notes.txt": b"no image",
    **{"IM0001": b"1", "1.2.840.7": b"2", "s/z.dicom": b"3", "DICOMDIR": b"7", "q.dat": b"8"},
    **{"c2.HEIC": b"h", "heic.heic": b"h", "heic.jpg": b"j"},
    "._a.jpg": b"hidden",
    "__MACOSX/x.jpg": b"hidden",
    "__MACOSX/sub/._b.PNG": b"hidden",
    ".cache/y.jpg": b"hidden",
    "sub/Thumbs.db": b"hidden",
}
KINDS = ["folder", "zip", "zip in a folder", "zip in a zip"]


def lay(path: Path, kind: str, files: dict[str, bytes]) -> Path:
    """The files under `images` in RAW, which is what this returns."""
    inside = {f"images/{name}": content for name, content in files.items()}
    if kind == "folder":
        return fill(path / "raw", inside)
    if kind == "zip":
        fill(path, {"raw.zip": zipped(inside)})
        return path / "raw.zip"
    if kind == "zip in a folder":
        return fill(path / "raw", {"images.zip": zipped(files)})
    fill(path, {"raw.zip": zipped({"images.zip": zipped(files)})})
    return path / "raw.zip"


@pytest.fixture
def place(monkeypatch, tmp_path_factory):
    """Makes places that are closed when the test ends; what they unpacked is gone then."""
    opened, unpacked = [], tmp_path_factory.mktemp("unpacked")
    monkeypatch.setattr(tempfile, "tempdir", str(unpacked))

    def make(raw: Path, **more: str) -> Place:
        opened.append(Place(raw, **more))
        return opened[-1]

    yield make
    for made in opened:
        made.close()
    assert list(unpacked.iterdir()) == []


def test_a_file_of_no_image_size_is_not_read(place, tmp_path):
    """Such as one that is nearly all holes: 3 GiB of nothing."""
    path = lay(tmp_path, "folder", FILES) / "images" / "a.jpg"
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    images = Images(place(tmp_path / "raw"))
    with pytest.raises(TableError, match=r"a\.jpg: has 3,221,225,472 bytes"):
        images("a.jpg")
    assert images("b.png") == b"b"


@pytest.mark.parametrize("kind", KINDS)
def test_finds(place, tmp_path, kind):
    """A cell of the table, and the file that it names."""
    cells = {
        **dict.fromkeys(("a.jpg", "a", "a.png", " a.jpg ", "./a.jpg", "images/a.jpg"), b"a"),
        **dict.fromkeys(("sub/b.png", "sub\\b.png", "b", "images/sub/b"), b"b"),
        **{"c.jpg": b"c", "twice/d.jpg": b"d1", "e": b"e", "two.png": b"2p", "two.jpg": b"2j"},
        "deep/c.jpg": None,  # not the path from the folder on
        "A.jpg": b"a",  # in another case
        **dict.fromkeys(("x", "y.jpg", "._a.jpg", "notes.txt", "nothing", "")),
        **dict.fromkeys(("../images/a.jpg", "/etc/passwd")),
        # Files without an ending are found by name only, as a picture archive writes DICOM.
        **{"IM0001": b"1", "IM0001.dcm": b"1", "1.2.840.7": b"2", "s/z": b"3", "q": None},
        **{"heic": b"j", "heic.heic": b"j"},  # a phone's copy beside
    }
    raw = place(lay(tmp_path, kind, FILES))
    assert {cell: Images(raw, raw.folders("images"))(cell) for cell in cells} == cells
    images = Images(raw, raw.folders("images"))
    for cell in ("d.jpg", "two", "two.gif"):
        with pytest.raises(TableError, match=f"the image '{cell}' could be .* and they differ"):
            images(cell)
    for cell in ("c2", "c2.jpg", "images/c2.HEIC"):
        with pytest.raises(OSError, match=r"c2\.HEIC, whose format is not read"):
            images(cell)


def test_a_file_under_two_names_is_refused(place, tmp_path):
    """Else it would be two images, perhaps of two patients."""
    fill(tmp_path, {"images/a.jpg": b"a", "images/s/b.jpg": b"b"})
    raw = place(tmp_path)
    images = Images(raw, raw.folders("images"))
    assert (images("a"), images("a.jpg"), images("b.jpg")) == (b"a", b"a", b"b")
    for first, second in (("a", "images/a.jpg"), ("b.jpg", "s/b")):
        with pytest.raises(TableError, match=f"images '{first}' and '{second}' .* are one file"):
            images(second)


def test_the_same_image_packed_and_unpacked(place, tmp_path):
    """Both the archive and the folder unpacked from it, which may have been cut short."""
    fill(tmp_path, {"part.zip": zipped({"a.jpg": b"a", "b.jpg": b"b"}), "part/a.jpg": b"a"})
    raw = place(tmp_path)
    for cell, content in {"a": b"a", "b": b"b", "part/a.jpg": b"a"}.items():
        assert Images(raw, raw.folders("part"))(cell) == content
    fill(tmp_path, {"part/b.jpg": b"another"})
    with pytest.raises(TableError, match="they differ"):
        Images(place(tmp_path))("b")


def test_image_files_are_known_by_ending_or_as_dicom(place, tmp_path):
    fill(tmp_path, {"IM1": bytes(128) + b"DICM", "README": b"text", "a.JPE": b"", "b.txt": b""})
    assert [p.name for p in sorted(tmp_path.iterdir()) if is_image_file(p)] == ["IM1", "a.JPE"]
    assert not is_image_file(tmp_path)


def test_folders_and_files_by_pattern(place, tmp_path):
    fill(tmp_path, {"parts_1/a.jpg": b"a", "parts_2/parts_1/b.jpg": b"b", "other/x": b""})
    fill(tmp_path, {"data/Parts_3.ZIP": zipped({"parts_3/c.jpg": b"c", "t.csv": b"t"})})
    raw = place(tmp_path)
    assert raw.folders("parts_*") == ["data/Parts_3.ZIP", "parts_1", "parts_2"], "searched once"
    assert raw.folders("other", "parts_2/parts_1") == ["other", "parts_2/parts_1"]
    assert raw.folders("data/parts_*") == ["data/Parts_3.ZIP"]
    assert (raw.folders("images"), raw.folders("parts_1", ".")) == ([], [""])
    assert raw.files("T.csv") == ["data/Parts_3.ZIP/t.csv"]
    assert raw.files("parts_*/c.jpg") == ["data/Parts_3.ZIP/parts_3/c.jpg"]
    assert [raw.folder(path) for path in ("./parts_1/", ".")] == ["parts_1", ""]
    assert raw.folder("data\\Parts_3.ZIP/parts_3") == "data/Parts_3.ZIP/parts_3"
    with pytest.raises(TableError, match=r"photos: no such image folder.*Name another with --ima"):
        raw.folder("photos")
    assert raw.at("./other/x") == "other/x"
    assert raw.at("x") is None
    images = Images(raw, raw.folders("PARTS_1", "parts_2"))
    assert (images("a"), images("b")) == (b"a", b"b"), "several folders are one"
    assert str(images) == f"{tmp_path / 'parts_1'} and {tmp_path / 'parts_2'}"


def test_of_several_tables_the_highest_counts(place, tmp_path):
    fill(tmp_path, {"m.csv": b"top", "deep/m.csv": b"deep", "a/n.csv": b"n", "b/n.csv": b"n"})
    fill(tmp_path, {"a/o.csv": b"1", "b.zip": zipped({"o.csv": b"2"})})
    raw = place(tmp_path)
    assert one_file(raw, raw.files("m.csv")) == "m.csv"
    assert one_file(raw, raw.files("n.csv")) == "a/n.csv"
    assert one_file(raw, []) is None
    with pytest.raises(TableError, match=r"zip/o\.csv and .*a/o\.csv differ\. Name one of them"):
        one_file(raw, raw.files("o.csv"))


@pytest.mark.parametrize("name", ["nowhere", "metadata.csv"])
def test_nowhere(place, tmp_path, name):
    (tmp_path / "metadata.csv").write_text("a,b\n")
    with pytest.raises(TableError, match=rf"{name}: .* zip file\. It should hold m"):
        place(tmp_path / name, holds="metadata.csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_passed_over(place, tmp_path):
    """Links to nowhere or back, which would be followed for ever, and pipes, waited on."""
    fill(tmp_path, {"raw/images/a.jpg": b"a", "elsewhere/b.jpg": b"b", "elsewhere/in/c.jpg": b"c"})
    raw = tmp_path / "raw"
    (raw / "images" / "back").symlink_to(raw)
    (raw / "more").symlink_to(tmp_path / "elsewhere")
    (raw / "photos").symlink_to(raw / "images")  # the name that an import looks for
    (tmp_path / "elsewhere" / "in" / "back").symlink_to(tmp_path / "elsewhere")
    (raw / "a.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (raw / "b.zip").symlink_to(raw / "b.zip")
    os.mkfifo(raw / "metadata.csv")
    images = ["images/a.jpg", "more/b.jpg", "more/in/c.jpg", "photos/a.jpg"]
    assert list(place(raw).paths) == images
    os.mkfifo(raw / "pipe")
    assert not is_image_file(raw / "pipe")


def edited(at: int, fmt: str, value: int) -> bytes:
    """A zip with one member whose entry in the list of members is changed."""
    content = bytearray(zipped({"a.jpg": b"a" * 100}))
    struct.pack_into(fmt, content, content.rindex(b"PK\1\2") + at, value)
    return bytes(content)


def with_link() -> bytes:
    buffer, info = io.BytesIO(), zipfile.ZipInfo("a.jpg")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


OUTSIDE = ("../a.jpg", "a/../../b.jpg", "/etc/a.jpg", "C:/a.jpg", "..\\a.jpg", "\\\\host\\a.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((zipped({name: b""}), "has a name that points out of the archive") for name in OUTSIDE),
        (with_link(), "'a.jpg' is a link to another file"),
        (edited(8, "<H", 1), "'a.jpg' is encrypted"),
        (edited(10, "<H", 12), r"'a.jpg' is packed by method 12"),
        (b"<html>Sign in</html>", "not a whole zip file"),
        (b"", "not a whole zip file"),
        (b"PK\5\6" + bytes(3), "not a whole zip file"),
        (zipped({"x.jpg": b"x" * 999})[:-30], "not a whole zip file"),
        (edited(0, "<I", 0), "not a whole zip file"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_archives_that_are_refused_are_named(place, tmp_path, content, message, nested):
    fill(tmp_path, {"a.zip": zipped({"in.zip": content}) if nested else content, "b.jpg": b"x"})
    with pytest.raises(
        TableError, match=(r"a\.zip/in\.zip" if nested else r"a\.zip") + f".*{message}"
    ):
        place(tmp_path)


@pytest.mark.parametrize(
    ("at", "fmt", "value"),
    [(16, "<I", 7), (42, "<I", 3), (24, "<I", 10), (20, "<I", 2)],
    ids=["checksum", "offset", "more than it says", "packed size"],
)
def test_a_damaged_member_is_no_reason_to_refuse_the_others(place, tmp_path, at, fmt, value):
    fill(tmp_path, {"a.zip": edited(at, fmt, value), "b.jpg": b"b"})
    images = Images(place(tmp_path))
    with pytest.raises(OSError, match="damaged in its zip file"):
        images("a")
    assert images("b") == b"b"


def test_what_unpacks_to_too_much_is_refused(place, tmp_path, monkeypatch):
    bomb = zipped({"a.jpg": bytes((1 << 26) + 1)})
    fill(tmp_path, {"one/a.zip": bomb, "two/a.zip": zipped({"b.zip": bytes((1 << 26) + 1)})})
    raw = place(tmp_path / "one")
    for read in (Images(raw), lambda cell: raw.unpacked("a.zip/a.jpg")):
        with pytest.raises(TableError, match=r"a\.jpg: says that 65,\d+ bytes unpack to 67,108,8"):
            read("a.jpg")
    with pytest.raises(TableError, match=r"a\.zip/b\.zip: says that .* which no data do"):
        place(tmp_path / "two")
    deep = zipped({"in.zip": zipped({"a.jpg": b"", "b.jpg": b""})})
    fill(tmp_path, {"three/a.zip": deep, "four/a.zip": zipped({"on.zip": zipped({"b.zip": deep})})})
    with pytest.raises(TableError, match="lies in more than 3 zip files"):
        place(tmp_path / "four")
    assert len(place(tmp_path / "three").paths) == 2
    monkeypatch.setattr(raw_files, "MAX_UNPACKED_BYTES", 50)
    with pytest.raises(TableError, match=r"in\.zip: unpacks to .* there is room for 50 in"):
        place(tmp_path / "three")


@settings(max_examples=80)
@given(data=st.data())
def test_mangled_archives_are_read_or_refused(data, tmp_path_factory):
    content = bytearray(zipped({"a.jpg": b"xyz" * 300, "b/c.jpg": b"x,y\n1,2\n", "d.png": b""}))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mangled.zip"
    path.write_bytes(content)
    with suppress(TableError), closing(Place(path)) as raw:
        for path in raw.paths:
            with suppress(OSError):
                assert len(raw.read(path, limit=1 << 20)) <= 1 << 20


def test_many_threads_read_what_one_reads(place, tmp_path):
    random = np.random.default_rng(0)
    files = {f"{k}.jpg": random.bytes(3000 + k) for k in range(60)}
    fill(tmp_path, {"raw.zip": zipped({"in.zip": zipped(files)})})
    images = Images(place(tmp_path / "raw.zip"))
    names = [f"{k}.jpg" for k in random.integers(60, size=600)]
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(images, names)) == [files[name] for name in names]
