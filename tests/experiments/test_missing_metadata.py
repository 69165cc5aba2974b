"""Hiding known cells and filling gaps: rates met, nested, blocks whole, nothing else touched."""

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from tiny import with_tables

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS, Feature, Level
from slimp.errors import UserError
from slimp.experiments.missing_metadata import (
    blocks,
    hide,
    impute_from,
    impute_typical,
    known_cells,
)
from slimp.sources import import_source
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return synthesize(SyntheticConfig(patients=60, lesions=3, seed=3))


def with_columns(cohort: Cohort, level: str, **columns) -> Cohort:
    return with_tables(cohort, **{f"{level}s": cohort.tables.of_level(level).assign(**columns)})


def share_hidden(before: Cohort, after: Cohort, level: str) -> float:
    was, now = known_cells(before, level), known_cells(after, level)
    assert (now <= was).all()
    return (was & ~now).sum() / was.sum()


@pytest.mark.parametrize("mechanism", ["random", "block"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.7, 1.0])
def test_the_rate_is_met_at_each_level(cohort, mechanism, rate):
    after = hide(cohort, rate, mechanism=mechanism, seed=1)
    for level in LEVELS:
        was = known_cells(cohort, level)
        if not was.size:
            continue
        slack = 0.5 if mechanism == "random" else was.shape[1]
        assert rate * was.sum() - slack <= share_hidden(cohort, after, level) * was.sum()
        assert share_hidden(cohort, after, level) * was.sum() <= rate * was.sum() + 0.5


@pytest.mark.parametrize("mechanism", ["random", "block"])
def test_what_is_hidden_stays_hidden_at_higher_rates(cohort, mechanism):
    levels = [level for level in LEVELS if known_cells(cohort, level).size]
    known = [
        {level: known_cells(hide(cohort, r, mechanism=mechanism), level) for level in levels}
        for r in (0.0, 0.1, 0.3, 0.5, 0.7)
    ]
    for level in levels:
        for lower, higher in pairwise(known):
            assert (higher[level] <= lower[level]).all()


def test_nothing_else_is_touched(cohort):
    before = cohort.lesions.copy()
    after = hide(cohort, 0.5)
    pd.testing.assert_frame_equal(cohort.lesions, before)
    pd.testing.assert_series_equal(after.images["label"], cohort.images["label"])
    assert after.lesions.dtypes.to_dict() == before.dtypes.to_dict()
    assert after.patients.dtypes.to_dict() == cohort.patients.dtypes.to_dict()
    for column in cohort.schema.level("lesion").columns:
        kept = after.lesions[column].notna()
        assert (after.lesions[column][kept] == before[column][kept]).all()


def test_a_checkbox_group_is_one_cell(cohort):
    ticks = [f for f in cohort.schema.level("patient").features if f.kind == "checkbox"][:2]
    group = Feature(name="both", kind="checkbox", columns=(*ticks[0].columns, *ticks[1].columns))
    level = Level(name="patient", features=(group,))
    schema = dataclasses.replace(cohort.schema, levels=(*cohort.schema.levels[:2], level))
    full = impute_typical(cohort, cohort.patients["patient_id"])
    joined = hide(dataclasses.replace(full, schema=schema), 0.5)
    known = joined.patients[list(group.columns)].notna()
    assert (known.iloc[:, 0] == known.iloc[:, 1]).all()
    assert known.iloc[:, 0].sum() == len(known) / 2


def test_without_gaps_a_block_is_the_whole_row(cohort):
    features = cohort.schema.level("patient").features
    full = impute_typical(cohort, cohort.patients["patient_id"])
    assert blocks(full, "patient") == [list(range(len(features)))]
    known = known_cells(hide(full, 0.4, mechanism="block"), "patient")
    assert set(known.mean(axis=1)) == {0.0, 1.0}


def test_features_that_are_missing_together_are_a_block(cohort):
    full = impute_typical(cohort, cohort.patients["patient_id"])
    names = [feature.name for feature in full.schema.level("lesion").features]
    assert len(names) >= 3
    gone = np.random.default_rng(0).random(len(full.lesions)) < 0.3
    odd = gone.copy()
    odd[np.flatnonzero(~gone)[:3]] = True  # missing a few times more than its companion
    first, second = (full.schema.level("lesion").features[i].columns for i in (0, 2))
    columns = {c: full.lesions[c].mask(gone) for c in first}
    columns |= {c: full.lesions[c].mask(odd) for c in second}
    found = blocks(with_columns(full, "lesion", **columns), "lesion")
    assert [0, 2] in found
    assert sorted(i for block in found for i in block) == list(range(len(names)))


