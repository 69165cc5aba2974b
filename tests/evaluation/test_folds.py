from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold
from tables import ids_of

from slimp.errors import UserError
from slimp.evaluation.folds import (
    given_splits,
    grouped_folds,
    grouped_parts,
    make_splits,
    parts_of_splits,
)


def random_ids(seed: int, n: int = 120, patients: int = 30, classes: str = "abc") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    patient = rng.integers(patients, size=n)
    patient[:patients] = np.arange(patients)
    labels = rng.choice(list(classes), size=n)
    labels[: 3 * len(classes)] = list(classes) * 3  # each class has 3 patients at least
    return ids_of(labels.tolist(), patient, patient * 3 + rng.integers(3, size=n))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), mode=st.sampled_from(["patient", "lesion", "image"]))
def test_parts_are_disjoint_complete_and_of_the_size_asked_for(seed, mode):
    ids = random_ids(seed)
    for split in make_splits(ids, mode, (0, 1), test_fraction=0.25):
        key = ids[f"{mode}_id"]
        patients = [set(ids["patient_id"].iloc[part]) for part in (split.train, split.test)]
        assert mode != "image" or patients[0] & patients[1]  # that is its purpose
        assert not set(key.iloc[split.train]) & set(key.iloc[split.test])
        assert sorted([*split.train, *split.test]) == list(range(len(ids)))
        assert 0.15 <= len(split.test) / len(ids) <= 0.35
        for part in (split.train, split.test):
            assert set(ids["label"].iloc[part]) == {"a", "b", "c"}


def test_same_ids_same_splits_whatever_their_order():
    ids = random_ids(1)
    order = np.random.default_rng(0).permutation(len(ids))
    for first, second in zip(
        make_splits(ids), make_splits(ids.iloc[order].reset_index(drop=True)), strict=True
    ):
        assert set(first.test) == set(order[second.test])


def test_seeds_differ_and_classes_keep_their_shares():
    ids = random_ids(2, n=600, patients=200)
    splits = make_splits(ids, seeds=range(3), test_fraction=0.25)
    assert len({tuple(split.test) for split in splits}) == 3
    for split in splits:
        whole = ids["label"].value_counts(normalize=True)
        test = ids["label"].iloc[split.test].value_counts(normalize=True)
        assert (whole - test).abs().max() < 0.05


def test_unlabelled_rows_are_in_neither_part():
    ids = random_ids(3)
    ids.loc[[5, 50], "label"] = None
    for split in make_splits(ids):
        assert not {5, 50} & {*split.train, *split.test}


def test_draws_again_where_the_first_split_leaves_a_class_out():
    """'b' has two patients who also carry many 'a': some draws put both in training."""
    patients = [0] * 30 + [1] * 30 + [*range(2, 12)]
    labels = (["a"] * 29 + ["b"]) * 2 + ["a"] * 10
    ids = ids_of(labels, patients)
    for split in make_splits(ids, seeds=range(20), test_fraction=0.4):
        for part in (split.train, split.test):
            assert "b" in set(ids["label"].iloc[part])


@pytest.mark.parametrize(
    ("labels", "patients", "message"),
    [
        (["a", "a", "a"], [0, 1, 2], r"a single class, 'a' \(3 images\)"),
        ([None, None], [0, 1], "no image has a label"),
        (["a", "b", "a", "b"], [0, 0, 0, 0], "class 'a'"),
        (["a", "a", "b", "b", "b"], [0, 1, 2, 2, 2], "class 'b'"),
    ],
)
def test_refuses_what_cannot_be_split(labels, patients, message):
    with pytest.raises(UserError, match=message):
        make_splits(ids_of(labels, patients))


def test_held_out_rows_test_and_the_other_named_ones_train():
    ids = ids_of(["a", "b"] * 4 + [None], [0, 1, 2, 3, 4, 5, 6, 7, 8])
    parts = ["train", "train", "validation", "held_out", "held_out", "held_out", None, None, "test"]
    (split,) = given_splits(ids, parts, seed=3)
    assert (split.seed, list(split.train), list(split.test)) == (3, [0, 1, 2], [3, 4, 5])


