"""A published table becomes typed tables per level; its traps are resolved, counted or refused."""

from __future__ import annotations

import statistics
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slimp.data.cohort import Tables
from slimp.data.schema import Feature, Level, Schema
from slimp.errors import TableError
from slimp.sources.level_tables import level_table, split_levels, type_rows

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


def build(frame: pd.DataFrame, **changes: object) -> tuple[Tables, dict[str, Any]]:
    schema = schema_with(**changes)
    return split_levels(type_rows(frame, schema), schema)


def ids(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    names = ["image_id", "lesion_id", "patient_id"]
    return list(frame[[n for n in names if n in frame]].itertuples(index=False, name=None))


def known(cells: pd.Series) -> list[object]:
    return [None if pd.isna(cell) else cell for cell in cells]


def test_levels_and_types():
    frame, copy = table(), table()
    tables, report = build(frame)
    pd.testing.assert_frame_equal(frame, copy)
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
    assert known(tables.images["label"]) == ["BCC", "BCC", "NEV", None]
    assert tables.images["note"].tolist() == ["", "x", " y", "z"], "text as published"
    assert ids(tables.lesions) == [("1", "P"), ("2", "P"), ("3", "Q")]
    assert known(tables.lesions["itch"]) == [True, None, False]
    assert tables.patients["age"].tolist() == [71, 0], "0 is an age"
    assert known(tables.patients["origin"]) == ["ITALY", None]
    assert (report["rows"], report["duplicate_rows"]) == (4, 0)
    assert [(d["column"], d["count"]) for d in report["disagreements"]] == [("itch", 1), ("age", 1)]
    assert report["lesion_ids"] == "column 'lesion'"
    assert report["missing_spellings"] == {
        "itch": {"UNK": 1},
        "age": {"": 1},
        "origin": {"": 1, "UNK": 1},
    }


@pytest.mark.parametrize(
    ("frame", "schema", "expected", "missing"),
    [
        ({}, {"lesion": None}, [("a", "P"), ("b", "P"), ("c", "P"), ("d", "Q")], (0, 0)),
        ({}, {"patient": None}, [("1", "1"), ("1", "1"), ("2", "2"), ("3", "3")], (0, 0)),
        ({}, {"patient": "lesion"}, [("1", "1"), ("1", "1"), ("2", "2"), ("3", "3")], (0, 0)),
        ({}, {"lesion": None, "patient": None}, [(i, i) for i in "abcd"], (0, 0)),
        (
            {"lesion": ["1", "1", "2", "1"]},
            *({}, [("P/1", "P"), ("P/1", "P"), ("P/2", "P"), ("Q/1", "Q")], (0, 0)),
        ),
        (
            {"lesion": ["1", "", "nan", "3"], "patient": ["P", "P", "None", "UNK"]},
            {},
            [("1", "P"), ("image:b", "P"), ("image:c", "lesion:image:c"), ("3", "lesion:3")],
            (2, 2),
        ),
        # a lesion brings its patient along, or its photographs would fall into two parts
        (
            {"patient": ["P", "", "P", "Q"]},
            *({}, [("1", "P"), ("1", "P"), ("2", "P"), ("3", "Q")], (0, 0)),
        ),
        # ... unless nobody knows whose lesion 1 that is
        (
            {"lesion": ["1", "1", "2", "1"], "patient": ["P", "", "P", "Q"]},
            {},
            [("P/1", "P"), ("lesion:1/1", "lesion:1"), ("P/2", "P"), ("Q/1", "Q")],
            (0, 1),
        ),
        (
            {"patient": ["", "nan", " ", ""]},
            {},
            [(n, f"lesion:{n}") for n in ("1", "1", "2", "3")],
            (0, 4),
        ),
        (
            {"patient": ["7", "7.0", " 7", "8.0"]},
            *({}, [("1", "7"), ("1", "7"), ("2", "7"), ("3", "8")], (0, 0)),
        ),
        (
            {"patient": ["P", "p", "P", "Q"]},
            *({"similar_ids": "same"}, [("1", "P"), ("1", "P"), ("2", "P"), ("3", "Q")], (0, 0)),
        ),
        (
            {"patient": ["P", "p", "P", "Q"]},
            {"similar_ids": "different"},
            [("P/1", "P"), ("p/1", "p"), ("P/2", "P"), ("Q/3", "Q")],
            (0, 0),
        ),
    ],
)
def test_ids(frame, schema, expected, missing):
    tables, report = build(table(**frame), **schema)
    assert [row[1:] for row in ids(tables.images)] == expected
    assert (report["missing_lesion_ids"], report["missing_patient_ids"]) == missing


def test_what_is_said_of_ids():
    _, report = build(table(patient=["7", "7.0", "nan", "8"]))
    assert len(report["assumed"]) == 2
    assert "'7' and '7.0'" in report["assumed"][1]
    assert report["missing_spellings"]["patient"] == {"nan": 1}
    _, report = build(table(lesion=["1", "1", "2", "1"]))
    assert (
        report["lesion_ids"] == "patient/lesion, because 1 lesion id(s) occur in several patients"
    )


def test_a_century_that_is_assumed_is_said():
    dates = {"kind": "continuous", "unit": "years", "from": "born", "to": "seen"}
    frame = table(born=["01.03.65"] * 4, seen=["01.03.20"] * 4)
    tables, report = build(frame, patient_metadata={"age_seen": {**dates, "format": "%d.%m.%y"}})
    assert tables.patients["age_seen"].round(2).tolist() == [55, 55]
    assert "'born': 4 date(s) with a year of two digits" in report["assumed"][0]


def test_a_word_for_missing_that_is_read_as_a_category_is_named():
    _, report = build(table(origin=["ITALY", "nan", "ITALY", "nan"]))
    assert "'origin': 2 cell(s) 'nan'" in report["warnings"][0]
    assert 'origin.missing = ["nan"]' in report["warnings"][0]
    for entry in ({"missing": ["nan"]}, {"categories": ["ITALY", "nan"]}):
        origin = {"origin": {"kind": "categorical", **entry}}
        frame = table(origin=["ITALY", "nan", "ITALY", "nan"])
        assert build(frame, patient_metadata=origin)[1]["warnings"] == []


def test_the_id_rule_outlives_a_selection():
    rows = type_rows(table(lesion=["1", "1", "2", "1"]), schema_with())
    tables, _ = split_levels(rows.keep(np.array([True, False, True, False])), schema_with())
    assert tables.lesions["lesion_id"].tolist() == ["P/1", "P/2"]
    assert tables.patients["age"].tolist() == [70], "resolved among the rows that stay"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"age": ["70", "unk", "", "0"]}, r"row 3 \(img b\.png\), column 'age': 'unk'"),
        ({"img": ["a.png", "b.png", " ", "d.png"]}, r"row 4 \(img  \), column 'img': ' '"),
        ({"img": ["a.png", "nan", "c", "d"]}, r"row 3 \(img nan\), column 'img': 'nan'"),
        ({"img": ["a.png", "../../b.png", "c", "d.png"]}, r"row 3 .*'\.\./\.\./b\.png'"),
        ({"img": ["a.png", "a.jpg", "c.png", "d.png"]}, r"row 3 .*'a\.jpg', but row 2 has 'a\.pn"),
        ({"img": ["a.png", "A.png", "c.png", "d.png"]}, r"row 3 .*'img': 'A' and 'a' .*similar_i"),
        ({"img": ["1.5E+12", "b", "c", "d"]}, r"row 2 .*'img': '1\.5E\+12'"),
        ({"patient": ["P", "p", "P", "Q"]}, r"row 3 .*'patient': 'p' and 'P' .*similar_ids"),
        ({"lesion": ["01", "1", "2", "3"]}, r"row 3 .*'lesion': '1' and '01'"),
        ({"patient": ["1.2E+12", "1.2E+12", "P", "Q"]}, r"row 2 .*'patient': '1\.2E\+12'"),
        ({"lesion": ["b/1", "b/1", "1", "1"], "patient": ["P", "P", "P/b", "Q"]}, "'P/b/1'"),
        ({"age": None, "age_years": ["1"] * 4}, "'age' .*feature 'age'.*'age_years'"),
        ({"dx": None}, "'dx' .*label.*img, lesion, patient, itch"),
    ],
)
def test_refusals(changes, named):
    with pytest.raises(TableError, match=named):
        build(table(**changes))


