"""Text cells become typed columns, or the message says which cell does not."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.cells import image_key, missing_spellings, parse_cells, points_outside
from slimp.errors import TableError
from slimp.schema import Feature


def feature(kind: str = "continuous", **more: object) -> Feature:
    return Feature(name="f", kind=kind, columns=("f",), **more)


def parse(cells: list[str], what: Feature) -> pd.Series:
    column = pd.Series(cells, name="f", dtype="str")
    return parse_cells(column, what, lambda position: f"t.csv, row {position + 2}")


def test_numbers():
    typed = parse(["8", "8.0", " -3e2 ", "", "0", ".5", "+1", "UNK"], feature(missing=("UNK",)))
    assert typed.dtype == np.float64
    np.testing.assert_array_equal(typed, [8, 8, -300, np.nan, 0, 0.5, 1, np.nan])


@given(st.lists(st.floats(-1e29, 1e29), min_size=1))
def test_numbers_are_read_to_the_last_digit(values):
    assert parse([repr(value) for value in values], feature()).tolist() == values


@pytest.mark.parametrize(
    "cell",
    [
        "unk",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e",
        "0x10",
        "1_000",
        "8 mm",
        "٣",
        "--1",
        "1.2.3",
        "True",
    ],
)
def test_what_is_not_a_number(cell):
    with pytest.raises(TableError) as error:
        parse(["7", cell, "8"], feature())
    assert str(error.value) == (
        f"t.csv, row 3, column 'f': '{cell}' is not a number. Missing values are written as an "
        f"empty cell. If '{cell}' means missing, add: f.missing = [\"{cell}\"]"
    )


def test_nan_is_missing_where_the_schema_says_so():
    typed = parse(["nan", "inf", "1"], feature(missing=("nan", "inf")))
    assert typed.isna().tolist() == [True, True, False]


def test_a_comma_gets_its_own_advice():
    with pytest.raises(TableError, match=r"'8,5' is not a number\. Decimals are .* point: 8\.5\."):
        parse(["8,5"], feature())


def test_numbers_beyond_measure_are_refused():
    with pytest.raises(TableError, match="'1e300' is too large for a measurement"):
        parse(["1e300"], feature())
    with pytest.raises(TableError, match="'1e999' is too large"):
        parse(["1e999"], feature())


def test_further_misfits_are_counted():
    with pytest.raises(TableError, match=r"row 3, .*'x' is not a number\. .* for 2 more cell"):
        parse(["1", "x", "y", "z"], feature())


def test_categories_with_aliases_and_missing():
    what = feature("categorical", aliases={"BRAZIL": "BRASIL"}, missing=("UNK",))
    typed = parse(["BRAZIL", " BRASIL", "ITALY", "UNK", "", "1.0"], what)
    assert typed.fillna("-").tolist() == ["BRASIL", "BRASIL", "ITALY", "-", "-", "1.0"]


def test_aliases_do_not_chain():
    typed = parse(["a", "b"], feature("categorical", aliases={"a": "b", "b": "a"}))
    assert typed.tolist() == ["b", "a"]


def test_fixed_categories_refuse_others():
    what = feature("categorical", categories=("I", "II"), aliases={"1": "I"})
    assert parse(["1", "II"], what).tolist() == ["I", "II"]
    with pytest.raises(TableError, match=r"'VII' is not one of the categories\. Those are: I, II"):
        parse(["I", "VII"], what)


def test_ticks_in_all_their_spellings():
    yes, no = ["True", "TRUE", "true", "1", "1.0", "yes", "Yes "], ["False", "0", "0.0", "no", "NO"]
    typed = parse([*yes, *no, "", "UNK"], feature("checkbox", missing=("UNK",)))
    assert typed.dtype == "boolean"
    assert typed.isna().tolist() == [False] * 12 + [True] * 2
    assert typed.dropna().tolist() == [True] * 7 + [False] * 5
    with pytest.raises(TableError, match=r"'maybe' is not a yes or no\. Write True/False, yes/no"):
        parse(["yes", "maybe"], feature("checkbox"))


@pytest.mark.parametrize("kind", ["continuous", "categorical", "checkbox"])
def test_a_column_may_be_all_missing(kind):
    assert parse(["", " "], feature(kind)).isna().all()


def test_spellings_of_missing_are_counted():
    column = pd.Series(["", "UNK", " UNK", "x", ""], dtype="str")
    assert missing_spellings(column, feature(missing=("UNK", "?"))) == {"": 2, "UNK": 2}


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        ("PAT_1_2.png", "PAT_1_2"),
        ("PAT_1_2", "PAT_1_2"),
        (" a.JPEG ", "a"),
        ("a/b\\c.tif", "a/b/c"),
        ("./a//b.jpg", "a/b"),
        ("IMG.2020.05", "IMG.2020.05"),
        ("IMG.2020.05.jpg", "IMG.2020.05"),
        ("", ""),
        (".jpg", ""),
        ("./", ""),
    ],
)
def test_image_keys(cell, key):
    assert image_key(cell) == key
    assert not points_outside(cell)


@pytest.mark.parametrize(
    "cell",
    [
        "../a.jpg",
        "a/../../b.jpg",
        "..\\a.jpg",
        "/etc/a.jpg",
        "\\\\host\\a.jpg",
        "C:\\a.jpg",
        "c:a.jpg",
        "~/a.jpg",
        "a/..",
        "a\0.jpg",
    ],
)
def test_cells_that_leave_the_folder(cell):
    assert points_outside(cell)


def test_dots_within_a_name_stay():
    assert not points_outside("a..b.jpg")
    assert image_key("a..b.jpg") == "a..b"
    assert math.isnan(parse([""], feature()).iloc[0])
