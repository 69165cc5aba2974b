"""Which files are images, and which row of a table is about which of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slimp.data.encoding import Encoding
from slimp.data.schema import Schema
from slimp.errors import TableError, UserError
from slimp.features.encode import encode_table
from slimp.prediction.inputs import Metadata, find_images, known_features, read_pixels
from slimp.prediction.result import Prediction

SCHEMA = Schema.from_dict(
    {
        "image": "img_id",
        "missing": ["UNK"],
        "lesion_metadata": {
            "size": {"kind": "continuous", "column": "size_mm", "unit": "mm"},
            "site": {"kind": "categorical", "aliases": {"BRAZO": "arm"}},
            "signs": {"kind": "checkbox", "columns": ["itch", "hurt"]},
        },
        "patient_metadata": {"age": {"kind": "continuous"}},
    }
)
SEEN = pd.DataFrame(
    {
        "size_mm": [1.0, 3.0],
        "site": ["arm", "leg"],
        "itch": [True, False],
        "hurt": [False, False],
        "age": [40.0, 60.0],
    }
)
ENCODINGS = {
    level: Encoding.fit(SCHEMA.level(level), SEEN.astype({"itch": "boolean", "hurt": "boolean"}))
    for level in ("lesion", "patient")
}


def read(**columns: list[object]) -> Metadata:
    return Metadata.read(pd.DataFrame(columns), ENCODINGS.values(), SCHEMA)


def known(found: Metadata) -> list[int]:
    """How many features are known, row by row."""
    return known_features(found.features, found.frame).tolist()


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_folders_are_searched_and_files_are_taken_as_they_are(tmp_path: Path) -> None:
    inside = [touch(tmp_path / "f" / name) for name in ("b/c.PNG", "a.jpg", "z.tiff")]
    for name in ("notes.txt", ".hidden.jpg", ".cache/x.jpg"):
        touch(tmp_path / "f" / name)
    odd = touch(tmp_path / "scan.dat")
    found = find_images([odd, tmp_path / "f", inside[1]])
    assert found == [odd, tmp_path / "f/a.jpg", tmp_path / "f/b/c.PNG", tmp_path / "f/z.tiff"]


def test_photographs_in_a_format_that_is_not_read_are_not_left_out_in_silence(tmp_path):
    touch(tmp_path / "a.jpg")
    phone = touch(tmp_path / "b.HEIC")
    phone.write_bytes(b"....ftypheic")
    assert find_images([tmp_path]) == [tmp_path / "a.jpg", phone]
    found = read_pixels(phone, 16)
    assert isinstance(found, Prediction)
    assert found.status == "unreadable"


def test_dicom_files_without_an_ending_are_found(tmp_path: Path) -> None:
    touch(tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    touch(tmp_path / "README").write_bytes(b"text")
    assert find_images([tmp_path]) == [tmp_path / "IM0001"]


def test_what_holds_no_image_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="holds no image"):
        find_images([tmp_path])
    with pytest.raises(UserError, match="no such file or folder"):
        find_images([tmp_path / "x.jpg"])
    with pytest.raises(UserError, match="no images were named"):
        find_images([])


def test_cells_are_read_as_the_schema_says() -> None:
    found = read(img_id=["a.png"], size_mm=["2"], site=["BRAZO"], itch=["yes"], age=["UNK"])
    row = found.frame.loc["a"]
    assert (row["size_mm"], row["site"], bool(row["itch"])) == (2.0, "arm", True)
    assert pd.isna(row["age"])
    assert found.absent == ("hurt",)
    assert found.unread == ()
    assert (known(found), len(found.features)) == ([3], 4)


def test_typed_frames_read_like_text_and_a_feature_may_go_by_its_own_name() -> None:
    found = read(image=["a"], size=[2.5], site=[None], itch=[True], age=[np.nan], diagnosis=["x"])
    assert found.frame.loc["a", "size_mm"] == 2.5
    assert known(found) == [2]
    assert found.unread == ("diagnosis",)
    assert "diagnosis" not in found.frame


def test_unseen_categories_are_marked() -> None:
    found = read(image=["a", "b", "c"], site=["nose", "leg", ""])
    assert [found.strange(key) for key in "abc"] == [{"site": "nose"}, {}, {}]
    assert known(found) == [0, 1, 0]


def test_numbers_far_outside_those_learned_from_count_as_missing() -> None:
    """A year of birth as an age would outweigh the image and every other cell."""
    found = read(image=list("abcdef"), age=["149", "151", "-51", "", "UNK", "1956"])  # 50 +- 10
    strange = [found.strange(key).get("age") for key in "abcdef"]
    assert strange == [None, "151", "-51", None, None, "1956"]
    assert known(found) == [1, 0, 0, 0, 0, 0]


def test_a_number_is_far_only_if_no_stage_learned_from_such_ones() -> None:
    """A long tail that trained is no stranger, nor is what the run had no column for."""
    tail = [1.0] * 400 + [90.0]  # 20 standard deviations from their mean
    long = Encoding.fit(SCHEMA.level("lesion"), SEEN.reindex(range(401)).assign(size_mm=tail))
    empty = Encoding.fit(SCHEMA.level("lesion"), SEEN.assign(size_mm=np.nan))
    frame = pd.DataFrame({"image": ["a", "b"], "size_mm": ["90", "900"]})
    for encodings in ([long], [empty, long], [ENCODINGS["lesion"], long]):
        found = Metadata.read(frame, encodings, SCHEMA)
        assert (found.strange("a"), found.strange("b")) == ({}, {"size_mm": "900"})
    assert Metadata.read(frame, [empty], SCHEMA).strange("b") == {}, "nothing is known of it"


def test_rows_are_found_by_name_stem_or_end_of_path_in_any_spelling() -> None:
    found = read(
        image=["x/a.jpg", "y/a", "b.png", "N\u00e4vus1", "CAPS1"], age=["1", "2", "3", "4", "5"]
    )
    names = ["x/a.png", "y/a.png", "z/b.jpg", "c.jpg", "x/Na\u0308vus1.JPG", "x/caps1.jpg"]
    paths = [Path("/data") / name for name in names]
    ages = [1, 2, 3, None, 4, 5]
    wanted = {str(path): age for path, age in zip(paths, ages, strict=True) if age}
    assert found.of_images(paths).frame["age"].to_dict() == wanted
    with pytest.raises(TableError, match=r"row 'caps1' could be about x/caps1\.jpg or y/Caps1"):
        found.of_images([Path("x/caps1.jpg"), Path("y/Caps1.png")])


def test_whose_the_images_are_is_read_as_ids_are() -> None:
    """Images of nobody known are not all of one patient, whom `relative` would compare."""
    owners = read(image=["a", "b", "c", "d"], patient=["nan", "unknown", "7.0", "7"]).owners
    assert owners["patient_id"].tolist() == ["image a", "image b", "7", "7"]
    with pytest.raises(TableError, match=r"row 3 .*'p01' and 'P1' differ.*similar_ids"):
        read(image=["a", "b"], patient=["P1", "p01"])
    lesions = read(image=["a", "b"], patient=["P1", "P2"], lesion=["L1", "l1"]).owners
    assert lesions["lesion_id"].tolist() == ["L1", "l1"]


def test_tables_that_do_not_say_which_image_are_refused() -> None:
    with pytest.raises(TableError, match=r"no column 'image' \(nor 'img_id'\)"):
        read(picture=["a"], age=["3"])
    for twice in (["a.jpg", "a.png"], ["Zz", "zZ"]):
        with pytest.raises(TableError, match=f"the image '{twice[1]}' has two rows"):
            read(image=twice, age=["3", "4"])
    assert known(read(image=["a", "", ""], age=["3", "4", "5"])) == [1], "two name no image"


def test_an_adapted_model_reads_the_columns_and_spellings_that_the_cohort_has() -> None:
    """A feature may have had other column names in an earlier stage, and other spellings."""
    lesion = ENCODINGS["lesion"]
    site = next(f for f in lesion.features if f.name == "site")
    moved = replace(site, columns=("place",), also=(("site",),), spellings={"pierna": "leg"})
    features = tuple(moved if f is site else f for f in lesion.features)
    encodings = {"lesion": replace(lesion, features=features)}
    table = pd.DataFrame({"image": ["a", "b"], "site": ["pierna", "nose"]})
    found = Metadata.read(table, encodings.values(), SCHEMA)
    assert found.strange("a") == {}
    assert found.strange("b") == {"site": "nose"}


def test_rows_are_encoded_for_the_images_asked_for() -> None:
    found = read(image=["a", "b"], size_mm=["2", ""], itch=["no", ""], site=["leg", "leg"])
    frame = found.of_images([Path("b.jpg"), Path("c.jpg"), Path("a.jpg")]).frame
    rows = encode_table(ENCODINGS["lesion"], frame)
    assert rows.present.tolist() == [[False, True, False], [True, True, True]]


def test_cells_are_read_as_the_cohorts_table_was() -> None:
    """Decimal commas, units, dates and words for yes, by the same schema."""
    schema = Schema.from_dict(
        {
            "image": "img_id",
            "table": {"decimal": ","},
            "lesion_metadata": {
                "size": {"kind": "continuous", "unit": "mm", "units": {"cm": 10}},
                "itch": {"kind": "checkbox", "aliases": {"ja": "yes", "nein": "no"}},
            },
            "patient_metadata": {
                "age": {"kind": "continuous", "unit": "days", "from": "born", "to": "seen"}
            },
        }
    )
    seen = pd.DataFrame({"size": [1.0, 9.0], "itch": [True, False], "age": [1.0, 50.0]})
    seen = seen.astype({"itch": "boolean"})
    encodings = {n: Encoding.fit(schema.level(n), seen) for n in ("lesion", "patient")}
    rows = {"image": ["a", "b"], "size": ["4,5", "1,2 cm"], "itch": ["ja", "nein"]}
    dates = {"born": ["2000-01-01", ""], "seen": ["2000-01-31", "2001-01-01"]}
    got = Metadata.read(pd.DataFrame(rows | dates), encodings.values(), schema).frame
    assert got["size"].tolist() == [4.5, 12]
    assert got["itch"].tolist() == [True, False]
    assert got["age"].fillna(-1).tolist() == [30, -1]
    typed = Metadata.read(
        pd.DataFrame({"image": ["a"], "size": [1.234], "age": [7]}), encodings.values(), schema
    )
    assert typed.frame["size"].tolist() == [1.234], "a number is no text of thousands"
    assert typed.frame["age"].tolist() == [7], "the time itself will do"


@pytest.mark.parametrize(
    ("feature", "cells", "said"),
    [
        (
            {"kind": "checkbox", "aliases": {"J": "yes", "N": "no"}},
            ["Y", "J", "Y", ""],
            "'Y' is not a yes or no. The same goes for 1 more cell(s) of this column. Write one "
            "of: J, N, yes, no, 1, 0; leave the cell empty if it is unknown.",
        ),
        (
            {"kind": "checkbox", "aliases": {"": "no"}},
            ["Y"],
            "'Y' is not a yes or no. Write one of: yes, no, 1, 0; an empty cell means no.",
        ),
        (
            {"kind": "continuous", "unit": "mm", "decimal": ","},
            ["about 3"],
            "'about 3' is not a number. Write a number in mm, with ',' before decimals; leave the "
            "cell empty if it is unknown.",
        ),
        ({"kind": "checkbox"}, ["x"], "where a row repeats the header, remove it."),
    ],
)
def test_the_remedy_of_a_cell_is_one_that_a_prediction_has(feature, cells, said) -> None:
    """There is no schema to change, so the words that it has are named."""
    schema = Schema.from_dict({"image": "image", "lesion_metadata": {"x": feature}})
    seen = pd.DataFrame({"x": [1.0, 2.0]})
    encoding = Encoding.fit(schema.level("lesion"), seen)
    table = pd.DataFrame({"image": map(str, range(len(cells))), "x": cells})
    with pytest.raises(TableError) as error:
        Metadata.read(table, [encoding], schema)
    assert str(error.value).endswith(said)


def test_the_remedy_of_a_date_is_its_format() -> None:
    age = {
        "kind": "continuous",
        "unit": "years",
        "from": "born",
        "to": "seen",
        "format": "%d.%m.%Y",
    }
    schema = Schema.from_dict({"image": "image", "patient_metadata": {"age": age}})
    encoding = Encoding.fit(schema.level("patient"), pd.DataFrame({"age": [40.0, 60.0]}))
    table = pd.DataFrame({"image": ["a"], "born": ["May 1970"], "seen": ["01.02.2020"]})
    with pytest.raises(TableError, match=r"Write a date as %d.%m.%Y; leave the cell empty"):
        Metadata.read(table, [encoding], schema)
