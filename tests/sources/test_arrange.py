"""Tables of any shape become a row per image, and nothing is lost or invented on the way."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.arrange import arrange
from slimp.sources.layout import TableLayout
from slimp.sources.level_tables import ASSUMED, split_levels, type_rows


def table(name: str = "t.csv", /, **columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(columns, dtype="str")
    rows = pd.MultiIndex.from_product([[name], range(2, len(frame) + 2)])
    return frame.set_axis(rows, axis="index")


def arranged(
    frame: pd.DataFrame,
    further: dict[str, pd.DataFrame] | None = None,
    files: list[str] | None = None,
    roots: list[str] | None = None,
    schema: dict[str, object] | None = None,
    **settings: object,
) -> pd.DataFrame:
    return arrange(
        frame,
        TableLayout.from_dict(settings),
        Schema.from_dict({"image": "image", **(schema or {})}),
        read_join=lambda join: (further or {}).get(join.file[0]),
        files=files or [],
        roots=roots or [],
    )


def test_a_table_that_is_right_stays_as_it_is():
    frame = table(image=["a", "b"], x=["1", "2"])
    pd.testing.assert_frame_equal(arranged(frame), frame)


def test_columns_of_images_become_rows():
    frame = table(id=["1", "2", "3"], front=["a", "", " "], back=["b", "c", ""])
    long = arranged(frame, images=["front", "back"], row_id="mole")
    assert long["image"].tolist() == ["a", "b", "c"]
    assert not {"front", "back"} & set(long)
    assert long["mole"].tolist() == ["2", "2", "3"]
    assert [row for _, row in long.index] == [2, 2, 3]
    assert [note[:8] for note in long.attrs[ASSUMED]] == ["1 row(s)"]
    assert arranged(frame, images=["front", "front"])["image"].tolist() == ["a"], "named twice"


def test_names_in_one_cell_become_rows():
    frame = table(id=["1", "2"], image=["a.jpg; b.jpg;", "c.jpg"])
    long = arranged(frame, separator=";")
    assert long.to_dict("list") == {"id": ["1", "1", "2"], "image": ["a.jpg", "b.jpg", "c.jpg"]}
    assert long.attrs[ASSUMED] == ["2 rows of the table became 3, one per image."]
    assert arranged(table(image=["a||b"]), separator="||")["image"].tolist() == ["a", "b"]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.sampled_from(["", "x", "y"]), min_size=3, max_size=3), min_size=1))
def test_every_filled_cell_is_an_image(cells):
    frame = table(**{f"c{k}": [row[k] for row in cells] for k in range(3)}, id=["i"] * len(cells))
    slow = [(i + 2, cell) for i, row in enumerate(cells) for cell in row if cell]
    if not slow:
        with pytest.raises(TableError, match="no row names an image"):
            arranged(frame, images=["c0", "c1", "c2"])
        return
    long = arranged(frame, images=["c0", "c1", "c2"])
    assert list(zip(long.index.get_level_values(1), long["image"], strict=True)) == slow


@pytest.mark.parametrize(
    ("pattern", "columns", "names"),
    [
        (
            "{person}/m{mole}.jpg",
            {"person": ["P1", "P1", " P2", ""], "mole": ["1", "2", "1", "1"]},
            ["P1/m1.jpg", "P1/m2.jpg", "P2/m1.jpg"],
        ),
        ("{image:06}", {"image": ["1", "20", "3.0"]}, ["000001", "000020", "000003"]),
        ("a_{n:03}.png", {"n": ["7", "1234"]}, ["a_007.png", "a_1234.png"]),
    ],
)
def test_names_are_made_of_ids(pattern, columns, names):
    assert arranged(table(**columns), image_names=pattern)["image"].tolist() == names


def test_a_name_that_is_no_number_has_no_zeros_in_front():
    with pytest.raises(TableError, match=r"t\.csv, row 3, column 'image': 'x1'"):
        arranged(table(image=["1", "x1"]), image_names="{image:06}")


def test_files_are_found_by_a_pattern_of_ids():
    files = ["P1/m1_a.jpg", "P1/m1_b.JPG", "P1/m10_a.jpg", "p2/m1_x.jpeg", "P[1]/m1_c.jpg", "n.jpg"]
    frame = table(person=["P1", "P1", "P2", "P[1]", "P9"], mole=["1", "10", "1", "1", "1"])
    long = arranged(frame, image_names="{person}/m{mole}_*.jpg", files=files)
    assert long["person"].tolist() == ["P1", "P1", "P1", "P2", "P[1]"]
    assert long["image"].tolist() == files[:5]
    with pytest.raises(TableError, match="no row names an image"):
        arranged(frame, image_names="{person}*{person}", files=files)
    long = arranged(table(n=["1"]), image_names="{n:03}_*", files=["001_a.jpg", "1_b.jpg"])
    assert long["image"].tolist() == ["001_a.jpg"]


def test_what_follows_an_id_is_no_part_of_another():
    """Patient 10 may have images, but no row that would show the confusion."""
    files = ["1.jpg", "1a.jpg", "1-2.jpg", "10.jpg", "10a.jpg", "p1/m1.jpg", "p1/m12x.jpg"]
    long = arranged(table(n=["1"]), image_names="{n}*", files=files)
    assert long["image"].tolist() == ["1.jpg", "1-2.jpg", "1a.jpg"]
    found = arranged(table(n=["1"], m=["1"]), image_names="p{n}/*{m}*", files=files)
    assert found["image"].tolist() == ["p1/m1.jpg"]
    found = arranged(table(n=["1"]), image_names="{n}[0-9]*", files=files)
    assert found["image"].tolist() == ["10.jpg", "10a.jpg"], "where it is said"


def test_what_precedes_an_id_is_no_part_of_another():
    files = ["1_a.jpg", "21_a.jpg", "x1_a.jpg", "2-1_a.jpg", "p2/1_b.jpg", "p3/11_b.jpg"]
    long = arranged(table(n=["1"]), image_names="*{n}_a.jpg", files=files)
    assert long["image"].tolist() == ["1_a.jpg", "2-1_a.jpg", "x1_a.jpg"]
    assert arranged(table(n=["1"]), image_names="*{n}*", files=files)["n"].tolist() == ["1"] * 4
    long = arranged(table(n=["1"]), image_names="*[0-9]{n}_a.jpg", files=files)
    assert long["image"].tolist() == ["21_a.jpg"], "where it is said"
    long = arranged(table(n=["b1"]), image_names="*{n}.jpg", files=["2b1.jpg", "b1.jpg"])
    assert long["image"].tolist() == ["2b1.jpg", "b1.jpg"], "b1 begins with no digit"
    long = arranged(table(m=["1"], n=["2"]), image_names="{m}*{n}.jpg", files=["12.jpg", "1-2.jpg"])
    assert long["image"].tolist() == ["1-2.jpg"]


@pytest.mark.parametrize(
    ("ending", "expected", "left_out"),
    [
        (".jpg", ["1_a.jpg", "1_b.JPEG"], ["3 file(s), such as 1_a.png,"]),
        (".PNG", ["1_a.png", "1_a_mask.png"], ["3 file(s), such as 1_a.jpg,"]),
        (".tif", ["1_c.TIFF"], ["4 file(s), such as 1_a.jpg,"]),
        ("", ["1_a.jpg", "1_a.png", "1_a_mask.png", "1_b.JPEG", "1_c.TIFF"], []),
    ],
)
def test_an_ending_beside_a_star_is_that_of_the_files(ending, expected, left_out):
    """Or a mask beside an image would be one more image of the lesion."""
    files = ["1_a.jpg", "1_a.png", "1_a_mask.png", "1_b.JPEG", "1_c.TIFF", "1_notes.txt"]
    frame = table(n=["1"])
    long = arranged(frame, image_names=f"{{n}}_*{ending}", files=files[: 6 if ending else 5])
    assert long["image"].tolist() == expected
    notes = [note for note in long.attrs[ASSUMED] if "file(s)" in note]
    assert [note[: note.index(" fit")] for note in notes] == left_out
    with pytest.raises(TableError, match=r"no row names an image: 5 file\(s\), such as 1_a\.jpg"):
        arranged(frame, image_names="{n}_*.gif", files=files)


def test_roots_of_paths_are_cut_off():
    cells = ["D:\\Photos\\a\\1.jpg", "d:/photos/2.jpg", "/data/raw/img/3.jpg", "4.jpg"]
    roots = ["/data/raw/img", "/data/raw"]
    got = arranged(table(image=cells), image_root="D:\\Photos\\", roots=roots)
    assert got["image"].tolist() == ["a/1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    for cell in ("/etc/5.jpg", "D:\\Photos\\..\\..\\secret.jpg"):
        got = arranged(table(image=[cell]), image_root="D:\\Photos", roots=roots)
        with pytest.raises(TableError, match="points outside the image folder"):
            type_rows(got, Schema.from_dict({"image": "image"}))


# Joins -------------------------------------------------------------------------------------------

PATIENTS = table("p.csv", id=["P2", "P1", "P3"], age=["50", "40", "x"])
BY_ID = [{"file": "p.csv", "on": "id"}]


def joined(frame: pd.DataFrame, *tables: pd.DataFrame, **more: object) -> pd.DataFrame:
    return arranged(frame, further={other.index[0][0]: other for other in tables}, **more)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from("abcdef"), min_size=1),
    st.dictionaries(st.sampled_from("abcdef"), st.text("01", max_size=2), min_size=1),
)
def test_a_join_is_a_look_up(ids, known):
    frame = table(image=[str(i) for i in range(len(ids))], id=ids)
    other = table("p.csv", id=list(known), age=list(known.values()))
    slow = [known.get(i, "") for i in ids]
    if not any(i in known for i in ids):
        with pytest.raises(TableError, match=r"p\.csv: no row of it"):
            joined(frame, other, join=BY_ID)
        return
    got = joined(frame, other, join=BY_ID)
    assert got["age"].tolist() == slow
    assert got.index.tolist() == frame.index.tolist()


@pytest.mark.parametrize(
    ("here", "there", "ages", "schema"),
    [
        (["1", "", " "], ["1", "", ""], ["50", "", ""], None),
        (["1", "nan", "None"], ["1", "nan", "None"], ["50", "", ""], None),
        (["1", "9", "x"], ["1", "9", "8"], ["50", "", ""], {"missing": ["9"]}),
        (["100.0", "101", " 102.0"], ["101.0", "100", "102"], ["51", "50", "52"], None),
        (["p1", "P02", "P3"], ["P1", "P2", "P3"], ["", "", "52"], None),
        (["p1", "P02", "P3"], ["P1", "P2", "P3"], ["50", "51", "52"], {"similar_ids": "same"}),
    ],
)
def test_ids_are_joined_as_ids(here, there, ages, schema):
    """An empty id is nobody's, and 100.0 is 100; what differs in letter case is not the same."""
    other = table("p.csv", id=there, age=["50", "51", "52"])
    got = joined(table(id=here), other, join=BY_ID, schema=schema)
    assert got["age"].tolist() == ages
    if schema is None and "P02" in here:
        assert "similar_ids" in got.attrs[ASSUMED][0]


