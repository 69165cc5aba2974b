"""`slimp data download` of what is fetched by hand; downloads proper are in tests/download."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from raw_data import fill, jpeg

from slimp.cli import main as cli
from slimp.sources import NAMES, get_source


@pytest.fixture
def pad(tmp_path: Path) -> Path:
    """A small PAD-UFES-20 as its archive unpacks: three rows, three images in two parts."""
    raw = tmp_path / "raw"
    schema = get_source("pad-ufes-20").schema()
    columns = [*schema.roles, *(name for f in schema.features for name in f.columns)]
    names = [f"PAT_{i}_1_1.png" for i in range(3)]
    table = pd.DataFrame("1", range(3), columns).assign(**{schema.image: names})
    images = {f"imgs_part_{1 + i % 2}/{name}": jpeg(i) for i, name in enumerate(names)}
    return fill(raw, {"metadata.csv": table.to_csv(index=False), **images})


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch):
    """Makes a source say that so many images were published."""

    def say(name: str, images: int) -> None:
        source = get_source(name)
        monkeypatch.setitem(source.__dict__, "images", images)

    return say


def run(*words: object) -> int:
    return cli.main(["data", "download", *map(str, words)])


def test_it_says_where_to_get_it_before_anything_is_there(tmp_path, capsys):
    assert run("pad-ufes-20", tmp_path / "raw") == 2
    captured = capsys.readouterr()
    source = get_source("pad-ufes-20")
    for fact in (source.title, source.homepage, source.licence, source.how_to_get):
        assert fact in captured.out
    assert f"{tmp_path / 'raw'}" in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "raw").exists()


def test_all_that_was_published_is_there(pad, published, capsys):
    published("pad-ufes-20", 3)
    assert run("pad-ufes-20", pad) == 0
    text = capsys.readouterr().out
    assert f"{pad}: 3 rows, 3 images in" in text
    assert f"complete. next: slimp data import pad-ufes-20 {pad} COHORT" in text


def test_a_part_of_the_images_is_missing(pad, published, capsys):
    published("pad-ufes-20", 3)
    (pad / "imgs_part_2" / "PAT_1_1_1.png").unlink()
    assert run("pad-ufes-20", pad) == 2
    message = capsys.readouterr().err
    assert "1 of 3 images that the table names are not in" in message
    assert "(such as PAT_1_1_1.png)" in message
    assert message.count("\n") == 1
    (pad / "imgs_part_2" / "PAT_1_1_1.heic").write_bytes(b"of a phone")
    assert run("pad-ufes-20", pad) == 2
    assert "PAT_1_1_1.heic, whose format is not read" in capsys.readouterr().err


def test_a_table_that_was_cut_short(pad, published, capsys):
    published("pad-ufes-20", 5)
    assert run("pad-ufes-20", pad) == 2
    assert "the table names 3 images, but 5 were published" in capsys.readouterr().err


def test_the_table_of_something_else(pad, capsys):
    (pad / "metadata.csv").write_text("file,age\na.png,3\n")
    assert run("pad-ufes-20", pad) == 2
    message = capsys.readouterr().err
    assert "metadata.csv" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("name", ["csv", "synthetic"])
def test_what_is_published_nowhere(name, tmp_path, capsys):
    assert run(name, tmp_path) == 2
    assert f"source '{name}' is not published anywhere" in capsys.readouterr().err


def test_every_known_collection_has_its_number():
    numbers = {name: get_source(name).collection for name in NAMES}
    assert {name for name, number in numbers.items() if number is not None} == {"hiba", "bcn20000"}


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pad-ufes-20", "804 of 1,843 images that the table names are not in"),
        ("ham10000", "3,980 of 10,015 images that the table names are not in"),
        ("slice3d", "the table names 8 images, but 401,059 were published"),
    ],
)
def test_parts_of_the_real_datasets_are_counted(name, message, real_data, capsys):
    assert run(name, real_data / name) == 2
    assert message in capsys.readouterr().err
