"""Raw metadata beside embeddings: which rows and columns, and that files keep them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.features.design import Design, RawTable, as_columns, one_hot
from slimp.features.embed import FeatureTable
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return synthesize(SyntheticConfig(patients=20, lesions=3, images_per_lesion=2, image_size=16))


@pytest.fixture(scope="module")
def table(cohort: Cohort) -> FeatureTable:
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=(len(cohort), 4)) for name in ("image", "lesion", "patient")}
    return FeatureTable(
        ids=cohort.images[["image_id", "lesion_id", "patient_id", "label"]],
        features={name: values.astype(np.float32) for name, values in features.items()},
        raw=RawTable.of(cohort),
    )


def test_each_image_has_the_cells_of_its_lesion_and_patient(cohort, table):
    frame, images = table.raw.frame, cohort.images
    for level, own in (("lesion", cohort.lesions), ("patient", cohort.patients)):
        columns = list(cohort.schema.level(level).columns)
        wanted = images[[f"{level}_id"]].merge(own, on=f"{level}_id", how="left")[columns]
        pd.testing.assert_frame_equal(frame[columns], wanted)


def test_a_set_holds_the_columns_of_its_levels(table):
    schema = table.raw.schema
    lesion, patient = (schema.level(name).columns for name in ("lesion", "patient"))
    assert table.parts("image") == ("image",)
    assert table.parts("image+lesion") == ("image", "lesion", *lesion)
    assert table.parts("full") == ("image", "lesion", "patient", *lesion, *patient)
    without = replace(table, features={"image": table.features["image"]})
    assert without.parts("image+lesion") == ("image", *lesion)
    with pytest.raises(UserError, match="'lesion'"):
        replace(without, raw=None).design("image+lesion")


def test_files_and_selections_keep_the_metadata(table, tmp_path):
    table.save(tmp_path / "features.parquet")
    again = FeatureTable.load(tmp_path / "features.parquet")
    pd.testing.assert_frame_equal(again.ids, table.ids)
    pd.testing.assert_frame_equal(again.raw.frame, table.raw.frame)
    assert again.raw.schema == table.raw.schema
    mask = np.arange(len(table)) % 3 == 0
    some, rows = table.select(mask), table.design("full")[np.flatnonzero(mask)]
    pd.testing.assert_frame_equal(some.raw.frame, rows.table.frame)
    np.testing.assert_array_equal(rows.blocks["image"], table.features["image"][mask])
    assert len(rows) == len(some) == len(Design(blocks={}, table=some.raw))


def test_trees_and_linear_models_read_the_same_cells(cohort, table):
    design = table.design("full")
    for encoding in table.raw.fit(design.levels):
        rows = design.encode([encoding])[0]
        columns, kinds = as_columns(encoding, rows)
        names = [(column, f) for f in encoding.features for column in f.columns]
        assert columns.shape == (len(table), len(names))
        for values, categorical, (name, feature) in zip(columns.T, kinds, names, strict=True):
            group = table.raw.frame[list(feature.columns)]  # a box beside a known one is empty
            np.testing.assert_array_equal(np.isnan(values), group.isna().all(axis=1))
            assert len(np.unique(values[~np.isnan(values)])) == group[name].nunique()
            assert categorical == (feature.kind == "categorical")
        hot = one_hot(encoding, rows)
        gaps = ~rows.present.numpy()
        np.testing.assert_array_equal(hot[:, : gaps.shape[1]], gaps)
        width = sum(max(1, len(f.categories)) * len(f.columns) for f in encoding.features)
        assert hot.shape[1] == gaps.shape[1] + width
