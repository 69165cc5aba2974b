"""HAM10000: a lesion stands for a patient; traps imitated, and the real part where at hand."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from slimp.cohort import Cohort
from slimp.sources import import_source

TABLE = """lesion_id,image_id,dx,dx_type,age,sex,localization
HAM_1,ISIC_1,bkl,histo,80.0,male,scalp
HAM_1,ISIC_2,bkl,histo,80.0,male,unknown
HAM_2,ISIC_3,nv,follow_up,,unknown,unknown
HAM_3,ISIC_4,mel,histo,0.0,female,back
HAM_4,ISIC_5,nv,consensus,45.0,female,trunk
"""


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 8), (shade, 90, 70)).save(buffer, "JPEG")
    return buffer.getvalue()


def make_raw(folder: Path, places: list[str], name: str = "HAM10000_metadata.csv") -> Path:
    folder.mkdir()
    text = TABLE.replace(",", "\t") if name.endswith(".tab") else TABLE
    (folder / name).write_bytes(text.replace("\n", "\r\n").encode())
    for number, place in enumerate(places, start=1):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f"ISIC_{number}.jpg").write_bytes(jpeg(number))
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    folder = tmp_path_factory.mktemp("ham")
    return import_source("ham10000", make_raw(folder / "raw", ["images"] * 4), folder / "cohort")


def test_each_lesion_stands_for_a_patient(cohort):
    assert cohort.lesions["lesion_id"].tolist() == ["HAM_1", "HAM_2", "HAM_3"]
    assert cohort.patients["patient_id"].tolist() == ["HAM_1", "HAM_2", "HAM_3"]
    assert cohort.lesion_of_image.tolist() == [0, 0, 1, 2]
    assert cohort.info.import_report["absent"] == 1


def test_levels(cohort):
    assert cohort.schema.level("lesion").columns == ("localization",)
    assert cohort.schema.level("patient").columns == ("age", "sex")
    assert cohort.schema.level("image").columns == ()


def test_unknown_is_missing_and_zero_is_an_age(cohort):
    assert cohort.patients["age"].fillna(-1).tolist() == [80, -1, 0]
    assert cohort.patients["sex"].fillna("-").tolist() == ["male", "-", "female"]
    assert cohort.lesions["localization"].fillna("-").tolist() == ["scalp", "-", "back"]
    assert not cohort.info.import_report["disagreements"], "unknown contradicts nothing"


def test_how_it_was_confirmed_is_never_an_input(cohort):
    assert "dx_type" in cohort.schema.refused
    assert cohort.images["dx_type"].tolist() == ["histo", "histo", "follow_up", "histo"]


@pytest.mark.parametrize(
    ("places", "name"),
    [
        (["HAM10000_images_part_1"] * 2 + ["HAM10000_images_part_2"] * 2, "HAM10000_metadata.csv"),
        (["ham10000_images_part_1"] * 2 + ["ham10000_images_part_2"] * 2, "HAM10000_metadata"),
        (["images"] * 4, "HAM10000_metadata.tab"),
        (["dataverse_files/HAM10000_images_part_1"] * 4, "HAM10000_metadata.tab"),
    ],
)
def test_published_layouts(tmp_path, places, name):
    cohort = import_source(
        "ham10000", make_raw(tmp_path / "raw", places, name), tmp_path / "cohort"
    )
    assert [cohort.read_image(i) for i in range(4)] == [jpeg(i) for i in range(1, 5)]


def test_the_same_parts_under_two_names(tmp_path):
    """A widespread copy of the archive holds each part twice."""
    places = ["HAM10000_images_part_1"] * 2 + ["HAM10000_images_part_2"] * 2
    raw = make_raw(tmp_path / "raw", places)
    for number in (1, 2):
        copy = raw / f"ham10000_images_part_{number}"
        copy.mkdir(exist_ok=True)
        for path in (raw / f"HAM10000_images_part_{number}").iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
    assert len(import_source("ham10000", raw, tmp_path / "cohort")) == 4


@pytest.mark.real_data
def test_the_real_part(real_data, tmp_path):
    cohort = import_source("ham10000", real_data / "ham10000", tmp_path / "cohort")
    assert len(cohort) == 6035
    assert cohort.images["label"].value_counts().to_dict() == {
        **{"nv": 4347, "bkl": 593, "mel": 499, "bcc": 269},
        **{"akiec": 184, "vasc": 81, "df": 62},
    }
    assert cohort.lesions["lesion_id"].tolist() == cohort.patients["patient_id"].tolist()
    assert (cohort.patients["age"] == 0).any()
    assert cohort.patients["age"].isna().any()
    assert "unknown" not in set(cohort.patients["sex"].dropna())
    assert "unknown" not in set(cohort.lesions["localization"].dropna())
    report = cohort.info.import_report
    assert (report["rows"], report["absent"], report["corrupt"]) == (10015, 3980, 0)
    assert report["conflicting_labels"] == 0
