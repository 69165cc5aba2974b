"""A published table becomes typed tables per level; its traps are settled, counted or refused."""

from __future__ import annotations

import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slimp.data.cohort import Tables
from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.level_tables import TableReport, split_levels, type_rows

CONTENT = {
    "image": "img",
    "lesion": "lesion",
    "patient": "patient",
    "label": "dx",
    "missing": ["UNK"],
    "lesion_metadata": {"itch": {"kind": "checkbox"}},
    "patient_metadata": {"age": {"kind": "continuous"}, "origin": {"kind": "categorical"}},
}
ROWS = {
    "img": ["a.png", "b.png", "c.png", "d.png"],
    "lesion": ["1", "1", "2", "3"],
    "patient": ["P", "P", "P", "Q"],
    "dx": ["BCC", "BCC", "NEV", ""],
    "itch": ["True", "False", "UNK", "no"],
    "age": ["70", "72.0", "", "0"],
    "origin": ["ITALY", "", "ITALY", "UNK"],
    "note": ["", "x", " y", "z"],
}


def schema_with(**changes: object) -> Schema:
    content = CONTENT | changes
    return Schema.from_dict({key: value for key, value in content.items() if value is not None})


def table(**changes: list[str]) -> pd.DataFrame:
    columns = {k: v for k, v in (ROWS | changes).items() if v is not None}
    return pd.DataFrame(columns, dtype="str")


def build_tables(frame: pd.DataFrame, schema: Schema) -> tuple[Tables, TableReport]:
    return split_levels(type_rows(frame, schema), schema)


