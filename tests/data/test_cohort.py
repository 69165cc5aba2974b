"""The canonical dataset: in memory, on disk, in parts; readable by others, refused when damaged."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tables import assert_same
from tiny import SIZE, tiny_cohort

from slimp.data.cohort import Cohort, CohortInfo, CohortWriter, Tables
from slimp.data.files import ImagesInMemory
from slimp.errors import CohortError, UserError

INFO = CohortInfo(name="ours", licence="CC0-1.0", import_report={"rows": 60, "é": [1, None]})
OWN = {"patients": 20, "lesions": 2, "images_per_lesion": 2, "image_metadata": True}
FIRST = "S3P000001"


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """20 patients of up to 2 lesions with 2 images at most; some cells are missing."""
    return replace(tiny_cohort(**OWN), info=INFO)


@pytest.fixture
def saved(cohort, tmp_path) -> Path:
    cohort.save(tmp_path / "cohort")
    return tmp_path / "cohort"


def test_save_and_load_give_the_same_cohort(cohort, saved):
    loaded = Cohort.load(saved)
    assert_same(cohort, loaded)
    assert (cohort.schema, cohort.classes) == (loaded.schema, loaded.classes)
    assert loaded.info == cohort.info
    assert sorted(path.name for path in saved.iterdir()) == [
        *("cohort.json", "images.bin", "images.parquet", "lesions.parquet", "patients.parquet")
    ]


def test_a_selection_can_be_saved(cohort, tmp_path):
    part = cohort.select(cohort.images["patient_id"].isin(["S3P000003", "S3P000011"]))
    part.save(tmp_path / "part")
    assert_same(part, Cohort.load(tmp_path / "part"))
    again = Cohort.load(tmp_path / "part").select(np.arange(len(part)) % 2 == 0)
    again.save(tmp_path / "again")
    assert_same(again, Cohort.load(tmp_path / "again"))


def test_saving_over_something_needs_a_word(cohort, saved):
    with pytest.raises(UserError, match="is not empty"):
        cohort.save(saved)
    cohort.select_patients([FIRST]).save(saved, overwrite=True)
    assert len(Cohort.load(saved).patients) == 1


def test_pandas_alone_can_read_it(cohort, saved):
    images = pd.read_parquet(saved / "images.parquet")
    packed = (saved / "images.bin").read_bytes()
    row = images.iloc[11]
    encoded = packed[row["byte_offset"] : row["byte_offset"] + row["byte_length"]]
    assert encoded == cohort.read_image(11)
    assert Image.open(io.BytesIO(encoded)).size == (SIZE, SIZE)
    content = json.loads((saved / "cohort.json").read_text(encoding="utf-8"))
    assert content["classes"] == list(cohort.classes)
    assert content["info"]["licence"] == "CC0-1.0"


def test_select_keeps_families_together(cohort):
    mask = cohort.images["label"].eq(cohort.classes[0]).fillna(False)
    part, count = cohort.select(mask), len(cohort)
    assert part.images["image_id"].tolist() == cohort.images.loc[mask, "image_id"].tolist()
    assert set(part.lesions["lesion_id"]) == set(part.images["lesion_id"])
    assert set(part.patients["patient_id"]) == set(part.images["patient_id"])
    rows = np.flatnonzero(mask).tolist()
    assert [part.read_image(i) for i in range(len(part))] == [cohort.read_image(i) for i in rows]
    twice = part.select(np.arange(len(part)) % 2 == 0)
    assert twice.read_image(1) == cohort.read_image(rows[2])
    assert len(cohort) == count, "the whole is left alone"


def test_selecting_nothing_or_nobody_is_refused(cohort):
    with pytest.raises(CohortError, match="cohort 'ours': no image is left"):
        cohort.select(np.zeros(len(cohort), dtype=bool))
    with pytest.raises(CohortError, match="has no patient 'p99'"):
        cohort.select_patients([FIRST, "p99"])


def test_split_is_patient_disjoint_and_complete(cohort):
    parts = cohort.split({"train": 0.7, "validation": 0.1, "test": 0.2}, seed=1)
    patients = [set(part.patients["patient_id"]) for part in parts.values()]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 20
    assert sum(map(len, parts.values())) == len(cohort)
    again = cohort.split({"train": 0.7, "validation": 0.1, "test": 0.2}, seed=1)
    assert [p.images["image_id"].tolist() for p in parts.values()] == [
        p.images["image_id"].tolist() for p in again.values()
    ]


def test_flatten_gives_lesions_all_metadata(cohort):
    flat = cohort.flatten()
    columns = [column for level in cohort.schema.levels for column in level.columns]
    assert flat.schema.level("lesion").columns == tuple(columns)
    assert flat.schema.level("patient").columns == flat.schema.level("image").columns == ()
    assert len(flat.lesions) == len(cohort.lesions)
    ages = cohort.patients.set_index("patient_id")["age"]
    expected = flat.lesions["patient_id"].map(ages)
    pd.testing.assert_series_equal(flat.lesions["age"], expected, check_names=False)
    first = cohort.images.dropna(subset="exposure").drop_duplicates("lesion_id")
    known = flat.lesions.set_index("lesion_id")["exposure"].dropna()
    assert known.to_dict() == first.set_index("lesion_id")["exposure"].to_dict()
    assert all(flat.read_image(i) == cohort.read_image(i) for i in range(len(cohort)))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def edit_json(path: Path, edit: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def drop_column(path: Path, column: str) -> None:
    pd.read_parquet(path).drop(columns=column).to_parquet(path)


def keep_rows(path: Path, rows: slice) -> None:
    pd.read_parquet(path).iloc[rows].to_parquet(path)


DAMAGES = {
    "images.bin: the file has": lambda f: shorten(f / "images.bin"),
    "cut short": lambda f: (f / "images.bin").write_bytes(b""),
    "images.bin: missing": lambda f: (f / "images.bin").unlink(),
    "images.parquet: missing or damaged": lambda f: shorten(f / "images.parquet"),
    "lesions.parquet: missing or damaged": lambda f: shorten(f / "lesions.parquet"),
    "patients.parquet: missing": lambda f: (f / "patients.parquet").unlink(),
    "cohort.json: damaged": lambda f: shorten(f / "cohort.json"),
    "format None": lambda f: (f / "cohort.json").write_text("[]"),
    "no cohort.json": lambda f: (f / "cohort.json").unlink(),
    "format 99": lambda f: edit_json(f / "cohort.json", lambda c: c.update(format=99)),
    "schema": lambda f: edit_json(f / "cohort.json", lambda c: c.pop("schema")),
    "damaged": lambda f: edit_json(f / "cohort.json", lambda c: c["info"].update(x=1)),
    "damaged (": lambda f: edit_json(f / "cohort.json", lambda c: c.update(info=[])),
    "'image'": lambda f: edit_json(f / "cohort.json", lambda c: c["schema"].pop("image")),
    "byte_offset": lambda f: drop_column(f / "images.parquet", "byte_offset"),
    "images.parquet: has no column 'patient_id'": lambda f: drop_column(
        f / "images.parquet", "patient_id"
    ),
    "has no column 'label'": lambda f: drop_column(f / "images.parquet", "label"),
    "'itch' at the lesion": lambda f: drop_column(f / "lesions.parquet", "itch"),
    "does not fit images.parquet": lambda f: keep_rows(f / "images.parquet", slice(1, None)),
    "fit images.parquet. Import": lambda f: keep_rows(f / "images.parquet", slice(0)),
    f"patient_id '{FIRST}'": lambda f: keep_rows(f / "patients.parquet", slice(1, None)),
}
"""What the message names -> what happened to the folder."""


def test_the_fingerprint_is_of_the_content_in_any_order(saved):
    cohort = Cohort.load(saved)
    tables = {
        name: table.sample(frac=1, random_state=1) for name, table in vars(cohort.tables).items()
    }
    assert replace(cohort, tables=Tables(**tables)).fingerprint() == cohort.fingerprint()
    images = cohort.images.assign(label=cohort.images["label"].iloc[::-1].to_numpy())
    changed = replace(cohort, tables=replace(cohort.tables, images=images))
    assert changed.fingerprint() != cohort.fingerprint()
    cohort.save(saved.with_name("again"))
    assert Cohort.load(saved.with_name("again")).fingerprint() == cohort.fingerprint()


@pytest.mark.parametrize("named", DAMAGES)
def test_damage_is_named(saved, named):
    DAMAGES[named](saved)
    with pytest.raises(CohortError, match=re.escape(named)):
        Cohort.load(saved)


def test_tables_must_fit_each_other(cohort):
    images, lesions, patients = cohort.images, cohort.lesions, cohort.patients
    lesion = lesions["lesion_id"][0]
    whole = {"images": images, "lesions": lesions, "patients": patients}
    for changes, message in [
        ({"images": images.assign(image_id="x")}, "image_id 'x' occurs twice"),
        ({"lesions": lesions.assign(lesion_id=lesion)}, f"lesion_id '{lesion}' occurs twice"),
        ({"patients": pd.concat([patients] * 2)}, f"patient_id '{FIRST}' occurs twice"),
        ({"lesions": lesions.iloc[1:]}, rf"images\.parquet: lesion_id '{lesion}' is not in the"),
        ({"patients": patients.iloc[1:]}, rf"lesions\.parquet: patient_id '{FIRST}' is not in"),
        (
            {"lesions": pd.concat([lesions, lesions.iloc[[0]]])},
            rf"lesions\.parquet: lesion_id '{lesion}' occurs twice",
        ),
        (
            {"images": images[images["lesion_id"] != lesion]},
            rf"images\.parquet: nothing belongs to lesion_id '{lesion}'",
        ),
        (
            {"images": images.assign(patient_id="S3P000002")},
            rf"is of patient 'S3P000002', its lesion '{lesion}' of another",
        ),
    ]:
        with pytest.raises(CohortError, match=message):
            Tables(**whole | changes)


def test_rows_of_parents_are_those_of_a_slow_search(cohort):
    mixed = np.random.default_rng(3).permutation(len(cohort.lesions))
    cohort = Cohort.from_tables(
        cohort.images.astype({"lesion_id": "object"}),  # as other readers of tables have it
        cohort.lesions.iloc[mixed].reset_index(drop=True),
        cohort.patients.iloc[::-1].reset_index(drop=True),
        schema=cohort.schema,
        store=cohort.store,
    )
    for child, parent, key, rows in (
        (cohort.images, cohort.lesions, "lesion_id", cohort.lesion_of_image),
        (cohort.lesions, cohort.patients, "patient_id", cohort.patient_of_lesion),
    ):
        ids = parent[key].tolist()
        assert rows.tolist() == [ids.index(own) for own in child[key]]


def test_an_unfinished_writer_leaves_nothing(tmp_path):
    with (
        pytest.raises(CohortError, match="not finished"),
        CohortWriter.open(tmp_path / "c") as writer,
    ):
        writer.add_image(b"image")
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_read_again_is_not_written(cohort, tmp_path):
    tables = replace(cohort.tables, images=cohort.images.assign(label=1))
    with pytest.raises(CohortError, match=r"ours/images\.parquet: the column 'label' is int64"):
        replace(cohort, tables=tables).save(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_the_writer_counts_images(tmp_path, cohort):
    count, (*most, last) = len(cohort), map(cohort.read_image, range(len(cohort)))
    with CohortWriter.open(tmp_path / "c") as writer:
        for encoded in most:
            writer.add_image(encoded)
        with pytest.raises(CohortError, match=f"{count} image rows, {count - 1} images"):
            writer.finish(cohort.tables, cohort.schema, cohort.info)
        writer.add_image(last)
        writer.finish(cohort.tables, cohort.schema, cohort.info)
    assert_same(Cohort.load(tmp_path / "c"), cohort)


def test_a_cohort_has_an_image(tmp_path, cohort):
    empty = [table.iloc[:0] for table in (cohort.images, cohort.lesions, cohort.patients)]
    nothing = Cohort.from_tables(*empty, schema=cohort.schema, store=ImagesInMemory([]))
    with pytest.raises(CohortError, match="no images, so there is nothing to write"):
        nothing.save(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("level", "column", "values", "message"),
    [
        ("patients", "age", "old", "the column 'age' is (?:str|object), but continuous"),
        ("images", "patient_id", b"\xff", "damaged"),
        ("images", "byte_offset", 0.5, "does not fit images"),
        ("images", "published", [1], "the column 'published' holds mixed"),
    ],
)
def test_tables_that_were_rewritten_with_other_types_are_refused(
    saved, level, column, values, message
):
    frame = pd.read_parquet(path := saved / f"{level}.parquet")
    frame.assign(**{column: pd.Series([values] * len(frame))}).to_parquet(path)
    with pytest.raises(CohortError, match=f"{saved}.*{message}"):
        Cohort.load(saved)
