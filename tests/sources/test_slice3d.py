"""SLICE-3D: two tables of different columns, images in HDF5 or folders; and the real fixture."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from slimp.data.cohort import Cohort
from slimp.errors import CohortError, TableError
from slimp.sources import get_source, import_source

SCHEMA = get_source("slice3d").schema()
INPUTS = [column for feature in SCHEMA.features for column in feature.columns]
TRAIN_ONLY = [name for name in SCHEMA.refused if name not in ("attribution", "copyright_license")]


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (91 + shade, 91 + shade), (shade, 90, 70)).save(buffer, "JPEG")
    return buffer.getvalue()


def make_table(part: str, first: int, n: int) -> pd.DataFrame:
    numbers = range(first, first + n)
    table = pd.DataFrame({"isic_id": [f"ISIC_{k}" for k in numbers]})
    for column in INPUTS:
        table[column] = [f"{k}.25" for k in numbers]
    table["patient_id"] = [f"IP_{k // 2}" for k in numbers]
    table["attribution"], table["copyright_license"] = "a hospital", "CC-BY"
    if part == "train":
        table["target"] = ["1" if k == first else "0" for k in numbers]
        for column in TRAIN_ONLY:
            table[column] = ["x" if k == first else "" for k in numbers]
    return table


def make_raw(
    folder: Path, *, how: str = "strings", parts: tuple[str, ...] = ("train", "test")
) -> Path:
    folder.mkdir()
    for part, first, n in (("train", 0, 5), ("test", 5, 3)):
        if part not in parts:
            continue
        make_table(part, first, n).to_csv(folder / f"{part}-metadata.csv", index=False)
        if how == "folder":
            (folder / f"{part}-image" / "image").mkdir(parents=True)
            for k in range(first, first + n):
                (folder / f"{part}-image" / "image" / f"ISIC_{k}.jpg").write_bytes(jpeg(k))
            continue
        with h5py.File(folder / f"{part}-image.hdf5", "w") as file:
            for k in range(first, first + n):
                value = {
                    "strings": np.bytes_(jpeg(k)),
                    "opaque": np.void(jpeg(k)),
                    "bytes": np.frombuffer(jpeg(k), dtype=np.uint8),
                }[how]
                file.create_dataset(f"ISIC_{k}", data=value)
    return folder


def assert_whole(cohort: Cohort) -> None:
    assert cohort.images["image_id"].tolist() == [f"ISIC_{k}" for k in range(8)]
    assert [cohort.read_image(k) for k in range(8)] == [jpeg(k) for k in range(8)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    folder = tmp_path_factory.mktemp("slice3d")
    return import_source("slice3d", make_raw(folder / "raw"), folder / "cohort")


@pytest.mark.parametrize("how", ["strings", "opaque", "bytes", "folder"])
def test_layouts(tmp_path, how):
    assert_whole(import_source("slice3d", make_raw(tmp_path / "raw", how=how), tmp_path / "cohort"))


def test_parts_and_labels(cohort):
    assert cohort.images["split"].tolist() == ["train"] * 5 + ["test"] * 3
    labels = cohort.images["label"].fillna("-").tolist()
    assert labels == ["malignant"] + ["benign"] * 4 + ["-"] * 3
    assert cohort.classes == ("benign", "malignant")


def test_each_image_is_a_lesion_and_patients_have_many(cohort):
    assert cohort.lesions["lesion_id"].tolist() == cohort.images["image_id"].tolist()
    assert cohort.patients["patient_id"].tolist() == ["IP_0", "IP_1", "IP_2", "IP_3"]
    assert "tbp_lv_H" in cohort.lesions
    assert cohort.lesions["tbp_lv_location"].dtype == "str"


def test_columns_of_training_alone_are_never_inputs(cohort):
    inputs = {column for level in cohort.schema.levels for column in level.columns}
    kept = set(cohort.images.columns)
    for column in TRAIN_ONLY:
        assert column not in inputs
        assert (column if column != "lesion_id" else "lesion_id_published") in kept
    assert "lesion_id -> lesion_id_published" in cohort.info.import_report["renamed_columns"]
    assert cohort.images["iddx_full"].tolist() == ["x"] + [""] * 7


def test_the_training_part_alone(tmp_path):
    raw = make_raw(tmp_path / "raw", parts=("train",))
    cohort = import_source("slice3d", raw, tmp_path / "cohort")
    assert set(cohort.images["split"]) == {"train"}


def test_the_test_part_alone_has_no_labels(tmp_path):
    raw = make_raw(tmp_path / "raw", parts=("test",))
    with pytest.raises(TableError, match=r"test-metadata\.csv: there is no column 'target'"):
        import_source("slice3d", raw, tmp_path / "cohort")


def test_a_table_of_another_name(tmp_path):
    raw = make_raw(tmp_path / "raw")
    (raw / "train-metadata.csv").rename(raw / "fold-0.csv")
    cohort = import_source("slice3d", raw, tmp_path / "cohort", table="fold-0.csv")
    assert cohort.images["split"].tolist() == ["train"] * 5


def test_a_broken_hdf5_file_is_named(tmp_path):
    raw = make_raw(tmp_path / "raw")
    file = raw / "train-image.hdf5"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(TableError, match=r"train-image\.hdf5: not a readable HDF5 file"):
        import_source("slice3d", raw, tmp_path / "cohort")


def test_no_images(tmp_path):
    raw = make_raw(tmp_path / "raw")
    for path in raw.glob("*.hdf5"):
        path.unlink()
    with pytest.raises(
        CohortError, match=r"none of the 8 images .*train-image\.hdf5, .*train-image"
    ):
        import_source("slice3d", raw, tmp_path / "cohort")


def pack(folder: Path, target: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
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


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("how", ["strings", "folder"])
def test_the_archive_is_read_in_place(tmp_path, how, method, cohort):
    raw = make_raw(tmp_path / "raw", how=how)
    packed = pack(raw, tmp_path / "isic-2024-challenge.zip", method)
    assert_same(import_source("slice3d", packed, tmp_path / "cohort"), cohort)


def test_kaggle_packs_images_twice(tmp_path, cohort):
    """The whole archive holds an HDF5 file and a folder of the same images."""
    raw = make_raw(tmp_path / "raw", how="folder")
    both = make_raw(tmp_path / "both")
    for path in both.glob("*.hdf5"):
        path.rename(raw / path.name)
    found = import_source("slice3d", pack(raw, tmp_path / "all.zip"), tmp_path / "cohort")
    assert_same(found, cohort)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["ISIC_2024_Training", "ISIC_2024_Permissive_Training"])
@pytest.mark.parametrize("supplement", [False, True])
def test_the_challenges_own_layout(tmp_path, name, packed, supplement):
    raw, table = tmp_path / "raw", make_table("train", 0, 5)
    images = raw / f"{name}_Input"
    images.mkdir(parents=True)
    later = [*TRAIN_ONLY, "target"]
    table.drop(columns=later).to_csv(images / "metadata.csv", index=False)
    for k in range(5):
        (images / f"ISIC_{k}.jpg").write_bytes(jpeg(k))
    if packed:
        with zipfile.ZipFile(raw / f"{name}_Input.zip", "w") as archive:
            for path in images.iterdir():
                archive.write(path, f"{name}_Input/{path.name}")
        shutil.rmtree(images)
    truth = table[["isic_id", "target"]].rename(columns={"target": "malignant"})[::-1]
    truth.assign(malignant=truth["malignant"] + ".0").to_csv(
        raw / f"{name}_GroundTruth.csv", index=False
    )
    if supplement:
        table[["isic_id", *TRAIN_ONLY]].to_csv(raw / f"{name}_Supplement.csv", index=False)
    found = import_source("slice3d", raw, tmp_path / "cohort")
    assert found.images["label"].tolist() == ["malignant"] + ["benign"] * 4
    assert found.images["split"].tolist() == ["train"] * 5
    assert [found.read_image(k) for k in range(5)] == [jpeg(k) for k in range(5)]
    assert ("iddx_full" in found.images) == supplement
    assert found.info.import_report["layout"].startswith("ISIC challenge 2024; table ISIC_2024_")


def test_the_challenge_without_its_labels(tmp_path):
    raw = tmp_path / "raw" / "ISIC_2024_Training_Input"
    raw.mkdir(parents=True)
    make_table("test", 0, 2).to_csv(raw / "metadata.csv", index=False)
    with pytest.raises(TableError, match=r"is there without ISIC_2024_\*Training_GroundTruth\.csv"):
        import_source("slice3d", raw.parent, tmp_path / "cohort")


def test_images_in_other_files_are_not_read(tmp_path):
    raw = make_raw(tmp_path / "raw", parts=("train",))
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file.create_dataset("ISIC_0", data=np.bytes_(jpeg(0)))
    with h5py.File(raw / "train-image.hdf5", "a") as file:
        del file["ISIC_0"]
        file["ISIC_0"] = h5py.ExternalLink(str(tmp_path / "secret.hdf5"), "ISIC_0")
    with pytest.raises(TableError, match=r"hdf5: the image 'ISIC_0' lies in another file"):
        import_source("slice3d", raw, tmp_path / "cohort")


@pytest.mark.real_data
def test_the_real_fixture(real_data, tmp_path):
    cohort = import_source("slice3d", real_data / "slice3d", tmp_path / "cohort")
    assert cohort.images["split"].value_counts().to_dict() == {"train": 5, "test": 3}
    assert cohort.images["label"].value_counts().to_dict() == {"malignant": 3, "benign": 2}
    assert cohort.images.loc[cohort.images["split"] == "test", "label"].isna().all()
    for row in range(8):
        image = Image.open(io.BytesIO(cohort.read_image(row)))
        image.load()
        assert 91 <= min(image.size) <= max(image.size) <= 157
    assert cohort.lesions["tbp_lv_A"].notna().all()
    used = {*INPUTS, *SCHEMA.refused, "isic_id", "patient_id", "target"}
    train = pd.read_csv(real_data / "slice3d" / "train-metadata.csv", nrows=0).columns
    test = pd.read_csv(real_data / "slice3d" / "test-metadata.csv", nrows=0).columns
    assert (len(train), len(test)) == (55, 44)
    assert set(train) - used == {"image_type"}, "the same in every row"
    assert set(INPUTS) <= set(test)


@pytest.mark.real_data
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_real_fixture_packed(real_data, tmp_path, method):
    packed = pack(real_data / "slice3d", tmp_path / "isic-2024-challenge.zip", method)
    found = import_source("slice3d", packed, tmp_path / "cohort")
    assert_same(found, import_source("slice3d", real_data / "slice3d", tmp_path / "expected"))
