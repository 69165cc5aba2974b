"""Tables of any shape become a row per image, and nothing is lost or invented on the way."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.arrange import arrange
from slimp.sources.layout import Join, TableLayout
from slimp.sources.level_tables import ASSUMED, JOINED, type_rows
from slimp.sources.parse_cells import NUMERIC


def table(name: str = "t.csv", /, **columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(columns, dtype="str")
    rows = pd.MultiIndex.from_product([[name], range(2, len(frame) + 2)])
    return frame.set_axis(rows, axis="index")


def arranged(
    frame: pd.DataFrame,
    image: str = "image",
    further: dict[str, pd.DataFrame] | None = None,
    files: list[str] | None = None,
    roots: list[str] | None = None,
    **settings: object,
) -> pd.DataFrame:
    return arrange(
        frame,
        TableLayout(**settings),
        image,
        read_join=lambda join: (further or {})[str(join.file)],
        files=files or [],
        roots=roots or [],
    )


def test_a_table_that_is_right_stays_as_it_is():
    frame = table(image=["a", "b"], x=["1", "2"])
    pd.testing.assert_frame_equal(arranged(frame), frame)


def test_columns_of_images_become_rows():
    frame = table(id=["1", "2", "3"], front=["a", "", " "], back=["b", "c", ""])
    long = arranged(frame, images=("front", "back"))
    assert long.to_dict("list") == {"id": ["1", "1", "2"], "image": ["a", "b", "c"]}
    assert [row for _, row in long.index] == [2, 2, 3]
    assert (
        long.attrs[ASSUMED]
        == [
            "1 row(s) of the table name no image; they were left out.",
            "3 rows of the table became 3, one per image.",
        ][:1]
    )


def test_names_in_one_cell_become_rows():
    frame = table(id=["1", "2"], image=["a.jpg; b.jpg;", "c.jpg"])
    long = arranged(frame, separator=";")
    assert long.to_dict("list") == {"id": ["1", "1", "2"], "image": ["a.jpg", "b.jpg", "c.jpg"]}
    assert long.attrs[ASSUMED] == ["2 rows of the table became 3, one per image."]


@given(st.lists(st.lists(st.sampled_from(["", "x", "y"]), min_size=3, max_size=3), min_size=1))
def test_every_filled_cell_is_an_image(cells):
    frame = table(**{f"c{k}": [row[k] for row in cells] for k in range(3)}, id=["i"] * len(cells))
    slow = [(i + 2, cell) for i, row in enumerate(cells) for cell in row if cell]
    if not slow:
        with pytest.raises(TableError, match="no row names an image"):
            arranged(frame, images=("c0", "c1", "c2"))
        return
    long = arranged(frame, images=("c0", "c1", "c2"))
    assert list(zip(long.index.get_level_values(1), long["image"], strict=True)) == slow


def test_names_are_made_of_ids():
    frame = table(person=["P1", "P1", " P2", ""], mole=["1", "2", "1", "1"])
    long = arranged(frame, image_names="{person}/m{mole}.jpg")
    assert long["image"].tolist() == ["P1/m1.jpg", "P1/m2.jpg", "P2/m1.jpg"]


def test_files_are_found_by_a_pattern_of_ids():
    files = ["P1/m1_a.jpg", "P1/m1_b.JPG", "P1/m10_a.jpg", "p2/m1_x.png", "P[1]/m1_c.jpg", "n.jpg"]
    frame = table(person=["P1", "P1", "P2", "P[1]", "P9"], mole=["1", "10", "1", "1", "1"])
    long = arranged(frame, image_names="{person}/m{mole}_*.jpg", files=files)
    assert long[["person", "image"]].to_numpy().tolist() == [
        ["P1", "P1/m1_a.jpg"],
        ["P1", "P1/m1_b.JPG"],
        ["P1", "P1/m10_a.jpg"],
        ["P2", "p2/m1_x.png"],
        ["P[1]", "P[1]/m1_c.jpg"],
    ]
    with pytest.raises(TableError, match="no row names an image"):
        arranged(frame, image_names="{person}*{person}", files=files)


def test_rows_may_become_ids():
    frame = table(front=["a", "b"], back=["c", ""])
    long = arranged(frame, images=("front", "back"), row_id="mole")
    assert long["mole"].tolist() == ["2", "2", "3"]


def test_roots_of_paths_are_cut_off():
    cells = [
        "D:\\Photos\\a\\1.jpg",
        "d:/photos/2.jpg",
        "/data/raw/img/3.jpg",
        "4.jpg",
        "/etc/5.jpg",
    ]
    frame = table(image=cells)
    got = arranged(frame, image_root="D:\\Photos\\", roots=["/data/raw/img", "/data/raw"])
    assert got["image"].tolist() == ["a/1.jpg", "2.jpg", "3.jpg", "4.jpg", "/etc/5.jpg"]
    with pytest.raises(TableError, match=r"'/etc/5\.jpg' points outside the image folder"):
        type_rows(got, Schema.from_dict({"image": "image"}))


def test_no_folder_is_left_by_cutting():
    frame = table(image=["D:\\x\\..\\..\\secret.jpg"])
    got = arranged(frame, image_root="D:\\x")
    with pytest.raises(TableError, match="points outside the image folder"):
        type_rows(got, Schema.from_dict({"image": "image"}))


PATIENTS = table("p.csv", id=["P2", "P1", "P3"], age=["50", "40", "x"])
JOIN = Join(file="p.csv", on={"id": "id"})


def test_tables_are_joined():
    frame = table(image=["a", "b", "c"], id=["P1", " P2 ", "P1"])
    joined = arranged(frame, further={"p.csv": PATIENTS}, joins=(JOIN,))
    assert joined["age"].tolist() == ["40", "50", "40"]
    assert joined.index.tolist() == frame.index.tolist()
    assert joined.attrs[ASSUMED] == ["p.csv, joined by id: 1 of its rows are about none here."]
    assert joined.attrs[JOINED] == {"age": ("p.csv", "id")}


@given(
    st.lists(st.sampled_from("abcdef"), min_size=1),
    st.dictionaries(st.sampled_from("abcdef"), st.text("01", max_size=2), min_size=1),
)
def test_a_join_is_a_look_up(ids, known):
    frame = table(image=[str(i) for i in range(len(ids))], id=ids)
    other = table("p.csv", id=list(known), age=list(known.values()))
    slow = [known.get(i, "") for i in ids]
    if not any(i in known for i in ids):
        with pytest.raises(TableError, match="no row of it is about any row"):
            arranged(frame, further={"p.csv": other}, joins=(JOIN,))
        return
    assert arranged(frame, further={"p.csv": other}, joins=(JOIN,))["age"].tolist() == slow


def test_empty_ids_match_nothing():
    main = table(pid=["1", "", " "], visit=["a", "a", ""])
    people = table("p.csv", pid=["1", "", ""], age=["50", "99", "98"])
    long = arranged(main, further={"p.csv": people}, joins=(Join(file="p.csv", on={"pid": "pid"}),))
    assert long["age"].tolist() == ["50", "", ""]
    assert long.attrs[ASSUMED] == [
        "p.csv, joined by pid: 2 row(s) of t.csv have none there; 2 of its rows have no id and "
        "were passed over."
    ]
    both = {"pid": "pid", "visit": "visit"}
    visits = table("v.csv", pid=["1", "1", ""], visit=["a", "", "a"], x=["7", "8", "9"])
    long = arranged(main, further={"v.csv": visits}, joins=(Join(file="v.csv", on=both),))
    assert long["x"].tolist() == ["7", "", ""]
    nobody = table("p.csv", pid=["", " "], age=["1", "2"])
    with pytest.raises(TableError, match=r"p\.csv: no row of it has a cell in pid"):
        arranged(main, further={"p.csv": nobody}, joins=(Join(file="p.csv", on={"pid": "pid"}),))


def test_joins_over_several_columns_and_in_a_row():
    frame = table(image=["a", "b"], who=["P1", "P1"], mole=["1", "2"])
    lesions = table("l.csv", person=["P1", "P1"], nr=["2", "1"], site=["leg", "arm"])
    joins = (
        Join(file="l.csv", on={"who": "person", "mole": "nr"}),
        Join(file="p.csv", on={"who": "id"}),
    )
    got = arranged(frame, further={"l.csv": lesions, "p.csv": PATIENTS}, joins=joins)
    assert got[["site", "age"]].to_numpy().tolist() == [["arm", "40"], ["leg", "40"]]


def test_messages_name_the_joined_table():
    frame = table(image=["a"], id=["P3"])
    got = arranged(frame, further={"p.csv": PATIENTS}, joins=(JOIN,))
    schema = Schema.from_dict(
        {"image": "image", "patient_metadata": {"age": {"kind": "continuous"}}}
    )
    with pytest.raises(
        TableError, match=r"t\.csv, row 2 \(image a\), joined from p\.csv \(id P3\)"
    ):
        type_rows(got, schema)


def test_columns_of_numbers_stay_so_when_joined():
    frame, other = table(image=["a"], id=["P1"], x=["1"]), PATIENTS.copy()
    frame.attrs[NUMERIC], other.attrs[NUMERIC] = ["x"], ["age"]
    got = arranged(frame, further={"p.csv": other}, joins=(JOIN,))
    assert got.attrs[NUMERIC] == ["x", "age"]


@pytest.mark.parametrize(
    ("other", "join", "message"),
    [
        (
            table("p.csv", id=["P1", "P1"], age=["1", "2"]),
            JOIN,
            r"p\.csv, row 3, column 'id': 'P1' has a row already \(row 2\), and they differ",
        ),
        (table("p.csv", id=["Q"], age=["1"]), JOIN, r"for instance 'P1', 'id' here 'Q'"),
        (table("p.csv", idd=["P1"], age=["1"]), JOIN, r"p\.csv: there is no column 'id' .*'idd'"),
        (
            table("p.csv", id=["P1"], site=["leg"]),
            JOIN,
            r"t\.csv, row 2, column 'site': 'arm', but p\.csv has 'leg'\. Both tables have",
        ),
        (
            table("p.csv", id=["P1"], age=["1"]),
            Join(file="p.csv", on={"id": "id"}, columns=("size",)),
            "there is no column 'size'",
        ),
    ],
)
def test_joins_that_cannot_be(other, join, message):
    frame = table(image=["a"], id=["P1"], site=["arm"])
    with pytest.raises(TableError, match=message):
        arranged(frame, further={"p.csv": other}, joins=(join,))


def test_rows_that_repeat_and_columns_that_agree_may_be_joined():
    frame = table(image=["a"], id=["P1"], site=["arm"])
    other = table("p.csv", id=["P1", "P1"], site=["arm", "arm"], age=["1", "1"])
    assert arranged(frame, further={"p.csv": other}, joins=(JOIN,))["age"].tolist() == ["1"]


def test_dropped_columns_are_gone():
    frame = table(image=["a"], name=["Jane"])
    assert arranged(frame, drop=("name",)).columns.tolist() == ["image"]
    with pytest.raises(TableError, match=r"no column 'nmae' \(in drop\)\. Did you mean 'name'"):
        arranged(frame, drop=("nmae",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": ("front",)}, "there is a column 'image' already"),
        ({"image_names": "{front}"}, "there is a column 'image', and image_names too"),
        ({"row_id": "front"}, "there is a column 'front' already"),
        ({"images": ("back",)}, "there is no column 'back'"),
    ],
)
def test_settings_that_do_not_fit_the_table(settings, message):
    with pytest.raises(TableError, match=message):
        arranged(table(image=["a"], front=["b"]), **settings)
