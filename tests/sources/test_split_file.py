"""A split in a file: what is understood, what is refused, and that it comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from slimp.errors import TableError
from slimp.sources.split_file import read_split_file, split_rows

IMAGES = pd.DataFrame(
    {
        "image_id": ["a1", "a2", "b1", "c1", "d1"],
        "patient_id": ["a", "a", "b", "c", "d"],
        "label": ["x", "y", "y", "x", None],
    }
)
FOLDS = "patient_id,fold\na,1\nb,2\nc,3\n"


def read(tmp_path: Path, text: str) -> pd.DataFrame:
    (tmp_path / "split.csv").write_text(text)
    return read_split_file(tmp_path / "split.csv", IMAGES)


def test_folds_of_patients_are_those_of_their_images(tmp_path):
    found = read(tmp_path, FOLDS)
    assert found.to_dict("list") == {0: ["fold1", "fold1", "fold2", "fold3", None]}


def test_images_without_a_row_can_follow_their_patient(tmp_path):
    ids = {"image_id": list("abcdef"), "patient_id": list("PPQQRS")}
    images = pd.DataFrame({**ids, "label": ["x", None, "x", None, None, "x"]})
    path = tmp_path / "s.csv"
    path.write_text("image_id,part\na,test\nc,\nf,train\n")
    found = read_split_file(path, images, follow=True)
    assert found[0].tolist() == ["test", "test", None, None, "train", "train"]
    assert read_split_file(path, images)[0].tolist() == ["test", *[None] * 4, "train"]


def test_parts_seeds_file_names_and_empty_cells(tmp_path):
    rows = ["a1.jpg,7,Training", "a2.jpg,7,train", "b1.jpg,7,", "c1.jpg,7,TEST"]
    rows += [row.replace(",7,", ",8,") for row in rows]
    found = read(tmp_path, "\n".join(["image_id,seed,part", *rows]))
    assert list(found) == [7, 8]
    assert found[8].tolist() == ["train", "train", None, "test", None]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (FOLDS.replace("b,2", "B,2"), "row 3: the cohort has no patient_id 'B'"),
        (FOLDS.replace("c,3\n", ""), "no row for patient_id 'c' (1 labelled"),
        (FOLDS + "a,2\n", "row 5: a second row for patient_id 'a'"),
        ("patient_id,seed,fold\na,7,1\na,07,2\n", "row 3: a second row for patient_id 'a'"),
        (FOLDS.replace("b,2", "b,two"), "'two'"),
        (FOLDS.replace("fold", "folder"), "columns patient_id, folder"),
        (FOLDS.replace("patient_id", "patient"), "'image_id' or 'patient_id'"),
        ("patient_id,fold,part\na,1,train\nb,2,test\nc,3,test\n", "either 'fold' or 'part'"),
        ("patient_id,seed,fold\na,1,1\nb,one,2\nc,1,3\n", "row 3, column 'seed': 'one'"),
        ("image_id,fold\na1,1\na2,2\nb1,2\nc1,3\n", "in both 'fold1' and 'fold2', such as 'a'"),
    ],
)
def test_refused(tmp_path, text, named):
    with pytest.raises(TableError) as caught:
        read(tmp_path, text)
    assert named in str(caught.value)
    assert "split.csv" in str(caught.value)


@pytest.mark.parametrize("names", [["train", "test", None], ["fold2", "fold11", None]])
def test_written_rows_are_read_as_they_were(tmp_path, names):
    parts = pd.Series([names[0], names[0], names[2], names[1], None], dtype="object")
    rows = split_rows(IMAGES, {3: parts, 5: parts})
    assert len(rows) == 2 * IMAGES["label"].notna().sum()
    rows.to_csv(tmp_path / "split.csv", index=False)
    found = read_split_file(tmp_path / "split.csv", IMAGES)
    assert found.to_dict("list") == {3: parts.tolist(), 5: parts.tolist()}