def test_a_missing_patient_is_refused_if_asked_for():
    for cells in ([" ", "", "P", ""], ["nan", "-", "P", "NA"]):
        with pytest.raises(TableError, match=r"row 2 .*'patient': .* 3 row.*--missing-patient-id"):
            type_rows(table(patient=cells), schema_with(), refuse_missing_patients=True)
    with pytest.raises(TableError, match=r"row 5 .*'patient': .* 1 row"):
        type_rows(table(patient=["P", " ", "P", ""]), schema_with(), refuse_missing_patients=True)
    recurring = table(lesion=["1", "1", "2", "1"], patient=["P", "", "P", "Q"])
    with pytest.raises(TableError, match=r"row 3 .*'patient': .* 1 row"):
        type_rows(recurring, schema_with(), refuse_missing_patients=True)
    type_rows(table(), schema_with(patient=None), refuse_missing_patients=True)


def test_a_lesion_that_nobody_can_tell_from_others_of_its_id_is_refused():
    """Ids count anew in each patient: two rows of a lesion 5 may be of two people, or of one."""
    cells = {"patient": ["P", "Q", "", ""]}
    _, report = build(table(lesion=["1", "1", "5", "6"], **cells))
    assert report["missing_patient_ids"] == 2
    with pytest.raises(TableError, match=r"row 5 .*no patient, .*lesion '5'.*can tell"):
        build(table(lesion=["1", "1", "5", "5"], **cells))
    _, report = build(table(lesion=["1", "2", "5", "5"], **cells))  # here ids are unique
    assert report["missing_patient_ids"] == 2


