"""Layouts told apart, what each lacks named, and the schema fitted to what a table has."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.raw import RawTable
from slimp.sources.raw_files import Place
from slimp.sources.read_table import table_at
from slimp.sources.recognise import fitted, read_published

TOML = """
image = "image"
[[dataset.layout]]
name = "the first"
rows = [
  { file = ["train.csv"], set = { part = "train" }, begins = "train" },
  { file = ["test.csv"], set = { part = "test" }, begins = "test" },
]
columns = ["image"]
images = [["photos", "photos.hdf5"], ["pictures_*"]]
note = "a note"

[[dataset.layout]]
name = "the second"
rows = [{ file = ["*meta*.csv"] }]
columns = ["name"]
join = [{ file = ["truth.csv"], on = "name" }, { file = ["more.csv"], on = "name", needed = false }]
rename = { name = "image" }
may_lack = ["sex"]

[[dataset.layout]]
name = "another dataset"
rows = [{ file = ["*meta*.csv"] }]
columns = ["elsewhere"]
instead = "Import it otherwise."
"""


@pytest.fixture
def toml(tmp_path) -> Path:
    (tmp_path / "d.toml").write_text(TOML)
    return tmp_path / "d.toml"


def lay(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_the_first_layout(tmp_path, toml):
    files = {"in/Train.csv": "image\na\n", "in/test.csv": "image\nb\n", "in/photos/a.jpg": "A"}
    raw = read_published(toml, lay(tmp_path / "raw", files))
    assert raw.table[["image", "part"]].to_numpy().tolist() == [["a", "train"], ["b", "test"]]
    assert raw.table.index.tolist() == [("Train.csv", 2), ("test.csv", 2)]
    assert (raw.open_image("a"), raw.open_image("b")) == (b"A", None)
    assert raw.looked_in == f"{tmp_path}/raw/in/photos"
    assert raw.layout == "the first; table in/Train.csv and in/test.csv; a note"
    raw.close()


def test_the_second_layout(tmp_path, toml):
    files = {"meta.csv": "name,age\na,1\nb,2\n", "x/truth.csv": "name,dx\nb,B\n"}
    raw = read_published(toml, lay(tmp_path / "raw", files))
    assert raw.table[["image", "age", "dx"]].to_numpy().tolist() == [
        ["a", "1", ""],
        ["b", "2", "B"],
    ]
    assert raw.layout == "the second; table meta.csv; 1 of 2 rows are not in truth.csv"
    assert raw.may_lack == ("sex",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {},
            r"raw: there is no table train\.csv or test\.csv \(the first\); or \*meta\*\.csv "
            r"\(the second\)\. Name another with --table\.$",
        ),
        (
            {"meta.csv": "name\na\n"},
            r"But meta\.csv is there without truth\.csv \(the second\); meta\.csv has no column "
            r"'elsewhere'\. Name",
        ),
        ({"train.csv": "x\na\n"}, r"But train\.csv has no column 'image'\."),
        (
            {"metadata.csv": "elsewhere\na\n"},
            r"metadata\.csv is another dataset\. Import it otherwise\.$",
        ),
        ({"a/train.csv": "image\na\n", "b/train.csv": "image\nb\n"}, r"differ\. Name one of them"),
    ],
)
def test_what_is_missing_is_said(tmp_path, toml, files, message):
    (tmp_path / "raw").mkdir()
    with pytest.raises(TableError, match=message):
        read_published(toml, lay(tmp_path / "raw", files))


def test_of_tables_called_alike_the_one_with_the_columns_counts(tmp_path, toml):
    files = {"a/train.csv": "x\n1\n", "b/train.csv": "image\na\n"}
    assert read_published(toml, lay(tmp_path / "raw", files)).table["image"].tolist() == ["a"]


def test_a_table_that_is_named(tmp_path, toml):
    raw = lay(tmp_path / "raw", {"x/test_2.csv": "image\na\n", "train.csv": "image\nb\n"})
    found = read_published(toml, raw, table="./x/test_2.csv")
    assert found.table[["image", "part"]].to_numpy().tolist() == [["a", "test"]]
    with pytest.raises(
        TableError, match=r"there is no table mine\.csv\. Name another with --table"
    ):
        read_published(toml, raw, table="mine.csv")
    with pytest.raises(TableError, match=r"zip file\. It should hold mine\.csv\."):
        read_published(toml, tmp_path / "nowhere", table="mine.csv")


def test_images_that_are_named(tmp_path, toml):
    raw = lay(tmp_path / "raw", {"train.csv": "image\na\n", "photos/a.jpg": "A", "my/a.jpg": "M"})
    assert read_published(toml, raw, images="my/").open_image("a") == b"M"
    assert read_published(toml, raw, images=".").looked_in == str(raw)
    with pytest.raises(TableError, match=r"raw/nowhere: no such image folder"):
        read_published(toml, raw, images="nowhere")


def test_the_first_group_of_places_with_a_match_counts(tmp_path, toml):
    raw = lay(tmp_path / "raw", {"train.csv": "image\na\n", "pictures_1/a.jpg": "1"})
    lay(raw, {"pictures_2/b.jpg": "2", "other/c.jpg": "3"})
    found = read_published(toml, raw)
    assert [found.open_image(cell) for cell in "abc"] == [b"1", b"2", None]
    lay(raw, {"photos/d.jpg": "4"})
    assert read_published(toml, raw).open_image("a") is None
    bare = lay(tmp_path / "bare", {"train.csv": "image\na\n"})
    assert read_published(toml, bare).looked_in == (
        f"{bare}/photos, {bare}/photos.hdf5, {bare}/pictures_*"
    )


def test_a_table_in_a_zip_is_named_by_its_place(tmp_path, toml):
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        archive.writestr("in/train.csv", "image\na\n\nb,c\n")
    with pytest.raises(TableError, match=r"raw\.zip/in/train\.csv, row 4"):
        read_published(toml, tmp_path / "raw.zip")


def test_a_damaged_table_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        archive.writestr("t.csv", "image\nabc\n")
    content = (tmp_path / "raw.zip").read_bytes().replace(b"abc", b"xyz")
    (tmp_path / "raw.zip").write_bytes(content)
    with pytest.raises(TableError, match=r"raw\.zip/t\.csv: cannot be read: .*CRC"):
        table_at(Place(tmp_path / "raw.zip"), 0)


SCHEMA = Schema.from_dict(
    {
        **{"image": "image", "lesion": "lesion", "patient": "person", "label": "dx"},
        "lesion_metadata": {
            "site": {"kind": "categorical"},
            "signs": {"kind": "checkbox", "columns": ["itch", "hurt"]},
        },
        "patient_metadata": {"age": {"kind": "continuous"}},
    }
)


def raw_table(columns: list[str], may_lack: tuple[str, ...]) -> RawTable:
    table = pd.DataFrame({column: ["1"] for column in columns}, dtype="str")
    return RawTable(
        table=table, open_image=lambda _: None, looked_in="", layout="it", may_lack=may_lack
    )


def test_a_schema_that_fits_is_left_alone():
    raw = raw_table(["image", "lesion", "person", "dx", "site", "itch", "hurt", "age"], ("*",))
    assert fitted(SCHEMA, raw) == (SCHEMA, raw)


def test_a_schema_is_fitted_to_what_may_be_absent():
    schema, raw = fitted(SCHEMA, raw_table(["image", "dx", "site", "itch"], ("*",)))
    assert [f.name for f in schema.features] == ["site"]
    assert (schema.image, schema.lesion, schema.patient, schema.label) == (
        "image",
        None,
        None,
        "dx",
    )
    assert raw.layout == "it; without hurt, age, lesion, person"


def test_what_must_be_there_stays():
    """So that the import says that it is missing."""
    schema, raw = fitted(SCHEMA, raw_table(["image", "site"], ("age",)))
    assert [f.name for f in schema.features] == ["site", "signs"]
    assert schema.patient == "person"
    assert raw.layout == "it; without age"
