"""Tables as people hold them, in fixtures where they are at hand, each with the right values."""

from __future__ import annotations

import tomllib
from collections.abc import Callable

import pandas as pd
import pytest

from slimp.data.cohort import Cohort
from slimp.data.schema import Schema
from slimp.errors import CohortError, TableError
from slimp.sources import RawFiles, import_source
from slimp.sources.config import ImportOptions
from slimp.sources.layout import TableLayout

Import = Callable[..., Cohort]


@pytest.fixture
def case(real_data, tmp_path) -> Import:
    """Imports a fixture by a schema, given as TOML or the name of a file beside the table."""
    folder = real_data / "cases"
    if not folder.is_dir():
        pytest.skip(f"no fixtures at {folder}")

    def run(
        name: str,
        schema: str,
        *,
        images: str | None = None,
        table: str = "metadata.csv",
        **options: object,
    ) -> Cohort:
        if schema.endswith(".toml"):
            schema = (folder / name / schema).read_text("utf-8")
        content = tomllib.loads(schema)
        return import_source(
            "csv",
            folder / name,
            tmp_path / "cohort",
            files=RawFiles(
                schema=Schema.from_dict(content),
                layout=TableLayout.from_dict(content.get("table", {})),
                table=table,
                images=images,
            ),
            options=ImportOptions(**options),
            overwrite=True,
        )

    return run


def test_one_id_in_two_spellings(case):
    cohort = case("floatid", "mine.toml")
    assert len(cohort.patients) == 40
    assert any("'100' and '100.0'" in note for note in cohort.info.import_report["assumed"])


@pytest.mark.parametrize("word", ["nan", "None", "NA", "unknown", "blank"])
def test_missing_patients(case, word):
    with pytest.raises(TableError, match=r"row 2 .*'patient_id'.* 40 row.*--missing-patient-id"):
        case("floatid", "mine.toml", table=f"m_{word}.csv")
    cohort = case("floatid", "mine.toml", table=f"m_{word}.csv", missing_patient_id="one-each")
    assert len(cohort.patients) == 80
    assert cohort.info.import_report["missing_patient_ids"] == 40


@pytest.mark.parametrize("schema", ["s.toml", "s_miss.toml"])
def test_a_label_that_is_none(case, schema):
    cohort = case("two", schema, table="m_nan.csv")
    assert cohort.classes == ("MEL", "NEV")
    assert cohort.images["label"].isna().sum() == 30


@pytest.mark.parametrize("name", ["lower", "title", "upper", "ing", "num", "fold"])
def test_splits(case, name):
    cohort = case("two", "sp.toml", table=f"sp_{name}.csv")
    folds = {"fold1": 90, "fold2": 30, "fold3": 30}
    words = {"train": 90, "validation": 30, "test": 30}
    counts = cohort.images["split"].value_counts().to_dict()
    assert counts == (folds if name in ("num", "fold") else words)


def test_blank_means_no(case):
    cohort = case("blank-means-no", "schema.toml")
    assert cohort.lesions["itching"].value_counts().to_dict() == {False: 30, True: 18}


def test_numbers_without_their_zeros(case):
    schema = 'image = "image_id"\nlabel = "diagnosis"\n'
    assert len(case("zeros", schema + '[table]\nimage_names = "{image_id:06}"\n')) == 40
    with pytest.raises(CohortError, match="zeros/images"):
        case("zeros", schema)


HF = """
image = "image"
lesion = "lesion_id"
label = "dx"
[patient_metadata]
age = { kind = "continuous", unit = "years" }
"""


@pytest.mark.parametrize("table", ["data/train-00000-of-00001.parquet", "data/train-*.parquet"])
@pytest.mark.parametrize("image", ["image", "image_id"])
def test_images_in_the_parquet_files_of_hugging_face(case, table, image):
    cohort = case("hfham", HF.replace('"image"', f'"{image}"'), table=table)
    assert len(cohort) == 40
    assert cohort.images["image_id"].iloc[0] == "ISIC_0024000"


def test_class_folders_without_a_table_name_the_command_that_makes_one(case):
    with pytest.raises(TableError, match=r"slimp data sketch .*folders --out"):
        case("folders", HF)


MILK = """
image = "isic_id"
lesion = "lesion_id"
label = { one_hot = ["AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV",
  "SCCKA", "VASC"] }
[[table.join]]
file = "MILK10k_Training_GroundTruth.csv"
on = "lesion_id"
"""
ISIC = """
image = "image"
label = { one_hot = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"] }
label_names = { UNK = "" }
"""
TRUTH = '[[table.join]]\nfile = "ISIC_2019_Training_GroundTruth.csv"\non = "image"\n'


@pytest.mark.parametrize(
    ("name", "schema", "table", "images", "rows"),
    [
        ("milk", MILK, "MILK10k_Training_Metadata.csv", "MILK10k_Training_Input", 120),
        ("isic2019", ISIC, "merged.csv", "ISIC_2019_Training_Input", 80),
        (
            *("isic2019", ISIC + TRUTH, "ISIC_2019_Training_Metadata.csv"),
            *("ISIC_2019_Training_Input", 80),
        ),
    ],
)
def test_one_hot_labels(case, name, schema, table, images, rows):
    cohort = case(name, schema, table=table, images=images)
    assert len(cohort) == rows
    assert cohort.classes == ("BCC", "BKL", "MEL", "NV")
    assert not {"MEL", "NV"} & {*cohort.images, *cohort.lesions, *cohort.patients}


DERM7PT = """
image = "photo"
lesion = "row"
patient = "case_num"
label = "diagnosis"
split = "split"
[table]
images = ["clinic", "derm"]
row_id = "row"
"""


def test_a_split_as_files_of_row_numbers(case, real_data):
    parts = {"train": "train", "valid": "validation", "test": "test"}
    schema = DERM7PT + "".join(
        f'[[table.join]]\nfile = "{file}_indexes.csv"\nby = "row"\nset = {{ split = "{part}" }}\n'
        for file, part in parts.items()
    )
    cohort = case("derm7pt", schema, table="release_v0/meta/meta.csv", images="release_v0/images")
    assert cohort.images["split"].value_counts().to_dict() == {
        **{"train": 60, "validation": 30, "test": 30}
    }
    meta = real_data / "cases" / "derm7pt" / "release_v0" / "meta"
    listed = pd.read_csv(meta / "test_indexes.csv")["indexes"]
    persons = pd.read_csv(meta / "meta.csv", dtype="str")["case_num"].iloc[listed]
    tests = cohort.images["split"] == "test"
    assert set(cohort.images.loc[tests, "patient_id"]) == set(persons)
