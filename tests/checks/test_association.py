from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mutual_info_score

from slimp.sources.association import as_categories, measure_association

CLASSES = np.array(["BCC", "MEL", "NEV"])


def draw(n: int, patients: int, seed: int):
    """A generator, the patient of each row, its label, and the patient as an id."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, n)
    label = pd.Series(CLASSES[rng.choice(3, n, p=[0.6, 0.3, 0.1])])
    return rng, patient, label, pd.Series(patient.astype(str))


def ids(n: int) -> pd.Series:
    return pd.Series(np.arange(n).astype(str))


@pytest.mark.parametrize("seed", range(3))
def test_an_association_ignores_order_and_repeated_images(seed):
    rng, _, label, patients = draw(200, 60, seed)
    column = pd.Series(np.where(rng.random(200) < 0.5, label, rng.choice(CLASSES, 200)))
    found = measure_association(column, label, patients)
    order = rng.permutation(200)
    assert measure_association(column[order], label[order], patients[order]) == found
    thrice = [pd.concat([series] * 3, ignore_index=True) for series in (column, label, patients)]
    again = measure_association(*thrice)
    assert again is not None
    assert replace(again, rule="") == replace(found, rule="")


def test_information_is_that_of_the_counts_less_its_bias():
    rng, _, label, _ = draw(500, 500, 0)
    column = pd.Series(np.where(rng.random(500) < 0.3, label, "other"))
    found = measure_association(column, label, ids(500))
    assert found is not None
    bias = 3 * 2 / (2 * 500)
    plain = mutual_info_score(column, label)
    assert found.information == pytest.approx((plain - bias) / np.log(2))
    entropy = mutual_info_score(column, column)
    assert found.column_share == pytest.approx((plain - bias) / entropy)
    assert found.p_value < 1e-20
    nothing = measure_association(pd.Series(["a", "b"] * 250), label, ids(500))
    assert nothing is not None
    assert nothing.information < 0.02


def test_numbers_are_cut_at_their_deciles_and_few_values_stay():
    rng = np.random.default_rng(0)
    cut = as_categories(pd.Series(np.append(rng.normal(size=1000), np.nan), name="x"))
    assert cut.name == "x"
    assert cut.isna().tolist() == [False] * 1000 + [True]
    assert cut.value_counts().tolist() == [100] * 10
    text = pd.Series(["1", "2", "", "2"]).mask(lambda s: s == "")
    assert as_categories(text).dropna().tolist() == ["1", "2", "2"]
    mostly = as_categories(pd.Series([0.0] * 970 + list(range(1, 31))))
    assert sorted(mostly.value_counts()) == [30, 970]
    close = as_categories(pd.Series(1e6 + np.arange(1000) / 1000))
    assert close.value_counts().tolist() == [100] * 10, "as many digits as tell the bins apart"
    assert as_categories(pd.Series(np.arange(1000.0)))[0] == "0 to 99.9"


@pytest.mark.parametrize("usual", [0.0, 25.0, 50.0, 100.0])
def test_a_leak_is_seen_beside_a_value_that_most_rows_have(usual):
    """The lowest, one in the middle, or the highest: the others are MEL, and cut from it."""
    rng = np.random.default_rng(0)
    rare = rng.random(2000) < 0.05
    label = pd.Series(np.where(rare, "MEL", "NEV"))
    cut = as_categories(pd.Series(np.where(rare, rng.uniform(0, 50, 2000), usual)))
    assert (cut == f"{usual:g}").sum() == (~rare).sum()
    found = measure_association(cut, label, ids(2000))
    assert found is not None
    assert found.balanced_accuracy > 0.99
    assert found.is_leak
    null = measure_association(cut, pd.Series(rng.permutation(label)), ids(2000))
    assert null is not None
    assert not null.is_leak


@pytest.mark.parametrize("patients", [20, 100, 2000])
def test_patients_who_are_all_right_are_not_certainty(patients):
    """The interval of a perfect guess is at most as short as the exact one of a proportion."""
    label = pd.Series(["BCC", "NEV"] * (patients // 2))
    found = measure_association(label, label, ids(patients))
    assert found is not None
    assert found.balanced_accuracy == 1
    low, high = found.accuracy_ci95
    exact = 0.025 ** (1 / patients)
    assert high == 1
    assert 1 - 2 * (1 - exact) < low < exact


@pytest.mark.parametrize("seed", range(2))
def test_the_interval_agrees_with_a_bootstrap_over_patients(seed):
    """The delta method against resampled patients, who bring all their rows with them."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, 300, 500)
    trait = rng.random(300) < 0.5
    label = pd.Series(np.where(rng.random(500) < 0.3 + 0.4 * trait[owner], "BCC", "NEV"))
    column = pd.Series(np.where(trait[owner] ^ (rng.random(500) < 0.1), "yes", "no"))
    found = measure_association(column, label, pd.Series(owner.astype(str)))
    assert found is not None
    rows = [np.flatnonzero(owner == patient) for patient in range(300)]
    accuracy = []
    for _ in range(150):
        drawn = [rows[patient] for patient in rng.integers(0, 300, 300)]
        take = np.concatenate(drawn)
        again = measure_association(
            column[take].reset_index(drop=True),
            label[take].reset_index(drop=True),
            pd.Series(np.repeat(np.arange(300), [len(own) for own in drawn]).astype(str)),
        )
        assert again is not None
        accuracy.append(again.balanced_accuracy)
    low, high = found.accuracy_ci95
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(accuracy), rel=0.3)


@pytest.mark.parametrize("n", [30, 300])
def test_independent_columns_are_never_leaks(n):
    for seed in range(10):
        rng, patient, label, patients = draw(n, max(8, n // 3), seed)
        columns = {
            "coin": pd.Series(rng.choice(["a", "b"], n)),
            "rare": pd.Series(rng.choice(["a", "b"], n, p=[0.98, 0.02])),
            "many": pd.Series(rng.integers(0, n // 5, n).astype(str)),
            "unique": pd.Series(rng.permutation(n).astype(str)) + "x",
            "number": pd.Series(rng.normal(size=n)),
            "of patient": pd.Series(rng.integers(0, 9, n)[patient % n].astype(str)),
        }
        for name, column in columns.items():
            found = measure_association(as_categories(column), label, patients)
            assert found is None or not found.is_leak, (name, seed, found)


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_of_the_label_is_always_a_leak(seed):
    rng, _, label, patients = draw(300, 100, seed)
    copy = measure_association(label.str.lower(), label, patients)
    assert copy is not None
    assert copy.one_to_one
    assert copy.is_leak
    assert copy.column_share > 0.95
    assert copy.balanced_accuracy == 1
    noisy = measure_association(label.where(rng.random(300) > 0.05, "NEV"), label, patients)
    assert noisy is not None
    assert noisy.is_leak
    assert not noisy.one_to_one
    # Of a dozen patients a copy is one still, but nothing less is certain.
    few = pd.Series(["MEL", "NEV"] * 6)
    copy = measure_association(few.str.lower(), few, ids(12))
    assert copy is not None
    assert copy.is_leak
    noisy = measure_association(few.mask(few.index == 0, "other"), few, ids(12))
    assert noisy is not None
    assert not noisy.is_leak