def test_a_missing_patient_is_the_one_of_the_same_lesion():
    cells, whole = ["P", "", "P", "Q"], ["P", "P", "P", "Q"]
    rows = type_rows(table(patient=cells), schema_with(), refuse_missing_patients=True)
    assert rows.frame["patient_id"].tolist() == whole
    assert rows.report["missing_patient_ids"] == 0
    assert rows.report["assumed"] == [
        "column 'patient': 1 row(s) without an id are of the patient that another row of the same "
        "lesion has"
    ]


def test_rows_of_one_image_are_the_same_or_refused():
    tables, report = build(pd.concat([table(), table().iloc[[1, 1]]], ignore_index=True))
    assert (len(tables.images), report["rows"], report["duplicate_rows"]) == (4, 6, 2)
    frame = pd.concat([table(), table(dx=["MEL"] * 4).iloc[[1]]], ignore_index=True)
    with pytest.raises(TableError, match=r"row 6 \(img b\.png\), column 'dx': 'MEL'.*row 3 .*'BCC"):
        build(frame)


def test_row_numbers_are_those_of_the_file():
    frame = table(age=["70", "1", "2", "unk"])
    frame.index = pd.MultiIndex.from_tuples(
        [("m.csv", 2), ("m.csv", 5), ("n.csv", 2), ("n.csv", 9)]
    )
    with pytest.raises(TableError, match=r"n\.csv, row 9 \(img d\.png\), column 'age'"):
        build(frame)


def test_an_official_split_is_kept():
    tables, report = build(table(note=["Train", "TEST", "", "fold2"]), split="note")
    assert known(tables.images["split"]) == ["train", "test", None, "fold2"]
    assert "note" not in tables.images
    assert "'TEST' is test" in report["assumed"][0]
    with pytest.raises(TableError, match=r"row 3 .*'note': 'x'"):
        build(table(note=["train", "x", "", ""]), split="note")


def test_published_columns_do_not_hide_ours():
    names = {"img": ["x/a.png", "y/a.png", "c.png", "10.0"]}
    published = {"label": list("wxyz"), "label_published": list("klmn"), "split": list("rstu")}
    tables, _ = build(table(**names, **published))
    assert tables.images["label_published"].tolist() == list("klmn")
    assert tables.images["label_published_published"].tolist() == list("wxyz")
    assert tables.images["split_published"].tolist() == list("rstu")
    assert tables.images["image_id"].tolist() == ["x/a", "y/a", "c", "10"]
    frame = table().rename(columns={"img": "image_id", "lesion": "lesion_id"})
    tables, _ = build(frame, image="image_id", lesion="lesion_id")
    assert tables.images.columns.tolist()[4:] == ["note"]


