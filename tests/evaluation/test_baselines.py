from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tables import cohort_of, ids_of

from slimp.data.cohort import Cohort
from slimp.data.files import ImagesInMemory
from slimp.errors import UserError
from slimp.evaluation.folds import make_splits
from slimp.evaluation.linear_probe import ProbeConfig, majority, metadata_baseline, probe
from slimp.evaluation.result import ProbeResult, make_task
from slimp.features.design import RawTable
from slimp.features.feature_table import FeatureTable
from slimp.sources import get_source
from slimp.sources.level_tables import split_levels, type_rows
from slimp.sources.read_table import read_table

NUMBERS = ("unknown", "age")
FAST = ProbeConfig(replicates=50, seeds=2, folds=2, strengths=(1e-2, 1.0))


def make_cohort(seed: int = 0, patients: int = 60, *, signal: bool = True) -> Cohort:
    """Two lesions per patient; site tells class b, age (where known) tells class c."""
    rng = np.random.default_rng(seed)
    patient = np.arange(patients).repeat(2)
    y = rng.integers(3, size=len(patient))
    told = y if signal else rng.permutation(y)
    age_class = pd.Series(told == 2).groupby(patient).transform("any").to_numpy()[::2]
    lesions = {
        "site": np.where(told == 1, "arm", rng.choice(["leg", "face"], size=len(y))),
        "bleeds": rng.choice([True, False, None], size=len(y)),
        "unknown": np.full(len(y), np.nan),
    }
    ages = np.where(age_class, 70.0, 40.0) + rng.normal(size=patients)
    ages[rng.random(patients) < 0.2] = np.nan
    kinds = {"site": "categorical", "bleeds": "checkbox", **dict.fromkeys(NUMBERS, "continuous")}
    ids = ids_of(np.array(list("abc"))[y], patient, range(len(y)))
    return cohort_of(ids, lesions, {"age": ages}, **kinds)


def baseline(cohort: Cohort, config: ProbeConfig, parts: list[str] | None = None) -> ProbeResult:
    return metadata_baseline(RawTable.of(cohort), make_task(cohort.images, config, parts), config)


def test_majority_is_chance_on_every_balanced_measure():
    cohort = make_cohort()
    found = majority(make_task(cohort.images, FAST), FAST)
    assert found.balanced_accuracy.mean == pytest.approx(1 / 3)
    assert found.balanced_accuracy.ci95 == pytest.approx((1 / 3, 1 / 3))
    assert found.metrics["auroc_macro_ovr"].mean == 0.5
    for split in make_splits(cohort.images, seeds=range(2)):
        train = cohort.images["label"].iloc[split.train]
        rows = found.predictions[found.predictions["seed"] == split.seed]
        assert set(rows["predicted"]) == {train.value_counts().index[0]}
        assert rows["p_a"].iloc[0] == pytest.approx((train == "a").mean())


def test_baseline_reads_what_the_table_says_and_only_that():
    for method in ("logistic", "boosting"):
        result = baseline(make_cohort(), replace(FAST, method=method))
        assert result.balanced_accuracy.mean > 0.6
        assert result.name == f"metadata, {method}"
    untold = baseline(make_cohort(signal=False), FAST)
    assert untold.balanced_accuracy.mean < 0.5


def test_baseline_and_probe_test_on_the_same_rows():
    cohort = make_cohort()
    features = np.random.default_rng(0).normal(size=(len(cohort), 4)).astype(np.float32)
    ids = cohort.images[["image_id", "lesion_id", "patient_id", "label"]]
    probed = probe(FeatureTable(ids=ids, features={"image": features}), FAST)
    for result in (baseline(cohort, FAST), majority(make_task(cohort.images, FAST), FAST)):
        columns = ["image_id", "seed", "label"]
        pd.testing.assert_frame_equal(result.predictions[columns], probed.predictions[columns])


def test_a_feature_set_decides_which_levels_are_seen():
    cohort = make_cohort()
    table = RawTable.of(cohort)
    assert list(table.frame) == ["site", "bleeds", "unknown", "age"]
    assert [encoding.level for encoding in table.fit(("lesion",))] == ["lesion"]
    few = baseline(cohort, replace(FAST, features="image+lesion"))
    all_levels = baseline(cohort, FAST)
    assert few.balanced_accuracy.mean < all_levels.balanced_accuracy.mean
    with pytest.raises(UserError, match="no metadata columns"):
        baseline(cohort, ProbeConfig(features="image"))


def with_lesions(**columns) -> Cohort:
    cohort = make_cohort()
    lesions = cohort.lesions.assign(**columns)
    return Cohort.from_tables(
        cohort.images, lesions, cohort.patients, schema=cohort.schema, store=cohort.store
    )


def test_a_table_without_any_value_is_no_error():
    none = [None] * 120
    empty = with_lesions(site=pd.Series(none, dtype="str"), bleeds=pd.array(none, dtype="boolean"))
    for method in ("logistic", "boosting"):
        result = baseline(empty, replace(FAST, features="image+lesion", method=method))
        assert result.balanced_accuracy.mean == pytest.approx(1 / 3)
        assert result.metrics["auroc_macro_ovr"].mean == pytest.approx(0.5)


def test_a_given_split_and_many_categories_are_survived():
    cohort = with_lesions(site=[f"s{i}" for i in range(120)])
    parts = ["test" if int(p[1:]) < 20 else "train" for p in cohort.images["patient_id"]]
    found = baseline(cohort, FAST, parts=parts)
    assert len(found.balanced_accuracy.per_seed) == 1
    assert found.split == "held_out"


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("source", "file", "low", "high"),
    [
        ("pad-ufes-20", "pad-ufes-20/metadata.csv", 0.60, 0.74),
        ("ham10000", "ham10000/HAM10000_metadata.csv", 0.29, 0.41),
    ],
)
def test_baseline_of_the_published_tables(real_data, source, file, low, high):
    """All rows of the tables, with or without image."""
    schema = get_source(source).schema()
    tables, _ = split_levels(type_rows(read_table(real_data / file), schema), schema)
    store = ImagesInMemory([b""] * len(tables.images))
    cohort = Cohort.from_tables(
        tables.images, tables.lesions, tables.patients, schema=schema, store=store
    )
    found = baseline(cohort, ProbeConfig(replicates=50, seeds=2))
    assert low < found.balanced_accuracy.mean < high
    assert found.balanced_accuracy.ci95[0] > 1.3 / len(cohort.classes)