def ids(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    names = ["image_id", "lesion_id", "patient_id"]
    return list(frame[[n for n in names if n in frame]].itertuples(index=False, name=None))


def test_levels_and_types():
    tables, report = build_tables(table(), schema_with())
    assert tables.images.columns.tolist() == [
        *("image_id", "lesion_id", "patient_id", "label"),
        "note",
    ]
    assert ids(tables.images) == [
        ("a", "1", "P"),
        ("b", "1", "P"),
        ("c", "2", "P"),
        ("d", "3", "Q"),
    ]
    assert tables.images["label"].isna().tolist() == [False, False, False, True]
    assert tables.images["note"].tolist() == ["", "x", " y", "z"], "text as published"
    assert ids(tables.lesions) == [("1", "P"), ("2", "P"), ("3", "Q")]
    assert tables.lesions["itch"].fillna(False).tolist() == [True, False, False]
    assert tables.lesions["itch"].isna().tolist() == [False, True, False]
    assert tables.patients["age"].tolist() == [71, 0], "0 is an age"
    assert tables.patients["origin"].fillna("-").tolist() == ["ITALY", "-"]
    assert (report.rows, report.unlabelled, report.duplicate_rows) == (4, 1, 0)
    assert [(d.column, d.count) for d in report.disagreements] == [("itch", 1), ("age", 1)]
    assert report.lesion_ids == "column 'lesion'"
    assert report.missing_spellings == {
        "itch": {"UNK": 1},
        "age": {"": 1},
        "origin": {"": 1, "UNK": 1},
    }


def test_lesion_ids_that_repeat_across_patients_are_joined_with_the_patient():
    tables, report = build_tables(table(lesion=["1", "1", "2", "1"]), schema_with())
    assert tables.images["lesion_id"].tolist() == ["P/1", "P/1", "P/2", "Q/1"]
    assert report.lesion_ids == "patient/lesion, because 1 lesion id(s) occur in several patients"


def test_the_id_rule_outlives_a_selection():
    rows = type_rows(table(lesion=["1", "1", "2", "1"]), schema_with())
    tables, _ = split_levels(rows.keep(np.array([True, False, True, False])), schema_with())
    assert tables.lesions["lesion_id"].tolist() == ["P/1", "P/2"]
    assert tables.patients["age"].tolist() == [70], "settled among the rows that stay"


def test_ambiguous_joined_ids_are_refused():
    frame = table(lesion=["b/1", "b/1", "1", "1"], patient=["P", "P", "P/b", "Q"])
    with pytest.raises(TableError, match="the lesion 'P/b/1' could be of patient 'P' or 'P/b'"):
        build_tables(frame, schema_with())


def test_without_a_lesion_column_each_image_is_a_lesion():
    tables, report = build_tables(table(), schema_with(lesion=None))
    assert tables.lesions["lesion_id"].tolist() == ["a", "b", "c", "d"]
    assert tables.patients["patient_id"].tolist() == ["P", "Q"]
    assert report.lesion_ids == "each image is a lesion"
    assert "lesion" in tables.images, "the column is kept as text"


def test_without_a_patient_column_each_lesion_is_a_patient():
    tables, report = build_tables(table(), schema_with(patient=None))
    assert tables.patients["patient_id"].tolist() == ["1", "2", "3"]
    assert report.patient_ids == "each lesion is a patient"
    assert report.missing_patient_ids == 0


def test_one_column_may_be_both():
    tables, _ = build_tables(table(), schema_with(patient="lesion"))
    assert ids(tables.lesions) == [("1", "1"), ("2", "2"), ("3", "3")]


def test_without_either_all_is_one():
    tables, _ = build_tables(table(), schema_with(lesion=None, patient=None))
    assert ids(tables.images) == [(i, i, i) for i in "abcd"]


def test_empty_ids_make_lesions_and_patients_of_their_own():
    frame = table(lesion=["1", "", "", "3"], patient=["P", "P", "", " "])
    tables, report = build_tables(frame, schema_with())
    assert ids(tables.images) == [
        ("a", "1", "P"),
        ("b", "image:b", "P"),
        ("c", "image:c", "lesion:image:c"),
        ("d", "3", "lesion:3"),
    ]
    assert (report.missing_lesion_ids, report.missing_patient_ids) == (2, 2)


def test_a_lesion_brings_its_patient_along():
    """An empty patient cell must not put the second photograph of a lesion into another part."""
    tables, report = build_tables(table(patient=["P", "", "P", "Q"]), schema_with())
    assert tables.images["patient_id"].tolist() == ["P", "P", "P", "Q"]
    assert report.missing_patient_ids == 1
    frame = table(lesion=["1", "1", "2", "1"], patient=["P", "", "P", "Q"])
    tables, _ = build_tables(frame, schema_with())
    assert tables.images["patient_id"].tolist() == ["P", "image:b", "P", "Q"], "whose lesion 1?"


def test_a_patient_column_may_be_empty():
    tables, report = build_tables(table(patient=["", "", " ", ""]), schema_with())
    assert tables.patients["patient_id"].tolist() == ["lesion:1", "lesion:2", "lesion:3"]
    assert report.missing_patient_ids == 4


def test_identical_rows_collapse():
    frame = pd.concat([table(), table().iloc[[1, 1]]], ignore_index=True)
    tables, report = build_tables(frame, schema_with())
    assert len(tables.images) == 4
    assert (report.rows, report.duplicate_rows) == (6, 2)


def test_rows_that_contradict_each_other_are_refused():
    frame = pd.concat([table(), table(dx=["MEL"] * 4).iloc[[1]]], ignore_index=True)
    with pytest.raises(TableError) as error:
        build_tables(frame, schema_with())
    assert str(error.value) == (
        "table, row 6 (img b.png), column 'dx': 'MEL', but row 3 has 'BCC' for the same image 'b'. "
        "An image has one row; remove the wrong one."
    )


def test_the_ending_does_not_make_another_image():
    with pytest.raises(
        TableError, match=r"'a\.jpg', but row 2 has 'a\.png' for the same image 'a'"
    ):
        build_tables(table(img=["a.png", "a.jpg", "c.png", "d.png"]), schema_with())


def test_folders_make_other_images():
    tables, _ = build_tables(table(img=["x/a.png", "y/a.png", "c.png", "d.png"]), schema_with())
    assert tables.images["image_id"].tolist() == ["x/a", "y/a", "c", "d"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"age": ["70", "unk", "", "0"]},
            "table, row 3 (img b.png), column 'age': 'unk' is not a number. Missing values are "
            "written as an empty cell. If 'unk' means missing, add: age.missing = [\"unk\"]",
        ),
        (
            {"img": ["a.png", "b.png", " ", "d.png"]},
            "table, row 4 (img  ), column 'img': ' ' names no image. Every row stands for one "
            "image file; fill the cell or remove the row.",
        ),
        (
            {"img": ["a.png", "../../b.png", "c", "d.png"]},
            "table, row 3 (img ../../b.png), column 'img': '../../b.png' points outside the image "
            "folder. Write the path from that folder on, without '..'.",
        ),
        (
            {"age": None, "age_years": ["1", "2", "3", "4"]},
            "table: there is no column 'age' (in the schema: feature 'age'). Did you mean "
            "'age_years'?",
        ),
        (
            {"dx": None},
            "table: there is no column 'dx' (in the schema: label). The table has: "
            "img, lesion, patient, itch, age, origin, note.",
        ),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(TableError) as error:
        build_tables(table(**changes), schema_with())
    assert str(error.value) == message


