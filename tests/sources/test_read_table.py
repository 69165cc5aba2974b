"""Table files as text: delimiters, encodings, row numbers, and files that are no tables."""

from __future__ import annotations

import datetime as dt
import io
import unicodedata
from decimal import Decimal
from itertools import product
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_data import workbook

from slimp.data.schema import Feature
from slimp.errors import TableError
from slimp.sources import read_spreadsheet
from slimp.sources.layout import TableLayout
from slimp.sources.level_tables import ASSUMED
from slimp.sources.parse_cells import read_feature
from slimp.sources.read_parquet import EMBEDDED, ParquetImages
from slimp.sources.read_table import join_tables, read_table


def written(folder: Path, content: bytes | str) -> Path:
    path = folder / "metadata.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
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
    assert read_table(written(tmp_path, "img\na.png\nb.png")).shape == (2, 1), "a single column"


def test_rows_are_numbered_as_a_person_sees_them(tmp_path):
    table = read_table(written(tmp_path, 'a,b\n1,x\n\n2,"two\nlines"\n,\n3,z\n\n'))
    assert table["a"].tolist() == ["1", "2", "3"]
    assert table.index.tolist() == [("metadata.csv", row) for row in (2, 4, 6)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "row 1 is empty"),
        (b"\n\n", "row 1 is empty"),
        (b"a,b\n", "has no rows, only a header"),
        (b"a,b\n,\n\n", "has no rows, only a header"),
        (b"a,b, a\n1,2,3\n", "two columns are called 'a'. Rename"),
        (b"a,b\n1,2\n1,2,3\n", r"row 3: has 3 cells, but the header names 2 columns .*','"),
        (b"a;b\n1;2\n\n1\n", r"row 4: has 1 cells, but the header names 2 columns .*';'"),
        (b"a,b\n1,2,3\n4,5,6\n", "row 2: has 3 cells"),
        (b"a,b\n1,caf\x81\n", r"neither UTF-8 nor Windows-1252 .*line 2 holds the byte 0x81"),
        ("ä,ö\n1,ü\n2,é\n".encode() + b"3,\xe9\n", "neither UTF-8.*line 4 .* 0xe9"),
        (b"a,b\n1,2\n\xff\0", "neither text nor Parquet nor a spreadsheet"),
        ("a,b\n1,2\n".encode("utf-16")[:-1], r"not text in the encoding utf-16"),
        (b"PAR1, b\n1,2\n", "a damaged Parquet file"),
        (b"PK\x03\x04\x14\x00\x06\x00\xff\xfe\n\n", "cannot be read as a spreadsheet"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "row 3: a double quote is opened and never closed"),
        (b'a,b\n"1,2\n3,4\n5,6\n', "row 2: has 1 cells"),
    ],
)
def test_refusals(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(TableError, match=message) as error:
        read_table(path)
    assert str(path) in str(error.value)


def test_where_a_file_is_missing_the_tables_that_there_are_are_named(tmp_path):
    (tmp_path / "Befunde.XLSX").touch()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(TableError, match=r"metadata\.csv: there is no table .*: Befunde\.XLSX\.$"):
        read_table(tmp_path / "metadata.csv")
    with pytest.raises(TableError, match=rf"{tmp_path.name}: there is no table"):
        read_table(tmp_path)


text = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)


@settings(max_examples=40)
@given(st.lists(st.tuples(text, text), min_size=1, max_size=8))
def test_what_pandas_writes_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "metadata.csv"
    rows = [[unicodedata.normalize("NFC", cell) for cell in row] for row in rows]
    frame = pd.DataFrame(rows, columns=["a", "b"], dtype="str").assign(c="end")
    frame.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_table(path).reset_index(drop=True), frame)


UMLAUTS = "Größe;Fälle\n4,5;Übel\n3;ß\n"


@pytest.mark.parametrize(
    ("encoding", "assumed"),
    [
        *((name, 0) for name in ("utf-8", "utf-8-sig", "utf-16")),
        *((name, 1) for name in ("cp1252", "latin-1")),
    ],
)
def test_encodings_are_recognised(tmp_path, encoding, assumed):
    table = read_table(written(tmp_path, UMLAUTS.encode(encoding)))
    assert table.to_dict("list") == {"Größe": ["4,5", "3"], "Fälle": ["Übel", "ß"]}
    notes = table.attrs[ASSUMED]
    assert len(notes) == assumed
    if assumed:
        assert "is not UTF-8 (line 1 holds the byte 0xf6); it was read as Windows-1" in notes[0]
        assert not any(word in notes[0] for word in ("Größe", "Fälle", "Übel"))