def test_joins_over_several_columns_one_after_the_other():
    frame = table(image=["a", "b", "c"], who=["P1", "P1", ""], mole=["1", "2", "1"])
    lesions = table("l.csv", person=["P1", "P1", ""], nr=["2", "1", "1"], site=["leg", "arm", "x"])
    joins = [
        {"file": "l.csv", "on": {"who": "person", "mole": "nr"}},
        {"file": "p.csv", "on": {"who": "id"}},
        {"file": "none.csv", "on": "who", "needed": False},
    ]
    got = joined(frame, lesions, PATIENTS, join=joins)
    assert got[["site", "age"]].to_numpy().tolist() == [["arm", "40"], ["leg", "40"], ["", ""]]


INDEXES = {
    "train.csv": table("train.csv", indexes=["0", "2"]),
    "test.csv": table("test.csv", indexes=["1.0"]),
}
BY_ROW = [
    {"file": f"{part}.csv", "by": "row", "set": {"split": part}} for part in ("train", "test")
]


def test_rows_may_be_listed_by_number():
    """An official split as two files of row numbers; then rows are spread over their images."""
    frame = table(front=["a", "b", "c", "d"], back=["e", "", "", ""])
    got = joined(frame, *INDEXES.values(), join=BY_ROW, images=["front", "back"])
    split = dict(zip(got["image"], got["split"], strict=True))
    assert split == {"a": "train", "e": "train", "b": "test", "c": "train", "d": ""}
    assert "0 means its row 2" in got.attrs[ASSUMED][0]
    counted = [join | {"first": 1} for join in BY_ROW[1:]]
    assert joined(frame, INDEXES["test.csv"], join=counted)["split"].tolist() == ["test"] + [""] * 3
    for cell, named in (("4", "from 0 to 3"), ("x", "'x'")):
        other = table("test.csv", indexes=["0", cell])
        with pytest.raises(TableError, match=rf"test\.csv, row 3, column 'indexes'.*{named}"):
            joined(frame, other, join=BY_ROW[1:])
    both = table("test.csv", indexes=["0"])
    with pytest.raises(TableError, match=r"t\.csv, row 2, column 'split': 'train'.*'test'"):
        joined(frame, INDEXES["train.csv"], both, join=BY_ROW)


