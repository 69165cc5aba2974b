"""Text cells become typed columns, or the message says which cell does not."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.data.schema import Feature
from slimp.errors import TableError
from slimp.sources.parse_cells import (
    LARGEST,
    NUMBER,
    image_key,
    missing_spellings,
    parse_cells,
    points_outside,
    read_feature,
    read_numbers,
)


def feature(kind: str = "continuous", **more: object) -> Feature:
    return Feature(name="f", kind=kind, columns=("f",), **more)


def parse(cells: list[str], what: Feature) -> pd.Series:
    column = pd.Series(cells, name="f", dtype="str")
    return parse_cells(column, what, lambda position: f"t.csv, row {position + 2}")


@pytest.mark.parametrize(
    ("options", "cells"),
    [
        ({}, {"8": 8, "8.0": 8, " -3e2 ": -300, "0": 0, ".5": 0.5, "+1": 1, "": None, " ": None}),
        ({"decimal": ","}, {"4,5": 4.5, "-,5": -0.5, "4.5": 4.5, "12345": 12345}),
        ({"decimal": ",", "thousands": "."}, {"1.234,5": 1234.5, "1.234": 1234}),
        ({"thousands": ","}, {"1,234,567.5": 1234567.5}),
        ({"thousands": "'"}, {"1'234": 1234}),
        ({"decimal": ",", "thousands": " "}, {"1\u00a0234,5": 1234.5}),
        ({"unit": "mm"}, {"12 mm": 12, "12MM": 12}),
        ({"unit": "mm", "decimal": ",", "units": {"cm": 10.0}}, {"1,2 cm": 12, "3": 3}),
        ({"unit": "mm", "factor": 10.0}, {"1.2": 12, "12 mm": 12}),
        ({"unit": "\u03bcm"}, {"3 \u00b5m": 3}),
        ({"aliases": {"90+": "90", "?": "UNK"}, "missing": ("UNK",)}, {"90+": 90, "?": None}),
        ({"missing": ("nan", "inf", "-1")}, {"nan": None, "inf": None, "-1.0": None, "1": 1}),
        # A number that means missing does so in every spelling.
        (
            {"decimal": ",", "missing": ("-1.0", "999")},
            {**dict.fromkeys(("-1", "-1,00", "-01", "999,00", "9,99e2")), "998": 998},
        ),
        (
            {"thousands": ",", "missing": ("9999", "unk", "-9,999.0")},
            {**dict.fromkeys(("9,999", "9999.00", "unk", "-9999")), "9,998": 9998},
        ),
    ],
)
def test_numbers_as_people_write_them(options, cells):
    what, values = feature(**options), [np.nan if v is None else v for v in cells.values()]
    typed = parse([*cells], what)
    assert typed.dtype == np.float64
    np.testing.assert_allclose(typed, values, rtol=1e-12)
    gaps = missing_spellings(pd.Series([*cells], dtype="str"), what)
    assert sum(gaps.values()) == np.isnan(values).sum()


@given(st.lists(st.floats(-1e29, 1e29), min_size=1), st.sampled_from(".,"))
def test_numbers_are_read_to_the_last_digit(values, decimal):
    cells = [repr(value).replace(".", decimal) for value in values]
    assert parse(cells, feature(decimal=decimal)).tolist() == values


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1), st.sampled_from(".,' "))
def test_groups_of_thousands_are_joined(values, mark):
    cells = [f"{value:,}".replace(",", mark) for value in values]
    what = feature(thousands=mark, decimal="," if mark != "," else ".")
    assert parse(cells, what).tolist() == values


@settings(max_examples=50)
@given(st.lists(st.from_regex(NUMBER, fullmatch=True) | st.text("0123456789.,eE+- m", max_size=6)))
def test_cells_are_read_alike_whatever_stands_beside_them(cells):
    what = feature(unit="m")
    column = pd.Series(cells, name="f", dtype="str").str.strip()
    together = read_numbers(column.where(column != ""), what)
    for cell, value in zip(column, together, strict=True):
        alone = read_numbers(pd.Series([cell], dtype="str"), what).iloc[0]
        np.testing.assert_equal(value, alone if cell else np.nan)
        if re.fullmatch(NUMBER, cell) and abs(float(cell)) < LARGEST:
            assert value == float(cell)


@pytest.mark.parametrize(
    ("options", "cells", "named"),
    [
        ({}, ("unk", "nan", "inf", "-inf", "1e", "0x10", "1_000", "8 mm", "\u0663"), "f.missing"),
        ({}, ("--1", "1.2.", "True", "1e300", "1e999", "12 cm"), "f.missing"),
        ({}, ("8,5", "1,234"), "f.thousands"),
        ({"decimal": ","}, ("1.234", "1.234.567", "12,34,5"), "f.thousands"),
        ({"decimal": ",", "thousands": "."}, ("1.23,4", "0.125"), "f.decimal"),
        ({"thousands": ","}, ("0,125",), "f.decimal"),
        ({"thousands": " "}, ("012 500",), "f.decimal"),
        ({"unit": "mm"}, ("12 cm", ">12", "1e400 mm", "mm"), "f.units"),
        ({"kind": "checkbox"}, ("maybe", "2"), "True/False"),
        ({"kind": "categorical", "categories": ("I", "II")}, ("VII",), "I, II"),
        ({}, ("f",), "repeats the header"),
    ],
)
def test_a_cell_that_does_not_fit_is_named_with_the_remedy(options, cells, named):
    for cell in cells:
        with pytest.raises(TableError) as error:
            parse(["", cell, ""], feature(**options))
        assert f"t.csv, row 3, column 'f': '{cell}'" in str(error.value)
        assert named in str(error.value)


def test_further_misfits_are_counted():
    with pytest.raises(TableError, match=r"row 3, .*'x'.* 2 more cell"):
        parse(["1", "x", "y", "z"], feature())


@pytest.mark.parametrize(
    ("what", "cells", "values"),
    [
        (
            feature("categorical", aliases={"BRAZIL": "BRASIL"}, missing=("UNK",)),
            ["BRAZIL", " BRASIL", "ITALY", "UNK", "", "1.0"],
            ["BRASIL", "BRASIL", "ITALY", None, None, "1.0"],
        ),
        (feature("categorical"), ["3", "3.0", "2,0", "2"], ["3", "3", "2", "2"]),  # of two files
        (feature("categorical", aliases={"a": "b", "b": "a"}), ["a", "b"], ["b", "a"]),
        (feature("categorical", categories=("I", "II"), aliases={"1": "I"}), ["1", "II"], None),
        (feature("checkbox"), ["True", "TRUE", "1", "1.0", "Yes "], [True] * 5),
        (feature("checkbox"), ["False", "0", "0.0", "no", "NO", "", " "], [False] * 5 + [None] * 2),
        (feature("checkbox", aliases={"ja": "yes", "nein": "no"}), [" ja", "nein"], [True, False]),
        # An alias goes before what is missing: a blank that means no is a no, not a gap.
        (feature("checkbox", aliases={"": "no"}), ["YES", "", " "], [True, False, False]),
        (feature("categorical", aliases={"": "none", "x": ""}), ["", "x"], ["none", None]),
        (feature("checkbox", aliases={"UNK": "no"}, missing=("UNK",)), ["UNK"], [False]),
        (feature(aliases={"": "0"}), ["", "2"], [0, 2]),
    ],
)
def test_categories_and_checkboxes(what, cells, values):
    values = ["I", "II"] if values is None else values
    typed = parse(cells, what)
    assert [None if pd.isna(value) else value for value in typed] == values
    assert typed.dtype == {"checkbox": "boolean", "categorical": "str"}.get(what.kind, "float64")
    gaps = missing_spellings(pd.Series(cells, dtype="str"), what)
    assert sum(gaps.values()) == values.count(None)


@pytest.mark.parametrize("kind", ["continuous", "categorical", "checkbox"])
def test_a_column_may_be_all_missing(kind):
    assert parse(["", " "], feature(kind)).isna().all()
    column = pd.Series(["", "UNK", " UNK", "x"], dtype="str")
    assert missing_spellings(column, feature(kind, missing=("UNK", "?"))) == {"": 1, "UNK": 2}


AGE = Feature(
    name="age",
    kind="continuous",
    columns=("age",),
    unit="years",
    from_date="born",
    to_date="seen",
    date_format="%d.%m.%Y",
    missing=("?",),
)


def age(born: list[str], seen: list[str], what: Feature = AGE) -> list[float]:
    table = pd.DataFrame({"born": born, "seen": seen}, dtype="str")
    return read_feature(table, what, lambda row: f"t.csv, row {row + 2}")["age"].tolist()


def test_time_between_dates():
    got = age(["01.03.1960", "1960-03-01", "?", ""], ["01.03.2000", "2000-03-01 10:30", "", "?"])
    assert got[:2] == [14610 / 365.2425] * 2
    assert np.isnan(got[2:]).all()
    assert age(["01.01.2000"], ["31.01.2000"], replace(AGE, unit="days")) == [30]


def test_years_of_two_digits_are_of_the_century_before_the_other_date():
    short, said = replace(AGE, date_format="%d.%m.%y", unit="days"), list[str]()
    cells = {
        ("01.03.65", "01.03.20"): 20089,  # of 2065, to strptime
        ("29.02.00", "01.03.00"): 1,
        ("05.01.68", "2020-01-05"): 18993,
        ("01.03.85", "01.03.20"): 12784,
        ("?", "01.03.20"): np.nan,
        ("01.03.65", ""): np.nan,
    }
    table = pd.DataFrame([*cells], columns=["born", "seen"], dtype="str")
    table.index = [2] * len(cells)  # one row of a file may have become several
    got = read_feature(table, short, lambda row: f"t.csv, row {row + 2}", said)["age"]
    np.testing.assert_array_equal(got, [*cells.values()])
    assert [note[: note.index(",")] for note in said] == [
        "column 'born': 2 date(s) with a year of two digits"
    ]
    assert age(["01.03.65"], ["01.03.20"], short) == [20089], "also where nobody listens"
    for pair, what in ((("2020-03-02", "01.03.20"), short), (("01.03.2065", "01.03.2020"), AGE)):
        with pytest.raises(TableError, match=r"row 2, column 'seen': .* lies before"):
            age([pair[0]], [pair[1]], what)


@pytest.mark.parametrize(
    ("born", "seen", "message"),
    [
        ("31.02.1960", "01.03.2000", r"row 2, column 'born': '31.02.1960'"),
        ("01.03.1960", "March 2000", r"'March 2000'.*age\.format"),
        ("01.03.2001", "01.03.2000", r"row 2, column 'seen': 01.03.2000 .* 01.03.2001"),
    ],
)
def test_dates_that_cannot_be(born, seen, message):
    with pytest.raises(TableError, match=message):
        age([born], [seen])


@pytest.mark.parametrize("written", ["%Y-%d-%m", "%Y-%d-%m %H:%M", "%d%m-%y-%m", "%Y-%m-%y"])
def test_a_format_that_iso_dates_hide_is_refused(written):
    with pytest.raises(TableError, match=f"'age': dates as '{written}' would be read as YYYY"):
        replace(AGE, date_format=written)


@pytest.mark.parametrize("written", ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y/%d/%m", "%d-%m-%Y", "%y-%m"])
def test_a_format_that_iso_dates_do_not_hide(written):
    assert replace(AGE, date_format=written).date_format == written


def test_a_format_of_dates_that_is_none():
    with pytest.raises(TableError, match=r"'age': format: 'Q' is a bad directive in format '%Q'"):
        age(["1960-03-01"], ["2000-03-01"], replace(AGE, date_format="%Q"))


@pytest.mark.parametrize(
    ("cell", "key"),
    [
        *(("PAT_1_2.png", "PAT_1_2"), ("PAT_1_2", "PAT_1_2"), (" a.JPEG ", "a"), ("", "")),
        *(("a/b\\c.tif", "a/b/c"), ("./a//b.jpg", "a/b"), (".jpg", ""), ("./", "")),
        *(("IMG.2020.05", "IMG.2020.05"), ("IMG.2020.05.jpg", "IMG.2020.05")),
        *(("a..b.jpg", "a..b"), ("a.HEIC", "a")),
    ],
)
def test_image_keys(cell, key):
    assert image_key(cell) == key
    assert not points_outside(cell)


@pytest.mark.parametrize(
    "cell",
    [
        *("../a.jpg", "a/../../b.jpg", "..\\a.jpg", "/etc/a.jpg", "\\\\host\\a.jpg", "C:\\a.jpg"),
        *("c:a.jpg", "~/a.jpg", "a/..", "a\0.jpg"),
    ],
)
def test_cells_that_leave_the_folder(cell):
    assert points_outside(cell)
