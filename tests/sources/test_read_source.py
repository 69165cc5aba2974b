"""Layouts told apart, what each lacks named; anyone's own table, and what an import makes of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from raw_data import fill as lay
from raw_data import jpeg

from slimp.data.cohort import Cohort
from slimp.data.schema import Schema
from slimp.data.settings import read_toml
from slimp.errors import TableError
from slimp.sources import RawFiles, import_source
from slimp.sources.importer import RawTable
from slimp.sources.layout import Join, TableLayout
from slimp.sources.read_source import read_source
from slimp.sources.recognise import Layout, Rows, layouts_of

SCHEMA = Schema.from_dict(
    {
        "image": "file",
        "lesion": "lesion",
        "patient": "patient",
        "label": "dx",
        "missing": ["UNK"],
        "image_metadata": {"device": {"kind": "categorical"}},
        "lesion_metadata": {
            "diameter": {"kind": "continuous", "unit": "mm"},
            "symptoms": {"kind": "checkbox", "columns": ["itch", "hurt"]},
        },
        "patient_metadata": {
            "age": {"kind": "continuous"},
            "skin": {"kind": "categorical", "categories": ["I", "II", "III"]},
        },
        "refused": {"biopsied": "follows from the diagnosis"},
    }
)
HEADER = [
    *("file", "lesion", "patient", "dx", "device", "diameter", "itch", "hurt", "age", "skin"),
    "biopsied",
]
ROWS = [
    ["a.jpg", "1", "P1", "MEL", "phone", "7", "True", "False", "60", "I", "yes"],
    ["b.jpg", "1", "P1", "MEL", "camera", "7.0", "True", "UNK", "60", "I", "yes"],
    ["sub/c.jpg", "2", "P1", "NEV", "phone", "", "no", "yes", "61", "I", "no"],
    ["d.jpg", "1", "P2", "NEV", "", "3", "0", "1", "0", "III", "no"],
    ["e", "9", "P3", "", "phone", "UNK", "", "", "", "", ""],
]


def make_raw(folder: Path, rows: list[list[str]] | bytes = ROWS) -> Path:
    (folder / "images" / "sub").mkdir(parents=True, exist_ok=True)
    for shade, name in enumerate(["a", "b", "sub/c", "d", "e"]):
        (folder / "images" / f"{name}.jpg").write_bytes(jpeg(shade))
    table = folder / "metadata.csv"
    if isinstance(rows, bytes):
        table.write_bytes(rows)
    else:
        pd.DataFrame(rows, columns=HEADER).to_csv(table, index=False)
    return folder


@pytest.fixture
def raw(tmp_path) -> Path:
    return make_raw(tmp_path / "raw")


def run(raw: Path, **more: object) -> Cohort:
    named = {key: more.pop(key) for key in ("table", "images", "layout") if key in more}
    files = RawFiles(schema=SCHEMA, **named)
    return import_source("csv", raw, raw.parent / "cohort", files=files, **more)


def test_a_cohort(raw):
    cohort = run(raw)
    assert repr(cohort) == "Cohort('raw': 3 patients, 4 lesions, 5 images)"
    assert cohort.images["image_id"].tolist() == ["a", "b", "sub/c", "d", "e"]
    assert cohort.lesions["lesion_id"].tolist() == ["P1/1", "P1/2", "P2/1", "P3/9"]
    assert cohort.lesions["diameter"].fillna(-1).tolist() == [7, -1, 3, -1]
    assert cohort.patients["age"].fillna(-1).tolist() == [60, 0, -1]
    assert [cohort.read_image(i) for i in range(5)] == [jpeg(i) for i in range(5)]
    assert cohort.images["biopsied"].tolist() == ["yes", "yes", "no", "no", ""]
    assert cohort.info.source == "csv"


def edited(row: int, column: str, cell: str) -> list[list[str]]:
    rows = [list(r) for r in ROWS]
    rows[row][HEADER.index(column)] = cell
    return rows


def test_absolute_paths_below_raw_are_read(raw):
    make_raw(raw, edited(2, "file", str(raw.resolve() / "images" / "sub" / "c.jpg")))
    cohort = run(raw, layout=TableLayout())
    assert cohort.images["image_id"].tolist() == ["a", "b", "sub/c", "d", "e"]
    elsewhere = str(raw.resolve().parent / "secret.jpg")
    make_raw(raw, edited(2, "file", elsewhere))
    with pytest.raises(TableError, match=r"row 4 .* points outside .* image_root = 'D:"):
        run(raw, overwrite=True)


def test_tables_of_patients_and_images_are_joined(raw):
    table = pd.DataFrame(ROWS, columns=HEADER, dtype="str")
    patients = table[["patient", "age", "skin"]].drop_duplicates("patient")
    table.drop(columns=["age", "skin"]).to_csv(raw / "metadata.csv", index=False)
    patients.to_csv(raw / "people.csv", index=False, sep=";")
    layout = TableLayout(joins=(Join(file=("people.csv",), on={"patient": "patient"}),))
    cohort = run(raw, layout=layout)
    assert cohort.patients["age"].fillna(-1).tolist() == [60, 0, -1]
    pd.DataFrame(ROWS, columns=HEADER).drop(columns=["age", "skin"]).to_parquet(raw / "t.parquet")
    again = run(raw, table="t.parquet", layout=layout, overwrite=True)
    pd.testing.assert_frame_equal(again.patients, cohort.patients)
    (raw / "people.csv").unlink()
    with pytest.raises(TableError, match=r"people\.csv"):
        run(raw, layout=layout, overwrite=True)


@pytest.mark.parametrize("names", [("part_1.csv", "part_2.csv"), ("x/part_.csv", "y/part_.csv")])
def test_rows_of_one_number_in_two_files_are_two_rows(tmp_path, names):
    """Else their lesions would be one, and one row would lack the partner that the other lacks."""
    tables = {name: f"a,b,id\n{k}0.jpg,{k}1.jpg,P{k}\n" for k, name in enumerate(names)}
    images = {f"images/{k}{i}.jpg": jpeg(10 * k + i) for k in range(2) for i in range(2)}
    raw = lay(tmp_path / "raw", {**tables, **images, "people.csv": "id,smokes\nP0,\n"})
    smokes = {"kind": "checkbox", "aliases": {"": "no"}}
    content = {"image": "image", "lesion": "row", "patient_metadata": {"smokes": smokes}}
    table = {"images": ["a", "b"], "row_id": "row", "join": [{"file": "people.csv", "on": "id"}]}
    files = RawFiles(
        schema=Schema.from_dict(content),
        layout=TableLayout.from_dict(table),
        table="*/part_.csv" if "/" in names[0] else "part_*.csv",
    )
    cohort = import_source("csv", raw, tmp_path / "cohort", files=files)
    assert cohort.images["lesion_id"].tolist() == [f"{name}:2" for name in names for _ in "ab"]
    assert cohort.patients["smokes"].tolist() == [False, pd.NA]


@pytest.mark.parametrize("named", [None, "larger"])
def test_images_that_are_named_go_before_those_in_the_table(tmp_path, named):
    embedded = pd.DataFrame({"image": [{"bytes": jpeg(1), "path": "a.jpg"}]})
    raw = lay(tmp_path / "raw", {"larger/a.jpg": jpeg(2), "images/a.jpg": jpeg(3)})
    embedded.to_parquet(raw / "t.parquet")
    files = RawFiles(schema=Schema.from_dict({"image": "image"}), table="t.parquet", images=named)
    cohort = import_source("csv", raw, tmp_path / "cohort", files=files)
    assert cohort.read_image(0) == jpeg(2 if named else 1)


def test_images_found_in_another_folder_with_another_ending_are_counted(tmp_path):
    """A mask must not become the image that is absent without a word."""
    cells = ["1.jpg", "2.jpg", "3.jpg", "4", "5.jpg", "masks/6.jpg", "d7.dcm"]
    names = ["masks/1.png", "2.png", "s/3.JPEG", "s/4.png", "masks/5.png", "masks/6.png", "s/d7"]
    lay(tmp_path / "raw", {f"images/{name}": jpeg(k) for k, name in enumerate(names)})
    pd.DataFrame({"image": cells}).to_csv(tmp_path / "raw" / "metadata.csv", index=False)
    files = RawFiles(schema=Schema.from_dict({"image": "image"}))
    cohort = import_source("csv", tmp_path / "raw", tmp_path / "cohort", files=files)
    assert len(cohort.images) == 7
    (note,) = cohort.info.import_report["assumed"]
    assert note.startswith("2 image(s) of the table were found only in another folder and with")
    assert "such as 1.jpg as images/masks/1.png" in note


def test_a_dropped_name_is_nowhere_in_the_cohort(raw, tmp_path):
    """Not even as the word that shows a table's encoding, which the report names."""
    table = pd.read_csv(raw / "metadata.csv", dtype="str", keep_default_na=False)
    table["surname"] = "Müller"
    (raw / "metadata.csv").write_bytes(table.to_csv(index=False).encode("cp1252"))
    (note,) = run(raw, layout=TableLayout(drop=("surname",))).info.import_report["assumed"]
    assert note.startswith("metadata.csv: is not UTF-8 (line ")
    assert str(raw) not in note
    written = list((tmp_path / "cohort").rglob("*"))
    assert len(written) > 3
    for path in written:
        content = path.read_bytes() if path.is_file() else b""
        assert b"ller" not in content, path


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


def read_published(toml: Path, raw: Path, **named: str) -> tuple[RawTable, Schema]:
    return read_source(layouts_of(read_toml(toml)), Schema.from_toml(toml), raw, **named)


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
    own = Layout(name="", rows=(Rows(file=("a/meta.csv",)),), table=layout)
    found, _ = read_source([own], schema, raw, table="a/meta.csv", images=".")
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