def test_imputation_leaves_no_gap_and_no_known_cell_changes(cohort):
    holed = hide(cohort, 0.4, seed=2)
    train = cohort.patients["patient_id"].iloc[:30]
    filled = impute_typical(holed, train)
    for level in LEVELS:
        before, after = holed.tables.of_level(level), filled.tables.of_level(level)
        for column in cohort.schema.level(level).columns:
            assert after[column].notna().all()
            assert after[column].dtype == before[column].dtype
            known = before[column].notna()
            assert (after[column][known] == before[column][known]).all()


def test_what_is_typical_comes_from_training_patients_only(cohort):
    train = set(cohort.patients["patient_id"].iloc[:30])
    feature = next(f for f in cohort.schema.level("patient").features if f.kind == "continuous")
    column = feature.columns[0]
    trains = cohort.patients["patient_id"].isin(train)
    values = pd.Series(np.where(trains, 10.0, 99.0))
    values[:3] = [np.nan, 11.0, 12.0]
    values.iloc[-1] = np.nan
    filled = impute_typical(with_columns(cohort, "patient", **{column: values}), train)
    assert filled.patients[column].iloc[[0, -1]].tolist() == [10.0, 10.0]


def test_the_commonest_category_fills_and_ties_go_to_the_first(cohort):
    full = impute_typical(cohort, cohort.patients["patient_id"])
    column = next(f for f in full.schema.level("patient").features if f.kind == "categorical").name
    values = pd.Series([np.nan, "b", "a", "b", "a", *["c"] * (len(full.patients) - 5)], dtype="str")
    holed = with_columns(full, "patient", **{column: values})
    filled = impute_typical(holed, full.patients["patient_id"].iloc[:5])
    assert filled.patients[column].iloc[0] == "a"
    filled = impute_typical(holed, full.patients["patient_id"].iloc[:4])
    assert filled.patients[column].iloc[0] == "b"


def test_donors_fill_gaps_and_only_gaps(cohort):
    column = next(
        f for f in cohort.schema.level("lesion").features if f.kind == "continuous"
    ).columns[0]
    holed = hide(cohort, 0.5, seed=4)
    gaps = holed.lesions[column].isna()
    donors = pd.DataFrame(
        {"lesion_id": cohort.lesions["lesion_id"][::-1], column: -1.0, "stranger": 7}
    )
    donors = donors[donors["lesion_id"] != cohort.lesions["lesion_id"][gaps].iloc[0]]
    filled = impute_from(holed, {"lesion": donors}).lesions[column]
    assert filled[gaps].isna().sum() == 1  # the one without a donor
    assert (filled[gaps].dropna() == -1).all()
    assert (filled[~gaps] == holed.lesions[column][~gaps]).all()


def test_the_truth_as_donor_restores_the_cohort(cohort):
    holed = hide(cohort, 0.6, mechanism="block")
    donors = {level: cohort.tables.of_level(level) for level in ("lesion", "patient")}
    back = impute_from(holed, donors)
    pd.testing.assert_frame_equal(back.lesions, cohort.lesions)
    pd.testing.assert_frame_equal(back.patients, cohort.patients)


def test_refusals_name_what_is_wrong(cohort):
    with pytest.raises(UserError, match="is empty for all training patients"):
        impute_typical(hide(cohort, 1.0), cohort.patients["patient_id"])
    with pytest.raises(UserError, match="two rows for patient_id"):
        impute_from(cohort, {"patient": cohort.patients.iloc[[0, 0]]})


@pytest.mark.real_data
def test_the_block_that_pad_ufes_20_lacks_is_found(real_data, tmp_path):
    cohort = import_source("pad-ufes-20", real_data / "pad-ufes-20", tmp_path / "pad")
    gaps = {"lesion": {"diameter_1", "diameter_2"}}
    gaps["patient"] = {f.name for f in cohort.schema.level("patient").features} - {"age"}
    for level, together in gaps.items():
        features = cohort.schema.level(level).features
        found = [{features[i].name for i in block} for block in blocks(cohort, level)]
        assert together in found
