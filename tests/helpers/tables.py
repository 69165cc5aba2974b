"""Ids, features and metadata tables, made of labels or of a cohort, for tests of probes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.files import ImagesInMemory
from slimp.data.schema import LEVELS, Schema
from slimp.features.feature_table import FeatureTable


def ids_of(
    labels: Sequence[str | None] | np.ndarray,
    patients: Iterable[int],
    lesions: Iterable[int] | None = None,
) -> pd.DataFrame:
    """A row per image, of numbered patients and lesions (one per patient unless given)."""
    patients = list(patients)
    return pd.DataFrame(
        {
            "image_id": [f"i{i}" for i in range(len(patients))],
            "lesion_id": [f"l{i}" for i in (patients if lesions is None else lesions)],
            "patient_id": [f"p{i}" for i in patients],
            "label": pd.Series(labels, dtype="str"),
        }
    )


DTYPES = {"continuous": "float64", "categorical": "str", "checkbox": "boolean"}


def cohort_of(
    ids: pd.DataFrame, lesion: Mapping[str, Any], patient: Mapping[str, Any], **kinds: str
) -> Cohort:
    """A cohort without pictures: ids as of `ids_of`, columns of each level, and their kinds."""
    tables, content = {}, {name: f"{name}_id" for name in LEVELS}
    for level, keys, columns in (
        ("lesion", ["lesion_id", "patient_id"], lesion),
        ("patient", ["patient_id"], patient),
    ):
        cells = {name: pd.Series(x, dtype=DTYPES[kinds[name]]) for name, x in columns.items()}
        tables[f"{level}s"] = ids[keys].drop_duplicates(ignore_index=True).assign(**cells)
        content[f"{level}_metadata"] = {name: {"kind": kinds[name]} for name in columns}
    return Cohort.from_tables(
        ids,
        **tables,
        schema=Schema.from_dict({**content, "label": "label"}),
        store=ImagesInMemory([b""] * len(ids)),
    )


def hinting_features(cohort: Cohort, *, noise: float = 0.7) -> FeatureTable:
    """Image features that hint at the label of each image."""
    codes = pd.Categorical(cohort.images["label"]).codes
    width = max(2, codes.max() + 1)
    image = np.eye(width)[codes] + noise * np.random.default_rng(0).normal(size=(len(codes), width))
    ids = cohort.images[["image_id", "lesion_id", "patient_id", "label"]]
    return FeatureTable(ids=ids, features={"image": image.astype(np.float32)})


def metadata_of(cohort: Cohort) -> pd.DataFrame:
    """A row per image, columns of all levels, as a clinic would keep them."""
    columns = [c for level in cohort.schema.levels for c in level.columns]
    lesions = cohort.lesions.drop(columns="patient_id")
    joined = cohort.images.merge(lesions, on="lesion_id").merge(cohort.patients, on="patient_id")
    assert (joined["image_id"] == cohort.images["image_id"]).all()
    return joined[["image_id", *columns]].rename(columns={"image_id": "image"})


def bytes_of(cohort: Cohort) -> list[bytes]:
    return [cohort.read_image(row) for row in range(len(cohort))]


def assert_same(a: Cohort, b: Cohort) -> None:
    """Tables and images are equal."""
    for level in LEVELS:
        pd.testing.assert_frame_equal(a.tables.of_level(level), b.tables.of_level(level))
    assert bytes_of(a) == bytes_of(b)


def write_images(cohort: Cohort, folder: Path, rows: Iterable[int]) -> list[Path]:
    """Some of the images as files that are called by their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{cohort.images['image_id'].iloc[row]}.jpg" for row in rows]
    for row, path in zip(rows, paths, strict=True):
        path.write_bytes(cohort.read_image(row))
    return paths