def test_a_row_without_partner_is_no_blank_cell():
    """An alias of the blank holds for a cell that says nothing, not for one that is not there."""
    frame = table(image=["a", "b", "c", "d"], id=["P1", "P2", "P9", "P4"])
    other = table("p.csv", id=["P1", "P2"], smokes=["YES", ""])
    more = table("q.csv", id=["P4"], smokes=["YES"])  # one join's row is lost to the other
    schema = Schema.from_dict(
        {
            "image": "image",
            "patient": "id",
            "patient_metadata": {"smokes": {"kind": "checkbox", "aliases": {"": "no"}}},
        }
    )
    joins = [*BY_ID, {"file": "q.csv", "on": "id"}]
    tables, _ = split_levels(type_rows(joined(frame, other, more, join=joins), schema), schema)
    assert tables.patients["smokes"].to_list() == [True, False, pd.NA, True]
    wrong = joined(frame, other, more.assign(smokes="q"), join=joins)
    place = r"t\.csv, row 5 \(image d\), joined from q\.csv \(id P4\), column 'smokes': 'q'"
    with pytest.raises(TableError, match=place):
        type_rows(wrong, schema)


@pytest.mark.parametrize(
    ("other", "join", "named"),
    [
        ({"id": ["P1", "P1"], "age": ["1", "2"]}, {}, r"p\.csv, row 3, column 'id': 'P1'.*row 2"),
        ({"id": ["1", "1.0"], "age": ["1", "2"]}, {}, r"p\.csv, row 3, column 'id': '1\.0'"),
        ({"id": ["Q"], "age": ["1"]}, {}, "'P1', 'id' here 'Q'"),
        ({"id": ["", "nan"], "age": ["1", "2"]}, {}, r"p\.csv: no row of it has a cell in id"),
        ({"id": ["1.23E+12"], "age": ["1"]}, {}, r"p\.csv, row 2, column 'id': '1\.23E\+12'"),
        ({"idd": ["P1"], "age": ["1"]}, {}, r"p\.csv: .*'id' .*'idd'"),
        ({"id": ["P1"], "site": ["leg"]}, {}, r"t\.csv, row 2, column 'site': 'arm', .*'leg'"),
        ({"id": ["P1"], "age": ["1"]}, {"columns": ["size"]}, r"p\.csv: .*'size'"),
    ],
)
def test_joins_that_cannot_be(other, join, named):
    frame = table(image=["a"], id=["P1"], site=["arm"])
    with pytest.raises(TableError, match=named):
        joined(frame, table("p.csv", **other), join=[BY_ID[0] | join])


