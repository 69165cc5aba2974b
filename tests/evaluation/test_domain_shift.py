"""Two-sample test: silent where patients are alike, loud where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from slimp.errors import UserError
from slimp.evaluation.domain_shift import _assign_folds, _aurocs, _draw, _permuted, two_sample_test

Array = np.ndarray[Any, np.dtype[Any]]


def cohort(
    patients: int, rows: int, rng: np.random.Generator, *, shift: float = 0.0, name: str = "a"
) -> tuple[Array, Array]:
    """Up to `rows` rows of each patient, which lie close together; as lesions of a patient do."""
    counts = rng.integers(1, rows + 1, size=patients)
    codes = np.repeat(np.arange(patients), counts)
    centres = rng.standard_normal((patients, 12)) + shift
    x = centres[codes] + 0.3 * rng.standard_normal((len(codes), 12))
    return x.astype(np.float32), np.char.add(name, codes.astype(str))


def test_patients_that_are_alike_are_not_flagged_and_p_values_are_spread() -> None:
    """A test that took rows for independent would find p < 0.05 nearly always here."""
    p_values = []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        (a, ga), (b, gb) = cohort(30, 10, rng), cohort(45, 10, rng, name="b")
        found = two_sample_test(a, b, ga, gb, seed=seed)
        assert not found.flagged
        p_values.append(found.p_value)
    assert np.mean(np.array(p_values) < 0.1) <= 0.25
    assert 0.3 < np.median(p_values) < 0.75


def test_a_shift_is_flagged() -> None:
    rng = np.random.default_rng(0)
    (a, ga), (b, gb) = cohort(60, 5, rng), cohort(60, 5, rng, shift=0.7, name="b")
    found = two_sample_test(a, b, ga, gb)
    assert found.flagged
    assert found.p_value == 1 / 500
    assert found.auroc > 0.8
    assert found.ci95[0] < found.auroc < found.ci95[1]
    assert found.balanced_accuracy > 0.7
    assert found.to_dict()["flagged"] is True


def test_a_small_difference_is_significant_but_not_flagged() -> None:
    rng = np.random.default_rng(0)
    (a, ga), (b, gb) = cohort(1500, 1, rng), cohort(1500, 1, rng, shift=0.07, name="b")
    found = two_sample_test(a, b, ga, gb)
    assert found.p_value < 0.01
    assert found.auroc < 0.6
    assert not found.flagged


def test_swapping_sides_and_reordering_rows_change_nothing(monkeypatch) -> None:
    monkeypatch.setattr("slimp.evaluation.domain_shift.ROWS", 60)
    rng = np.random.default_rng(0)
    (a, ga), (b, gb) = cohort(30, 6, rng), cohort(40, 3, rng, shift=0.3, name="b")
    plain = two_sample_test(a, b, ga, gb)
    swapped = two_sample_test(b, a, gb, ga)
    i, j = rng.permutation(len(a)), rng.permutation(len(b))
    mixed = two_sample_test(a[i], b[j], ga[i], gb[j])
    assert mixed == plain
    assert swapped.auroc == pytest.approx(plain.auroc)
    assert swapped.p_value == plain.p_value
    assert swapped.rows == plain.rows[::-1]


def test_patients_of_both_sides_are_in_one_fold() -> None:
    patients, side = np.array(list("xyzuvwxyst")), np.array([0] * 6 + [1] * 4)
    fold = _assign_folds(patients, side, 2, seed=3)
    assert all(len(set(fold[patients == name])) == 1 for name in "xy")
    assert all(set(fold[side == s]) == {0, 1} for s in (0, 1))


def test_permutations_move_whole_patients_and_keep_each_fold_s_share() -> None:
    rng = np.random.default_rng(0)
    patients = rng.integers(20, size=100).astype(str)
    side = (patients.astype(int) % 2).astype(np.int64)
    fold = _assign_folds(patients, side, 5, seed=0)
    assert all(len(set(fold[patients == p])) == 1 for p in set(patients))
    assert all(set(fold[side == s]) == set(range(5)) for s in (0, 1))
    share = lambda labels, f: sum(labels[patients == p][0] for p in set(patients[fold == f]))  # noqa: E731
    for labels in list(_permuted(side, patients, fold, 0))[:20]:
        assert all(len(set(labels[patients == p])) == 1 for p in set(patients))
        assert [share(labels, f) for f in range(5)] == [share(side, f) for f in range(5)]


def test_few_rows_are_spread_over_all_patients(monkeypatch) -> None:
    patients = np.repeat(np.arange(10), 30).astype(str)
    x = np.arange(300.0)[:, None]
    assert len(_draw(x, patients, seed=0)[0]) == 300
    monkeypatch.setattr("slimp.evaluation.domain_shift.ROWS", 25)
    kept, owners = _draw(x, patients, seed=0)
    assert sorted(np.unique(owners, return_counts=True)[1]) == [2] * 5 + [3] * 5
    assert len(np.unique(kept)) == 25


def test_the_area_is_that_of_scikit_learn_ties_included() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(5, size=(50, 3)).astype(float), rng.integers(2, size=(50, 3))
    expected = [roc_auc_score(labels[:, t], scores[:, t]) for t in range(3)]
    np.testing.assert_allclose(_aurocs(scores, labels), expected)


def test_constant_columns_and_equal_rows_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    (a, ga), (b, gb) = cohort(20, 2, rng), cohort(20, 2, rng, name="b")
    a[:, 0], b[:, 0] = 7, 7
    assert np.isfinite(two_sample_test(a, b, ga, gb).auroc)
    same = np.ones((20, 3), np.float32)
    names = np.arange(20).astype(str)
    assert two_sample_test(same, same, names, np.char.add("b", names)).auroc == 0.5


def test_too_few_patients_and_gaps_are_refused() -> None:
    rng = np.random.default_rng(0)
    (a, ga), (b, gb) = cohort(20, 2, rng), cohort(9, 50, rng, name="b")
    with pytest.raises(UserError, match=r"side b .* has 9 patients, but 5 folds need 10"):
        two_sample_test(a, b, ga, gb)
    a[3, 3] = np.nan
    with pytest.raises(UserError, match=r"side a .* not finite"):
        two_sample_test(a, b, ga, gb, folds=2)
