"""Public datasets: each layout, packed or not, gives the same cohort; traps; the real parts."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from raw_data import fill as write
from raw_data import jpeg
from tables import assert_same, bytes_of

from slimp.data.cohort import Cohort
from slimp.errors import TableError
from slimp.sources import RawFiles, get_source, import_source
from slimp.sources.config import ImportOptions

ONE_EACH = ImportOptions(missing_patient_id="one-each")


def to_csv(rows: list[dict[str, str]], columns: list[str] | None = None) -> str:
    table = pd.DataFrame(rows).reindex(columns=columns or list(rows[0])).fillna("")
    return table.to_csv(index=False, lineterminator="\r\n")


def pack(folder: Path, target: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of all that is in the folder, under paths from the folder on."""
    paths = [path for path in sorted(folder.rglob("*")) if path != target]
    with zipfile.ZipFile(target, "w", method) as archive:
        for path in paths:
            archive.write(path, path.relative_to(folder))
    return target


def pack_folders(raw: Path, pattern: str, method: int = zipfile.ZIP_STORED) -> None:
    """The folders of that name become zips."""
    for folder in sorted(raw.rglob(pattern)):
        if folder.is_dir() and not any(parent.match(pattern) for parent in folder.parents):
            pack(folder, folder.with_suffix(".zip"), method)
            shutil.rmtree(folder)


def cells(cohort: Cohort, level: str, column: str) -> list[object]:
    values = getattr(cohort, level)[column]
    return [None if pd.isna(value) else value for value in values]


# PAD-UFES-20 -------------------------------------------------------------------------------------

PAD = {
    **dict.fromkeys(["smoke", "pesticide", "skin_cancer_history", "has_piped_water"], "True"),
    **dict.fromkeys(["drink", "cancer_history", "has_sewage_system"], "False"),
    **{"background_father": "BRASIL", "background_mother": "BRAZIL", "gender": "FEMALE"},
    **{"fitspatrick": "3.0", "region": "NOSE", "diameter_1": "6.0", "diameter_2": "5.0"},
    **dict.fromkeys(["itch", "grew", "hurt", "changed", "bleed", "elevation"], "False"),
    **{"biopsed": "True", "age": "55"},
}
UNASKED = dict.fromkeys(
    [c for c in list(PAD)[:13] if c != "region"], ""
)  # empty together in the real table


def pad_row(name: str, diagnosis: str, **changes: str) -> dict[str, str]:
    _, patient, lesion, _ = name.split("_")
    ids = {"img_id": f"{name}.png", "patient_id": f"PAT_{patient}", "lesion_id": lesion}
    return PAD | ids | {"diagnostic": diagnosis} | changes


PAD_ROWS = [
    pad_row("PAT_1_7_100", "BCC", age="70", itch="UNK"),
    pad_row("PAT_1_7_200", "BCC", age="71", background_father="UNK"),
    pad_row("PAT_1_8_300", "ACK", age="74", biopsed="False"),
    pad_row(
        "PAT_2_7_400", "NEV", **UNASKED, age="8", biopsed="False"
    ),  # another patient's lesion 7
    pad_row("PAT_3_9_500", "MEL", background_mother="BRASIL"),
    pad_row("PAT_4_1_600", "SEK"),  # its image is absent
]


def pad(folder: Path, places: tuple[str, ...] = ("images",) * 5) -> Path:
    files: dict[str, str | bytes] = {"metadata.csv": to_csv(PAD_ROWS)}
    for shade, (place, row) in enumerate(zip(places, PAD_ROWS, strict=False)):
        files[f"{place}/{row['img_id'].replace('.png', '.jpg')}"] = jpeg(shade)
        files[f"masks/{row['img_id']}"] = b"a mask is no photograph"
    return write(folder, files)


# HAM10000 ----------------------------------------------------------------------------------------