def test_letters_are_composed_whoever_wrote_them(tmp_path):
    """Else Nävus from a Mac and from Windows would be two classes."""
    text = "Größe;Fälle\nNävus;Übel\n"
    decomposed = written(tmp_path, unicodedata.normalize("NFD", text))
    assert read_table(decomposed).to_dict("list") == {"Größe": ["Nävus"], "Fälle": ["Übel"]}
    assert read_spreadsheet.cell_text(unicodedata.normalize("NFD", "Ü")) == "Ü"
    pq.write_table(pa.table({"x": [unicodedata.normalize("NFD", "Ü")]}), tmp_path / "t")
    assert read_table(tmp_path / "t")["x"].tolist() == ["Ü"]


@pytest.mark.parametrize("encoding", ["cp1250", "mac-roman", "cp850", "utf-16-le", "utf-8-sig"])
def test_a_named_encoding_is_taken(tmp_path, encoding):
    path = written(tmp_path, UMLAUTS.encode(encoding))
    table = read_table(path, layout=TableLayout(encoding=encoding))
    assert table.columns.tolist() == ["Größe", "Fälle"]
    assert table.attrs[ASSUMED] == []


def test_a_fault_far_down_is_found(tmp_path):
    rows = "".join(f"{row};x\n" for row in range(50_000))
    table = read_table(written(tmp_path, f"a;b\n{rows}1;".encode() + b"\xe9\n"))
    assert table["b"].iloc[-1] == "é"
    assert table.index[-1] == ("metadata.csv", 50_002)


@pytest.mark.parametrize(
    ("content", "header", "names"),
    [
        ("Title;;\n;;\na;b;c\n1;2;3\n", 3, ["a", "b", "c"]),
        ("Title\nby the clinic\na,b,c,d\n1,2,3,4\n5,6,7,8\n", 3, list("abcd")),
        ("sep=|\na|b,c,d\n1|2\n", 2, ["a", "b,c,d"]),
        ('"Title;\nin two lines";;\na;b;c\n1;2;3\n', 2, ["a", "b", "c"]),
        ("a,b\nx,y\n", 1, ["a", "b"]),
        (",a,\nx,y,z\n1,2,3\n", 2, ["x", "y", "z"]),
        (",a,\n0,y,z\n1,2,3\n", 1, ["unnamed_1", "a", "unnamed_3"]),
    ],
)
def test_titles_above_the_header(tmp_path, content, header, names):
    table = read_table(written(tmp_path, content))
    assert table.columns.tolist() == names
    assert table.index[0] == ("metadata.csv", header + 1)
    assert (f"row {header} was taken for the header" in str(table.attrs[ASSUMED])) == (header > 1)


@pytest.mark.parametrize("start", ["<html><body>", ' <?xml v="1"?>', '[\n {"a"', '{"id": 1, "b"'])
def test_web_pages_and_json_are_no_tables(tmp_path, start):
    with pytest.raises(TableError, match=r"metadata\.csv: is HTML, XML or JSON"):
        read_table(written(tmp_path, f"{start},x,y\n1,2,3\n"))


def test_ids_that_were_kept_from_excel(tmp_path):
    table = read_table(written(tmp_path, 'id,x\n"=""007""",a\n="008",b="c"\n'))
    assert table.to_numpy().tolist() == [["007", "a"], ["008", 'b="c"']]


def test_a_lone_title_is_no_header(tmp_path):
    with pytest.raises(TableError, match=r"row 1 names 1 of 5 columns \('Report'\).* set header"):
        read_table(written(tmp_path, "Report,,,,\nid,1,2,3,4\na,5,6,7,8\n"))


@pytest.mark.parametrize("header", [None, 2])
def test_names_that_span_two_rows_of_a_header(header):
    rows = [["id", "seen", "colour", ""], ["", "", "red", "white"]]
    rows += [["P1", "May", "", "X"], ["P2", "June", "X", ""]]
    merged = [((0, 0), (1, 0)), ((0, 1), (1, 1)), ((0, 2), (0, 3))]
    layout = TableLayout(header=header)
    table, _ = read_spreadsheet.rows_as_text(rows, merged, "t", layout)
    assert table.columns.tolist() == ["id", "seen", "red", "white"]
    assert table.index.tolist() == [3, 4]


