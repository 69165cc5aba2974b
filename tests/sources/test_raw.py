"""Images found by what a table calls them, wherever they lie in their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimp.errors import TableError
from slimp.sources.raw import ImageFolder, first_file, image_folders


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    return fill(
        tmp_path / "images",
        {
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
            ".cache/y.jpg": b"hidden",
        },
    )


@pytest.mark.parametrize(
    ("cell", "content"),
    [
        ("a.jpg", b"a"),
        ("a", b"a"),
        ("a.png", b"a"),  # published with another ending
        (" a.jpg ", b"a"),
        ("./a.jpg", b"a"),
        ("images/a.jpg", b"a"),  # from the raw folder on
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
        ("notes.txt", None),
        ("nothing", None),
        ("../images/a.jpg", None),
        ("/etc/passwd", None),
    ],
)
def test_finds(images, cell, content):
    assert ImageFolder([images])(cell) == content


@pytest.mark.parametrize("cell", ["d.jpg", "two", "two.gif"])
def test_two_answers_that_differ_are_refused(images, cell):
    with pytest.raises(TableError, match=f"the image '{cell}' could be .* and they differ"):
        ImageFolder([images])(cell)


def test_several_folders_are_one(tmp_path):
    fill(tmp_path, {"part_1/a.jpg": b"a", "part_2/b.jpg": b"b", "part_2/a.jpg": b"a"})
    folder = ImageFolder([tmp_path / "part_1", tmp_path / "part_2"])
    assert (folder("a"), folder("b"), len(folder)) == (b"a", b"b", 3)
    assert str(folder) == f"{tmp_path / 'part_1'} and {tmp_path / 'part_2'}"


def test_the_first_pattern_with_a_match_counts(tmp_path):
    fill(tmp_path, {"parts_1/a.jpg": b"", "parts_2/parts_1/b.jpg": b"", "other/x": b""})
    assert image_folders(tmp_path, ["images", "parts_*", "other"]) == [
        tmp_path / "parts_1",
        tmp_path / "parts_2",
    ]
    nested = image_folders(tmp_path, ["**/parts_*"])
    assert nested == [tmp_path / "parts_1", tmp_path / "parts_2"], "a folder is searched once"
    assert image_folders(tmp_path, ["images"]) == []
    assert image_folders(tmp_path, ["images"], "other") == [tmp_path / "other"]
    with pytest.raises(TableError, match=r"no such image folder\. Name another with --images"):
        image_folders(tmp_path, ["images"], "photos")


def test_the_first_file_that_is_there(tmp_path):
    fill(tmp_path, {"b.csv": b"", "mine.csv": b""})
    assert first_file(tmp_path, ["a.csv", "b.csv"]) == tmp_path / "b.csv"
    assert first_file(tmp_path, ["a.csv", "b.csv"], "mine.csv") == tmp_path / "mine.csv"
    with pytest.raises(TableError, match=r"there is no table a\.csv or c\.csv. Name another with"):
        first_file(tmp_path, ["a.csv", "c.csv"])
    with pytest.raises(TableError, match=r"nowhere: no such folder. It should hold a\.csv"):
        first_file(tmp_path / "nowhere", ["a.csv"])
