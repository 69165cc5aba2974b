"""Settings of `[table]`: what they may say, and what they refuse."""

from __future__ import annotations

import tomllib

import pytest

from slimp.errors import TableError
from slimp.sources.layout import Derive, Join, Keep, TableLayout

TEXT = """
image = "photo"

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
rename = { x = "y" }
keep = { column = "lesion", begins = "B" }
derive = [{ column = "site", groups = [["site"], ["a", "b"]], values = { A = "a" } }]

[[table.join]]
file = "patients.csv"
on = "id"

[[table.join]]
sheet = "Lesions"
on = { lesion = "number", id = "patient" }
columns = ["site"]

[[table.join]]
file = ["train.csv", "*_train.csv"]
by = "row"
first = 1
set = { split = "train" }
needed = false
"""


def test_everything_that_can_be_said():
    layout = TableLayout.from_dict(tomllib.loads(TEXT)["table"])
    plain = {"encoding": "cp1250", "delimiter": ";", "header": 3, "sheet": "Findings"}
    plain |= {"images": ("a", "b"), "separator": "|", "image_root": "D:\\photos", "row_id": "row"}
    plain |= {"drop": ("name",), "rename": {"x": "y"}}
    assert {name: getattr(layout, name) for name in plain} == plain
    assert layout.keep == Keep(column="lesion", begins="B")
    assert layout.derive == (
        Derive(column="site", groups=(("site",), ("a", "b")), values={"A": "a"}),
    )
    files, parts = ("train.csv", "*_train.csv"), {"split": "train"}
    assert layout.joins == (
        Join(file=("patients.csv",), on={"id": "id"}),
        Join(sheet="Lesions", on={"lesion": "number", "id": "patient"}, columns=("site",)),
        Join(file=files, by="row", first=1, set=parts, needed=False),
    )


def test_names_of_images_are_made_of_columns():
    layout = TableLayout(image_names="{person:04}/x_{mole}_*.jpg")
    assert layout.name_parts == (("", "person", 4), ("/x_", "mole", 0), ("_*.jpg", None, 0))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("colour = 1", "'colour'.* delimiter"),
        ("encoding = 'klingon'", "'klingon'"),
        ("encoding = 'base64'", "'base64'"),
        ("encoding = [8]", "'encoding'"),
        ("delimiter = ';;'", "delimiter"),
        ("delimiter = '\"'", "delimiter"),
        ("header = 0", "header .*0"),
        ("header = true", "'header' .*True"),
        ("images = 'photo'", "'images'"),
        ("separator = ''", "separator"),
        ("image_names = '{a'", r"image_names '\{a'"),
        ("image_names = '{a:>3}'", r"image_names '\{a:>3\}'"),
        ("image_names = '{a:0}'", r"image_names '\{a:0\}'"),
        ("image_names = '{a}'\nimages = ['b']", "'image_names'"),
        ("keep = { column = 'a' }", "'keep'.*begins"),
        ("join = 3", r"\[\[table.join\]\]"),
        ("join = [{ file = 'x.csv' }]", "'on'"),
        ("join = [{ file = 'x.csv', on = 'id', by = 'row' }]", "'on'"),
        ("join = [{ file = 'x.csv', by = 'column' }]", "'by' is one of row"),
        ("join = [{ on = 'id' }]", "'file', or 'sheet'"),
        ("join = [{ on = 3, file = 'x' }]", "'on'"),
        ("join = [{ on = 'id', file = '../x.csv' }]", r"'\.\./x\.csv'"),
        ("join = [{ on = 'id', file = '/etc/passwd' }]", "'/etc/passwd'"),
        ("join = [{ on = 'id', files = 'x' }]", r"\[\[table.join\]\]: .*'files'"),
    ],
)
def test_refusals(settings, named):
    with pytest.raises(TableError, match=named):
        TableLayout.from_dict(tomllib.loads(settings))
