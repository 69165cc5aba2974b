"""RAW as a folder, a zip file, and zips within: the same files, found by the same names."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from threading import Thread
from time import perf_counter

import numpy as np
import pytest

from slimp.errors import TableError
from slimp.sources.raw_files import Images, Place, is_image_file, one_file

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


def test_a_file_of_no_image_size_is_not_read(tmp_path):
    """Such as one that is nearly all holes: 3 GiB of nothing."""
    path = lay(tmp_path, "folder", FILES) / "images" / "a.jpg"
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    images = Images(Place(tmp_path / "raw"))
    with pytest.raises(TableError, match=r"a\.jpg: has 3,221,225,472 bytes, more than the 268,"):
        images("a.jpg")
    assert images("b.png") == b"b"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("cell", "content"),
    [
        ("a.jpg", b"a"),
        ("a", b"a"),
        ("a.png", b"a"),  # published with another ending
        (" a.jpg ", b"a"),
        ("./a.jpg", b"a"),
        ("images/a.jpg", b"a"),  # from RAW on
        ("sub/b.png", b"b"),
        ("sub\\b.png", b"b"),
        ("b", b"b"),
        ("images/sub/b", b"b"),
        ("c.jpg", b"c"),
        ("twice/d.jpg", b"d1"),
        ("e", b"e"),
        ("two.png", b"2p"),
        ("two.jpg", b"2j"),
        ("deep/c.jpg", None),  # not the path from the folder on
        ("A.jpg", None),
        ("x", None),
        ("y.jpg", None),
        ("._a.jpg", None),
        ("notes.txt", None),
        ("nothing", None),
        ("", None),
        ("../images/a.jpg", None),
        ("/etc/passwd", None),
    ],
)
def test_finds(tmp_path, kind, cell, content):
    place = Place(lay(tmp_path, kind, FILES))
    assert Images(place, place.folders("images"))(cell) == content
    place.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", ["d.jpg", "two", "two.gif"])
def test_two_answers_that_differ_are_refused(tmp_path, kind, cell):
    images = Images(Place(lay(tmp_path, kind, FILES)))
    with pytest.raises(TableError, match=f"the image '{cell}' could be .* and they differ"):
        images(cell)


def test_the_same_image_packed_and_unpacked(tmp_path):
    """Both the archive and the folder unpacked from it, which may have been cut short."""
    raw = fill(tmp_path / "raw", {"part.zip": zipped({"a.jpg": b"a", "b.jpg": b"b"})})
    fill(raw, {"part/a.jpg": b"a"})
    place = Place(raw)
    images = Images(place, place.folders("part"))
    assert (images("a"), images("b"), images("part/a.jpg"), len(images)) == (b"a", b"b", b"a", 3)
    fill(raw, {"part/b.jpg": b"another"})
    with pytest.raises(TableError, match="they differ"):
        Images(Place(raw))("b")


@pytest.mark.parametrize("kind", KINDS)
def test_files_without_an_ending_are_found_by_name_only(tmp_path, kind):
    """As a picture archive writes DICOM; what lies beside them is no image."""
    files = {"IM0001": b"1", "1.2.840.113619.7": b"2", "s/x.dicom": b"3", "y.IMA": b"4"}
    files |= {"z.jfif": b"5", "README": b"6", "DICOMDIR": b"7", "q.dat": b"8"}
    place = Place(lay(tmp_path, kind, files))
    images = Images(place, place.folders("images"))
    cells = ["IM0001", "IM0001.dcm", "1.2.840.113619.7", "s/x", "y", "z.jpg", "README", "q", "IM"]
    assert [images(c) for c in cells] == [b"1", b"1", b"2", b"3", b"4", b"5", b"6", None, None]
    assert len(images) == 3, "known by their endings"
    place.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_in_a_format_that_is_not_read_is_told(tmp_path, kind):
    files = {"c2.HEIC": b"h", "s/c3.cr2": b"r", "a.heic": b"h", "a.jpg": b"a", "b.json": b"{}"}
    place = Place(lay(tmp_path, kind, files))
    images = Images(place, place.folders("images"))
    for cell in ("c2", "c2.jpg", "c2.heic", "images/c2.HEIC"):
        with pytest.raises(OSError, match=r"there is c2\.HEIC, whose format is not read; save it"):
            images(cell)
    with pytest.raises(OSError, match=r"c3\.cr2"):
        images("s/c3")
    assert [images(c) for c in ("a", "a.heic", "b", "t/c3")] == [b"a", b"a", None, None]
    place.close()


def test_image_files_are_told_by_ending_or_as_dicom(tmp_path):
    fill(tmp_path, {"IM1": bytes(128) + b"DICM", "README": b"text", "a.JPE": b"", "b.txt": b""})
    assert [p.name for p in sorted(tmp_path.iterdir()) if is_image_file(p)] == ["IM1", "a.JPE"]
    assert not is_image_file(tmp_path)


def test_several_folders_are_one(tmp_path):
    fill(tmp_path, {"part_1/a.jpg": b"a", "part_2/b.jpg": b"b", "part_2/a.jpg": b"a"})
    place = Place(tmp_path)
    images = Images(place, place.folders("PART_*"))
    assert (images("a"), images("b"), len(images)) == (b"a", b"b", 3)
    assert str(images) == f"{tmp_path / 'part_1'} and {tmp_path / 'part_2'}"
    assert str(Images(place, [])) == "no folder"


def test_folders_and_files_by_pattern(tmp_path):
    fill(tmp_path, {"parts_1/a.jpg": b"", "parts_2/parts_1/b.jpg": b"", "other/x": b""})
    fill(tmp_path, {"data/Parts_3.ZIP": zipped({"parts_3/c.jpg": b"c", "t.csv": b"t"})})
    place = Place(tmp_path)
    assert place.folders("parts_*") == ["data/Parts_3.ZIP", "parts_1", "parts_2"], "searched once"
    assert place.folders("other") == ["other"]
    assert place.folders("data/parts_*") == ["data/Parts_3.ZIP"]
    assert place.folders("images") == []
    assert place.folders(".") == [""]
    assert [place.paths[n] for n in place.files("T.csv")] == ["data/Parts_3.ZIP/t.csv"]
    assert [place.paths[n] for n in place.files("parts_*/c.jpg")] == [
        "data/Parts_3.ZIP/parts_3/c.jpg"
    ]
    assert place.folder("./parts_1/") == "parts_1"
    assert place.folder(".") == ""
    assert place.folder("data\\Parts_3.ZIP/parts_3") == "data/Parts_3.ZIP/parts_3"
    with pytest.raises(TableError, match=r"photos: no such image folder.*Name another with --ima"):
        place.folder("photos")
    assert place.number("./other/x") is not None
    assert place.number("x") is None


def test_of_several_tables_the_highest_counts(tmp_path):
    fill(tmp_path, {"m.csv": b"top", "deep/m.csv": b"deep", "a/n.csv": b"n", "b/n.csv": b"n"})
    fill(tmp_path, {"a/o.csv": b"1", "b.zip": zipped({"o.csv": b"2"})})
    place = Place(tmp_path)
    assert place.paths[one_file(place, place.files("m.csv"))] == "m.csv"
    assert place.paths[one_file(place, place.files("n.csv"))] == "a/n.csv"
    assert one_file(place, []) is None
    with pytest.raises(TableError, match=r"zip/o\.csv and .*a/o\.csv differ\. Name one of them"):
        one_file(place, place.files("o.csv"))


def test_nowhere(tmp_path):
    with pytest.raises(TableError, match=r"nowhere: no such folder or zip file\. It should hold m"):
        Place(tmp_path / "nowhere", holds="metadata.csv")
    (tmp_path / "metadata.csv").write_text("a,b\n")
    with pytest.raises(
        TableError, match=r"csv: neither a folder nor a zip file\. It should hold m"
    ):
        Place(tmp_path / "metadata.csv", holds="metadata.csv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_passed_over(tmp_path):
    """Links to nowhere, and pipes, which would be waited on for ever."""
    (tmp_path / "a.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "b.zip").symlink_to(tmp_path / "b.zip")
    os.mkfifo(tmp_path / "metadata.csv")
    assert Place(tmp_path).paths == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>Sign in</html>", r"a\.zip: not a whole zip file"),
        (b"", r"a\.zip: not a whole zip file"),
        (zipped({"x.jpg": b"x" * 999})[:-30], r"a\.zip: not a whole zip file"),
        (zipped({"in.zip": b"PK\x05\x06 no"}), r"a\.zip/in\.zip: not a whole zip file"),
        (
            zipped({"../x.jpg": b"x"}),
            r"a\.zip: the member '\.\./x\.jpg' has a name that points out",
        ),
        (zipped({"in.zip": zipped({"/x": b""})}), r"a\.zip/in\.zip: the member '/x' has a name"),
    ],
)
def test_archives_that_are_refused_are_named(tmp_path, content, message):
    fill(tmp_path, {"a.zip": content, "fine.jpg": b"x"})
    with pytest.raises(TableError, match=message):
        Place(tmp_path)


def test_zips_are_opened_to_a_depth(tmp_path):
    content = zipped({"a.jpg": b"a"})
    for _ in range(2):
        content = zipped({"in.zip": content})
    fill(tmp_path, {"fine.zip": content})
    assert Images(Place(tmp_path))("a") == b"a"
    fill(tmp_path, {"deep.zip": zipped({"in.zip": content})})
    with pytest.raises(TableError, match="lies in more than 3 zip files"):
        Place(tmp_path)


def test_a_link_that_leads_back_is_not_followed_for_ever(tmp_path):
    fill(tmp_path, {"raw/images/a.jpg": b"a", "elsewhere/b.jpg": b"b"})
    (tmp_path / "raw" / "images" / "back").symlink_to(tmp_path / "raw")
    (tmp_path / "raw" / "more").symlink_to(tmp_path / "elsewhere")
    place = Place(tmp_path / "raw")
    assert sorted(place.paths) == ["images/a.jpg", "more/b.jpg"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_many_threads_read_what_one_reads(tmp_path, method):
    random = np.random.default_rng(0)
    files = {f"{k}.jpg": random.bytes(3000 + k) for k in range(60)}
    fill(tmp_path, {"raw.zip": zipped({"in.zip": zipped(files)}, method)})
    place = Place(tmp_path / "raw.zip")
    images = Images(place)
    wrong = list[str]()

    def read(seed: int) -> None:
        for k in np.random.default_rng(seed).permutation(60):
            if images(f"{k}.jpg") != files[f"{k}.jpg"]:
                wrong.append(f"{k}.jpg")

    threads = [Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_index_of_many_members_is_quick_and_light(tmp_path):
    n = 20_000
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for k in range(n):
            archive.writestr(f"train-image/image/ISIC_{k:07}.jpg", b"")
    tracemalloc.start()
    began = perf_counter()
    place = Place(tmp_path / "raw.zip")
    images = Images(place, place.folders("train-image"))
    seconds = perf_counter() - began
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(images) == n
    assert images.find("ISIC_0012345") is not None
    assert held / n < 600, "bytes an image"
    assert seconds < 20, "under tracing; 400,000 in seconds without"