def test_a_named_header_is_taken(tmp_path):
    path = written(tmp_path, "a,b\nc,d\n1,2\n")
    table = read_table(path, layout=TableLayout(header=2))
    assert table.columns.tolist() == ["c", "d"]
    assert table.index.tolist() == [("metadata.csv", 3)]
    with pytest.raises(TableError, match=r"has no row 9, where \[table\] expects the header"):
        read_table(path, layout=TableLayout(header=9))


WITHOUT = [
    "a.jpg,1,p1,nv,3.5,back\nb.jpg,1,p1,mel,,leg\nc.jpg,2,p2,nv,2,arm\n",
    "ISIC_0001,50,male\nISIC_0002,60,female\n",
    "PAT_8_1.png;NA;left\nPAT_8_2.png;3,5;left\n",
    "1,56,nevus\n2,34,nevus\n3,34,melanoma\n",
    "x1.jpg,1,2,3\nx2.jpg,0,1,0\n",
    "2020-01-02,P1\n2020-03-04,P2\n",
    "nevus,back\nnevus,leg\nmelanoma,back\n",
]
WITH = [
    "file,age\na.jpg,1\n",
    "image,0,1,2\nISIC_1,3,4,5\nISIC_2,6,7,8\n",
    "0,1,2\n3,4,5\n6,7,8\n",
    "patient,2019,2020\nP1,3,4\nP2,6,7\n",
    "dx,site\nnevus,leg\nnevus,site\n",
    "diameter_1,diameter_2\n1,2\n3,4\n",
    "dx,site\nnv,leg\ndx,site\nmel,arm\n1,2\n",
    ",T1\n0,T1\n1,T2\n2,T1\n",
]


@pytest.mark.parametrize("content", WITHOUT)
def test_a_table_without_a_header_is_refused_and_loses_no_row(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(TableError, match=r"metadata\.csv: row 1 .* no header.* header = 1 under"):
        read_table(path)
    assert len(read_table(path, layout=TableLayout(header=1))) == content.count("\n") - 1


@pytest.mark.parametrize("content", WITH)
def test_a_header_is_one_even_if_it_holds_numbers(tmp_path, content):
    assert len(read_table(written(tmp_path, content))) == content.count("\n") - 1


def test_delimiters_within_other_cells(tmp_path):
    path = written(tmp_path, "a;b\n1,2,3,4;x\n1,5;y\n")
    assert read_table(path).columns.tolist() == ["a", "b"]
    assert read_table(path, layout=TableLayout(delimiter="|")).columns.tolist() == ["a;b"]
    commas = "image;size;depth\n" + "a.jpg;4,5;0,3\n" * 40
    assert read_table(written(tmp_path, commas)).columns.tolist() == ["image", "size", "depth"]


TYPED = {
    "id": (pa.array([1, 2, None], pa.int64()), ["1", "2", ""]),
    "age": (pa.array([45.0, 0.1, float("nan")]), ["45", "0.1", ""]),
    "small": (pa.array([0.1, 2.0, 1.234], pa.float32()), ["0.1", "2", "1.2340"]),
    "big": (pa.array([1e300, -0.0, 123456789012.5]), ["1e+300", "0", "1.234567890125e+11"]),
    "exact": (pa.array([Decimal("1.230"), None, Decimal("-2")]), ["1.2300", "", "-2.0000"]),
    "word": (pa.array(["a", " b ", None]).dictionary_encode(), ["a", " b ", ""]),
    "tick": (pa.array([True, False, None]), ["True", "False", ""]),
    "day": (pa.array([dt.date(2020, 1, 2), None, None]), ["2020-01-02", "", ""]),
    "time": (
        pa.array([dt.datetime(2020, 1, 2), None, dt.datetime(2020, 1, 2, 3, 4)]),
        ["2020-01-02 00:00:00.000000", "", "2020-01-02 03:04:00.000000"],
    ),
    "noon": (pa.array([dt.datetime(2020, 1, 2), None, None]), ["2020-01-02", "", ""]),
    "none": (pa.nulls(3), ["", "", ""]),
}


def test_parquet_cells_lose_nothing(tmp_path):
    pq.write_table(pa.table({name: cells for name, (cells, _) in TYPED.items()}), tmp_path / "t")
    table = read_table(tmp_path / "t")
    assert table.to_dict("list") == {name: cells for name, (_, cells) in TYPED.items()}
    assert table.index.tolist() == [("t", row) for row in (2, 3, 4)]


@pytest.mark.parametrize("cells", [[[1, 2]], [{"a": 1}], [b"\0"]])
def test_parquet_cells_that_are_no_single_value(cells):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": cells, "y": ["z"]}), buffer)
    with pytest.raises(TableError, match=r"t\.parquet, column 'x': holds .* one text, number or"):
        read_table(Path("t.parquet"), content=buffer.getvalue())


def embedded(paths: list[str | None]) -> bytes:
    """As Hugging Face's datasets write images, a row group of two rows each."""
    images = [{"bytes": bytes([row]) * 5, "path": path} for row, path in enumerate(paths)]
    buffer = io.BytesIO()
    table = pa.table({"image": images, "dx": ["nv"] * len(paths)})
    pq.write_table(table, buffer, row_group_size=2)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.jpg", "d/b.png", "c.jpg"], ["a.jpg", "d/b.png", "c.jpg"]),
        (["a.jpg", None, "c.jpg"], ["row_0000001", "row_0000002", "row_0000003"]),
        (["a.jpg", "a.jpg", "b.jpg"], ["row_0000001", "row_0000002", "row_0000003"]),
    ],
)
def test_images_in_a_parquet_file_are_found_by_their_names(tmp_path, paths, names):
    (tmp_path / "t.parquet").write_bytes(embedded(paths))
    table = read_table(tmp_path / "t.parquet")
    assert (table["image"].tolist(), table.attrs[EMBEDDED]) == (names, "image")
    images = ParquetImages(tmp_path / "t.parquet", "image")
    for row in (0, 2, 1):
        assert images(names[row]) == bytes([row]) * 5
    assert images("nothing") is None
    images.close()


