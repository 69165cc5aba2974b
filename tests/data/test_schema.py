"""What a schema file may say, and how it is refused."""

from __future__ import annotations

import json

import pytest

from slimp.data.schema import LEVELS, RESERVED_COLUMNS, Level, Schema
from slimp.errors import TableError

CONTENT = {
    "image": "file",
    "lesion": "mole",
    "patient": "person",
    "label": "diagnosis",
    "label_names": {"0": "benign", "1": "malignant"},
    "split": "part",
    "split_names": {"Lernen": "train"},
    "missing": ["UNK"],
    "similar_ids": "different",
    "image_metadata": {"device": {"kind": "categorical", "categories": ["phone", "camera"]}},
    "lesion_metadata": {
        "diameter": {"kind": "continuous", "unit": "mm", "column": "d1", "missing": ["?"]},
        "symptoms": {"kind": "checkbox", "columns": ["itch", "hurt"], "aliases": {"": "no"}},
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
    assert schema.roles == {
        **{"file": "image", "mole": "lesion", "person": "patient"},
        **{"diagnosis": "label", "part": "split"},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label": {"one_hot": ["MEL", "NV"]}},
        {"label": {"one_hot": ["MEL", "SK"], "unmarked": "nevus"}},
        {"image_metadata": {}, "refused": {}, "similar_ids": "refuse"},
    ],
)
def test_survives_json(changes):
    schema = schema_with(**changes)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_one_hot_columns_are_the_label():
    schema = schema_with(label={"one_hot": ["MEL", "NV"]})
    assert (schema.label, schema.label_columns) == (None, ("MEL", "NV"))
    with pytest.raises(TableError, match="'MEL' is the label"):
        schema_with(label={"one_hot": ["MEL", "NV"]}, image_metadata={"MEL": {"kind": "checkbox"}})


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
    assert [f.name for f in flat.level("lesion").features] == [
        f.name for f in schema_with().features
    ]
    assert not flat.level("image").features
    assert not flat.level("patient").features


AGE = {"kind": "continuous"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image": 3}, "'image'"),
        ({"colour": "x"}, "'colour'"),
        ({"label": ""}, "'label'"),
        ({"label": {"one_hot": ["MEL"]}}, "one_hot"),
        ({"label": {"hot": ["MEL", "NV"]}}, "'hot'"),
        ({"refused": ["a"]}, "'refused'"),
        ({"missing": "UNK"}, "'missing'"),
        ({"similar_ids": "maybe"}, "'similar_ids' is one of refuse, same, different"),
        ({"table": 3}, "'table'"),
        *(
            ({"patient_metadata": {"age": entry}}, f"'age'.*{named}")
            for entry, named in (
                ({"kind": "number"}, "'kind' is one of .*'number'"),
                ({}, "'kind'"),
                ("continuous", "must be a table"),
                (AGE | {"einheit": "y"}, "'einheit'; it has: aliases, categories"),
                (AGE | {"columns": ["a", "b"]}, r"one column, got \['a', 'b'\]"),
                ({"kind": "checkbox", "columns": []}, r"got \[\]"),
                ({"kind": "checkbox", "columns": ["a"], "column": "b"}, "not both"),
                (AGE | {"categories": ["a"]}, "categories"),
                (AGE | {"decimal": "x"}, "decimal .*'x'"),
                (AGE | {"decimal": ",", "thousands": ","}, "decimal and thousands .*','"),
                (AGE | {"thousands": "_"}, "thousands .*'_'"),
                (AGE | {"factor": 0}, "factor"),
                (AGE | {"factor": "2"}, "'factor'.*'2'"),
                (AGE | {"units": {"cm": "10"}}, "'units'.*'10'"),
                (AGE | {"units": {"cm": float("nan")}}, "factor"),
                ({"kind": "categorical", "factor": 2}, "factor"),
                (AGE | {"from": "born"}, "'from' and 'to'"),
                (AGE | {"format": "%d"}, "'format'"),
                (AGE | {"from": "a", "to": "b"}, "years, months, days; got None"),
                (AGE | {"from": "a", "to": "b", "unit": "days", "column": "x"}, "column"),
                (AGE | {"from": "biopsied", "to": "b", "unit": "days"}, "'biopsied' is refused"),
                (AGE | {"from": "diagnosis", "to": "b", "unit": "days"}, "'diagnosis' is the la"),
            )
        ),
        *(
            ({"patient_metadata": {"x": {"kind": "checkbox", "columns": columns}}}, named)
            for columns, named in (
                (["biopsied"], r"'x': column 'biopsied' is refused .*\(follows from the diagn"),
                (["y", "biopsied"], "'x': column 'biopsied' is refused"),
                (["diagnosis"], "'x': column 'diagnosis' is the label"),
                (["person"], "'person' is the patient id"),
                (["itch"], "'itch' already belongs to feature 'symptoms'"),
                *(([name], f"'{name}'.* of its own") for name in sorted(RESERVED_COLUMNS)),
            )
        ),
    ],
)
def test_refuses(changes, named):
    with pytest.raises(TableError, match=named):
        schema_with(**changes)


def test_a_schema_has_all_levels_in_order():
    with pytest.raises(TableError, match="levels"):
        Schema(image="file", levels=(Level(name="lesion"), Level(name="image")))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, r"schema\.toml"),
        (b"image = ", r"schema\.toml.*TOML"),
        (b"\xff", r"schema\.toml.*TOML"),
        (b'label = "x"', r"schema\.toml: .*'image'"),
    ],
)
def test_bad_files_are_named(tmp_path, content, named):
    with pytest.raises(TableError, match="cannot be read as a schema file"):
        Schema.from_toml(tmp_path)
    file = tmp_path / "schema.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TableError, match=named):
        Schema.from_toml(file)


def test_a_byte_order_mark_says_nothing(tmp_path):
    file = tmp_path / "schema.toml"
    file.write_bytes(b'\xef\xbb\xbfimage = "file"\nlabel = "dx"\n')
    assert Schema.from_toml(file).image == "file"