HAM = """lesion_id,image_id,dx,dx_type,age,sex,localization
HAM_1,ISIC_1,bkl,histo,80.0,male,scalp
HAM_1,ISIC_2,bkl,histo,80.0,male,unknown
HAM_2,ISIC_3,nv,follow_up,,unknown,unknown
HAM_3,ISIC_4,mel,histo,0.0,female,back
HAM_4,ISIC_5,nv,consensus,45.0,female,trunk
"""
HAM_CLASSES = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


def ham(folder: Path, places: tuple[str, ...] = ("images",) * 4, name: str = "csv") -> Path:
    table = HAM.replace(",", "\t") if name == "tab" else HAM
    images = {f"{place}/ISIC_{n}.jpg": jpeg(n) for n, place in enumerate(places, start=1)}
    return write(folder, {f"HAM10000_metadata.{name}".rstrip("."): table, **images})


def ham_challenge(folder: Path) -> Path:
    rows = [line.split(",") for line in HAM.splitlines()[1:5]]
    truth = [
        {"image": r[1]} | {c: f"{float(c.lower() == r[2])}" for c in HAM_CLASSES} for r in rows
    ]
    lesions = [
        {"image": r[1], "lesion_id": r[0], "diagnosis_confirm_type": r[3]} for r in rows[::-1]
    ]
    return write(
        folder,
        {
            "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv": to_csv(
                truth
            ),
            "ISIC2018_Task3_Training_LesionGroupings.csv": to_csv(lesions),
            **{f"ISIC2018_Task3_Training_Input/ISIC_{n}.jpg": jpeg(n) for n in range(1, 5)},
        },
    )


# SLICE-3D ----------------------------------------------------------------------------------------

SLICE = get_source("slice3d").schema()
INPUTS = [column for feature in SLICE.features for column in feature.columns]
TRAIN_ONLY = [name for name in SLICE.refused if name not in ("attribution", "copyright_license")]


def slice_table(part: str, first: int, n: int) -> pd.DataFrame:
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


def slice3d(folder: Path, how: str = "hdf5", parts: tuple[str, ...] = ("train", "test")) -> Path:
    folder.mkdir(exist_ok=True)
    for part, first, n in (("train", 0, 5), ("test", 5, 3)):
        if part not in parts:
            continue
        slice_table(part, first, n).to_csv(folder / f"{part}-metadata.csv", index=False)
        encoded = {f"ISIC_{k}": jpeg(k) for k in range(first, first + n)}
        if how == "folder":
            write(folder / f"{part}-image" / "image", {f"{k}.jpg": v for k, v in encoded.items()})
            continue
        with h5py.File(folder / f"{part}-image.hdf5", "w") as file:
            for name, value in encoded.items():
                file[name] = np.bytes_(value)
    return folder


def slice_challenge(
    folder: Path, name: str = "ISIC_2024_Training", supplement: bool = True
) -> Path:
    table = slice_table("train", 0, 5)
    truth = table[["isic_id", "target"]].rename(columns={"target": "malignant"})[::-1]
    files: dict[str, str | bytes] = {
        f"{name}_Input/metadata.csv": table.drop(columns=[*TRAIN_ONLY, "target"]).to_csv(
            index=False
        ),
        f"{name}_GroundTruth.csv": truth.assign(malignant=truth["malignant"] + ".0").to_csv(
            index=False
        ),
        **{f"{name}_Input/ISIC_{k}.jpg": jpeg(k) for k in range(5)},
    }
    if supplement:
        files[f"{name}_Supplement.csv"] = table[["isic_id", *TRAIN_ONLY]].to_csv(index=False)
    return write(folder, files)


# HIBA: the archive's columns until 2025, and since it dropped `diagnosis` -------------------------

