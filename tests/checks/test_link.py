from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mutual_info_score

from slimp.checks.link import as_categories, measure_link, uncertainty

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
