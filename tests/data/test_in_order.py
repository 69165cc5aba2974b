"""The order of results, and how little is under way."""

from __future__ import annotations

from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.data.in_order import in_order


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(), max_size=30), st.integers(1, 9))
def test_results_are_those_of_a_loop(items, ahead):
    results = in_order(lambda item: item**2, items, ahead=ahead)
    assert list(results) == [item**2 for item in items]


def test_no_more_is_begun_than_is_allowed_and_closing_ends_it():
    begun: list[int] = []
    with closing(in_order(begun.append, range(1000), ahead=5)) as results:
        for _ in range(3):
            next(results)
    assert 3 <= len(begun) <= 5 + 3


def test_a_failure_comes_out_in_its_place():
    def work(item: int) -> float:
        return 1 / (3 - item)

    results = in_order(work, range(6), ahead=4)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