ROWS: list[list[object]] = [["id", "age", "sick", "note"], [1, 45, True, "x"], [2, 0.1, False]]


class TestSpreadsheets:
    @pytest.fixture(autouse=True)
    def _reader(self):
        pytest.importorskip("python_calamine", reason="needs the extra 'excel'")

    def read(self, content: bytes, **layout: object) -> pd.DataFrame:
        return read_table(Path("t.xlsx"), content=content, layout=TableLayout(**layout))

    def test_cells_become_text(self):
        table = self.read(workbook({"One": ROWS, "Lists": [["a"]], "Empty": []}, hidden="Lists"))
        assert table.columns.tolist() == ["id", "age", "sick", "note"]
        assert table.to_numpy().tolist() == [["1", "45", "True", "x"], ["2", "0.1", "False", ""]]
        assert table.index.tolist() == [("t.xlsx", 2), ("t.xlsx", 3)]

    def test_of_several_sheets_none_is_guessed(self):
        content = workbook({"One": ROWS, "Two": [["a"], ["b"]]})
        with pytest.raises(TableError, match=r"\(One, Two\)\. .* sheet = "):
            self.read(content)
        assert self.read(content, sheet="Two").columns.tolist() == ["a"]
        with pytest.raises(TableError, match=r"has no sheet 'Three'\. It has: One, Two"):
            self.read(content, sheet="Three")

    def test_titles_and_merged_cells(self):
        rows: list[list[object]] = [["Report of the clinic"], [], ["id", "side", "image"]]
        rows += [["P1", "left", "a.jpg"], [None, "right", "b.jpg"], ["P2", "left", "c.jpg"]]
        table = self.read(workbook({"One": rows}, merged="A4:A5"))
        assert table["id"].tolist() == ["P1", "P1", "P2"]
        assert table.index.tolist() == [("t.xlsx", row) for row in (4, 5, 6)]
        merged, header = table.attrs[ASSUMED]
        assert "1 merged cell(s) count for every row that they span" in merged
        assert "row 3 was taken for the header" in header

    def test_a_merged_cell_may_end_beyond_the_table(self):
        rows = [["image", "id"], ["a.jpg", "P1"], ["b.jpg", "P2"], ["c.jpg", None]]
        table = self.read(workbook({"One": rows}, merged="B3:C9"))
        assert table.to_numpy().tolist() == [["a.jpg", "P1"], ["b.jpg", "P2"], ["c.jpg", "P2"]]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"PK\x03\x04 no zip", "cannot be read as a spreadsheet"),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "cannot be read as a spreadsheet"),
            (workbook({"One": ROWS})[:-90], "cannot be read as a spreadsheet"),
            (workbook({"One": []}), "0 sheets"),
            (workbook({"One": [["a", "b"]]}), "has no rows, only a header"),
            (workbook({"One": [["a", "a"], [1, 2]]}), "two columns are called 'a'"),
        ],
    )
    def test_refusals(self, content, message):
        with pytest.raises(TableError, match=message):
            self.read(content)

    def test_bombs_are_refused_unread(self, monkeypatch):
        monkeypatch.setattr(read_spreadsheet, "UNPACKED_BYTES", 100)
        with pytest.raises(TableError, match="more than a spreadsheet may"):
            self.read(workbook({"One": ROWS}))


