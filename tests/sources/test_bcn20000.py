"""BCN20000 from the archive, from figshare, and out of the ISIC 2019 challenge."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from slimp.errors import TableError
from slimp.sources import import_source
from slimp.sources.importer import ImportOptions

OWN = ImportOptions(missing_patient_id="one-each")

FIGSHARE = """bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split
BCN_0000000001.jpg,55.0,anterior torso,MEL,BCN_0003884,2012-05-16,male,train
BCN_0000000003.jpg,50.0,anterior torso,MEL,BCN_0000019,2015-07-09,female,train
BCN_0000000004.jpg,85.0,head/neck,SCC,BCN_0003499,2015-11-23,male,train
BCN_0000000005.jpg,,,BKL,BCN_0003499,2015-11-23,male,train
"""
TEST = """bcn_filename,age_approx,anatom_site_general,lesion_id,capture_date,sex
BCN_0000000002.jpg,70.0,lower extremity,BCN_0000555,2012-05-16,male
"""
METADATA_2019 = """image,age_approx,anatom_site_general,lesion_id,sex
ISIC_0000000,55.0,anterior torso,,female
ISIC_0000001_downsampled,30.0,anterior torso,MSK4_0011169,female
ISIC_0024306,45.0,,HAM_0000550,male
ISIC_0053453,60.0,upper extremity,BCN_0001728,male
ISIC_0053454,60.0,upper extremity,BCN_0001728,male
ISIC_0053455,80.0,head/neck,BCN_0001729,female
"""
TRUTH_2019 = """image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK
ISIC_0053455,0.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_0000000,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_0000001_downsampled,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_0024306,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_0053453,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
ISIC_0053454,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0
"""
# Since 2025; each row is an image with its site and diagnosis, level by level.
ARCHIVE = """isic_id,attribution,copyright_license,age_approx,anatom_site_1,anatom_site_2,\
anatom_site_special,concomitant_biopsy,diagnosis_1,diagnosis_2,diagnosis_3,diagnosis_confirm_type,\
image_type,lesion_id,melanocytic,sex
ISIC_1,BCN,CC-BY-NC,55,Trunk,Anterior trunk,,True,Malignant,\
Malignant melanocytic proliferations (Melanoma),"Melanoma, NOS",histopathology,\
dermoscopic,IL_1,True,male
ISIC_2,BCN,CC-BY-NC,55,Trunk,,,True,Benign,Benign soft tissue proliferations - Vascular,,\
histopathology,dermoscopic,IL_2,False,male
ISIC_3,BCN,CC-BY-NC,50,Lower extremity,,acral palms or soles,,Benign,\
Benign melanocytic proliferations,Nevus,,dermoscopic,IL_3,True,female
ISIC_4,BCN,CC-BY-NC,50,Head and neck,,,True,Benign,\
Benign soft tissue proliferations - Fibro-histiocytic,Scar,histopathology,\
dermoscopic,IL_3,False,female
ISIC_5,BCN,CC-BY-NC,,,,,,,,,,dermoscopic,,,
"""


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 8), (shade, 90, 70)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(folder: Path, text: dict[str, str], images: dict[str, int]) -> Path:
    for name, content in text.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    for name, shade in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(shade))
    return folder


def figshare(folder: Path, place: str = "BCN_20k_train/bcn_20k_train") -> Path:
    images = {f"{place}/BCN_000000000{k}.jpg": k for k in (1, 3, 4, 5)}
    images[f"{place.replace('train', 'test')}/BCN_0000000002.jpg"] = 2
    return write(folder, {"bcn_20k_train.csv": FIGSHARE, "bcn_20k_test.csv": TEST}, images)


def challenge(folder: Path) -> Path:
    names = [line.split(",")[0] for line in METADATA_2019.splitlines()[1:]]
    place = "ISIC_2019_Training_Input/ISIC_2019_Training_Input"
    images = {f"{place}/{name}.jpg": shade for shade, name in enumerate(names)}
    tables = {
        "ISIC_2019_Training_Metadata.csv": METADATA_2019,
        "ISIC_2019_Training_GroundTruth.csv": TRUTH_2019,
    }
    return write(folder, tables, images)


def archive(folder: Path) -> Path:
    images = {f"ISIC_{k}.jpg": k for k in range(1, 6)}
    return write(folder, {"metadata.csv": ARCHIVE, "attribution.txt": "BCN"}, images)


def pack(folder: Path) -> Path:
    """A zip of all that is in the folder, under paths from the folder on."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))
    return folder.with_suffix(".zip")


@pytest.mark.parametrize("make", [figshare, challenge, archive])
def test_packed_as_unpacked(tmp_path, make):
    raw = make(tmp_path / "raw")
    expected = import_source("bcn20000", raw, tmp_path / "a", options=OWN)
    found = import_source("bcn20000", pack(raw), tmp_path / "b", options=OWN)
    for level in ("images", "lesions", "patients"):
        pd.testing.assert_frame_equal(getattr(found, level), getattr(expected, level))
    rows = range(len(expected))
    assert [found.read_image(k) for k in rows] == [expected.read_image(k) for k in rows]


