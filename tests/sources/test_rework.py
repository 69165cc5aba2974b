"""Published columns become the schema's: joins, one-hot labels, rows to keep, derived columns."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.errors import TableError
from slimp.sources.rework import Derive, Join, Keep, OneHot, rework

NOTHING = {"joins": (), "rename": {}, "one_hot": None, "keep": None, "derive": ()}
JOIN = Join(file=("truth.csv",), on="image")
ONE_HOT = OneHot(column="dx", classes={"MEL": "mel", "NV": "nv", "UNK": ""})


def frame(file: str = "t.csv", **columns: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(columns, dtype="str")
    rows = pd.MultiIndex.from_product([[file], range(2, len(table) + 2)])
    return table.set_axis(rows, axis="index")


def test_nothing_to_do():
    table = frame(a=["1", ""], b=["x", "y"])
    table.attrs["assumed"] = ["something"]
    found, notes = rework(table, **NOTHING)
    pd.testing.assert_frame_equal(found, table)
    assert (notes, found.attrs) == ([], {"assumed": ["something"]})


def test_a_join_keeps_rows_order_and_places():
    table = frame(image=["c", " a", "b"], age=["1", "2", "3"])
    further = frame("truth.csv", image=["a ", "b", "d"], age=["9", "9", "9"], dx=["A", "B", "D"])
    found, notes = rework(table, **NOTHING | {"joins": [(JOIN, further)]})
    assert found["dx"].tolist() == ["", "A", "B"]
    assert found["age"].tolist() == ["1", "2", "3"], "the main table goes first"
    assert found.index.tolist() == table.index.tolist()
    assert notes == ["1 of 3 rows are not in truth.csv"]


def test_empty_ids_match_nothing():
    table = frame(image=["a", "", " "])
    further = frame("truth.csv", image=["a", "", ""], dx=["A", "B", "C"])
    found, notes = rework(table, **NOTHING | {"joins": [(JOIN, further)]})
    assert found["dx"].tolist() == ["A", "", ""]
    assert notes == ["2 of 3 rows are not in truth.csv"]


def test_a_join_with_what_is_absent_changes_nothing():
    table = frame(image=["a"])
    found, notes = rework(table, **NOTHING | {"joins": [(JOIN, None)]})
    pd.testing.assert_frame_equal(found, table)
    assert not notes


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (frame("truth.csv", image=["a", "a"]), r"truth\.csv, row 3: 'a' has a row already"),
        (frame("truth.csv", img=["a"]), r"truth\.csv: there is no column 'image', which ties it"),
    ],
)
def test_joins_that_are_refused(further, message):
    with pytest.raises(TableError, match=message):
        rework(frame(image=["a"]), **NOTHING | {"joins": [(JOIN, further)]})


def test_one_hot():
    table = frame(MEL=["1.0", "0", "0.0", ""], NV=["0.0", " 1 ", "0", ""], UNK=["0", "0", "1", ""])
    found, _ = rework(table, **NOTHING | {"one_hot": ONE_HOT})
    assert found.columns.tolist() == ["dx"]
    assert found["dx"].tolist() == ["mel", "nv", "", ""], "unknown, and not in the joined table"


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8))
def test_one_hot_against_a_loop(chosen):
    names = list(ONE_HOT.classes)
    table = frame(**{n: ["1.0" if names[c] == n else "0.0" for c in chosen] for n in names})
    found, _ = rework(table, **NOTHING | {"one_hot": ONE_HOT})
    assert found["dx"].tolist() == [ONE_HOT.classes[names[c]] for c in chosen]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            frame(MEL=["1", "1"], NV=["0", "1"], UNK=["0", "0"]),
            r"row 3: the image is marked as 2 of",
        ),
        (frame(MEL=["0"], NV=["0"], UNK=["0"]), r"t\.csv, row 2: the image is marked as 0 of the"),
        (frame(MEL=["1"], UNK=["0"]), r"t\.csv: there is no column 'NV', one of the classes"),
    ],
)
def test_one_hot_that_is_none(table, message):
    with pytest.raises(TableError, match=message):
        rework(table, **NOTHING | {"one_hot": ONE_HOT})


def test_rows_of_other_datasets_are_left_out():
    keep = Keep(column="lesion", begins="BCN_")
    table = frame(image=["a", "b", "c"], lesion=["BCN_1", "HAM_1", ""])
    found, notes = rework(table, **NOTHING | {"keep": keep})
    assert found["image"].tolist() == ["a"]
    assert notes == ["1 of 3 rows, whose lesion begins with BCN_"]
    with pytest.raises(TableError, match="no cell of 'lesion' begins with 'BCN_'"):
        rework(table[1:], **NOTHING | {"keep": keep})
    with pytest.raises(
        TableError, match=r"there is no column 'lesion', which tells this dataset's"
    ):
        rework(frame(image=["a"]), **NOTHING | {"keep": keep})


SITE = Derive(
    column="site",
    groups=[["site"], ["site_2", "site_1"]],
    values={"Trunk": "torso", "Hand": "hand", "Arm": "arm"},
)


@pytest.mark.parametrize(
    ("columns", "expected", "note"),
    [
        ({"site": ["back", "Hand"]}, ["back", "hand"], ""),  # a word of its own stays
        (
            {"site_1": ["Trunk", "Arm"], "site_2": ["Left", "Hand"]},
            ["torso", "hand"],
            "site from site_2 or site_1",
        ),
        ({"site": ["", " "], "site_1": ["Arm", "?"]}, ["arm", ""], "site from site_1"),
        ({"site": ["back", ""], "site_1": ["Arm", "Arm"]}, ["back", ""], ""),  # forms do not mix
        ({"other": ["x", "y"]}, None, ""),
    ],
)
def test_a_column_is_derived_from_the_first_group_that_is_filled(columns, expected, note):
    found, notes = rework(frame(**columns), **NOTHING | {"derive": [SITE]})
    assert (found["site"].tolist() if "site" in found else None) == expected
    assert notes == ([note] if note else [])


def test_renaming_goes_before_deriving():
    rule = Derive(column="patient", groups=[["patient"], ["lesion", "image"]])
    table = frame(name=["a", "b"], lesion=["L1", ""])
    found, notes = rework(table, **NOTHING | {"rename": {"name": "image"}, "derive": [rule]})
    assert found["patient"].tolist() == ["L1", "b"]
    assert notes == ["patient from lesion or image"]
