"""Raw metadata beside embeddings: which rows and columns, and that files keep them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny_cohort, tiny_config

from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.features.design import Design, RawTable, as_columns, one_hot
from slimp.features.embed import embed
from slimp.features.feature_table import FeatureTable
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.training.build_model import build_model


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


def test_cells_are_blanked_at_the_rate_of_their_row_and_their_embeddings_follow(table):
    rates = np.repeat([0.0, 0.5, 1.0], [len(table) // 3] * 2 + [len(table) - 2 * (len(table) // 3)])
    rng = np.random.default_rng(0)
    assert not table.design("full").can_blank  # its embeddings would still know the cells

    def encode(raw: RawTable) -> dict[str, np.ndarray]:
        return {"lesion": raw.frame.notna().to_numpy(np.float32)}

    known = replace(table, features={**table.features, **encode(table.raw)}, encoder=encode)
    design = known.design("full")
    blank = design.blank(rates, rng)
    before, after = table.raw.frame.notna().to_numpy(), blank.table.frame.notna().to_numpy()
    pd.testing.assert_frame_equal(blank.table.frame[rates == 0], table.raw.frame[rates == 0])
    assert not after[rates == 1].any()
    half = rates == 0.5
    assert after[half][before[half]].mean() == pytest.approx(0.5, abs=0.1)
    assert (blank.table.frame.dtypes == table.raw.frame.dtypes).all()
    np.testing.assert_array_equal(blank.blocks["lesion"], after)
    np.testing.assert_array_equal(blank.blocks["image"], design.blocks["image"])
    for level in table.raw.schema.levels:
        for feature in level.features:  # a group of checkboxes is one cell
            own = [table.raw.frame.columns.get_loc(column) for column in feature.columns]
            lost = (before & ~after)[:, own].any(axis=1)
            assert not after[lost][:, own].any()
    stacked = design.with_blanked_copies(2, seed=0)
    assert len(stacked) == 3 * len(design)
    pd.testing.assert_frame_equal(stacked.table.frame[: len(design)], table.raw.frame)


def test_the_encoder_of_a_model_gives_the_embeddings_of_the_cohort():
    data = tiny_cohort()
    torch.manual_seed(0)
    found = embed(build_model(data, tiny_config()), data)
    again = found.encoder(found.raw)
    for name in ("lesion", "patient"):
        np.testing.assert_allclose(again[name], found.features[name], atol=1e-6)
