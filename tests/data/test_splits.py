"""Splits into parts: disjoint, complete, alike, and always the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.data.splits import assign_groups, require_disjoint
from slimp.errors import CohortError


@st.composite
def rows_in_groups(draw: st.DrawFn) -> tuple[list[str], list[str], dict[str, float]]:
    groups = draw(st.lists(st.integers(0, 30), min_size=1, max_size=80))
    labels = draw(st.lists(st.sampled_from("abc"), min_size=len(groups), max_size=len(groups)))
    weights = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    parts = {f"part {i}": weight / sum(weights) for i, weight in enumerate(weights)}
    return labels, [f"g{group}" for group in groups], parts


@settings(deadline=None, max_examples=80)
@given(rows_in_groups(), st.integers(0, 5))
def test_every_row_gets_a_part_and_no_group_two(case, seed):
    labels, groups, parts = case
    if len(set(groups)) < len(parts):
        with pytest.raises(CohortError):
            assign_groups(labels, groups, parts, seed=seed)
        return
    part = assign_groups(labels, groups, parts, seed=seed)
    assert len(part) == len(labels)
    assert set(part) == set(parts), "no part is empty, none is invented"
    for group in set(groups):
        assert len(set(part[np.array(groups) == group])) == 1


@settings(deadline=None, max_examples=60)
@given(rows_in_groups(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(case, random):
    labels, groups, parts = case
    if len(set(groups)) < len(parts):
        return
    order = list(range(len(labels)))
    random.shuffle(order)
    part = assign_groups(labels, groups, parts, seed=0)
    shuffled = assign_groups([labels[i] for i in order], [groups[i] for i in order], parts, seed=0)
    assert shuffled.tolist() == part[order].tolist()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "parts", [{"train": 0.8, "test": 0.2}, {"train": 0.6, "validation": 0.2, "test": 0.2}]
)
def test_sizes_and_label_shares_are_near_what_was_asked(parts, seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(600), rng.integers(1, 5, 600))
    labels = rng.choice(list("abcd"), len(groups), p=[0.6, 0.25, 0.1, 0.05])
    part = assign_groups(labels, groups, parts, seed=seed)
    for name, fraction in parts.items():
        assert np.mean(part == name) == pytest.approx(fraction, abs=0.01)
        for label in "abcd":
            here = np.mean(part[labels == label] == name)
            assert here == pytest.approx(fraction, abs=0.03), (name, label)


def test_a_rare_class_reaches_every_part():
    labels = ["rare"] * 2 + ["common"] * 98
    part = assign_groups(labels, list(range(100)), {"a": 0.5, "b": 0.5}, seed=3)
    assert set(part[:2]) == {"a", "b"}


def test_a_large_group_does_not_swell_a_part():
    groups = [0] * 40 + list(range(1, 61))
    part = assign_groups(["x"] * 100, groups, {"train": 0.5, "test": 0.5}, seed=0)
    assert np.mean(part == "train") == pytest.approx(0.5, abs=0.02)


def test_seeds_differ_and_repeat():
    groups, labels, parts = list(range(60)), ["x"] * 60, {"train": 0.5, "test": 0.5}
    first, again, other = (assign_groups(labels, groups, parts, seed=s).tolist() for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("parts", [{"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}, {}])
def test_refuses_fractions_that_make_no_whole(parts):
    with pytest.raises(CohortError, match="fractions"):
        assign_groups(["x"] * 4, [1, 2, 3, 4], parts, seed=0)


def test_one_patient_cannot_be_parted():
    with pytest.raises(CohortError, match="2 parts from 1 patient"):
        assign_groups(["x", "y"], ["p", "p"], {"train": 0.5, "test": 0.5}, seed=0)


def test_shared_patients_are_refused_by_name():
    require_disjoint(train=["p1", "p2"], test=["p3"], validation=[])
    with pytest.raises(CohortError, match=r"'train' and 'test'.* 'p2'"):
        require_disjoint(train=["p1", "p2", "p3"], validation=["p9"], test=["p3", "p2"])
