"""Any collection of the ISIC Archive: whichever columns it has, and the rule that picks a label."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from slimp.errors import TableError
from slimp.sources import import_source
from slimp.sources.importer import ImportOptions

IDS = [f"ISIC_{k:07}" for k in range(4)]


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 8), (shade, 90, 70)).save(buffer, "JPEG")
    return buffer.getvalue()


def make_raw(folder: Path, columns: dict[str, list[str]]) -> Path:
    folder.mkdir()
    rows = zip(IDS, *columns.values(), strict=True)
    lines = [",".join(["isic_id", *columns]), *(",".join(row) for row in rows)]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    for shade, name in enumerate(IDS):
        (folder / f"{name}.jpg").write_bytes(jpeg(shade))
    return folder


@pytest.mark.parametrize(
    ("columns", "labels", "origin"),
    [
        (
            {
                "diagnosis": ["nevus", "melanoma", "", "nevus"],
                "diagnosis_1": ["Benign", "Malignant", "Benign", "Benign"],
                "diagnosis_3": ["Nevus", "Melanoma Invasive", "", "Nevus"],
            },
            ["nevus", "melanoma", "-", "nevus"],
            "",
        ),
        (
            {
                "diagnosis_1": ["Benign", "Malignant", "Benign", "Benign"],
                "diagnosis_2": ["Benign melanocytic proliferations", "x", "Vascular", ""],
                "diagnosis_3": ["Nevus", "Melanoma Invasive", "", ""],
            },
            ["Nevus", "Melanoma Invasive", "Vascular", "-"],
            "diagnosis from diagnosis_3 or diagnosis_2",
        ),
        (
            {"benign_malignant": ["benign", "malignant", "", "benign"]},
            ["benign", "malignant", "-", "benign"],
            "diagnosis from benign_malignant",
        ),
        (
            {
                "diagnosis_1": ["Benign", "Malignant", "", "Benign"],
                "diagnosis": ["", "", "", ""],
                "diagnosis_3": ["", "", "", ""],
            },
            ["Benign", "Malignant", "-", "Benign"],
            "diagnosis from diagnosis_1",
        ),
    ],
)
def test_the_label_is_the_first_that_the_collection_gives(tmp_path, columns, labels, origin):
    cohort = import_source("isic", make_raw(tmp_path / "raw", columns), tmp_path / "cohort")
    assert cohort.images["label"].fillna("-").tolist() == labels
    assert origin in cohort.info.import_report["layout"]


def test_a_collection_may_hold_images_alone(tmp_path):
    raw = make_raw(tmp_path / "raw", {"copyright_license": ["CC-0"] * 4})
    cohort = import_source("isic", raw, tmp_path / "cohort")
    assert (len(cohort), len(cohort.lesions), len(cohort.patients)) == (4, 4, 4)
    assert cohort.schema.label is None
    assert not list(cohort.schema.features)
    layout = cohort.info.import_report["layout"]
    assert "without anatom_site_general, anatom_site_special" in layout
    assert layout.endswith("lesion_id, patient_id, diagnosis")


def test_columns_that_are_there_become_features(tmp_path):
    columns = {
        "age_approx": ["45", "", "60", "60"],
        "sex": ["male", "", "female", "female"],
        "clin_size_long_diam_mm": ["2.5", "", "", "3"],
        "anatom_site_1": ["Trunk", "Upper extremity", "", "Head and neck"],
        "anatom_site_2": ["Lateral trunk", "Hand", "", "Head"],
        "anatom_site_3": ["", "Palm of hand", "", "Face"],
        "anatom_site_4": ["", "", "", "Mouth"],
        "lesion_id": ["IL_1", "IL_2", "IL_3", "IL_3"],
        "patient_id": ["IP_1", "IP_1", "IP_2", "IP_2"],
        "diagnosis_3": ["Nevus"] * 4,
        "melanocytic": ["True"] * 4,
    }
    cohort = import_source("isic", make_raw(tmp_path / "raw", columns), tmp_path / "cohort")
    names = {feature.name for feature in cohort.schema.features}
    assert names == {"age_approx", "sex", "clin_size_long_diam_mm", "anatom_site_general"}
    assert cohort.lesions["anatom_site_general"].tolist() == [
        *("lateral torso", "palms/soles", "oral/genital")
    ]
    assert cohort.patients["age_approx"].tolist() == [45, 60]
    assert cohort.images["melanocytic"].tolist() == ["True"] * 4


def test_ids_that_some_images_lack(tmp_path):
    columns = {"lesion_id": ["IL_1", "", "IL_1", ""], "patient_id": ["IP_1", "", "", "IP_2"]}
    raw = make_raw(tmp_path / "raw", columns)
    with pytest.raises(
        TableError, match=r"'patient_id' is empty, as in 2 row.*--missing-patient-id one-each"
    ):
        import_source("isic", raw, tmp_path / "cohort")
    own = ImportOptions(missing_patient_id="one-each")
    cohort = import_source("isic", raw, tmp_path / "cohort", options=own)
    assert cohort.images["patient_id"].tolist() == [
        "IP_1",
        f"lesion:image:{IDS[1]}",
        "IP_1",
        "IP_2",
    ]


def test_the_website_packs_a_collection(tmp_path):
    raw = make_raw(tmp_path / "raw", {"diagnosis_3": ["Nevus"] * 4})
    with zipfile.ZipFile(tmp_path / "ISIC-images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(raw.iterdir()):
            archive.write(path, f"ISIC-images/{path.name}")
        archive.writestr("ISIC-images/licenses/CC-0.txt", "...")
    cohort = import_source("isic", tmp_path / "ISIC-images.zip", tmp_path / "cohort")
    assert [cohort.read_image(k) for k in range(4)] == [jpeg(k) for k in range(4)]


def test_two_downloads_in_one_folder_are_not_mixed(tmp_path):
    (tmp_path / "raw").mkdir()
    make_raw(tmp_path / "raw" / "a", {"diagnosis_3": ["Nevus"] * 4})
    make_raw(tmp_path / "raw" / "b", {"diagnosis_3": ["Scar"] * 4})
    with pytest.raises(
        TableError, match=r"a/metadata\.csv and .*b/metadata\.csv differ\. Name one"
    ):
        import_source("isic", tmp_path / "raw", tmp_path / "cohort")
    chosen = {"table": "b/metadata.csv", "images": "b"}
    cohort = import_source("isic", tmp_path / "raw", tmp_path / "cohort", **chosen)
    assert cohort.classes == ("Scar",)
