"""Anyone's own table, and what the import makes of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from raw_data import jpeg

from slimp.data.cohort import Cohort
from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources import RawFiles, import_source
from slimp.sources.layout import Join, TableLayout

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