def test_the_example_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    schema = Schema.from_dict(tomllib.loads(text.split("```toml")[1].split("```")[0]))
    example = next(block for block in text.split("```") if block.strip().startswith("photo,"))
    header, *rows = [line.split(",") for line in example.split()]
    frame = pd.DataFrame(rows, columns=header, dtype="str")
    tables, report = split_levels(type_rows(frame, schema), schema)
    assert ids(tables.lesions) == [("P-17/1", "P-17"), ("P-17/2", "P-17"), ("P-23/1", "P-23")]
    assert tables.images["label"].tolist() == ["benign", "benign", "malignant", "benign"]
    assert tables.lesions["itches"].isna().tolist() == [False, True, False]
    assert not report["warnings"]


LEVEL = Level(
    name="patient",
    features=(
        Feature(name="age", kind="continuous", columns=("age",)),
        Feature(name="origin", kind="categorical", columns=("origin",)),
        Feature(name="smoke", kind="checkbox", columns=("smoke",)),
    ),
)
TYPES = {"patient_id": "str", "age": "float64", "origin": "str", "smoke": "boolean"}


def frame_of(rows: list[tuple[str, float | None, str | None, bool | None]]) -> pd.DataFrame:
    columns = dict(zip(TYPES, zip(*rows, strict=True), strict=True))
    return pd.DataFrame({k: pd.Series(columns[k], dtype=kind) for k, kind in TYPES.items()})


def slow_value(column: str, values: list[object]) -> object:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if column == "age":
        return statistics.median(known)
    counts = Counter(known)
    most = [value for value in counts if counts[value] == max(counts.values())]
    return max(most) if column == "smoke" else min(most)


row = st.tuples(
    st.sampled_from("pqrs"),
    st.none() | st.integers(0, 90).map(float),
    st.none() | st.sampled_from(["ITALY", "BRASIL", "Ünder"]),
    st.none() | st.booleans(),
)


@settings(max_examples=40)
@given(st.lists(row, min_size=1, max_size=25), st.randoms(use_true_random=False))
@example([("p", None, None, None)], None)
@example([("p", None, None, None)] * 2, None)
def test_equals_a_loop_over_the_groups(rows, random):
    table, found = level_table(frame_of(rows), LEVEL)
    order = list(dict.fromkeys(r[0] for r in rows))
    assert table["patient_id"].tolist() == order
    counts = {entry["column"]: entry["count"] for entry in found}
    for position, column in enumerate(("age", "origin", "smoke"), start=1):
        groups = [[r[position] for r in rows if r[0] == patient] for patient in order]
        got = [None if pd.isna(value) else value for value in table[column]]
        assert got == [slow_value(column, values) for values in groups]
        several = sum(len(set(values) - {None}) > 1 for values in groups)
        assert counts.get(column, 0) == several
    if random is not None:  # the order of rows does not matter
        again, _ = level_table(frame_of(random.sample(rows, len(rows))), LEVEL)
        pd.testing.assert_frame_equal(
            table.sort_values("patient_id", ignore_index=True),
            again.sort_values("patient_id", ignore_index=True),
        )


def test_types_stay_and_examples_tell():
    p, q = ("p", 71.0, "ITALY", True), ("q", None, None, None)
    table, found = level_table(frame_of([p, q, ("p", 72.0, "BRASIL", False)]), LEVEL)
    assert table.dtypes.astype(str).to_dict() == TYPES
    assert table.iloc[0].tolist() == ["p", 71.5, "BRASIL", True]
    assert table.iloc[1, 1:].isna().all()
    assert [tuple(entry.values()) for entry in found] == [
        ("patient", "age", 1, "median", "p: 71, 72 -> 71.5"),
        ("patient", "origin", 1, "most frequent", "p: BRASIL, ITALY -> BRASIL"),
        ("patient", "smoke", 1, "most frequent", "p: False, True -> True"),
    ]
