"""Ids, labels and splits: never two people in one, nor one in two, without a word."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.errors import TableError
from slimp.sources.parse_ids import (
    join_similar,
    missing_words,
    one_hot_labels,
    parse_ids,
    parse_labels,
    parse_splits,
    similar_form,
)


def column(*cells: str) -> pd.Series:
    return pd.Series(cells, name="id", dtype="str")


def where(position: int) -> str:
    return f"t.csv, row {position + 2}"


def known(values: pd.Series) -> list[str | None]:
    return [None if pd.isna(value) else value for value in values]


@pytest.mark.parametrize(
    "cell",
    [
        *("", "  ", "nan", "NaN", "None", "NA", "n/a", "<NA>", "null", "Unknown", "-", "#N/A"),
        *("KEINE", "\u2013\u2013", "\u2212-"),
        *"\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d",
    ],
)
def test_words_that_name_nobody(cell):
    ids, notes = parse_ids(column("P1", cell), where, missing=("KEINE",))
    assert (ids.tolist(), notes) == (["P1", ""], [])
    assert missing_words(column("P1", cell), ("KEINE",)) == {cell.strip(): 1}
    assert known(parse_labels(column("MEL", cell), {}, ("KEINE",))[0]) == ["MEL", None]
    assert known(parse_splits(column("train", cell), {}, where, ("KEINE",))[0]) == ["train", None]


def test_negative_numbers_and_words_of_other_languages_name_nobody():
    cells = ["P1", "-1", "-999.0", "P-1", "-a", "unbekannt", "k.A.", "Inconnu", "nd7", "\u22121"]
    ids, _ = parse_ids(column(*cells), where)
    assert ids.tolist() == ["P1", "", "", "P-1", "-a", "", "", "", "nd7", ""]


@pytest.mark.parametrize("cell", ["\u0141.", "\u0416-", "n\u0142d", "\u60a3", "\u0424?", "\u03a9"])
def test_letters_of_other_alphabets_name_somebody(cell):
    """Without them, an id would be a mark that means missing."""
    assert parse_ids(column("P1", cell), where)[0].tolist() == ["P1", cell]


@pytest.mark.parametrize(
    ("cells", "expected", "said"),
    [
        (["P1", " P1 ", "P1\xa0"], ["P1"] * 3, ["'P1' and ' P1 '"]),
        (["100", "100.0", "101.0"], ["100", "100", "101"], ["'100.0'", "'100' and '100.0'"]),
        (["7.0", "8.0"], ["7", "8"], ["'7.0'"]),
        (["1,0", "1"], ["1", "1"], ["'1,0'", "'1,0' and '1'"]),
        (["1.0", "1.5", "2"], ["1.0", "1.5", "2"], []),  # then a point means something
        (["1", "1,000", "2.0"], ["1", "1,000", "2.0"], []),  # a thousand, it may be
        (["12e5", "1e10", "007"], ["12e5", "1e10", "007"], []),  # as hashes have it
        (["2023-01", "Jan-12"], ["2023-01", "Jan-12"], []),
    ],
)
def test_spellings_of_one_id(cells, expected, said):
    ids, notes = parse_ids(column(*cells), where)
    assert ids.tolist() == expected
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))


@pytest.mark.parametrize(
    "cells",
    [
        *(["P1", "1.2345E+12"], ["P1", "1,2E+09"], ["P1", "1e+15"], ["3-11", "Dec-3"]),
        *(["1234567890123450000", "5234567890123460000"], ["3/11", "12-Mar"]),
        *(["1-13", "2024-03-11"], ["1-13", "03. Nov"]),  # a date cell, and as Excel shows it
    ],
)
def test_ids_that_a_spreadsheet_has_damaged_are_refused(cells):
    with pytest.raises(TableError, match=r"t\.csv, row [23], column 'id'"):
        parse_ids(column(*cells), where)


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["7", "7.0", " 7", "8", "", "nan", "8.0"]), min_size=1))
def test_ids_are_read_as_a_loop_would(cells):
    slow = ["" if c in ("", "nan") else c.strip().removesuffix(".0") for c in cells]
    assert parse_ids(column(*cells), where)[0].tolist() == slow


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("P1", "p1"), ("007", "7"), ("P01", "P1"), ("P 1", "P1"), ("a\u200bb", "ab")),
        *(("P-1", "P\u20131"), ("P-1", "P\u20111"), ("P-1", "P\u22121")),  # as Word writes them
        ("P1", "P\uff11"),
    ],
)
def test_ids_that_could_be_one_are_refused_unless_it_is_said_what_they_are(one, other):
    cells = column(one, "Q", other, "")
    with pytest.raises(TableError, match=rf"row 4, column 'id': '{other}'.*similar_ids"):
        join_similar(cells, "refuse", where)
    same, notes = join_similar(cells, "same", where)
    assert same.tolist() == [one, "Q", one, ""]
    assert len(notes) == 1
    apart, _ = join_similar(cells, "different", where)
    assert apart.tolist() == cells.tolist()
    persons = pd.Series(["A", "A", "B", "B"])
    assert join_similar(cells, "refuse", where, within=persons)[1] == []


def test_similar_forms():
    assert similar_form("P 001-0a") == "p1-0a"
    assert {similar_form(cell) for cell in ("0", "00")} == {"0"}
    assert similar_form("100") != similar_form("10")


@pytest.mark.parametrize(
    ("cells", "names", "expected"),
    [
        (["MEL", " MEL", ""], {}, ["MEL", "MEL", None]),
        (["1", "1.0", "0"], {}, ["1", "1", "0"]),
        (["1.0", "0,0", "1"], {"1": "mel", "0": ""}, ["mel", None, "mel"]),
        (["1.5", "1.0"], {}, ["1.5", "1.0"]),
        (["scar", "MEL"], {"scar": "", "MEL": "melanoma"}, [None, "melanoma"]),
        (["none", "MEL"], {"none": "none", "MEL": "MEL"}, ["none", "MEL"]),
    ],
)
def test_labels(cells, names, expected):
    labels, warnings = parse_labels(column(*cells), names)
    assert (known(labels), warnings) == (expected, [])


def test_doubts_about_labels():
    labels, (warning,) = parse_labels(column("MEL", "nan", "nan"), {})
    assert known(labels) == ["MEL", None, None]
    assert "2 cell(s) 'nan'" in warning
    assert parse_labels(column("MEL", "nan"), {}, ("nan",))[1] == []
    assert "'Nevus' and 'nevus'" in parse_labels(column("Nevus", "Nevus", "nevus"), {})[1][0]
    assert "'Nevus' (1 images)" in parse_labels(column("1", "Nevus"), {"1": "mel"})[1][0]


def one_hot(unmarked: str | None = None, **columns: list[str]) -> list[str]:
    return one_hot_labels(pd.DataFrame(columns, dtype="str"), [*columns], unmarked, where).tolist()


def test_one_hot_columns_are_one_label():
    marked = {"MEL": ["1.0", "0", "true", ""], "NV": ["0.0", " 1 ", "False", ""]}
    assert one_hot(**marked) == ["MEL", "NV", "MEL", ""], "no cell: no label"
    zeros = {"MEL": ["0", "1", ""], "SK": ["0.0", "0.0", ""]}
    assert one_hot("nevus", **zeros) == ["nevus", "MEL", ""]
    assert one_hot("", **zeros) == ["", "MEL", ""]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=8))
def test_one_hot_against_a_loop(chosen):
    columns = {n: [f"{float(k == c)}" for c in chosen] for k, n in enumerate("abc")}
    assert one_hot(**columns) == ["abc"[c] for c in chosen]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"MEL": ["1", "1"], "NV": ["0", "1"]}, "row 3: .* 2 of"),
        ({"MEL": ["1", "0"], "NV": ["0", "0"]}, "row 3: .* 0 of .*unmarked"),
        ({"MEL": ["1", "0.7"], "NV": ["0", "0.3"]}, "row 3: .*'0.7' in column 'MEL'"),
    ],
)
def test_one_hot_that_is_none(columns, named):
    with pytest.raises(TableError, match=named):
        one_hot(**columns)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["Train", "TEST", "val", ""], ["train", "test", "validation", None]),
        (["training", "testing", "Valid", "nan"], ["train", "test", "validation", None]),
        (["test_set", "train-set", "dev", "hold out"], ["test", "train", "validation", "test"]),
        (["1", "2.0", "fold3", "Fold 04"], ["fold1", "fold2", "fold3", "fold4"]),
        (["Lernen", "test"], ["train", "test"]),
    ],
)
def test_parts_of_a_split(cells, expected):
    parts, notes = parse_splits(column(*cells), {"Lernen": "train"}, where)
    assert known(parts) == expected
    assert len(notes) == 1
    assert parse_splits(column("train", "fold2"), {}, where)[1] == []


@pytest.mark.parametrize("cell", ["Lernen", "-1", "1-2", "1_2"])
def test_a_word_that_is_no_part_is_refused(cell):
    for cells, names in ((("train", cell), {}), (("train", "B"), {"B": cell})):
        with pytest.raises(TableError, match=rf"row 3, column 'id': '{cell}'.*split_names"):
            parse_splits(column(*cells), names, where)