def test_columns_that_agree_may_be_in_both_tables():
    frame = table(image=["a", "b"], id=["P1", "P2"], site=["arm", ""])
    other = table("p.csv", id=["P1", "P1", "P2"], site=["arm", "arm", "leg"])
    got = joined(frame, other, join=BY_ID)
    assert got["site"].tolist() == ["arm", "leg"]
    assert got.attrs[ASSUMED] == ["p.csv: 1 empty cell(s) of column 'site' were filled from it."]


# Rows and columns --------------------------------------------------------------------------------


def test_rows_of_other_datasets_are_left_out():
    keep = {"column": "lesion", "begins": "BCN_"}
    frame = table(image=["a", "b", "c"], lesion=["BCN_1", "HAM_1", ""])
    got = arranged(frame, keep=keep)
    assert got["image"].tolist() == ["a"]
    assert got.attrs[ASSUMED] == ["1 of 3 rows, whose lesion begins with BCN_, were kept."]
    with pytest.raises(TableError, match="'lesion' begins with 'BCN_'"):
        arranged(frame[1:], keep=keep)
    with pytest.raises(TableError, match=r"'lesion' \(in \[table\]: keep\)"):
        arranged(table(image=["a"]), keep=keep)


SITE = {
    "column": "site",
    "groups": [["site"], ["site_2", "site_1"]],
    "values": {"Trunk": "torso", "Hand": "hand", "Arm": "arm"},
}