def test_given_splits_refusals():
    ids = ids_of(["a", "b", "a", "b"], [0, 0, 1, 1])
    with pytest.raises(UserError, match=r"1 patient\(s\) are in both 'train' and 'test', such as"):
        given_splits(ids, ["train", "train", "train", "test"])
    with pytest.raises(UserError, match="2 parts for 4 images"):
        given_splits(ids, ["train", "test"])
    with pytest.raises(UserError, match="in the test part; the parts found are: fold1, train"):
        given_splits(ids, ["train", "train", "fold1", "fold1"])
    lacking = ids_of(["a", "b", "a", "a"], [0, 0, 1, 1])
    with pytest.raises(UserError, match=r"class 'b' \(1 images\) is not in the test part"):
        given_splits(lacking, ["train", "train", "test", "test"])


def test_folds_are_patient_disjoint_and_no_more_than_patients():
    ids = random_ids(5)
    labels, groups = ids["label"].to_numpy(dtype=str), ids["patient_id"].to_numpy(dtype=str)
    folds = grouped_folds(labels, groups, 5, seed=0)
    assert set(folds) == set(range(5))
    assert (pd.Series(folds).groupby(groups).nunique() == 1).all()
    few = grouped_folds(labels[:4], np.array(["p", "q", "r", "q"]), 5, seed=0)
    assert set(few) == {0, 1, 2}
    with pytest.raises(UserError, match="at least 2 training patients"):
        grouped_folds(labels[:2], np.array(["p", "p"]), 5, seed=0)


def test_grouped_folds_are_scikit_learns_whatever_the_order_of_the_images():
    """As the repository life-ufes/metablock-se makes them."""
    ids = random_ids(6)
    folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=42)
    found = grouped_parts(ids, [42, 43])
    for number, (_, test) in enumerate(folds.split(ids, ids["label"], ids["patient_id"]), start=1):
        assert set(np.flatnonzero(found[42] == f"fold{number}")) == set(test)
    assert (found[42] != found[43]).any()
    order = np.random.default_rng(0).permutation(len(ids))
    again = grouped_parts(ids.iloc[order].reset_index(drop=True), [42])
    assert again[42].tolist() == found[42].iloc[order].tolist()


def test_every_labelled_image_of_grouped_folds_is_tested_once_and_no_patient_is_in_two_parts():
    ids = random_ids(7)
    ids.loc[[5, 50], "label"] = None
    splits = given_splits(ids, grouped_parts(ids, [42]))
    assert [split.fold for split in splits] == [1, 2, 3, 4, 5]
    tested = np.concatenate([split.test for split in splits])
    assert sorted(tested) == sorted(set(range(len(ids))) - {5, 50})
    for split in splits:
        patients = [set(ids["patient_id"].iloc[part]) for part in (split.train, split.test)]
        assert not patients[0] & patients[1]
        assert sorted([*split.train, *split.test]) == sorted(tested)


def test_parts_and_splits_are_inverse():
    ids = random_ids(8)
    ids.loc[[5, 50], "label"] = None
    for splits in (make_splits(ids, seeds=(2, 3)), given_splits(ids, grouped_parts(ids, [42, 43]))):
        again = given_splits(ids, pd.DataFrame(parts_of_splits(splits, len(ids))))
        for ours, theirs in zip(splits, again, strict=True):
            assert (ours.seed, ours.fold) == (theirs.seed, theirs.fold)
            np.testing.assert_array_equal(ours.train, theirs.train)
            np.testing.assert_array_equal(ours.test, theirs.test)


def test_what_folds_refuse():
    few = ids_of(["a"] * 8 + ["b"] * 4, range(12))
    with pytest.raises(UserError, match="class 'b' has 4 patient"):
        grouped_parts(few, [42])
    ids = ids_of(["a", "b"] * 4, [0, 0, 1, 1, 2, 2, 3, 3])
    with pytest.raises(UserError, match="are in both 'train' and 'test'"):
        given_splits(ids, ["fold1", "fold2"] * 4)
    with pytest.raises(UserError, match="the parts found are: fold1"):
        given_splits(ids, ["fold1"] * 8)
    single = ["fold1"] * 2 + ["fold2"] * 4 + ["fold3"] * 2
    with pytest.raises(UserError, match="seeds of a split"):
        given_splits(ids, pd.DataFrame({0: single, 1: ["fold1"] * 4 + ["fold2"] * 4}))
    lacking = ids.assign(label=["a", "a"] + ["a", "b"] * 3)
    with pytest.raises(UserError, match=r"class 'b' .* is not in the test part of fold 1"):
        given_splits(lacking, single)
