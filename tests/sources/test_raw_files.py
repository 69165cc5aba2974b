"""RAW as a folder, a zip file, and zips within: the same files, found by the same names."""

from __future__ import annotations

import io
import os
import stat
import struct
import tempfile
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    "._a.jpg": b"hidden",
    "__MACOSX/x.jpg": b"hidden",
    "__MACOSX/sub/._b.PNG": b"hidden",
    ".cache/y.jpg": b"hidden",
    "sub/Thumbs.db": b"hidden",
}
KINDS = ["folder", "zip", "zip in a folder", "stored zip in a zip", "packed zip in a zip"]


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            # of a fixed date: these bytes name tests, which all workers must call alike
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


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
    method = zipfile.ZIP_STORED if kind.startswith("stored") else zipfile.ZIP_DEFLATED
    fill(path, {"raw.zip": zipped({"images.zip": zipped(files)}, method)})
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
    with pytest.raises(TableError, match=r"a\.jpg: has 3,221,225,472 bytes, more than the 268,"):
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
    }
    raw = place(lay(tmp_path, kind, FILES))
    images = Images(raw, raw.folders("images"))
    assert {cell: images(cell) for cell in cells} == cells


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", ["d.jpg", "two", "two.gif"])
def test_two_answers_that_differ_are_refused(place, tmp_path, kind, cell):
    images = Images(place(lay(tmp_path, kind, FILES)))
    with pytest.raises(TableError, match=f"the image '{cell}' could be .* and they differ"):
        images(cell)


def test_the_same_image_packed_and_unpacked(place, tmp_path):
    """Both the archive and the folder unpacked from it, which may have been cut short."""
    fill(tmp_path, {"part.zip": zipped({"a.jpg": b"a", "b.jpg": b"b"}), "part/a.jpg": b"a"})
    raw = place(tmp_path)
    images = Images(raw, raw.folders("part"))
    assert (images("a"), images("b"), images("part/a.jpg")) == (b"a", b"b", b"a")
    fill(tmp_path, {"part/b.jpg": b"another"})
    with pytest.raises(TableError, match="they differ"):
        Images(place(tmp_path))("b")


