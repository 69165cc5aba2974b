"""PAD-UFES-20: each trap of the published table, imitated, and the real part where at hand."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from slimp.data.cohort import Cohort
from slimp.errors import TableError
from slimp.sources import get_source, import_source

HEADER = [
    *("patient_id", "lesion_id", "smoke", "drink", "background_father", "background_mother"),
    *("age", "pesticide", "gender", "skin_cancer_history", "cancer_history", "has_piped_water"),
    *("has_sewage_system", "fitspatrick", "region", "diameter_1", "diameter_2", "diagnostic"),
    *("itch", "grew", "hurt", "changed", "bleed", "elevation", "img_id", "biopsed"),
]
BLOCK = [c for c in HEADER[2:17] if c not in ("age", "region")]  # empty together in the real table
FULL = {
    **dict.fromkeys(["smoke", "pesticide", "skin_cancer_history", "has_piped_water"], "True"),
    **dict.fromkeys(["drink", "cancer_history", "has_sewage_system"], "False"),
    "background_father": "BRASIL",
    "background_mother": "BRAZIL",
    "age": "55",
    "gender": "FEMALE",
    "fitspatrick": "3.0",
    "region": "NOSE",
    "diameter_1": "6.0",
    "diameter_2": "5.0",
    **dict.fromkeys(["itch", "grew", "hurt", "changed", "bleed", "elevation"], "False"),
    "biopsed": "True",
}


def row(name: str, patient: str, lesion: str, diagnosis: str, **changes: str) -> dict[str, str]:
    ids = {"patient_id": patient, "lesion_id": lesion, "img_id": name, "diagnostic": diagnosis}
    return FULL | ids | changes


ROWS = [
    row("PAT_1_7_100.png", "PAT_1", "7", "BCC", age="70", itch="UNK"),
    row("PAT_1_7_200.png", "PAT_1", "7", "BCC", age="71", background_father="UNK"),
    row("PAT_1_8_300.png", "PAT_1", "8", "ACK", age="74", biopsed="False"),
    # the same lesion id as another patient's, and the block of columns that nobody asked
    row(
        "PAT_2_7_400.png", "PAT_2", "7", "NEV", **dict.fromkeys(BLOCK, ""), age="8", biopsed="False"
    ),
    row("PAT_3_9_500.png", "PAT_3", "9", "MEL", background_mother="BRASIL"),
    row("PAT_4_1_600.png", "PAT_4", "1", "SEK"),  # its image is absent
]


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 8), (shade, 90, 70)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def pack(folder: Path, target: Path, method: int = zipfile.ZIP_STORED) -> Path:
    """A zip of all that is in the folder, under paths from the folder on."""
    with zipfile.ZipFile(target, "w", method) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def assert_same(found: Cohort, expected: Cohort) -> None:
    for level in ("images", "lesions", "patients"):
        pd.testing.assert_frame_equal(getattr(found, level), getattr(expected, level))
    assert [found.read_image(i) for i in range(len(expected))] == [
        expected.read_image(i) for i in range(len(expected))
    ]


def make_raw(folder: Path, places: list[str]) -> Path:
    """The table, and the image of row k in the k-th place."""
    folder.mkdir()
    frame = pd.DataFrame(ROWS)[HEADER]
    frame.to_csv(folder / "metadata.csv", index=False, lineterminator="\r\n")
    for shade, (place, entry) in enumerate(zip(places, ROWS, strict=False)):
        write(folder / place / entry["img_id"].replace(".png", ".jpg"), jpeg(shade))
        write(folder / "masks" / entry["img_id"], b"a mask is no photograph")
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    folder = tmp_path_factory.mktemp("pad")
    return import_source("pad-ufes-20", make_raw(folder / "raw", ["images"] * 5), folder / "cohort")


def test_lesion_ids_are_unique_only_within_a_patient(cohort):
    assert cohort.lesions["lesion_id"].tolist() == ["PAT_1/7", "PAT_1/8", "PAT_2/7", "PAT_3/9"]
    assert cohort.info.import_report["lesion_ids"].startswith("patient/lesion")


def test_images_are_joined_by_stem(cohort):
    assert cohort.images["image_id"].iloc[0] == "PAT_1_7_100"
    assert [cohort.read_image(i) for i in range(5)] == [jpeg(i) for i in range(5)]


def test_absent_images_are_counted_and_their_patients_vanish(cohort):
    assert cohort.info.import_report["absent"] == 1
    assert "PAT_4" not in set(cohort.patients["patient_id"])


def test_fewer_images_than_published_are_a_warning(cohort):
    assert "5 of 2,298 published images are here" in cohort.info.import_report["warnings"]


def test_ages_that_differ_are_settled_stated_and_counted(cohort):
    found = {entry["column"]: entry for entry in cohort.info.import_report["disagreements"]}
    assert set(found) == {"age"}
    assert found["age"]["count"] == 1
    assert found["age"]["rule"] == "median"
    assert found["age"]["example"] == "PAT_1: 70, 71, 74 -> 71"
    assert cohort.patients["age"].tolist() == [71, 8, 55]


def test_both_spellings_of_missing(cohort):
    patients = cohort.patients.set_index("patient_id")
    assert patients.loc["PAT_2", BLOCK[:3]].isna().all()
    assert patients.loc["PAT_1", "background_father"] == "BRASIL", "UNK has no say"
    itch = cohort.lesions.set_index("lesion_id")["itch"]
    assert itch["PAT_1/7"] == False  # noqa: E712 - the other image of the lesion knows
    spellings = cohort.info.import_report["missing_spellings"]
    assert spellings["background_father"] == {"": 1, "UNK": 1}
    assert spellings["itch"] == {"UNK": 1}


def test_two_spellings_of_one_country(cohort):
    assert cohort.patients["background_mother"].dropna().tolist() == ["BRASIL", "BRASIL"]


def test_skin_type_is_a_category_whatever_its_decimals(cohort):
    assert cohort.patients["fitspatrick"].dropna().tolist() == ["3", "3"]


def test_biopsed_is_kept_for_the_check_and_never_an_input(cohort):
    assert cohort.images["biopsed"].tolist() == ["True", "True", "False", "False", "True"]
    assert "biopsed" in cohort.schema.refused
    assert "biopsed" not in {c for level in cohort.schema.levels for c in level.columns}


LAYOUTS = [
    ["imgs_part_1", "imgs_part_1", "imgs_part_2", "imgs_part_3", "imgs_part_3"],
    ["imgs_part_1/imgs_part_1"] * 3 + ["imgs_part_2/imgs_part_2"] * 2,
    ["images/imgs_part_1"] * 2 + ["images/imgs_part_2"] * 3,
    ["zr7vgbcyr2-1/imgs_part_1"] * 5,
    ["all_images/imgs_part_1"] * 5,
]


@pytest.mark.parametrize("places", LAYOUTS)
def test_published_layouts(tmp_path, places, cohort):
    found = import_source("pad-ufes-20", make_raw(tmp_path / "raw", places), tmp_path / "cohort")
    assert_same(found, cohort)


@pytest.mark.parametrize("places", LAYOUTS)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_archive_is_read_in_place(tmp_path, places, method, cohort):
    """As Mendeley Data packs it: a zip that holds the parts as zips."""
    raw = make_raw(tmp_path / "raw", places)
    for part in sorted(raw.rglob("imgs_part_*")):
        if part.is_dir() and "imgs_part" not in part.parent.name:
            pack(part, part.with_suffix(".zip"), method)
            shutil.rmtree(part)
    pack(raw, tmp_path / "zr7vgbcyr2-1.zip", method)
    before = sorted(tmp_path.iterdir())
    found = import_source("pad-ufes-20", tmp_path / "zr7vgbcyr2-1.zip", tmp_path / "cohort")
    assert_same(found, cohort)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "cohort"])
    assert found.info.import_report["layout"].startswith("Mendeley Data, or a copy of it; table m")


def test_the_table_of_a_copy_holds_paths(tmp_path, cohort):
    """A copy on Kaggle names images by their path."""
    places = ["imgs_part_1/imgs_part_1"] * 3 + ["imgs_part_2/imgs_part_2"] * 2
    raw = make_raw(tmp_path / "raw", places)
    table = pd.read_csv(raw / "metadata.csv", dtype="str", keep_default_na=False)
    table["img_id"] = [
        f"{place}/{name}" for place, name in zip([*places, "x"], table["img_id"], strict=True)
    ]
    table.to_csv(raw / "metadata.csv", index=False)
    found = import_source("pad-ufes-20", raw, tmp_path / "cohort")
    assert [found.read_image(i) for i in range(5)] == [cohort.read_image(i) for i in range(5)]


def test_png_and_jpg(tmp_path):
    raw = make_raw(tmp_path / "raw", ["images"] * 5)
    table = (raw / "metadata.csv").read_text().replace(".png", ".jpg")
    (raw / "metadata.csv").write_text(table)
    for path in (raw / "images").iterdir():
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    assert len(import_source("pad-ufes-20", raw, tmp_path / "cohort")) == 5


def test_the_archives_mirror_is_another_source(tmp_path):
    write(tmp_path / "raw" / "metadata.csv", b"isic_id,diagnosis\nISIC_1,nevus\n")
    with pytest.raises(TableError, match=r"is a download from the ISIC Archive\. .* source isic"):
        import_source("pad-ufes-20", tmp_path / "raw", tmp_path / "cohort")


@pytest.mark.real_data
def test_the_real_part(real_data, tmp_path):
    cohort = import_source("pad-ufes-20", real_data / "pad-ufes-20", tmp_path / "cohort")
    assert (len(cohort), len(cohort.patients), len(cohort.lesions)) == (1039, 757, 926)
    counts = cohort.images["label"].value_counts().to_dict()
    assert counts == {"BCC": 345, "ACK": 280, "NEV": 176, "SEK": 135, "SCC": 65, "MEL": 38}
    report = cohort.info.import_report
    assert (report["rows"], report["absent"], report["corrupt"]) == (1843, 804, 0)
    assert report["lesion_ids"].startswith("patient/lesion, because 158 lesion id(s)")
    assert [entry["column"] for entry in report["disagreements"]] == ["age"]
    for column in ("background_father", "background_mother"):
        assert set(report["missing_spellings"][column]) == {"", "UNK"}
        assert "BRAZIL" not in set(cohort.patients[column].dropna())
        assert "BRASIL" in set(cohort.patients[column].dropna())
    malignant = cohort.images["label"].isin(["BCC", "SCC", "MEL"])
    assert cohort.images.loc[malignant, "biopsed"].eq("True").all(), "the leak is in sight"
    image = np.asarray(Image.open(io.BytesIO(cohort.read_image(0))))
    assert image.shape[2] == 3
    assert min(image.shape[:2]) <= 160
    parts = cohort.split({"train": 0.8, "test": 0.2})
    assert parts["train"].classes == parts["test"].classes == cohort.classes


@pytest.mark.real_data
def test_the_schema_uses_every_column_of_the_real_table(real_data):
    columns = pd.read_csv(real_data / "pad-ufes-20" / "metadata.csv", nrows=0).columns
    schema = get_source("pad-ufes-20").schema()
    used = {c for f in schema.features for c in f.columns} | set(schema.refused)
    assert set(columns) == used | {"img_id", "lesion_id", "patient_id", "diagnostic"}


@pytest.mark.real_data
def test_the_real_part_as_the_published_archive(real_data, tmp_path):
    raw = tmp_path / "raw"
    for number, path in enumerate(sorted((real_data / "pad-ufes-20" / "images").iterdir())):
        part = raw / "images" / f"imgs_part_{number % 3 + 1}"
        part.mkdir(parents=True, exist_ok=True)
        (part / path.name).symlink_to(path)
    for part in sorted((raw / "images").iterdir()):
        pack(part, part.with_suffix(".zip"))
        shutil.rmtree(part)
    (raw / "metadata.csv").symlink_to(real_data / "pad-ufes-20" / "metadata.csv")
    packed = pack(raw, tmp_path / "zr7vgbcyr2-1.zip", zipfile.ZIP_DEFLATED)
    found = import_source("pad-ufes-20", packed, tmp_path / "cohort")
    expected = import_source("pad-ufes-20", real_data / "pad-ufes-20", tmp_path / "expected")
    assert_same(found, expected)