def test_an_empty_table_is_refused():
    with pytest.raises(TableError, match="has no rows"):
        build_tables(table().iloc[:0], schema_with())


def test_row_numbers_are_those_of_the_file():
    frame = table(age=["70", "1", "2", "unk"])
    frame.index = pd.MultiIndex.from_tuples(
        [("m.csv", 2), ("m.csv", 5), ("n.csv", 2), ("n.csv", 9)]
    )
    with pytest.raises(TableError, match=r"n\.csv, row 9 \(img d\.png\), column 'age'"):
        build_tables(frame, schema_with())


def test_labels_are_renamed_and_may_mean_none():
    names = {"BCC": "cancer", "NEV": ""}
    tables, report = build_tables(
        table(dx=["BCC", " BCC", "NEV", "MEL"]), schema_with(label_names=names)
    )
    assert tables.images["label"].fillna("-").tolist() == ["cancer", "cancer", "-", "MEL"]
    assert report.unlabelled == 1


def test_conflicting_labels_of_a_lesion_are_counted():
    _, report = build_tables(table(dx=["BCC", "NEV", "", "MEL"]), schema_with())
    assert report.conflicting_labels == 1
    assert report.conflicting_labels_example == "1: BCC, NEV"


def test_without_a_label_column():
    tables, report = build_tables(table(), schema_with(label=None))
    assert tables.images["label"].isna().all()
    assert tables.images["dx"].tolist() == ROWS["dx"]
    assert report.unlabelled == 4


def test_an_official_split_is_kept():
    tables, _ = build_tables(table(note=["train", "test", "", "train"]), schema_with(split="note"))
    assert tables.images["split"].fillna("-").tolist() == ["train", "test", "-", "train"]
    assert "note" not in tables.images


def test_published_columns_do_not_hide_ours():
    frame = table(label=list("wxyz"), label_published=list("klmn"), split=list("rstu"))
    tables, report = build_tables(frame, schema_with())
    assert tables.images["label_published"].tolist() == list("klmn")
    assert tables.images["label_published_published"].tolist() == list("wxyz")
    assert tables.images["split_published"].tolist() == list("rstu")
    assert tables.images["label"].fillna("-").tolist() == ["BCC", "BCC", "NEV", "-"]
    assert report.renamed_columns == (
        "label -> label_published_published",
        "split -> split_published",
    )


def test_an_id_column_of_our_name_is_no_clash():
    frame = table().rename(columns={"img": "image_id", "lesion": "lesion_id"})
    tables, report = build_tables(frame, schema_with(image="image_id", lesion="lesion_id"))
    assert not report.renamed_columns
    assert tables.images["image_id"].tolist() == list("abcd")


def test_image_level_columns_stay_with_the_image():
    level = {"device": {"kind": "categorical"}}
    frame = table(device=["phone", "camera", "", "phone"])
    tables, report = build_tables(frame, schema_with(image_metadata=level))
    assert tables.images["device"].fillna("-").tolist() == ["phone", "camera", "-", "phone"]
    assert "device" not in [d.column for d in report.disagreements]