HIBA = pd.DataFrame(
    {
        "isic_id": [f"ISIC_{k:07}" for k in range(1, 6)],
        "lesion_id": ["IL_1", "IL_1", "IL_2", "IL_3", "IL_4"],
        "patient_id": ["IP_1", "IP_1", "IP_1", "IP_2", "IP_3"],
        "diagnosis": ["melanoma", "melanoma", "nevus", "vascular lesion", "nevus"],
        "diagnosis_1": ["Malignant", "Malignant", "Benign", "Benign", "Benign"],
        "diagnosis_2": ["", "", "", "Benign soft tissue proliferations - Vascular", ""],
        "diagnosis_3": ["Melanoma, NOS", "Melanoma, NOS", "Nevus", "", "Nevus"],
        "anatom_site_general": [*["posterior torso"] * 2, "head/neck", "lower extremity", ""],
        "anatom_site_1": ["Trunk", "Trunk", "Head and neck", "Lower extremity", ""],
        "anatom_site_2": ["Posterior trunk", "Posterior trunk", "", "Foot", ""],
        "anatom_site_special": ["", "", "", "acral palms or soles", ""],
        "age_approx": ["60", "60", "60", "", "35.0"],
        "sex": ["female", "female", "female", "", "female"],
        "fitzpatrick_skin_type": ["II", "II", "II", "", "II"],
        "family_hx_mm": ["True", "True", "", "", ""],
        "personal_hx_mm": ["", "", "False", "", ""],
        "image_type": ["dermoscopic", "clinical: overview", *["dermoscopic"] * 3],
        "dermoscopic_type": ["contact polarized", "", *["contact polarized"] * 3],
        **{"concomitant_biopsy": ["True"] * 5, "attribution": ["a hospital"] * 5},
    }
)
UNTIL = HIBA.columns.drop(["anatom_site_1", "anatom_site_2"])
SINCE = HIBA.columns.drop(["anatom_site_general", "diagnosis"])


def hiba(folder: Path, columns: Sequence[str] = SINCE, images: str = ".") -> Path:
    photos = {f"{images}/ISIC_{k:07}.jpg": jpeg(k) for k in range(1, 6)}
    table = HIBA[list(columns)].to_csv(index=False)
    return write(folder, {"metadata.csv": table, "licenses/CC-BY.txt": "...", **photos})


# BCN20000 ----------------------------------------------------------------------------------------