def test_figshare_has_both_parts(tmp_path):
    cohort = import_source("bcn20000", figshare(tmp_path / "raw"), tmp_path / "cohort")
    assert cohort.images["split"].tolist() == ["train"] * 4 + ["test"]
    assert cohort.images["label"].fillna("-").tolist() == ["MEL", "MEL", "SCC", "BKL", "-"]
    assert cohort.images["image_id"].tolist() == [f"BCN_000000000{k}" for k in (1, 3, 4, 5, 2)]
    assert [cohort.read_image(k) for k in range(5)] == [jpeg(k) for k in (1, 3, 4, 5, 2)]
    assert cohort.patients["patient_id"].tolist() == cohort.lesions["lesion_id"].tolist()
    assert cohort.patients["age_approx"].tolist() == [55, 50, 85, 70]
    assert "capture_date" in cohort.schema.refused
    assert cohort.info.import_report["layout"] == (
        "figshare; table bcn_20k_train.csv and bcn_20k_test.csv; the test part has no labels; "
        "patient_id from lesion_id or isic_id; without anatom_site_special"
    )


def test_figshare_names_a_table(tmp_path):
    raw = figshare(tmp_path / "raw", place="bcn_images")
    cohort = import_source("bcn20000", raw, tmp_path / "cohort", table="bcn_20k_train.csv")
    assert cohort.images["split"].tolist() == ["train"] * 4


def test_the_challenge_mixes_archives(tmp_path):
    cohort = import_source("bcn20000", challenge(tmp_path / "raw"), tmp_path / "cohort")
    assert cohort.images["image_id"].tolist() == ["ISIC_0053453", "ISIC_0053454", "ISIC_0053455"]
    assert cohort.images["label"].tolist() == ["MEL", "MEL", "BCC"]
    assert cohort.lesions["lesion_id"].tolist() == ["BCN_0001728", "BCN_0001729"]
    assert [cohort.read_image(k) for k in range(3)] == [jpeg(k) for k in (3, 4, 5)]
    layout = cohort.info.import_report["layout"]
    assert (
        "the challenge mixes three archives, and rows without a lesion id cannot be told" in layout
    )
    assert "3 of 6 rows, whose lesion_id begins with BCN_" in layout
    assert cohort.schema.split is None


def test_the_challenge_without_the_ground_truth(tmp_path):
    raw = challenge(tmp_path / "raw")
    (raw / "ISIC_2019_Training_GroundTruth.csv").unlink()
    with pytest.raises(TableError, match=r"is there without ISIC_2019_Training_GroundTruth\.csv"):
        import_source("bcn20000", raw, tmp_path / "cohort")


def test_the_challenge_without_any_of_its_rows(tmp_path):
    raw = challenge(tmp_path / "raw")
    table = raw / "ISIC_2019_Training_Metadata.csv"
    table.write_text(METADATA_2019.replace("BCN_", "HAM_"))
    with pytest.raises(TableError, match="no cell of 'lesion_id' begins with 'BCN_'"):
        import_source("bcn20000", raw, tmp_path / "cohort")


def test_the_archive(tmp_path):
    cohort = import_source("bcn20000", archive(tmp_path / "raw"), tmp_path / "cohort", options=OWN)
    assert cohort.images["label"].fillna("-").tolist() == ["MEL", "VASC", "NV", "-", "-"]
    assert cohort.lesions["anatom_site_general"].fillna("-").tolist()[:2] == [
        "anterior torso",
        "torso",
    ]
    assert cohort.patients["patient_id"].tolist() == ["IL_1", "IL_2", "IL_3", "ISIC_5"]
    assert cohort.classes == ("MEL", "NV", "VASC")
    assert "split" not in cohort.images


def test_the_archive_with_patients(tmp_path):
    """Should the archive give patients, they are used, and an empty cell is not guessed at."""
    raw = archive(tmp_path / "raw")
    table = pd.read_csv(raw / "metadata.csv", dtype="str", keep_default_na=False)
    table["patient_id"] = ["IP_1", "IP_1", "IP_2", "IP_2", "IP_3"]
    table.to_csv(raw / "metadata.csv", index=False)
    cohort = import_source("bcn20000", raw, tmp_path / "cohort")
    assert cohort.patients["patient_id"].tolist() == ["IP_1", "IP_2", "IP_3"]
    table.loc[4, "patient_id"] = ""
    table.to_csv(raw / "metadata.csv", index=False)
    with pytest.raises(TableError, match=r"row 6: the patient column 'patient_id' is empty"):
        import_source("bcn20000", raw, tmp_path / "again")


def test_the_archives_old_names(tmp_path):
    raw = archive(tmp_path / "raw")
    names = ["melanoma metastasis", "vascular lesion", "nevus", "scar", ""]
    table = pd.read_csv(raw / "metadata.csv", dtype="str", keep_default_na=False)
    table.assign(diagnosis=names).to_csv(raw / "metadata.csv", index=False)
    cohort = import_source("bcn20000", raw, tmp_path / "cohort", options=OWN)
    assert cohort.images["label"].fillna("-").tolist() == ["MEL", "VASC", "NV", "-", "-"]