def test_a_label_in_disguise_is_warned_of():
    dx = ["BCC", "BCC", "NEV", "NEV"]
    frame = table(dx=dx, origin=["yes", "yes", "no", "no"], lesion=list("1234"))
    _, report = build_tables(frame, schema_with())
    assert any("column 'origin' is the label in other words" in w for w in report.warnings)
    _, report = build_tables(frame.assign(origin=["yes", "yes", "no", "yes"]), schema_with())
    assert not any("in other words" in w for w in report.warnings)
    _, report = build_tables(frame.assign(origin=["x", "x", "", ""]), schema_with())
    assert any("in other words" in w for w in report.warnings), "a gap tells as much as a value"


def test_what_stands_in_the_way_of_a_probe_is_warned_of():
    frame = table(dx=["BCC"] * 4, patient=["P"] * 4, age=["", "", " ", "UNK"])
    _, report = build_tables(frame, schema_with())
    assert report.warnings == (
        "column 'age' (patient level) is empty in every row.",
        "every label is 'BCC': a probe cannot be trained.",
        "there is one patient: no patient-disjoint split exists.",
    )
    _, report = build_tables(table(dx=[""] * 4), schema_with())
    assert "no image has a label: a probe cannot be trained." in report.warnings


def test_the_report_is_plain_data():
    _, report = build_tables(table(), schema_with())
    assert asdict(report)["disagreements"][0]["level"] == "lesion"


def test_the_table_given_is_left_alone():
    frame, copy = table(), table()
    build_tables(frame, schema_with())
    pd.testing.assert_frame_equal(frame, copy)


def test_a_large_table_takes_seconds():
    n = 40_000
    frame = pd.DataFrame(
        {
            "img": [f"i{k}" for k in range(n)],
            "lesion": [f"l{k // 2}" for k in range(n)],
            "patient": [f"p{k // 50}" for k in range(n)],
            "dx": ["a", "b"] * (n // 2),
            **{f"x{c}": np.random.default_rng(c).normal(size=n).astype(str) for c in range(30)},
        },
        dtype="str",
    )
    features = {f"x{c}": {"kind": "continuous"} for c in range(30)}
    tables, report = build_tables(frame, schema_with(lesion_metadata=features, patient_metadata={}))
    assert (len(tables.lesions), len(tables.patients)) == (n // 2, n // 50)
    assert [d.count for d in report.disagreements] == [n // 2] * 30
    first = frame["x0"].astype(float).to_numpy().reshape(-1, 2).mean(axis=1)
    np.testing.assert_allclose(tables.lesions["x0"], first)


def test_the_example_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    schema = Schema.from_dict(tomllib.loads(text.split("```toml")[1].split("```")[0]))
    example = next(block for block in text.split("```") if block.strip().startswith("photo,"))
    header, *rows = [line.split(",") for line in example.split()]
    tables, report = build_tables(pd.DataFrame(rows, columns=header, dtype="str"), schema)
    assert ids(tables.lesions) == [("P-17/1", "P-17"), ("P-17/2", "P-17"), ("P-23/1", "P-23")]
    assert tables.images["label"].tolist() == ["benign", "benign", "malignant", "benign"]
    assert tables.lesions["itches"].isna().tolist() == [False, True, False]
    assert not report.warnings


def test_labels_without_a_name_are_told():
    schema = Schema.from_dict(
        {"image": "i", "label": "dx", "label_names": {"1": "mel", "0": "nevus", "9": ""}}
    )
    frame = pd.DataFrame({"i": list("abcdef"), "dx": ["1.0", "0.0", "1", "9", "", "0,0"]})
    tables, report = build_tables(frame, schema)
    named = ["mel", "nevus", "mel", None, None, "nevus"]
    assert [None if pd.isna(x) else x for x in tables.images["label"]] == named
    assert not [warning for warning in report.warnings if "label_names" in warning]
    frame["dx"] = ["1", "Nevus", "2", "2", "nevus", "0"]
    warnings = build_tables(frame, schema)[1].warnings
    assert any("no name for '2' (2 images), 'Nevus' (1 images);" in w for w in warnings)
    assert any("'nevus' and 'Nevus' differ" in w for w in warnings)
