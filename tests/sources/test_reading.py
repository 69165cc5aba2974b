"""Table files as text: delimiters, encodings, row numbers, and files that are no tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.errors import TableError
from slimp.sources.reading import join_tables, read_table


def written(folder: Path, content: bytes | str) -> Path:
    path = folder / "metadata.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_delimiters_line_ends_and_byte_order_marks(tmp_path, mark, end, start):
    lines = [["img", "age", "note"], ["a.png", "NA", '"x, y; z"'], ["b.png", "", "é"]]
    content = end.join(mark.join(line) for line in lines) + end
    table = read_table(written(tmp_path, start + content.encode()))
    assert table.columns.tolist() == ["img", "age", "note"]
    assert table.to_numpy().tolist() == [["a.png", "NA", "x, y; z"], ["b.png", "", "é"]]


def test_cells_stay_text(tmp_path):
    cells = ["007", "1e5", "NA", "nan", "NULL", "True", " x ", "", "2020-01-01"]
    table = read_table(written(tmp_path, "a,b\n" + "".join(f"{cell},k\n" for cell in cells)))
    assert table["a"].tolist() == cells


def test_rows_are_numbered_as_a_person_sees_them(tmp_path):
    table = read_table(written(tmp_path, 'a,b\n1,x\n\n2,"two\nlines"\n,\n3,z\n\n'))
    assert table["a"].tolist() == ["1", "2", "3"]
    assert [file for file, _ in table.index] == ["metadata.csv"] * 3
    assert [row for _, row in table.index] == [2, 4, 6]


def test_unnamed_columns_get_a_name(tmp_path):
    table = read_table(written(tmp_path, ",img,\n0,a,\n1,b,\n"))
    assert table.columns.tolist() == ["unnamed_1", "img", "unnamed_3"]


def test_a_single_column_is_a_table(tmp_path):
    assert read_table(written(tmp_path, "img\na.png\nb.png")).shape == (2, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the first row is empty"),
        (b"\n\n", "the first row is empty"),
        (b"a,b\n", "has no rows, only a header"),
        (b"a,b\n,\n\n", "has no rows, only a header"),
        (b"a,b, a\n1,2,3\n", "two columns are called 'a'. Rename"),
        (b"a,b\n1,2\n1,2,3\n", r"row 3: has 3 cells, but the header names 2 columns .*','"),
        (b"a;b\n1;2\n\n1\n", r"row 4: has 1 cells, but the header names 2 columns .*';'"),
        (b"a,b\n1,2,3\n4,5,6\n", "row 2: has 3 cells"),
        (b"a,b\n1,caf\x81\n", r"neither UTF-8 nor Windows-1252 .*line 2 holds the byte 0x81"),
        ("ä,ö\n1,ü\n2,é\n".encode() + b"3,\xe9\n", r"UTF-8 text, but for 1 place.*line 4 .* 0xe9"),
        (b"a,b\n1,2\n\xff\0", "neither text nor Parquet nor a spreadsheet"),
        ("a,b\n1,2\n".encode("utf-16")[:-1], r"not text in the encoding utf-16-le"),
        (b"PAR1, b\n1,2\n", "a damaged Parquet file"),
        (b"PK\x03\x04\x14\x00\x06\x00\xff\xfe\n\n", "a damaged spreadsheet or archive"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "row 3: a double quote is opened and never closed"),
        (b'a,b\n"1,2\n3,4\n5,6\n', "row 2: has 1 cells"),
    ],
)
def test_refusals(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(TableError, match=message) as error:
        read_table(path)
    assert str(path) in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(TableError, match=r"metadata\.csv: no such table"):
        read_table(tmp_path / "metadata.csv")


text = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=8))
def test_what_pandas_writes_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "metadata.csv"
    frame = pd.DataFrame(rows, columns=["a", "b"], dtype="str").assign(c="end")
    frame.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_table(path).reset_index(drop=True), frame)


def test_joining_tables_of_other_columns(tmp_path):
    first = read_table(written(tmp_path, "a,b\n1,2\n"))
    second = read_table(written(tmp_path, "a,c\n3,4\n"))
    joined = join_tables([first, second])
    assert joined.to_dict("list") == {"a": ["1", "3"], "b": ["2", ""], "c": ["", "4"]}
    assert len(joined.index) == 2