MARKS = [(",", "."), (".", ","), (",", None), (".", None)]


@settings(max_examples=20)
@given(st.floats(-1e29, 1e29) | st.floats(-999, 999).map(lambda x: round(x, 3)))
def test_a_number_of_a_typed_file_is_never_read_as_another(value):
    """Whatever marks the schema says, and whether text stands beside it or not."""
    frame = pd.DataFrame({"x": [value, None], "y": [value, "unk"]}, dtype=object)
    parquet = io.BytesIO()
    pq.write_table(pa.table({"x": [value, None]}), parquet)
    rows = [["x", "y"], *frame.to_numpy().tolist()]
    tables = [
        read_spreadsheet.rows_as_text(rows, [], "t", TableLayout())[0],
        read_table(Path("t.parquet"), content=parquet.getvalue()),
    ]
    for (decimal, thousands), table in product(MARKS, tables):
        for column in {"x", "y"} & {*table}:
            what = Feature(
                **{"name": "f", "kind": "continuous", "columns": (column,), "missing": ("unk",)},
                **{"decimal": decimal, "thousands": thousands},
            )
            assert read_feature(table, what, str)[column].iloc[0] == value


def test_images_of_two_files_do_not_share_a_name(tmp_path):
    """Else one would be taken for the other."""
    for name, paths in (("a", ["1.jpg", None]), ("b", ["9.jpg", None]), ("c", ["1.jpg", "2.jpg"])):
        (tmp_path / name).write_bytes(embedded(paths))
    tables = {name: read_table(tmp_path / name) for name in "abc"}
    assert len(join_tables({name: tables[name] for name in "ac"})) == 4
    with pytest.raises(TableError, match=r"b: holds an image 'row_0000001'.* --table"):
        join_tables({name: tables[name] for name in "ab"})


def test_tables_of_other_columns_and_kinds_are_joined(tmp_path):
    pq.write_table(pa.table({"i": ["a"], "x": [1.234]}), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("i;x;y\nb;2,5;u\nc;1.234;v\n")
    joined = join_tables({name: read_table(tmp_path / name) for name in ("t.parquet", "t.csv")})
    assert joined.index.tolist() == [("t.parquet", 2), ("t.csv", 2), ("t.csv", 3)]
    assert joined["y"].tolist() == ["", "u", "v"]
    (said,) = joined.attrs[ASSUMED]
    assert "t.parquet: has no column 'y'" in said
    what = Feature(name="x", kind="continuous", columns=("x",), decimal=",", thousands=".")
    assert read_feature(joined, what, str)["x"].tolist() == [1.234, 2.5, 1234]


def test_columns_of_two_files_that_differ_in_case_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("i,x,Sex\nb,2,m\n")
    (tmp_path / "b.csv").write_text("sex,i,x\nf,c,3\n")
    with pytest.raises(TableError, match=r"(?i)a column 'sex', other files 'sex'"):
        join_tables({name: read_table(tmp_path / name) for name in ("a.csv", "b.csv")})


def test_without_the_extra_spreadsheets_are_refused_in_a_sentence(monkeypatch):
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(read_spreadsheet, "import_module", absent)
    with pytest.raises(TableError, match=r"a spreadsheet; .*: pip install 'slimp\[excel\]'"):
        read_table(Path("t.xlsx"), content=workbook({"One": ROWS}))
