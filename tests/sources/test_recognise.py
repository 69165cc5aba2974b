"""Layouts told apart, what each lacks named, and the schema fitted to what a table has."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.layout import TableLayout
from slimp.sources.read_source import fitted, read_own, read_published

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
may_lack = ["sex"]
one_hot = ["A", "B"]
[dataset.layout.table]
join = [{ file = "truth.csv", on = "name" }, { file = "more.csv", on = "name", needed = false }]
rename = { name = "image" }

[[dataset.layout]]
name = "another dataset"
rows = [{ file = ["*meta*.csv"] }]
columns = ["elsewhere"]
instead = "Import it otherwise."

[table]
derive = [{ column = "age", groups = [["age"], ["years"]] }]

[patient_metadata]
sex = { kind = "categorical" }
"""


@pytest.fixture
def toml(tmp_path) -> Path:
    (tmp_path / "d.toml").write_text(TOML)
    return tmp_path / "d.toml"


def lay(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_the_first_layout(tmp_path, toml):
    files = {"in/Train.csv": "image\na\n", "in/test.csv": "image\nb\n", "in/photos/a.jpg": "A"}
    raw, _ = read_published(toml, lay(tmp_path / "raw", files))
    assert raw.table[["image", "part"]].to_numpy().tolist() == [["a", "train"], ["b", "test"]]
    assert raw.table.index.tolist() == [("Train.csv", 2), ("test.csv", 2)]
    assert (raw.open_image("a"), raw.open_image("b")) == (b"A", None)
    assert raw.looked_in == f"{tmp_path}/raw/in/photos"
    assert raw.layout == "the first; table in/Train.csv and in/test.csv; a note"
    raw.close()


def test_the_second_layout(tmp_path, toml):
    files = {"meta.csv": "name,years\na,1\nb,2\n", "x/truth.csv": "name,A,B\nb,0,1\n"}
    raw, schema = read_published(toml, lay(tmp_path / "raw", files))
    assert raw.table[["image", "age", "B"]].to_numpy().tolist() == [["a", "1", ""], ["b", "2", "1"]]
    assert raw.layout == "the second; table meta.csv; without sex"
    assert [note[:9] for note in raw.table.attrs["assumed"]] == ["truth.csv", "age is ma"]
    assert (schema.label_columns, list(schema.features)) == (("A", "B"), [])


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, r"raw: .* train\.csv or test\.csv \(the first\); or \*meta\*\.csv \(the second\)"),
        (
            {"meta.csv": "name\na\n"},
            r"meta\.csv is there without truth\.csv \(the second\); meta\.csv .*'elsewhere'",
        ),
        ({"train.csv": "x\na\n"}, r"train\.csv .*'image'"),
        ({"metadata.csv": "elsewhere\na\n"}, r"metadata\.csv is another dataset\. Import it othe"),
        ({"a/train.csv": "image\na\n", "b/train.csv": "image\nb\n"}, r"a/train\.csv.* differ"),
    ],
)
def test_what_is_missing_is_said(tmp_path, toml, files, named):
    with pytest.raises(TableError, match=named):
        read_published(toml, lay(tmp_path / "raw", files))


def test_a_joined_table_beside_the_main_one_counts(tmp_path):
    files = {"a/meta.csv": "name\na\n", "a/truth.csv": "name,A,B\na,1,0\n"}
    raw = lay(tmp_path / "raw", files | {"b/truth.csv": "name,A,B\na,0,1\n"})
    layout = TableLayout.from_dict({"join": [{"file": "truth.csv", "on": "name"}]})
    schema = Schema.from_dict({"image": "name"})
    found, _ = read_own(layout, schema, raw, table="a/meta.csv", images=".")
    assert found.table["A"].tolist() == ["1"]


def test_of_tables_called_alike_the_one_with_the_columns_counts(tmp_path, toml):
    files = {"a/train.csv": "x\n1\n", "b/train.csv": "image\na\n"}
    raw, _ = read_published(toml, lay(tmp_path / "raw", files))
    assert raw.table["image"].tolist() == ["a"]


def test_tables_and_images_that_are_named(tmp_path, toml):
    files = {"x/test_2.csv": "image\na\n", "train.csv": "image\nb\n", "photos/a.jpg": "A"}
    raw = lay(tmp_path / "raw", files | {"my/A.jpg": "M"})
    found, _ = read_published(toml, raw, table="./x/test_2.csv")
    assert found.table[["image", "part"]].to_numpy().tolist() == [["a", "test"]]
    assert read_published(toml, raw, images="my/")[0].open_image("a") == b"M", "in any case"
    assert read_published(toml, raw, images=".")[0].looked_in == str(raw)
    for more, named in (
        ({"table": "mine.csv"}, r"mine\.csv.* --table"),
        ({"images": "nowhere"}, r"raw/nowhere.* --images"),
    ):
        with pytest.raises(TableError, match=named):
            read_published(toml, raw, **more)
    with pytest.raises(TableError, match=r"nowhere: .* mine\.csv"):
        read_published(toml, tmp_path / "nowhere", table="mine.csv")


def test_the_first_group_of_places_with_a_match_counts(tmp_path, toml):
    raw = lay(tmp_path / "raw", {"train.csv": "image\na\n", "pictures_1/a.jpg": "1"})
    lay(raw, {"pictures_2/b.jpg": "2", "other/c.jpg": "3"})
    found, _ = read_published(toml, raw)
    assert [found.open_image(cell) for cell in "abc"] == [b"1", b"2", None]
    lay(raw, {"photos/d.jpg": "4"})
    assert read_published(toml, raw)[0].open_image("a") is None
    bare = lay(tmp_path / "bare", {"train.csv": "image\na\n"})
    assert read_published(toml, bare)[0].looked_in == (
        f"{bare}/photos, {bare}/photos.hdf5, {bare}/pictures_*"
    )


def test_a_table_in_a_zip_is_named_by_its_place(tmp_path, toml):
    def packed(content: str) -> Path:
        with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
            archive.writestr("in/train.csv", content)
        return tmp_path / "raw.zip"

    with pytest.raises(TableError, match=r"raw\.zip/in/train\.csv, row 4"):
        read_published(toml, packed("image\na\n\nb,c\n"))
    damaged = packed("image\nabc\n").read_bytes().replace(b"abc", b"xyz")
    (tmp_path / "raw.zip").write_bytes(damaged)
    with pytest.raises(TableError, match=r"raw\.zip/in/train\.csv: "):
        read_published(toml, tmp_path / "raw.zip")


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
WHOLE = ["image", "lesion", "person", "dx", "site", "itch", "hurt", "age"]


@pytest.mark.parametrize(
    ("columns", "may_lack", "features", "roles", "gone"),
    [
        (WHOLE, ("*",), ["site", "signs", "age"], ("lesion", "person", "dx"), ()),
        (
            ["image", "dx", "site", "itch"],
            *(("*",), ["site"], (None, None, "dx"), ("hurt", "age", "lesion", "person")),
        ),
        # what must be there stays, so that the import says that it is missing
        (["image", "site"], ("age",), ["site", "signs"], ("lesion", "person", "dx"), ("age",)),
    ],
)
def test_a_schema_is_fitted_to_what_may_be_absent(columns, may_lack, features, roles, gone):
    table = pd.DataFrame({column: ["1"] for column in columns}, dtype="str")
    schema, absent = fitted(SCHEMA, table, may_lack)
    assert [feature.name for feature in schema.features] == features
    assert (schema.lesion, schema.patient, schema.label) == roles
    assert absent == gone