@pytest.mark.parametrize(
    ("columns", "expected", "origin"),
    [
        ({"site": ["back", "Hand"]}, ["back", "hand"], None),  # a word of its own stays
        (
            {"site_1": ["Trunk", "Arm"], "site_2": ["Left", "Hand"]},
            ["torso", "hand"],
            "site_2 or site_1",
        ),
        ({"site": ["", " "], "site_1": ["Arm", "?"]}, ["arm", ""], "site_1"),
        ({"site": ["back", ""], "site_1": ["Arm", "Arm"]}, ["back", ""], None),  # no mix of forms
        ({"other": ["x", "y"]}, None, None),
    ],
)
def test_a_column_is_derived_from_the_first_group_that_is_filled(columns, expected, origin):
    got = arranged(table(**columns), derive=[SITE])
    assert (got["site"].tolist() if "site" in got else None) == expected
    assert got.attrs[ASSUMED] == ([f"site is made from {origin}."] if origin else [])


def test_renaming_goes_before_deriving():
    rule = {"column": "patient", "groups": [["patient"], ["lesion", "image"]]}
    frame = table(name=["a", "b"], lesion=["L1", ""])
    assert arranged(frame, rename={"name": "image"}, derive=[rule])["patient"].tolist() == [
        "L1",
        "b",
    ]


def test_dropped_columns_are_gone():
    frame = table(image=["a"], name=["Jane"])
    assert arranged(frame, drop=["name"]).columns.tolist() == ["image"]
    with pytest.raises(TableError, match=r"'nmae' .*drop.* 'name'"):
        arranged(frame, drop=["nmae"])


@pytest.mark.parametrize(
    ("layout", "named"),
    [
        ({"images": ["front"]}, "'image'"),
        ({"image_names": "{front}"}, "'image' .*image_names"),
        ({"row_id": "front"}, "'front'"),
        ({"images": ["back"]}, "'back'"),
        ({"rename": {"front": "image"}}, "'image'.*rename"),
    ],
)
def test_settings_that_do_not_fit_the_table(layout, named):
    with pytest.raises(TableError, match=named):
        arranged(table(image=["a"], front=["b"]), **layout)
