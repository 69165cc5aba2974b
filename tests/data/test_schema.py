"""What a schema file may say, and how it is refused."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from slimp.data.schema import LEVELS, RESERVED_COLUMNS, Feature, Level, Schema
from slimp.errors import TableError

CONTENT = {
    "image": "file",
    "lesion": "mole",
    "patient": "person",
    "label": "diagnosis",
    "label_names": {"0": "benign", "1": "malignant"},
    "split": "part",
    "missing": ["UNK"],
    "image_metadata": {"device": {"kind": "categorical", "categories": ["phone", "camera"]}},
    "lesion_metadata": {
        "diameter": {"kind": "continuous", "unit": "mm", "column": "d1", "missing": ["?"]},
        "symptoms": {"kind": "checkbox", "columns": ["itch", "hurt"]},
    },
    "patient_metadata": {"origin": {"kind": "categorical", "aliases": {"BRAZIL": "BRASIL"}}},
    "refused": {"biopsied": "follows from the diagnosis"},
}


def schema_with(**changes: object) -> Schema:
    return Schema.from_dict(CONTENT | changes)


def test_levels_features_and_columns():
    schema = schema_with()
    assert [level.name for level in schema.levels] == list(LEVELS)
    assert [f.name for f in schema.features] == ["device", "diameter", "symptoms", "origin"]
    assert schema.level("lesion").columns == ("d1", "itch", "hurt")
    diameter, _ = schema.level("lesion").features
    assert (diameter.unit, diameter.missing) == ("mm", ("UNK", "?"))
    assert schema.refused == {"biopsied": "follows from the diagnosis"}


def test_survives_json():
    schema = schema_with()
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_the_table_gives_features_their_marks():
    content = {
        "table": {"decimal": ",", "thousands": ".", "delimiter": ";"},
        "lesion_metadata": {
            "size": {"kind": "continuous", "unit": "mm", "units": {"cm": 10}, "factor": 2},
            "depth": {"kind": "continuous", "decimal": ".", "thousands": ","},
            "site": {"kind": "categorical"},
        },
        "patient_metadata": {
            "age": {"kind": "continuous", "unit": "years", "from": "a", "to": "b", "format": "%d"}
        },
    }
    schema = schema_with(**content)
    marks = [(f.decimal, f.thousands) for f in schema.features]
    assert marks == [(".", None), (",", "."), (".", ","), (".", None), (",", ".")]
    assert [f.reads for f in schema.features][-1] == ("a", "b")
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again == schema, "and prediction needs no [table]"


def test_flatten_moves_all_features_to_the_lesion():
    flat = schema_with().flatten()
    assert flat.level("lesion").features == tuple(schema_with().features)
    assert flat.level("image").features == flat.level("patient").features == ()
    assert flat.flatten() == flat


def test_reads_toml(tmp_path):
    file = tmp_path / "schema.toml"
    file.write_text('image = "file"\n[lesion_metadata]\nage = { kind = "continuous" }\n')
    schema = Schema.from_toml(file)
    assert (schema.image, schema.lesion, schema.patient, schema.label) == ("file", None, None, None)
    assert schema.level("lesion").features == (
        Feature(name="age", kind="continuous", columns=("age",)),
    )


def test_is_immutable():
    with pytest.raises(FrozenInstanceError):
        schema_with().image = "other"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": 3}, "'image' must name the column"),
        ({"lesion": 3}, "'lesion' must be a string, got 3"),
        ({"label": ""}, "'label' must name a column. Leave it out"),
        ({"colour": "x"}, "unknown key 'colour'; a schema has: dataset"),
        ({"refused": ["a"]}, "'refused' must be a table"),
        ({"missing": "UNK"}, "'missing' must be a list of strings"),
        ({"patient_metadata": {"age": {"kind": "number"}}}, "kind 'number' is not one of cont"),
        ({"patient_metadata": {"age": {}}}, "feature 'age': kind '' is not one of"),
        ({"patient_metadata": {"age": "continuous"}}, "'age' must be a table"),
        (
            {"patient_metadata": {"age": {"kind": "continuous", "einheit": "y"}}},
            "feature 'age': unknown key 'einheit'; a feature has: aliases, categories",
        ),
        (
            {"patient_metadata": {"age": {"kind": "continuous", "columns": ["a", "b"]}}},
            "a continuous feature has exactly one column, got \\['a', 'b'\\]",
        ),
        (
            {"patient_metadata": {"age": {"kind": "checkbox", "columns": []}}},
            "a checkbox feature has exactly one column|got \\[\\]",
        ),
        (
            {"patient_metadata": {"age": {"kind": "checkbox", "columns": ["a"], "column": "b"}}},
            "give 'column' or 'columns', not both",
        ),
        (
            {"patient_metadata": {"age": {"kind": "continuous", "categories": ["a"]}}},
            "only a categorical feature has categories",
        ),
        (
            {"patient_metadata": {"biopsied": {"kind": "checkbox"}}},
            "feature 'biopsied': column 'biopsied' is refused as an input \\(follows from the diag",
        ),
        (
            {"patient_metadata": {"x": {"kind": "checkbox", "columns": ["y", "biopsied"]}}},
            "feature 'x': column 'biopsied' is refused",
        ),
        *(
            ({"patient_metadata": {"age": {"kind": "continuous"} | more}}, message)
            for more, message in (
                ({"decimal": "x"}, "decimal is '.' or ',', got 'x'"),
                ({"decimal": ",", "thousands": ","}, "decimal and thousands are both ','"),
                ({"thousands": "_"}, "thousands is one of"),
                ({"factor": 0}, "a factor is a number other than 0"),
                ({"factor": "2"}, "'age.factor' must be a number, got '2'"),
                ({"units": {"cm": "10"}}, "'age.units' must be a number"),
                ({"units": {"cm": float("nan")}}, "a factor is a number other than 0"),
                ({"kind": "categorical", "factor": 2}, "only a continuous feature has decimal"),
                ({"from": "born"}, "give both dates, 'from' and 'to'"),
                ({"format": "%d"}, "'format' is for a feature made 'from' one date"),
                ({"from": "a", "to": "b"}, "has a unit: years, months, days; got None"),
                (
                    {"from": "a", "to": "b", "unit": "days", "column": "x"},
                    "made of dates has no column of its own",
                ),
                ({"from": "biopsied", "to": "b", "unit": "days"}, "'biopsied' is refused"),
                ({"from": "diagnosis", "to": "b", "unit": "days"}, "'diagnosis' is the label"),
            )
        ),
        ({"table": 3}, "'table' must be a table"),
        ({"patient_metadata": {"diagnosis": {"kind": "categorical"}}}, "is the label; it must not"),
        (
            {"patient_metadata": {"x": {"kind": "categorical", "column": "diagnosis"}}},
            "feature 'x': column 'diagnosis' is the label",
        ),
        ({"patient_metadata": {"person": {"kind": "categorical"}}}, "'person' is the patient id"),
        ({"patient_metadata": {"itch": {"kind": "checkbox"}}}, "belongs to feature 'symptoms'"),
        ({"image_metadata": {"split": {"kind": "categorical"}}}, "'split' of its own. Rename"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(TableError, match=message):
        schema_with(**changes)


@pytest.mark.parametrize("column", sorted(RESERVED_COLUMNS))
def test_no_feature_bears_the_name_of_a_column_of_ours(column):
    with pytest.raises(TableError, match="of its own"):
        schema_with(lesion_metadata={"x": {"kind": "categorical", "column": column}})


def test_a_schema_has_all_levels_in_order():
    with pytest.raises(TableError, match="in this order"):
        Schema(image="file", levels=(Level(name="lesion"), Level(name="image")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such schema file"),
        (b"image = ", "not a valid TOML file"),
        (b"\xff", "not a valid TOML file"),
        (b'label = "x"', "schema.toml: the key 'image'"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    file = tmp_path / "schema.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TableError, match=message):
        Schema.from_toml(file)
