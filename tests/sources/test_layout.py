"""Settings of `[table]`: what they may say, and what they refuse."""

from __future__ import annotations

import tomllib

import pytest

from slimp.errors import TableError
from slimp.sources.layout import Join, TableLayout

TEXT = """
[table]
encoding = "cp1250"
delimiter = ";"
decimal = ","
header = 3
sheet = "Findings"
images = ["a", "b"]
separator = "|"
image_root = 'D:\\photos'
row_id = "row"
drop = ["name"]

[[table.join]]
file = "patients.csv"
on = "id"

[[table.join]]
sheet = "Lesions"
on = { lesion = "number", id = "patient" }
columns = ["site"]
"""


def test_everything_that_can_be_said(tmp_path):
    file = tmp_path / "schema.toml"
    file.write_text(TEXT)
    assert TableLayout.from_toml(file) == TableLayout(
        encoding="cp1250",
        delimiter=";",
        header=3,
        sheet="Findings",
        images=("a", "b"),
        separator="|",
        image_root="D:\\photos",
        row_id="row",
        drop=("name",),
        joins=(
            Join(file="patients.csv", on={"id": "id"}),
            Join(sheet="Lesions", on={"lesion": "number", "id": "patient"}, columns=("site",)),
        ),
    )


def test_nothing_has_to_be_said(tmp_path):
    file = tmp_path / "schema.toml"
    file.write_text('image = "x"\n')
    assert TableLayout.from_toml(file) == TableLayout()


def test_names_of_images_are_made_of_columns():
    layout = TableLayout(image_names="{person}/x_{mole}_*.jpg")
    assert layout.name_columns == ("person", "mole")
    assert layout.name_parts == (("", "person"), ("/x_", "mole"), ("_*.jpg", None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("colour = 1", r"\[table\]: unknown key 'colour'; it has: decimal, delimiter"),
        ("encoding = 'klingon'", "no encoding 'klingon'. Common ones: utf-8"),
        ("encoding = 'base64'", "no encoding 'base64'"),
        ("encoding = 8", "'encoding' must be a string, got 8"),
        ("delimiter = ';;'", "delimiter must be one character"),
        ("delimiter = '\"'", "delimiter must be one character"),
        ("header = 0", "the first being 1; got 0"),
        ("header = true", "'header' must be a whole number, got True"),
        ("images = 'photo'", "'images' must be a list of columns"),
        ("separator = ''", "separator must be a mark"),
        ("image_names = '{a'", r"image_names '\{a': "),
        ("image_names = '{a:>3}'", r"write \{column\} only"),
        ("image_names = '{a}'\nimages = ['b']", "give 'images' and 'separator', or 'image_names'"),
        ("join = 3", r"write a join as \[\[table.join\]\]"),
        ("join = [{ file = 'x.csv' }]", "needs 'on'"),
        ("join = [{ on = 'id' }]", "needs 'file', or 'sheet' of the same file"),
        ("join = [{ on = 3, file = 'x' }]", "'on' is a column of both tables"),
        ("join = [{ on = 'id', file = '../x.csv' }]", "points outside the folder of the data"),
        ("join = [{ on = 'id', file = '/etc/passwd' }]", "points outside the folder of the data"),
        ("join = [{ on = 'id', files = 'x' }]", r"\[\[table.join\]\]: unknown key 'files'"),
    ],
)
def test_refusals(settings, message):
    content = tomllib.loads(settings)
    with pytest.raises(TableError, match=message):
        TableLayout.from_dict(content)


def test_files_are_named(tmp_path):
    with pytest.raises(TableError, match="no such schema file"):
        TableLayout.from_toml(tmp_path / "none.toml")
    file = tmp_path / "schema.toml"
    file.write_text("[table]\nheader = 0\n")
    with pytest.raises(TableError, match=r"schema\.toml: \[table\]: header is a row"):
        TableLayout.from_toml(file)
