"""Approximate search: what it claims of itself is what an exact search finds."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from slimp.errors import UserError
from slimp.features.nearest import nearest
from slimp.retrieval.approximate import ApproximateIndex

Array = np.ndarray[Any, np.dtype[Any]]


def clustered(rows: int, seed: int) -> Array:
    centres = np.random.default_rng(0).standard_normal((30, 16))
    rng = np.random.default_rng(seed)
    x = centres[rng.integers(30, size=rows)] + 0.4 * rng.standard_normal((rows, 16))
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def index() -> ApproximateIndex:
    pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install 'slimp[faiss]'")
    return ApproximateIndex.build(clustered(3000, 1), seed=0)


def test_looking_into_all_lists_is_the_exact_search(index: ApproximateIndex) -> None:
    queries = clustered(100, 2)
    found = index.search(queries, 5, probes=index.lists)
    exact = nearest(queries, clustered(3000, 1), 5)
    np.testing.assert_array_equal(found.row, exact.row)
    np.testing.assert_allclose(found.similarity, exact.similarity, atol=1e-6)
    assert index.measured_recall(queries, 5, probes=index.lists) == 1


def test_recall_is_what_a_loop_counts_and_grows_with_the_lists(index: ApproximateIndex) -> None:
    queries = clustered(150, 2)
    exact = nearest(queries, clustered(3000, 1), 3).row
    recalls = []
    for probes in (1, 4, 16):
        found = index.search(queries, 3, probes=probes).row
        counted = np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)])
        measured = index.measured_recall(queries, 3, probes=probes, sample=150)
        assert measured == pytest.approx(counted)
        recalls.append(measured)
    assert recalls[0] < recalls[1] <= recalls[2]
    assert recalls[2] > 0.95


def test_rows_of_the_own_group_are_left_out_and_missed_by_nobody(index: ApproximateIndex) -> None:
    rows = clustered(3000, 1)
    patients = (np.arange(3000) // 40).astype(str)
    found = index.search(rows[:80], 5, probes=index.lists, exclude=(patients[:80], patients))
    exact = nearest(rows[:80], rows, 5, exclude=(patients[:80], patients))
    np.testing.assert_array_equal(found.row, exact.row)
    measured = index.measured_recall(
        rows[:80], 5, probes=index.lists, exclude=(patients[:80], patients)
    )
    assert measured == 1


def test_where_no_row_is_left_there_are_gaps(index: ApproximateIndex) -> None:
    rows, alone = clustered(3000, 1), np.zeros(3000, np.int64)
    found = index.search(rows[:3], 2, exclude=(alone[:3], alone))
    assert (found.row == -1).all()
    assert np.isneginf(found.similarity).all()
    assert index.measured_recall(rows[:3], 2, exclude=(alone[:3], alone)) == 0


def test_the_seed_decides(index: ApproximateIndex) -> None:
    queries = clustered(200, 2)
    again = ApproximateIndex.build(clustered(3000, 1), seed=0)
    np.testing.assert_array_equal(
        index.search(queries, 3, probes=1).row, again.search(queries, 3, probes=1).row
    )


def test_nonsense_is_refused(index: ApproximateIndex) -> None:
    with pytest.raises(UserError, match="k=0 and probes=16"):
        index.search(clustered(2, 2), 0)
    with pytest.raises(UserError, match="40 rows or more for each list"):
        ApproximateIndex.build(clustered(39, 1))


def test_it_shares_a_process_with_torch() -> None:
    """Both bring an OpenMP of their own; some pairs of them hang or crash."""
    pytest.importorskip("faiss", reason="faiss-cpu is not installed: pip install 'slimp[faiss]'")
    code = """
import numpy as np, torch
from slimp.features.nearest import nearest
from slimp.retrieval.approximate import ApproximateIndex
x = np.random.default_rng(0).standard_normal((5000, 32)).astype(np.float32)
for _ in range(3):
    torch.randn(500, 500) @ torch.randn(500, 500)
    index = ApproximateIndex.build(x)
    assert (index.search(x, 1, probes=1).row == nearest(x, x, 1).row).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_faiss_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r'pip install "slimp\[faiss\]"'):
        ApproximateIndex.build(clustered(100, 1))
