"""Text cells become typed columns, or the message says which cell does not."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
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


def test_numbers():
    typed = parse(["8", "8.0", " -3e2 ", "", "0", ".5", "+1", "UNK"], feature(missing=("UNK",)))
    assert typed.dtype == np.float64
    np.testing.assert_array_equal(typed, [8, 8, -300, np.nan, 0, 0.5, 1, np.nan])


@given(st.lists(st.floats(-1e29, 1e29), min_size=1))
def test_numbers_are_read_to_the_last_digit(values):
    assert parse([repr(value) for value in values], feature()).tolist() == values


@given(st.lists(st.from_regex(NUMBER, fullmatch=True) | st.text("0123456789.,eE+- m", max_size=6)))
def test_cells_are_read_alike_whatever_stands_beside_them(cells):
    what = feature(unit="m", missing=("missing",))
    column = pd.Series(cells, name="f", dtype="str").str.strip()
    together = read_numbers(column.where(column != ""), what)
    for cell, value in zip(column, together, strict=True):
        alone = read_numbers(pd.Series([cell], dtype="str"), what).iloc[0]
        np.testing.assert_equal(value, alone if cell else np.nan)
        if re.fullmatch(NUMBER, cell) and abs(float(cell)) < LARGEST:
            assert value == float(cell)


@pytest.mark.parametrize(
    ("cell", "settings", "named"),
    [
        *(
            (cell, {}, f"'{re.escape(cell)}' is not a number.*f.missing")
            for cell in (
                *("unk", "nan", "NaN", "inf", "-inf", "1e", "0x10", "1_000", "8 mm", "\u0663"),
                *("--1", "1.2.", "True"),
            )
        ),
        ("8,5", {}, r"f\.decimal"),
        ("1e300", {}, "too large"),
        ("1e999", {}, "too large"),
        ("1.234", {"decimal": ","}, r"could be two.*f\.thousands"),
        ("1.234.567", {"decimal": ","}, "1.234.567"),
        ("1,234", {}, r"f\.thousands"),
        ("12,34,5", {"decimal": ","}, "12,34,5"),
        ("1.23,4", {"decimal": ",", "thousands": "."}, "1.23,4"),
        ("12 cm", {"unit": "mm"}, r"mm\. .*'cm'.* f\.units"),
        ("12 cm", {}, "12 cm"),
        (">12", {"unit": "mm"}, ">12"),
        ("1e400 mm", {"unit": "mm"}, "1e400 mm"),
        ("mm", {"unit": "mm"}, "'mm'"),
        ("0,125", {"thousands": ","}, r"f\.decimal"),
        ("0.125", {"decimal": ",", "thousands": "."}, r"f\.decimal"),
        ("012 500", {"thousands": " "}, "012 500"),
    ],
)
def test_what_is_not_a_number_or_could_be_another(cell, settings, named):
    with pytest.raises(TableError, match=rf"t\.csv, row 3, column 'f': .*{named}"):
        parse(["7", cell, "8"], feature(**settings))


def test_nan_is_missing_where_the_schema_says_so():
    typed = parse(["nan", "inf", "1"], feature(missing=("nan", "inf")))
    assert typed.isna().tolist() == [True, True, False]


def test_further_misfits_are_counted():
    with pytest.raises(TableError, match=r"row 3, .*'x'.* 2 more cell"):
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
    with pytest.raises(TableError, match=r"'VII'.* I, II"):
        parse(["I", "VII"], what)


def test_ticks_in_all_their_spellings():
    yes, no = ["True", "TRUE", "true", "1", "1.0", "yes", "Yes "], ["False", "0", "0.0", "no", "NO"]
    typed = parse([*yes, *no, "", "UNK"], feature("checkbox", missing=("UNK",)))
    assert typed.dtype == "boolean"
    assert typed.isna().tolist() == [False] * 12 + [True] * 2
    assert typed.dropna().tolist() == [True] * 7 + [False] * 5
    with pytest.raises(TableError, match="'maybe'"):
        parse(["yes", "maybe"], feature("checkbox"))


@pytest.mark.parametrize("kind", ["continuous", "categorical", "checkbox"])
def test_a_column_may_be_all_missing(kind):
    assert parse(["", " "], feature(kind)).isna().all()


def number(cell: str, **more: object) -> float:
    return parse([cell], feature(**more)).iloc[0]


@pytest.mark.parametrize(
    ("cell", "settings", "value"),
    [
        ("4,5", {"decimal": ","}, 4.5),
        ("-,5", {"decimal": ","}, -0.5),
        ("4.5", {"decimal": ","}, 4.5),
        ("12345", {"decimal": ","}, 12345),
        ("1.234,5", {"decimal": ",", "thousands": "."}, 1234.5),
        ("1.234", {"decimal": ",", "thousands": "."}, 1234),
        ("1,234,567.5", {"thousands": ","}, 1234567.5),
        ("1'234", {"thousands": "'"}, 1234),
        ("1\u00a0234,5", {"decimal": ",", "thousands": " "}, 1234.5),
        ("12 mm", {"unit": "mm"}, 12),
        ("12MM", {"unit": "mm"}, 12),
        ("1,2 cm", {"unit": "mm", "decimal": ",", "units": {"cm": 10.0}}, 12),
        ("1.2", {"unit": "mm", "factor": 10.0}, 12),
        ("12 mm", {"unit": "mm", "factor": 10.0}, 12),
        ("90+", {"aliases": {"90+": "90"}}, 90),
        ("\u00b5m 3", {"missing": ("\u00b5m 3",)}, math.nan),
        ("3 \u00b5m", {"unit": "\u03bcm"}, 3),
        ("-1.0", {"missing": ("-1",)}, math.nan),
        ("-1", {"missing": ("-1.0",)}, math.nan),
        ("-1,0", {"missing": ("-1",), "decimal": ","}, math.nan),
    ],
)
def test_numbers_as_people_write_them(cell, settings, value):
    np.testing.assert_allclose(number(cell, **settings), value, rtol=1e-12)


@given(st.lists(st.floats(-1e12, 1e12), min_size=1))
def test_a_decimal_comma_loses_nothing(values):
    cells = [f"{value!r}".replace(".", ",") for value in values]
    assert parse(cells, feature(decimal=",")).tolist() == values


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1), st.sampled_from(".,' "))
def test_groups_of_thousands_are_joined(values, mark):
    cells = [f"{value:,}".replace(",", mark) for value in values]
    what = feature(thousands=mark, decimal="," if mark != "," else ".")
    assert parse(cells, what).tolist() == values


def test_a_columns_values_do_not_depend_on_its_neighbours():
    """A column read at once, and one in which some cells need a closer look, agree."""
    cells = [f"{value / 7:.5f}" for value in range(-50, 50)]
    what = feature(unit="mm", units={"cm": 10.0})
    assert parse([*cells, "3 cm"], what).tolist() == [*parse(cells, what), 30]


@pytest.mark.parametrize(
    ("what", "cells", "values"),
    [
        (feature("checkbox", aliases={"": "no"}), ["YES", "", " "], [True, False, False]),
        (
            feature("categorical", aliases={"": "none", "x": ""}),
            ["", "x", "a"],
            ["none", None, "a"],
        ),
        (feature(aliases={"": "0", "?": "UNK"}, missing=("UNK",)), ["", "?", "2"], [0, None, 2]),
        (feature("checkbox", aliases={"UNK": "no"}, missing=("UNK",)), ["UNK"], [False]),
    ],
)
def test_an_alias_goes_before_what_is_missing(what, cells, values):
    """A blank that means no is a no, not a gap."""
    typed = parse(cells, what)
    assert [None if pd.isna(value) else value for value in typed] == values
    gaps = missing_spellings(pd.Series(cells, dtype="str"), what)
    assert sum(gaps.values()) == values.count(None)


def test_aliases_of_yes_and_no():
    what = feature("checkbox", aliases={"ja": "yes", "nein": "no"}, missing=("k.A.",))
    assert parse(["ja", "nein", " ja ", "yes"], what).tolist() == [True, False, True, True]
    assert parse(["k.A."], what).isna().all()


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


def test_a_number_that_means_missing_does_so_in_every_spelling():
    what = feature(decimal=",", missing=("-1", "999"))
    cells = ["-1", "-1,0", "-1,00", "-01", "999,00", "9,99e2", "998", "1"]
    np.testing.assert_array_equal(parse(cells, what), [np.nan] * 6 + [998, 1])
    column = pd.Series(cells, dtype="str")
    assert sum(missing_spellings(column, what).values()) == 6
    grouped = feature(thousands=",", missing=("9999", "unk", "-9,999.0"))
    cells = ["9,999", "9999.00", "unk", "-9999", "9,998"]
    np.testing.assert_array_equal(parse(cells, grouped), [np.nan] * 4 + [9998])
    np.testing.assert_array_equal(parse(["999.00"], feature(missing=("999",))), [np.nan])


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
