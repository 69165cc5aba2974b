"""An approximate search is measured against the exact one, and only used where it may pay."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from slimp.features.nearest import nearest
from slimp.retrieval.finders import Finder


def rows(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)


def test_a_small_index_is_searched_exactly():
    finder = Finder(approximate=True)
    found, wanted = finder(rows(5, 0), rows(50, 1), 3, None), nearest(rows(5, 0), rows(50, 1), 3)
    np.testing.assert_array_equal(found.row, wanted.row)
    assert finder.recall is None


def test_the_worst_recall_of_several_searches_is_kept():
    if find_spec("faiss") is None:
        pytest.skip("needs pip install 'slimp[faiss]'")
    finder = Finder(approximate=True, fewest_rows=1000)
    index, queries = rows(4000, 1), rows(60, 0)
    groups = np.arange(60), np.repeat(np.arange(100), 40)
    found = finder(queries, index, 2, groups)
    assert finder.recall is not None
    exact = nearest(queries, index, 2, exclude=groups)
    recall = np.mean([len(set(a) & set(b)) / 2 for a, b in zip(found.row, exact.row, strict=True)])
    assert finder.recall.worst == pytest.approx(recall)
    finder(queries, index, 5, None)
    assert finder.recall.searches == 2
    assert finder.recall.worst <= recall
    assert set(finder.recall.to_dict()) == {"recall", "approximate_searches"}
