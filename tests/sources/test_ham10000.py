"""HAM10000: a lesion stands for a patient; traps imitated, and the real part where at hand."""

from __future__ import annotations

import csv
import io
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from slimp.data.cohort import Cohort
from slimp.errors import TableError
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


def pack(folder: Path, target: Path) -> Path:
    """A zip of all that is in the folder, under paths from the folder on."""
    paths = [path for path in sorted(folder.rglob("*")) if path != target]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, path.relative_to(folder))
    return target


def assert_same(found: Cohort, expected: Cohort) -> None:
    for level in ("images", "lesions", "patients"):
        pd.testing.assert_frame_equal(getattr(found, level), getattr(expected, level))
    assert [found.read_image(i) for i in range(len(expected))] == [
        expected.read_image(i) for i in range(len(expected))
    ]


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


PARTS = ["HAM10000_images_part_1"] * 2 + ["HAM10000_images_part_2"] * 2
LAYOUTS = [
    (PARTS, "HAM10000_metadata.csv"),
    ([part.lower() for part in PARTS], "HAM10000_metadata"),
    (["images"] * 4, "HAM10000_metadata.tab"),
    (["dataverse_files/HAM10000_images_part_1"] * 4, "HAM10000_metadata.tab"),
    (["."] * 4, "HAM10000_metadata.csv"),
]


@pytest.mark.parametrize(("places", "name"), LAYOUTS)
def test_published_layouts(tmp_path, places, name, cohort):
    raw = make_raw(tmp_path / "raw", places, name)
    assert_same(import_source("ham10000", raw, tmp_path / "cohort"), cohort)
    packed = pack(raw, tmp_path / "raw.zip")
    assert_same(import_source("ham10000", packed, tmp_path / "packed"), cohort)


def test_dataverse_as_downloaded(tmp_path, cohort):
    """Part zips with images on top, masks beside them, and a quoted table."""
    raw = make_raw(tmp_path / "raw", PARTS, "HAM10000_metadata.tab")
    for part in set(PARTS):
        pack(raw / part, raw / f"{part}.zip")
        shutil.rmtree(raw / part)
    rows = [line.split(",") for line in TABLE.splitlines()]
    quoted = "\n".join("\t".join(f'"{cell}"' for cell in row) for row in rows)
    (raw / "HAM10000_metadata.tab").write_text(quoted)
    with zipfile.ZipFile(raw / "HAM10000_segmentations_lesion_tschandl.zip", "w") as archive:
        archive.writestr("ISIC_1_segmentation.png", b"a mask")
    (raw / "hmnist_28_28_RGB.csv").write_text("pixel0000,label\n1,2\n")
    found = import_source("ham10000", raw, tmp_path / "cohort")
    assert_same(found, cohort)
    assert found.info.import_report["layout"] == (
        "Harvard Dataverse, or a copy of it; table HAM10000_metadata.tab"
    )


def make_challenge(raw: Path) -> Path:
    """Task 3 of the ISIC 2018 challenge, as downloaded."""
    images = raw / "ISIC2018_Task3_Training_Input"
    images.mkdir(parents=True)
    for number in range(1, 5):
        (images / f"ISIC_{number}.jpg").write_bytes(jpeg(number))
    (images / "ATTRIBUTION.txt").write_text("by")
    pack(raw, raw / "ISIC2018_Task3_Training_Input.zip")
    shutil.rmtree(images)
    truth = raw / "ISIC2018_Task3_Training_GroundTruth"
    truth.mkdir()
    (truth / "ISIC2018_Task3_Training_GroundTruth.csv").write_text(
        "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n"
        "ISIC_1,0.0,0.0,0.0,0.0,1.0,0.0,0.0\nISIC_2,0.0,0.0,0.0,0.0,1.0,0.0,0.0\n"
        "ISIC_3,0.0,1.0,0.0,0.0,0.0,0.0,0.0\nISIC_4,1.0,0.0,0.0,0.0,0.0,0.0,0.0\n"
    )
    (raw / "ISIC2018_Task3_Training_LesionGroupings.csv").write_text(
        "image,lesion_id,diagnosis_confirm_type\nISIC_2,HAM_1,histopathology\n"
        "ISIC_1,HAM_1,histopathology\nISIC_3,HAM_2,serial imaging showing no change\n"
        "ISIC_4,HAM_3,histopathology\n"
    )
    return raw


def test_the_challenge_has_labels_and_lesions_alone(tmp_path, cohort):
    found = import_source("ham10000", make_challenge(tmp_path / "raw"), tmp_path / "cohort")
    for column in ("image_id", "lesion_id", "patient_id", "label"):
        assert found.images[column].tolist() == cohort.images[column].tolist()
    assert [found.read_image(i) for i in range(4)] == [jpeg(i) for i in range(1, 5)]
    assert not list(found.schema.features)
    assert "dx_type" in found.images
    layout = found.info.import_report["layout"]
    assert layout.startswith(
        "ISIC 2018, task 3; table ISIC2018_Task3_Training_GroundTruth/ISIC2018"
    )
    assert layout.endswith("HAM10000_metadata has them; without localization, age, sex")


@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        (
            "ISIC2018_Task3_Training_LesionGroupings.csv",
            r"no table HAM10000_metadata\.csv .*But ISIC2018_.*GroundTruth\.csv is there without "
            r"ISIC2018_Task3_Training_LesionGroupings\.csv \(ISIC 2018, task 3\)",
        ),
        ("ISIC2018_Task3_Training_GroundTruth", r"or ISIC2018_Task3_Training_GroundTruth\.csv"),
    ],
)
def test_what_is_missing_is_named(tmp_path, lacks, message):
    raw = make_challenge(tmp_path / "raw")
    (raw / lacks).rename(tmp_path / lacks)
    with pytest.raises(TableError, match=message):
        import_source("ham10000", raw, tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()


def test_the_archives_download_is_another_source(tmp_path):
    (tmp_path / "metadata.csv").write_text("isic_id,diagnosis\nISIC_1,nevus\n")
    with pytest.raises(TableError, match=r"is a download from the ISIC Archive\. .* source isic"):
        import_source("ham10000", tmp_path, tmp_path / "cohort")


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
    packed = pack(raw, tmp_path / "archive.zip")
    assert len(import_source("ham10000", packed, tmp_path / "packed")) == 4


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


@pytest.mark.real_data
def test_the_real_part_packed(real_data, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    images = sorted((real_data / "ham10000" / "images").iterdir())
    for part in (0, 1):
        with zipfile.ZipFile(raw / f"HAM10000_images_part_{part + 1}.zip", "w") as archive:
            for path in images[part::2]:
                archive.write(path, path.name)
    table = pd.read_csv(
        real_data / "ham10000" / "HAM10000_metadata.csv", dtype="str", keep_default_na=False
    )
    table.to_csv(raw / "HAM10000_metadata.tab", sep="\t", index=False, quoting=csv.QUOTE_ALL)
    found = import_source("ham10000", pack(raw, tmp_path / "ham.zip"), tmp_path / "cohort")
    expected = import_source("ham10000", real_data / "ham10000", tmp_path / "expected")
    assert_same(found, expected)