FIGSHARE = """bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split
BCN_0000000001.jpg,55.0,anterior torso,MEL,BCN_0003884,2012-05-16,male,train
BCN_0000000003.jpg,50.0,anterior torso,MEL,BCN_0000019,2015-07-09,female,train
BCN_0000000004.jpg,85.0,head/neck,SCC,BCN_0003499,2015-11-23,male,train
BCN_0000000005.jpg,,,BKL,BCN_0003499,2015-11-23,male,train
"""
FIGSHARE_TEST = """bcn_filename,age_approx,anatom_site_general,lesion_id,capture_date,sex
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
BCN_ARCHIVE = """isic_id,age_approx,anatom_site_1,anatom_site_2,diagnosis_1,diagnosis_2,\
diagnosis_3,lesion_id,melanocytic,sex
ISIC_1,55,Trunk,Anterior trunk,Malignant,Malignant (Melanoma),"Melanoma, NOS",IL_1,True,male
ISIC_2,55,Trunk,,Benign,Benign soft tissue proliferations - Vascular,,IL_2,False,male
ISIC_3,50,Lower extremity,,Benign,Benign melanocytic proliferations,Nevus,IL_3,True,female
ISIC_4,50,Head and neck,,Benign,Benign - Fibro-histiocytic,Scar,IL_3,False,female
ISIC_5,,,,,,,,,
"""


def bcn_figshare(folder: Path, place: str = "BCN_20k_train/bcn_20k_train") -> Path:
    images = {f"{place}/BCN_000000000{k}.jpg": jpeg(k) for k in (1, 3, 4, 5)}
    images[f"{place.replace('train', 'test')}/BCN_0000000002.jpg"] = jpeg(2)
    tables = {"bcn_20k_train.csv": FIGSHARE, "bcn_20k_test.csv": FIGSHARE_TEST}
    return write(folder, {**tables, **images})


def bcn_challenge(folder: Path) -> Path:
    names = [line.split(",")[0] for line in METADATA_2019.splitlines()[1:]]
    place = "ISIC_2019_Training_Input/ISIC_2019_Training_Input"
    tables = {
        "ISIC_2019_Training_Metadata.csv": METADATA_2019,
        "ISIC_2019_Training_GroundTruth.csv": TRUTH_2019,
    }
    images = {f"{place}/{name}.jpg": jpeg(shade) for shade, name in enumerate(names)}
    return write(folder, {**tables, **images})


def bcn_archive(folder: Path) -> Path:
    images = {f"ISIC_{k}.jpg": jpeg(k) for k in range(1, 6)}
    return write(folder, {"metadata.csv": BCN_ARCHIVE, **images})


# ISIC --------------------------------------------------------------------------------------------


def isic(folder: Path, columns: dict[str, list[str]] | None = None) -> Path:
    columns = {"diagnosis_3": ["Nevus"] * 4} if columns is None else columns
    names = [f"ISIC_{k:07}" for k in range(4)]
    rows = pd.DataFrame({"isic_id": names, **columns}).to_dict("records")
    images = {f"{name}.jpg": jpeg(shade) for shade, name in enumerate(names)}
    return write(folder, {"metadata.csv": to_csv(rows), **images})


# What holds for all of them ----------------------------------------------------------------------

MAKERS = {
    "pad-ufes-20": pad,
    "ham10000": ham,
    "slice3d": slice3d,
    "hiba": hiba,
    "bcn20000": bcn_figshare,
    "isic": isic,
}
PARTS = ("HAM10000_images_part_1",) * 2 + ("HAM10000_images_part_2",) * 2
LAYOUTS: list[tuple[str, Callable[[Path], Path], str]] = [
    *(
        ("pad-ufes-20", lambda folder, p=places: pad(folder, p), "imgs_part_*")
        for places in (
            ("imgs_part_1/imgs_part_1",) * 3 + ("imgs_part_2/imgs_part_2",) * 2,
            ("images/imgs_part_1",) * 2 + ("images/imgs_part_2",) * 3,
            ("all_images/imgs_part_1",) * 5,
        )
    ),
    ("ham10000", lambda folder: ham(folder, PARTS, "tab"), "HAM10000_images_part_*"),
    ("ham10000", lambda folder: ham(folder, (".",) * 4, ""), "nothing"),
    ("slice3d", lambda folder: slice3d(folder, "folder"), "*-image"),
    ("slice3d", lambda folder: slice3d(slice3d(folder, "folder")), "x"),  # as Kaggle packs them
    ("hiba", lambda folder: hiba(folder, images="images"), "images"),
    ("bcn20000", lambda folder: bcn_figshare(folder, "bcn_images"), "bcn_images"),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, Cohort]:
    """A cohort of each dataset, from its plainest layout."""
    folder = tmp_path_factory.mktemp("plain")
    return {
        name: import_source(name, make(folder / f"{name} raw"), folder / name)
        for name, make in MAKERS.items()
    }


@pytest.mark.parametrize(("name", "make", "zipped"), LAYOUTS)
def test_every_layout_gives_the_same_cohort(tmp_path, plain, name, make, zipped):
    raw = make(tmp_path / "raw")
    assert_same(import_source(name, raw, tmp_path / "a"), plain[name])
    pack_folders(raw, zipped)
    assert_same(import_source(name, raw, tmp_path / "b"), plain[name])
    packed = pack(raw, tmp_path / "all.zip", zipfile.ZIP_STORED)
    before = sorted(tmp_path.iterdir())
    assert_same(import_source(name, packed, tmp_path / "c"), plain[name])
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "c"]), "left over"


@pytest.mark.parametrize(
    ("name", "make", "layout", "lacks"),
    [
        (
            *("ham10000", ham_challenge, "ISIC 2018, task 3; table ISIC2018_Task3_Training_Gr"),
            "ISIC2018_Task3_Training_LesionGroupings.csv",
        ),
        (
            *("slice3d", slice_challenge, "ISIC challenge 2024; table ISIC_2024_Training_Input/"),
            "ISIC_2024_Training_GroundTruth.csv",
        ),
        (
            *("bcn20000", bcn_challenge, "ISIC challenge 2019; table ISIC_2019_Training_Metadata"),
            "ISIC_2019_Training_GroundTruth.csv",
        ),
    ],
)
def test_the_layouts_of_the_challenges(tmp_path, name, make, layout, lacks):
    """Packed as unpacked; and what is missing is named."""
    raw = make(tmp_path / "raw")
    expected = import_source(name, raw, tmp_path / "a", options=ONE_EACH)
    assert expected.info.import_report["layout"].startswith(layout)
    packed = pack(raw, tmp_path / "all.zip")
    assert_same(import_source(name, packed, tmp_path / "b", options=ONE_EACH), expected)
    (raw / lacks).unlink()
    with pytest.raises(TableError, match=rf"is there without .*{lacks.rpartition('_')[2]}"):
        import_source(name, raw, tmp_path / "cohort")
    assert not (tmp_path / "cohort").exists()


SAID: dict[str, dict[str, list[object]]] = {
    "pad-ufes-20": {
        "images.image_id": [r["img_id"][:-4] for r in PAD_ROWS[:5]],
        "images.biopsed": ["True", "True", "False", "False", "True"],
        "lesions.lesion_id": ["PAT_1/7", "PAT_1/8", "PAT_2/7", "PAT_3/9"],
        "lesions.itch": [False] * 4,
        "patients.patient_id": ["PAT_1", "PAT_2", "PAT_3"],
        "patients.age": [71, 8, 55],
        "patients.background_father": ["BRASIL", None, "BRASIL"],
        "patients.background_mother": ["BRASIL", None, "BRASIL"],
        "patients.fitspatrick": ["3", None, "3"],
    },
    "ham10000": {
        "images.lesion_id": ["HAM_1", "HAM_1", "HAM_2", "HAM_3"],
        "images.dx_type": ["histo", "histo", "follow_up", "histo"],
        "lesions.localization": ["scalp", None, "back"],
        "patients.patient_id": ["HAM_1", "HAM_2", "HAM_3"],
        "patients.age": [80, None, 0],
        "patients.sex": ["male", None, "female"],
    },
    "slice3d": {
        "images.image_id": [f"ISIC_{k}" for k in range(8)],
        "images.lesion_id": [f"ISIC_{k}" for k in range(8)],
        "images.split": ["train"] * 5 + ["test"] * 3,
        "images.label": ["malignant"] + ["benign"] * 4 + [None] * 3,
        "images.iddx_full": ["x"] + [""] * 7,
        "patients.patient_id": ["IP_0", "IP_1", "IP_2", "IP_3"],
    },
    "hiba": {
        "images.lesion_id": ["IL_1", "IL_1", "IL_2", "IL_3", "IL_4"],
        "images.label": ["melanoma", "melanoma", "nevus", "vascular lesion", "nevus"],
        "lesions.anatom_site_general": ["posterior torso", "head/neck", "lower extremity", None],
        "lesions.anatom_site_special": [None, None, "acral palms or soles", None],
        "patients.age_approx": [60, None, 35],
        "patients.sex": ["female", None, "female"],
        "patients.fitzpatrick_skin_type": ["II", None, "II"],
        "patients.family_hx_mm": [True, None, None],
        "patients.personal_hx_mm": [False, None, None],
    },
    "bcn20000": {
        "images.image_id": [f"BCN_000000000{k}" for k in (1, 3, 4, 5, 2)],
        "images.split": ["train"] * 4 + ["test"],
        "images.label": ["MEL", "MEL", "SCC", "BKL", None],
        "patients.age_approx": [55, 50, 85, 70],
    },
}
SHADES = {"pad-ufes-20": range(5), "ham10000": range(1, 5), "slice3d": range(8)}
SHADES |= {"hiba": range(1, 6), "bcn20000": (1, 3, 4, 5, 2)}


@pytest.mark.parametrize("name", SAID)
def test_what_the_tables_and_images_say(plain, name):
    for column, expected in SAID[name].items():
        assert cells(plain[name], *column.split(".")) == expected, column
    assert bytes_of(plain[name]) == [jpeg(k) for k in SHADES[name]]


def test_import_reports(plain):
    report = {name: cohort.info.import_report for name, cohort in plain.items()}
    assert report["pad-ufes-20"]["lesion_ids"].startswith("patient/lesion")
    assert "5 of 2,298 published images are here" in report["pad-ufes-20"]["warnings"]
    (age,) = report["pad-ufes-20"]["disagreements"]
    assert age["example"] == "PAT_1: 70, 71, 74 -> 71"
    assert report["pad-ufes-20"]["missing_spellings"]["background_father"] == {"": 1, "UNK": 1}
    assert not report["ham10000"]["disagreements"], "unknown contradicts nothing"
    assert "lesion_id_published" in plain["slice3d"].images
    assert any("diagnosis_3 or diagnosis_2" in note for note in report["hiba"]["assumed"])
    assert report["bcn20000"]["layout"] == (
        "figshare; table bcn_20k_train.csv and bcn_20k_test.csv; the test part has no labels; "
        "without anatom_site_special"
    )


@pytest.mark.parametrize("name", ["pad-ufes-20", "ham10000"])
def test_the_archives_download_is_another_source(tmp_path, name):
    raw = write(tmp_path, {"metadata.csv": "isic_id,diagnosis\nISIC_1,nevus\n"})
    with pytest.raises(TableError, match="source isic"):
        import_source(name, raw, tmp_path / "cohort")


# What is particular ------------------------------------------------------------------------------


def test_ham_of_the_challenge(tmp_path, plain):
    found = import_source("ham10000", ham_challenge(tmp_path / "raw"), tmp_path / "cohort")
    for column in ("image_id", "lesion_id", "patient_id", "label", "dx_type"):
        assert cells(found, "images", column) == cells(plain["ham10000"], "images", column)
    assert not list(found.schema.features)
    layout = found.info.import_report["layout"]
    assert layout.endswith("HAM10000_metadata has them; without localization, age, sex")


def test_one_part_of_slice3d(tmp_path):
    raw = slice3d(tmp_path / "train", parts=("train",))
    assert set(import_source("slice3d", raw, tmp_path / "a").images["split"]) == {"train"}
    raw = slice3d(tmp_path / "test", parts=("test",))
    with pytest.raises(TableError, match=r"test-metadata\.csv: .*'target'"):
        import_source("slice3d", raw, tmp_path / "b")
    raw = slice3d(tmp_path / "raw")
    (raw / "train-metadata.csv").rename(raw / "fold-0.csv")
    cohort = import_source("slice3d", raw, tmp_path / "c", files=RawFiles(table="fold-0.csv"))
    assert set(cohort.images["split"]) == {"train"}


@pytest.mark.parametrize(
    ("name", "supplement"),
    [("ISIC_2024_Training", False), ("ISIC_2024_Permissive_Training", True)],
)
def test_slice3d_of_the_challenge(tmp_path, name, supplement):
    raw = slice_challenge(tmp_path / "raw", name, supplement)
    found = import_source("slice3d", raw, tmp_path / "cohort")
    assert found.images["label"].tolist() == ["malignant"] + ["benign"] * 4
    assert set(found.images["split"]) == {"train"}
    assert bytes_of(found) == [jpeg(k) for k in range(5)]
    assert ("iddx_full" in found.images) == supplement


def test_hiba_before_and_since_2025(tmp_path, plain):
    found = import_source("hiba", hiba(tmp_path / "raw", UNTIL), tmp_path / "cohort")
    pd.testing.assert_frame_equal(found.lesions, plain["hiba"].lesions)
    pd.testing.assert_frame_equal(found.patients, plain["hiba"].patients)
    assert cells(found, "images", "label") == cells(plain["hiba"], "images", "label")
    few = [c for c in SINCE if c not in ("sex", "dermoscopic_type")]
    cohort = import_source("hiba", hiba(tmp_path / "few", few), tmp_path / "partial")
    assert cohort.info.import_report["layout"].endswith("without dermoscopic_type, sex")


def test_bcn_of_the_challenge(tmp_path):
    raw = bcn_challenge(tmp_path / "raw")
    cohort = import_source("bcn20000", raw, tmp_path / "cohort")
    assert cells(cohort, "images", "image_id") == [f"ISIC_005345{k}" for k in (3, 4, 5)]
    assert cells(cohort, "images", "label") == ["MEL", "MEL", "BCC"]
    assert cells(cohort, "lesions", "lesion_id") == ["BCN_0001728", "BCN_0001729"]
    assert not cohort.has_patient_ids
    assert "no patient ids" in repr(cohort)
    assert bytes_of(cohort) == [jpeg(k) for k in (3, 4, 5)]
    report = cohort.info.import_report
    assert "rows without a lesion id cannot be told" in report["layout"]
    assert any("3 of 6 rows, whose lesion_id begins with BCN_" in n for n in report["assumed"])
    assert cohort.schema.split is None
    table = raw / "ISIC_2019_Training_Metadata.csv"
    table.write_text(METADATA_2019.replace("BCN_", "HAM_"))
    with pytest.raises(TableError, match="'lesion_id' begins with 'BCN_'"):
        import_source("bcn20000", raw, tmp_path / "again")


def test_bcn_of_the_archive(tmp_path):
    raw = bcn_archive(tmp_path / "raw")
    cohort = import_source("bcn20000", raw, tmp_path / "a", options=ONE_EACH)
    assert cells(cohort, "images", "label") == ["MEL", "VASC", "NV", None, None]
    assert cells(cohort, "lesions", "anatom_site_general")[:2] == ["anterior torso", "torso"]
    assert cells(cohort, "patients", "patient_id") == ["IL_1", "IL_2", "IL_3", "ISIC_5"]
    assert "split" not in cohort.images
    table = pd.read_csv(raw / "metadata.csv", dtype="str", keep_default_na=False)
    names = ["melanoma metastasis", "vascular lesion", "nevus", "scar", ""]
    table.assign(diagnosis=names).to_csv(raw / "metadata.csv", index=False)
    cohort = import_source("bcn20000", raw, tmp_path / "b", options=ONE_EACH)
    assert cells(cohort, "images", "label") == ["MEL", "VASC", "NV", None, None]
    assert not cohort.has_patient_ids
    table["patient_id"] = ["IP_1", "IP_1", "IP_2", "IP_2", "nan"]
    table.to_csv(raw / "metadata.csv", index=False)
    with pytest.raises(TableError, match=r"row 6 .*'patient_id': 'nan'.*--missing-patient-id"):
        import_source("bcn20000", raw, tmp_path / "c")


FINE = ["Nevus", "Melanoma Invasive", "", ""]


@pytest.mark.parametrize(
    ("columns", "labels", "origin"),
    [
        ({"diagnosis": ["nevus", "", "", ""], "diagnosis_3": FINE}, ["nevus", *[None] * 3], None),
        (
            {"diagnosis_1": ["x"] * 4, "diagnosis_2": ["x", "x", "Vascular", ""]}
            | {"diagnosis_3": FINE, "diagnosis": [""] * 4},
            ["Nevus", "Melanoma Invasive", "Vascular", None],
            "diagnosis is made from diagnosis_3 or diagnosis_2.",
        ),
        (
            {"diagnosis_1": ["Benign", "Malignant", "", "Benign"]},
            *(["Benign", "Malignant", None, "Benign"], "diagnosis is made from diagnosis_1."),
        ),
    ],
)
def test_the_label_of_a_collection_is_the_first_that_it_gives(tmp_path, columns, labels, origin):
    cohort = import_source("isic", isic(tmp_path / "raw", columns), tmp_path / "cohort")
    assert cells(cohort, "images", "label") == labels
    assert origin is None or origin in cohort.info.import_report["assumed"]


def test_columns_of_a_collection_become_features_if_they_are_there(tmp_path):
    raw = isic(tmp_path / "bare", {"copyright_license": ["CC-0"] * 4})
    cohort = import_source("isic", raw, tmp_path / "a")
    assert (len(cohort), len(cohort.lesions), len(cohort.patients)) == (4, 4, 4)
    assert (cohort.schema.label, list(cohort.schema.features)) == (None, [])
    assert cohort.info.import_report["layout"].endswith("lesion_id, patient_id, diagnosis")
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
        "melanocytic": ["True"] * 4,
    }
    cohort = import_source("isic", isic(tmp_path / "raw", columns), tmp_path / "b")
    names = {feature.name for feature in cohort.schema.features}
    assert names == {"age_approx", "sex", "clin_size_long_diam_mm", "anatom_site_general"}
    sites = ["lateral torso", "palms/soles", "oral/genital"]
    assert cells(cohort, "lesions", "anatom_site_general") == sites
    assert cells(cohort, "patients", "age_approx") == [45, 60]
    assert cells(cohort, "images", "melanocytic") == ["True"] * 4


# The real parts ----------------------------------------------------------------------------------


@pytest.mark.real_data
def test_the_real_part_of_pad(real_data, tmp_path):
    source = real_data / "pad-ufes-20"
    cohort = import_source("pad-ufes-20", source, tmp_path / "cohort")
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
    malignant = cohort.images["label"].isin(["BCC", "SCC", "MEL"])
    assert cohort.images.loc[malignant, "biopsed"].eq("True").all(), "the leak is in sight"
    parts = cohort.split({"train": 0.8, "test": 0.2})
    assert parts["train"].classes == parts["test"].classes == cohort.classes
    schema = get_source("pad-ufes-20").schema()
    used = {c for f in schema.features for c in f.columns} | {*schema.refused, *schema.roles}
    assert set(pd.read_csv(source / "metadata.csv", nrows=0).columns) == used


@pytest.mark.slow
@pytest.mark.real_data
def test_the_real_part_of_ham(real_data, tmp_path):
    source = real_data / "ham10000"
    cohort = import_source("ham10000", source, tmp_path / "cohort")
    assert cohort.images["label"].value_counts().to_dict() == {
        **{"nv": 4347, "bkl": 593, "mel": 499, "bcc": 269},
        **{"akiec": 184, "vasc": 81, "df": 62},
    }
    assert cohort.lesions["lesion_id"].tolist() == cohort.patients["patient_id"].tolist()
    assert (cohort.patients["age"] == 0).any()
    assert cohort.patients["age"].isna().any()
    assert "unknown" not in {*cohort.patients["sex"], *cohort.lesions["localization"]}
    report = cohort.info.import_report
    assert (report["rows"], report["absent"], report["corrupt"]) == (10015, 3980, 0)


@pytest.mark.real_data
def test_the_real_part_of_slice3d(real_data, tmp_path):
    source = real_data / "slice3d"
    cohort = import_source("slice3d", source, tmp_path / "cohort")
    assert cohort.images["split"].value_counts().to_dict() == {"train": 5, "test": 3}
    assert cohort.images["label"].value_counts().to_dict() == {"malignant": 3, "benign": 2}
    assert cohort.images.loc[cohort.images["split"] == "test", "label"].isna().all()
    assert all(91 <= min(Image.open(io.BytesIO(b)).size) <= 157 for b in bytes_of(cohort))
    assert cohort.lesions["tbp_lv_A"].notna().all()
    used = {*INPUTS, *SLICE.refused, "isic_id", "patient_id", "target"}
    train = pd.read_csv(source / "train-metadata.csv", nrows=0).columns
    test = pd.read_csv(source / "test-metadata.csv", nrows=0).columns
    assert (len(train), len(test)) == (55, 44)
    assert set(train) - used == {"image_type"}, "the same in every row"
    assert set(INPUTS) <= set(test)
    packed = pack(source, tmp_path / "isic-2024-challenge.zip")
    assert_same(import_source("slice3d", packed, tmp_path / "packed"), cohort)
