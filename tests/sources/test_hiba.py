"""HIBA: the archive's table as it was until 2025 and as it is since then give the same cohort."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from slimp.data.cohort import Cohort
from slimp.errors import TableError
from slimp.sources import import_source

# The columns of the archive's download, in its order, before and since it dropped `diagnosis`.
OLD = [
    *("isic_id", "attribution", "copyright_license", "age_approx", "anatom_site_general"),
    *("anatom_site_special", "benign_malignant", "concomitant_biopsy", "dermoscopic_type"),
    *("diagnosis", "diagnosis_1", "diagnosis_2", "diagnosis_3", "diagnosis_confirm_type"),
    *("family_hx_mm", "fitzpatrick_skin_type", "image_type", "lesion_id", "patient_id"),
    *("personal_hx_mm", "sex"),
]
NEW = [
    *("isic_id", "attribution", "copyright_license", "age_approx", "anatom_site_1"),
    *("anatom_site_2", "anatom_site_special", "concomitant_biopsy", "dermoscopic_type"),
    *("diagnosis_1", "diagnosis_2", "diagnosis_3", "diagnosis_confirm_type", "family_hx_mm"),
    *("fitzpatrick_skin_type", "image_type", "lesion_id", "patient_id", "personal_hx_mm", "sex"),
]
COMMON = {
    "attribution": "Hospital Italiano de Buenos Aires",
    "copyright_license": "CC-BY",
    "diagnosis_confirm_type": "histopathology",
    "concomitant_biopsy": "True",
    "image_type": "dermoscopic",
    "dermoscopic_type": "contact polarized",
    "sex": "female",
    "fitzpatrick_skin_type": "II",
}


def row(number: int, lesion: str, patient: str, **cells: str) -> dict[str, str]:
    return COMMON | {
        "isic_id": f"ISIC_{number:07}",
        "lesion_id": f"IL_{lesion}",
        "patient_id": f"IP_{patient}",
        **cells,
    }


MELANOMA = {
    "benign_malignant": "malignant",
    "diagnosis": "melanoma",
    "diagnosis_1": "Malignant",
    "diagnosis_2": "Malignant melanocytic proliferations (Melanoma)",
    "diagnosis_3": "Melanoma, NOS",
}
NEVUS = {
    "benign_malignant": "benign",
    "diagnosis": "nevus",
    "diagnosis_1": "Benign",
    "diagnosis_2": "Benign melanocytic proliferations",
    "diagnosis_3": "Nevus",
}
VASCULAR = {
    "benign_malignant": "benign",
    "diagnosis": "vascular lesion",
    "diagnosis_1": "Benign",
    "diagnosis_2": "Benign soft tissue proliferations - Vascular",
}
BACK = {
    "anatom_site_general": "posterior torso",
    "anatom_site_1": "Trunk",
    "anatom_site_2": "Posterior trunk",
}
HEAD = {"anatom_site_general": "head/neck", "anatom_site_1": "Head and neck"}
FOOT = {
    "anatom_site_general": "lower extremity",
    "anatom_site_1": "Lower extremity",
    "anatom_site_2": "Foot",
    "anatom_site_special": "acral palms or soles",
}
CLINICAL = {"image_type": "clinical: overview", "dermoscopic_type": ""}
ROWS = [
    row(1, "1", "1", **MELANOMA, **BACK, age_approx="60", family_hx_mm="True"),
    row(2, "1", "1", **MELANOMA, **BACK, **CLINICAL, age_approx="60", family_hx_mm="True"),
    row(3, "2", "1", **NEVUS, **HEAD, age_approx="60", personal_hx_mm="False"),
    row(4, "3", "2", **VASCULAR, **FOOT, age_approx="", sex="", fitzpatrick_skin_type=""),
    row(5, "4", "3", **NEVUS, age_approx="35.0"),
]


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 8), (shade, 90, 70)).save(buffer, "JPEG")
    return buffer.getvalue()


def make_raw(folder: Path, columns: list[str], *, images: str = ".") -> Path:
    """As `isic image download` leaves it."""
    (folder / images).mkdir(parents=True)
    table = pd.DataFrame(ROWS).reindex(columns=columns).fillna("")
    table.to_csv(folder / "metadata.csv", index=False, lineterminator="\r\n")
    (folder / "attribution.txt").write_text("Hospital Italiano de Buenos Aires")
    (folder / "licenses").mkdir()
    (folder / "licenses" / "CC-BY.txt").write_text("...")
    for number in range(1, 6):
        (folder / images / f"ISIC_{number:07}.jpg").write_bytes(jpeg(number))
    return folder


@pytest.fixture(scope="module", params=[OLD, NEW], ids=["until 2025", "since 2025"])
def cohort(request, tmp_path_factory) -> Cohort:
    folder = tmp_path_factory.mktemp("hiba")
    return import_source("hiba", make_raw(folder / "raw", request.param), folder / "cohort")


def test_images_lesions_and_patients(cohort):
    assert cohort.images["image_id"].tolist() == [f"ISIC_{k:07}" for k in range(1, 6)]
    assert cohort.images["lesion_id"].tolist() == ["IL_1", "IL_1", "IL_2", "IL_3", "IL_4"]
    assert cohort.patients["patient_id"].tolist() == ["IP_1", "IP_2", "IP_3"]
    assert [cohort.read_image(k) for k in range(5)] == [jpeg(k) for k in range(1, 6)]


def test_labels_are_the_same_before_and_after(cohort):
    assert cohort.images["label"].tolist() == [
        *("melanoma", "melanoma", "nevus", "vascular lesion", "nevus")
    ]


def test_sites_are_the_same_before_and_after(cohort):
    sites = cohort.lesions["anatom_site_general"].fillna("-").tolist()
    assert sites == ["posterior torso", "head/neck", "lower extremity", "-"]
    special = cohort.lesions["anatom_site_special"].fillna("-").tolist()
    assert special == ["-", "-", "acral palms or soles", "-"]


def test_patients(cohort):
    assert cohort.patients["age_approx"].fillna(-1).tolist() == [60, -1, 35]
    assert cohort.patients["sex"].fillna("-").tolist() == ["female", "-", "female"]
    assert cohort.patients["fitzpatrick_skin_type"].fillna("-").tolist() == ["II", "-", "II"]
    assert cohort.patients["family_hx_mm"].fillna(False).tolist() == [True, False, False]
    assert cohort.patients["personal_hx_mm"].isna().tolist() == [False, True, True]


def test_a_lesion_photographed_in_two_ways_has_one_type(cohort):
    found = {entry["column"]: entry for entry in cohort.info.import_report["disagreements"]}
    assert set(found) == {"image_type"}
    assert found["image_type"]["count"] == 1


def test_what_gives_the_diagnosis_away_stays_out(cohort):
    inputs = {column for level in cohort.schema.levels for column in level.columns}
    for column in ("diagnosis_2", "concomitant_biopsy", "diagnosis_confirm_type", "attribution"):
        assert column in cohort.images
        assert column not in inputs


def test_the_report_says_where_columns_come_from(cohort):
    layout = cohort.info.import_report["layout"]
    assert layout.startswith("ISIC Archive; table metadata.csv")
    derived = "diagnosis from diagnosis_3 or diagnosis_2; anatom_site_general from anatom_site_2 or"
    assert (derived in layout) == ("benign_malignant" not in cohort.images)


@pytest.mark.parametrize("columns", [OLD, NEW])
def test_layouts(tmp_path, columns):
    expected = import_source("hiba", make_raw(tmp_path / "a", columns), tmp_path / "expected")
    apart = make_raw(tmp_path / "b", columns, images="images")
    packed = tmp_path / "hiba-skin-lesions.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted((tmp_path / "a").rglob("*")):
            archive.write(path, f"ISIC-images/{path.relative_to(tmp_path / 'a')}")
    for raw in (apart, packed):
        found = import_source("hiba", raw, tmp_path / "c", overwrite=True)
        for level in ("images", "lesions", "patients"):
            pd.testing.assert_frame_equal(getattr(found, level), getattr(expected, level))


def test_a_partial_download_lacks_columns_that_none_of_its_images_fills(tmp_path):
    raw = make_raw(tmp_path / "raw", [c for c in NEW if c not in ("sex", "dermoscopic_type")])
    cohort = import_source("hiba", raw, tmp_path / "cohort")
    assert {f.name for f in cohort.schema.features}.isdisjoint({"sex", "dermoscopic_type"})
    assert cohort.info.import_report["layout"].endswith("without dermoscopic_type, sex")


def test_another_dataset_is_not_taken_for_it(tmp_path):
    (tmp_path / "metadata.csv").write_text("img_id,patient_id,diagnostic\n1.png,1,MEL\n")
    with pytest.raises(TableError, match=r"metadata\.csv has no column 'isic_id'"):
        import_source("hiba", tmp_path, tmp_path / "c")