@pytest.mark.parametrize("kind", KINDS)
def test_files_without_an_ending_are_found_by_name_only(place, tmp_path, kind):
    """As a picture archive writes DICOM; what lies beside them is no image."""
    files = {"IM0001": b"1", "1.2.840.113619.7": b"2", "s/x.dicom": b"3", "y.IMA": b"4"}
    files |= {"z.jfif": b"5", "README": b"6", "DICOMDIR": b"7", "q.dat": b"8"}
    raw = place(lay(tmp_path, kind, files))
    images = Images(raw, raw.folders("images"))
    cells = ["IM0001", "IM0001.dcm", "1.2.840.113619.7", "s/x", "y", "z.jpg", "README", "q", "IM"]
    assert [images(c) for c in cells] == [b"1", b"1", b"2", b"3", b"4", b"5", b"6", None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_in_a_format_that_is_not_read_is_named(place, tmp_path, kind):
    files = {"c2.HEIC": b"h", "s/c3.cr2": b"r", "a.heic": b"h", "a.jpg": b"a", "b.json": b"{}"}
    raw = place(lay(tmp_path, kind, files))
    images = Images(raw, raw.folders("images"))
    for cell in ("c2", "c2.jpg", "c2.heic", "images/c2.HEIC"):
        with pytest.raises(OSError, match=r"there is c2\.HEIC, whose format is not read; save it"):
            images(cell)
    with pytest.raises(OSError, match=r"c3\.cr2"):
        images("s/c3")
    assert [images(c) for c in ("a", "a.heic", "b", "t/c3")] == [b"a", b"a", None, None]


def test_image_files_are_known_by_ending_or_as_dicom(place, tmp_path):
    fill(tmp_path, {"IM1": bytes(128) + b"DICM", "README": b"text", "a.JPE": b"", "b.txt": b""})
    assert [p.name for p in sorted(tmp_path.iterdir()) if is_image_file(p)] == ["IM1", "a.JPE"]
    assert not is_image_file(tmp_path)


def test_several_folders_are_one(place, tmp_path):
    fill(tmp_path, {"part_1/a.jpg": b"a", "part_2/b.jpg": b"b", "part_2/a.jpg": b"a"})
    raw = place(tmp_path)
    images = Images(raw, raw.folders("PART_*"))
    assert (images("a"), images("b")) == (b"a", b"b")
    assert str(images) == f"{tmp_path / 'part_1'} and {tmp_path / 'part_2'}"


def test_folders_and_files_by_pattern(place, tmp_path):
    fill(tmp_path, {"parts_1/a.jpg": b"", "parts_2/parts_1/b.jpg": b"", "other/x": b""})
    fill(tmp_path, {"data/Parts_3.ZIP": zipped({"parts_3/c.jpg": b"c", "t.csv": b"t"})})
    raw = place(tmp_path)
    assert raw.folders("parts_*") == ["data/Parts_3.ZIP", "parts_1", "parts_2"], "searched once"
    assert raw.folders("other") == ["other"]
    assert raw.folders("data/parts_*") == ["data/Parts_3.ZIP"]
    assert raw.folders("images") == []
    assert raw.folders(".") == [""]
    assert [raw.paths[n] for n in raw.files("T.csv")] == ["data/Parts_3.ZIP/t.csv"]
    assert [raw.paths[n] for n in raw.files("parts_*/c.jpg")] == ["data/Parts_3.ZIP/parts_3/c.jpg"]
    assert raw.folder("./parts_1/") == "parts_1"
    assert raw.folder(".") == ""
    assert raw.folder("data\\Parts_3.ZIP/parts_3") == "data/Parts_3.ZIP/parts_3"
    with pytest.raises(TableError, match=r"photos: no such image folder.*Name another with --ima"):
        raw.folder("photos")
    assert raw.number("./other/x") is not None
    assert raw.number("x") is None


def test_of_several_tables_the_highest_counts(place, tmp_path):
    fill(tmp_path, {"m.csv": b"top", "deep/m.csv": b"deep", "a/n.csv": b"n", "b/n.csv": b"n"})
    fill(tmp_path, {"a/o.csv": b"1", "b.zip": zipped({"o.csv": b"2"})})
    raw = place(tmp_path)
    assert raw.paths[one_file(raw, raw.files("m.csv"))] == "m.csv"
    assert raw.paths[one_file(raw, raw.files("n.csv"))] == "a/n.csv"
    assert one_file(raw, []) is None
    with pytest.raises(TableError, match=r"zip/o\.csv and .*a/o\.csv differ\. Name one of them"):
        one_file(raw, raw.files("o.csv"))


def test_nowhere(place, tmp_path):
    with pytest.raises(TableError, match=r"nowhere: no such folder or zip file\. It should hold m"):
        place(tmp_path / "nowhere", holds="metadata.csv")
    (tmp_path / "metadata.csv").write_text("a,b\n")
    with pytest.raises(
        TableError, match=r"csv: neither a folder nor a zip file\. It should hold m"
    ):
        place(tmp_path / "metadata.csv", holds="metadata.csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_passed_over(place, tmp_path):
    """Links to nowhere, and pipes, which would be waited on for ever."""
    (tmp_path / "a.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "b.zip").symlink_to(tmp_path / "b.zip")
    os.mkfifo(tmp_path / "metadata.csv")
    assert place(tmp_path).paths == []


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


def test_what_unpacks_to_far_more_than_data_do_is_a_bomb(place, tmp_path):
    inner = zipped({"a.zip": bytes((1 << 26) + 1)})
    fill(tmp_path, {"one/a.zip": zipped({"a.jpg": bytes((1 << 26) + 1)}), "two/a.zip": inner})
    raw = place(tmp_path / "one")
    for read in (Images(raw), lambda cell: raw.path(0)):
        with pytest.raises(
            TableError, match=r"a\.jpg: says that 65,\d+ bytes unpack to 67,108,865"
        ):
            read("a.jpg")
    with pytest.raises(TableError, match=r"a\.zip/a\.zip: says that .* which no data do"):
        place(tmp_path / "two")


def test_a_crowd_of_members_and_too_much_to_unpack_are_refused(place, tmp_path, monkeypatch):
    fill(tmp_path, {"a.zip": zipped({"in.zip": zipped({f"{k}.jpg": b"" for k in range(100)})})})
    assert len(place(tmp_path).paths) == 100
    monkeypatch.setattr(raw_files, "MAX_UNPACKED_BYTES", 5000)
    with pytest.raises(TableError, match=r"in\.zip: unpacks to .* there is room for 5,000"):
        place(tmp_path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_mangled_archives_are_read_or_refused(data, tmp_path_factory):
    content = bytearray(zipped({"a.jpg": b"xyz" * 300, "b/c.jpg": b"x,y\n1,2\n", "d.png": b""}))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mangled.zip"
    path.write_bytes(content)
    with suppress(TableError), closing(Place(path)) as raw:
        for number in range(len(raw.paths)):
            with suppress(OSError):
                assert len(raw.read(number, limit=1 << 20)) <= 1 << 20


def test_zips_are_opened_to_a_depth(place, tmp_path):
    content = zipped({"a.jpg": b"a"})
    for _ in range(2):
        content = zipped({"in.zip": content})
    fill(tmp_path, {"fine.zip": content})
    assert Images(place(tmp_path))("a") == b"a"
    fill(tmp_path, {"deep.zip": zipped({"in.zip": content})})
    with pytest.raises(TableError, match="lies in more than 3 zip files"):
        place(tmp_path)


def test_a_link_that_leads_back_is_not_followed_for_ever(place, tmp_path):
    fill(tmp_path, {"raw/images/a.jpg": b"a", "elsewhere/b.jpg": b"b"})
    (tmp_path / "raw" / "images" / "back").symlink_to(tmp_path / "raw")
    (tmp_path / "raw" / "more").symlink_to(tmp_path / "elsewhere")
    raw = place(tmp_path / "raw")
    assert sorted(raw.paths) == ["images/a.jpg", "more/b.jpg"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_many_threads_read_what_one_reads(place, tmp_path, method):
    random = np.random.default_rng(0)
    files = {f"{k}.jpg": random.bytes(3000 + k) for k in range(60)}
    fill(tmp_path, {"raw.zip": zipped({"in.zip": zipped(files)}, method)})
    raw = place(tmp_path / "raw.zip")
    images = Images(raw)
    names = [f"{k}.jpg" for k in random.integers(60, size=600)]
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(images, names)) == [files[name] for name in names]


def test_an_index_of_many_members_is_light(place, tmp_path):
    n = 4_000
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for k in range(n):
            archive.writestr(f"train-image/image/ISIC_{k:07}.jpg", b"")
    tracemalloc.start()
    raw = place(tmp_path / "raw.zip")
    images = Images(raw, raw.folders("train-image"))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert images.find("ISIC_0001234") is not None
    assert held / n < 1200, "bytes an image"
