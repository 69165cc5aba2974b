from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mutual_info_score

from slimp.sources.association import as_categories, is_leak, measure_link, uncertainty

CLASSES = np.array(["BCC", "MEL", "NEV"])


def people(n: int, patients: int, seed: int):
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, n)
    label = pd.Series(CLASSES[rng.choice(3, n, p=[0.6, 0.3, 0.1])])
    return rng, patient, label, pd.Series(patient.astype(str))


@pytest.mark.parametrize("seed", range(10))
def test_a_link_ignores_names_order_and_repeated_images(seed):
    rng, _, label, ids = people(200, 60, seed)
    column = pd.Series(np.where(rng.random(200) < 0.5, label, rng.choice(CLASSES, 200)))
    link = measure_link(column, label, ids)
    order = rng.permutation(200)
    assert measure_link(column[order], label[order], ids[order]) == link
    thrice = [pd.concat([series] * 3, ignore_index=True) for series in (column, label, ids)]
    again = measure_link(*thrice)
    assert again is not None
    assert asdict(replace(again, rule=None)) == asdict(replace(link, rule=None))


def test_uncertainty_is_mutual_information_over_entropy_less_the_bias():
    rng, _, label, _ = people(500, 500, 0)
    column = pd.Series(np.where(rng.random(500) < 0.3, label, "other"))
    table = pd.crosstab(column, label).to_numpy(dtype=float)
    share, p_value = uncertainty(table)
    entropy = mutual_info_score(column, column)
    bias = (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * 500)
    assert share == pytest.approx((mutual_info_score(column, label) - bias) / entropy)
    assert p_value < 1e-20
    assert uncertainty(np.outer([3.0, 5.0], [2.0, 7.0]))[0] == 0


def test_numbers_are_cut_at_their_deciles_and_few_values_stay():
    rng = np.random.default_rng(0)
    cut = as_categories(pd.Series(np.append(rng.normal(size=1000), np.nan)))
    assert cut.isna().tolist() == [False] * 1000 + [True]
    assert cut.value_counts().tolist() == [100] * 10
    text = pd.Series(["1", "2", "", "2"]).mask(lambda s: s == "")
    assert as_categories(text).dropna().tolist() == ["1", "2", "2"]
    mostly = as_categories(pd.Series([0.0] * 970 + list(range(1, 31))))
    assert sorted(mostly.value_counts()) == [30, 970]


@pytest.mark.parametrize("usual", [0.0, 25.0, 50.0, 100.0])
def test_a_leak_is_seen_beside_a_value_that_most_rows_have(usual):
    """The lowest, one in the middle, or the highest: the others are MEL, and cut from it."""
    rng = np.random.default_rng(0)
    rare = rng.random(2000) < 0.05
    label = pd.Series(np.where(rare, "MEL", "NEV"))
    cut = as_categories(pd.Series(np.where(rare, rng.uniform(0, 50, 2000), usual)))
    assert (cut == f"{usual:g}").sum() == (~rare).sum()
    link = measure_link(cut, label, pd.Series(np.arange(2000).astype(str)))
    assert link is not None
    assert link.balanced_accuracy > 0.99
    assert is_leak(link)
    shuffled = pd.Series(rng.permutation(label))
    null = measure_link(cut, shuffled, pd.Series(np.arange(2000).astype(str)))
    assert null is not None
    assert not is_leak(null)


def test_bins_have_as_many_digits_as_tell_them_apart():
    cut = as_categories(pd.Series(1e6 + np.arange(1000) / 1000))
    assert cut.value_counts().tolist() == [100] * 10
    coarse = as_categories(pd.Series(np.arange(1000.0)))
    assert coarse[0] == "0 to 99.9"


@pytest.mark.parametrize("patients", [20, 100, 2000])
def test_patients_who_are_all_right_are_not_certainty(patients):
    """The interval of a perfect guess is at most as short as the exact one of a proportion."""
    label = pd.Series(["BCC", "NEV"] * (patients // 2))
    link = measure_link(label, label, pd.Series(np.arange(patients).astype(str)))
    assert link is not None
    assert link.balanced_accuracy == 1
    low, high = link.accuracy_ci95
    exact = 0.025 ** (1 / patients)
    assert high == 1
    assert 1 - 2 * (1 - exact) < low < exact
    low, high = link.information_ci95
    assert low < 1 < high


@pytest.mark.parametrize("seed", range(4))
def test_intervals_agree_with_a_bootstrap_over_patients(seed):
    """The delta method against resampled patients, who bring all their rows with them."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, 300, 500)
    trait = rng.random(300) < 0.5
    label = pd.Series(np.where(rng.random(500) < 0.3 + 0.4 * trait[owner], "BCC", "NEV"))
    column = pd.Series(np.where(trait[owner] ^ (rng.random(500) < 0.1), "yes", "no"))
    link = measure_link(column, label, pd.Series(owner.astype(str)))
    assert link is not None
    rows = [np.flatnonzero(owner == patient) for patient in range(300)]
    accuracy, information = [], []
    for _ in range(150):
        drawn = [rows[patient] for patient in rng.integers(0, 300, 300)]
        take = np.concatenate(drawn)
        ids = pd.Series(np.repeat(np.arange(300), [len(own) for own in drawn]).astype(str))
        again = measure_link(
            column[take].reset_index(drop=True), label[take].reset_index(drop=True), ids
        )
        assert again is not None
        accuracy.append(again.balanced_accuracy)
        information.append(again.information)
    for values, (low, high) in (
        (accuracy, link.accuracy_ci95),
        (information, link.information_ci95),
    ):
        assert (high - low) / (2 * 1.96) == pytest.approx(np.std(values), rel=0.3)


def test_information_is_that_of_the_counts_in_bits():
    rng = np.random.default_rng(0)
    label = pd.Series(np.where(rng.random(400) < 0.4, "BCC", "NEV"))
    column = label.where(rng.random(400) < 0.7, "other")
    link = measure_link(column, label, pd.Series(np.arange(400).astype(str)))
    assert link is not None
    plain = mutual_info_score(column, label) / np.log(2)
    bias = 2 * 1 / (2 * 400 * np.log(2))
    assert link.information == pytest.approx(plain - bias)
    assert link.information_ci95[0] < plain < link.information_ci95[1]
