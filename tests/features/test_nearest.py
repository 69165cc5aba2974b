"""Nearest rows: the answer of a slow loop, whatever the precision, the blocks or the order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.errors import UserError
from slimp.features import cosines
from slimp.features import nearest as search
from slimp.features.cosines import Rows
from slimp.features.nearest import (
    Neighbours,
    _Block,
    _Chunk,
    _Search,
    nearest,
    rows_that_may_answer,
)

Array = np.ndarray[Any, np.dtype[Any]]
torch.set_num_threads(1)

PRECISIONS = ("bf16", "32")


def clustered(rows: int, width: int, seed: int, *, spread: float = 0.3) -> Array:
    """Unit vectors around few centres in a narrow cone, as embeddings lie."""
    rng = np.random.default_rng(seed)
    centres = 2 + rng.standard_normal((5, width))
    x = centres[rng.integers(5, size=rows)] + spread * rng.standard_normal((rows, width))
    return x.astype(np.float32)


def slow(queries: Array, index: Array, k: int, exclude: Any = None) -> tuple[Array, Array]:
    """One query at a time, in 64 bit; of length 1 in 32 bit, as the definition says."""

    def unit(row: Array) -> Array:
        return (row / np.float32(np.sqrt((row.astype(np.float64) ** 2).sum()))).astype(np.float64)

    similarity = np.full((len(queries), k), -np.inf, np.float32)
    row = np.full((len(queries), k), -1)
    units = np.stack([unit(x) for x in index])
    for i, query in enumerate(queries):
        score = -np.clip((units @ unit(query)).astype(np.float32), -1, 1)
        allowed = np.arange(len(index))
        if exclude is not None:
            allowed = allowed[exclude[0][i] != exclude[1]]
        best = allowed[np.lexsort((allowed, score[allowed]))][:k]
        similarity[i, : len(best)], row[i, : len(best)] = -score[best], best
    return similarity, row


def check(found: Neighbours, expected: tuple[Array, Array]) -> None:
    # The loop sums in another order: its last bit may differ, and with it the order of such rows.
    np.testing.assert_allclose(found.similarity, expected[0], atol=2e-7)
    differ = found.row != expected[1]
    assert not (differ & np.isneginf(expected[0])).any()
    assert differ.mean() < 0.01


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few rows make many blocks, passes and settlements."""
    monkeypatch.setattr(search, "BLOCK", (7, 64))
    monkeypatch.setattr(search, "QUERIES", 16)
    monkeypatch.setattr(search, "PENDING", 100)
    monkeypatch.setattr(cosines, "PAIRS_AT_ONCE", 9)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 5, 400])
def test_it_is_the_slow_loop(precision: Any, k: int) -> None:
    queries, index = clustered(20, 24, 0), clustered(300, 24, 1)
    check(nearest(queries, index, k, precision=precision), slow(queries, index, k))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_of_the_own_group_are_never_found(precision: Any) -> None:
    x = clustered(200, 16, 0)
    patients = np.random.default_rng(0).integers(12, size=len(x)).astype(str)  # some 17 rows each
    found = nearest(x, x, 10, exclude=(patients, patients), precision=precision)
    assert (patients[found.row] != patients[:, None]).all()
    check(found, slow(x, x, 10, (patients, patients)))
    few, groups = np.eye(4, dtype=np.float32), np.array([0, 0, 0, 1])
    found = nearest(few, few, 3, exclude=(groups, groups), precision=precision)
    assert found.row.tolist() == [[3, -1, -1]] * 3 + [[0, 1, 2]], "gaps where too few are left"
    assert np.isneginf(found.similarity[:3, 1:]).all()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("with_groups", [False, True])
def test_blocks_do_not_matter(precision: Any, with_groups: bool) -> None:
    queries, index = clustered(40, 24, 0), clustered(500, 24, 1)
    index[100:300] = index[:200]  # ties across chunks
    groups = (np.arange(40) % 9, np.arange(500) % 9) if with_groups else None
    blockwise = nearest(queries, index, 4, exclude=groups, precision=precision)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "BLOCK", (64, 1024))
        patch.setattr(search, "PENDING", 1 << 20)
        whole = nearest(queries, index, 4, exclude=groups, precision="32")
    np.testing.assert_array_equal(blockwise.row, whole.row)
    np.testing.assert_array_equal(blockwise.similarity, whole.similarity)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_of_equal_rows_the_lower_comes_first(precision: Any) -> None:
    index = np.repeat(clustered(3, 8, 0, spread=1.0), 1000, axis=0)  # far more than k
    index = index[np.random.default_rng(0).permutation(len(index))]
    found = nearest(index[:50], index, 5, precision=precision)
    for i, rows in enumerate(found.row):
        assert rows.tolist() == np.flatnonzero((index == index[i]).all(axis=1))[:5].tolist()


def test_order_and_lengths_of_rows_only_reorder_the_answer() -> None:
    queries, index = clustered(30, 16, 0), clustered(700, 16, 1)
    rng = np.random.default_rng(2)
    p, r = rng.permutation(len(queries)), rng.permutation(len(index))
    scales = 2.0 ** rng.integers(-20, 20, size=(700, 1)).astype(np.float32)
    plain = nearest(queries, index, 6, precision="bf16")
    mixed = nearest(8 * queries[p], np.asfortranarray((scales * index)[r]), 6, precision="bf16")
    np.testing.assert_array_equal(r[mixed.row], plain.row[p])
    np.testing.assert_array_equal(mixed.similarity, plain.similarity[p])


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 150),
    width=st.integers(1, 9),
    k=st.integers(1, 12),
    levels=st.integers(1, 3),
    groups=st.integers(1, 5),
    excluded=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_coarse_values_full_of_ties(
    n: int, width: int, k: int, levels: int, groups: int, excluded: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    draw = lambda rows: rng.integers(1, levels + 1, size=(rows, width)).astype(np.float32)  # noqa: E731
    queries, index = draw(6), draw(n)
    codes = (rng.integers(groups, size=6), rng.integers(groups, size=n)) if excluded else None
    found = [nearest(queries, index, k, exclude=codes, precision=p) for p in PRECISIONS]
    np.testing.assert_array_equal(found[0].row, found[1].row)
    expected = slow(queries, index, k, codes)
    np.testing.assert_allclose(found[0].similarity, expected[0], atol=2e-7)
    for rows, values in zip(found[0].row, found[0].similarity, strict=True):
        tied = np.flatnonzero(np.diff(values) == 0) if np.isfinite(values).all() else []
        assert all(rows[i] < rows[i + 1] for i in tied)


def test_many_nearly_equal_rows_are_decided_in_32_bit() -> None:
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, size=4000)
    index = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    found = nearest(index[:20], index, 2, precision="bf16")
    assert found.repeated == 20
    check(found, slow(index[:20], index, 2))


def block_and_chunk(q: Array, x: Array, k: int, dtype: torch.dtype) -> tuple[_Block, _Chunk]:
    search = _Search(Rows(q, "q"), Rows(x, "x"), k, None, torch.device("cpu"))
    return _Block(search, np.arange(len(q)), dtype), _Chunk(search, search.kept, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_bound_holds_and_is_not_idle(dtype: torch.dtype) -> None:
    """Of scores as the processor computes them, against 64 bit."""
    block, chunk = block_and_chunk(clustered(50, 96, 50), clustered(640, 96, 640), 1, dtype)
    score = chunk.scores(block.queries, None).double()
    search = block.search
    sides = search.queries, search.index
    q, x = (torch.from_numpy(side.unit(np.arange(len(side.length)))) for side in sides)
    exact = (x.double() - search.centre.double()) @ q.double().T
    bound = block.error(chunk) + block.roundoff * score.abs()
    assert ((score - exact).abs() <= bound).all()
    assert (score - exact).abs().max() > bound.max() / (20 if dtype == torch.bfloat16 else 1000)


def test_the_first_stage_drops_most_rows_and_the_answer_is_that_of_the_slow_loop() -> None:
    q, x = clustered(30, 96, 30), clustered(3200, 96, 3200)
    block, chunk = block_and_chunk(q, x, 3, torch.bfloat16)
    block.add(chunk)
    assert len(block.finish()) == 0
    assert 3 * 30 <= block.work.sum() < 0.1 * len(q) * len(x)
    check(
        Neighbours(similarity=block.search.similarity, row=block.search.row, repeated=0),
        slow(q, x, 3),
    )


def test_only_rows_behind_enough_equal_ones_are_left_out() -> None:
    index = np.array([[1, 2]] * 5 + [[3, 4]] + [[1, 2]] * 3, np.float32)
    assert rows_that_may_answer(index, None, 2).tolist() == [0, 1, 5]
    patients = np.array([0, 0, 0, 1, 1, 1, 1, 2, 3])
    # Of patient 0 the first two, then one needs two that are of another patient.
    assert rows_that_may_answer(index, patients, 2).tolist() == [0, 1, 3, 4, 5]
    swapped = np.array([[1, 2], [2, 1], [1, 2], [2, 1]], np.float32)  # of equal sums
    assert rows_that_may_answer(swapped, None, 1).tolist() == [0, 1]


def test_the_state_of_torch_does_not_matter_and_is_left_alone() -> None:
    """Threads, coarse products, and inference mode, which is a state of one thread."""
    queries, index = clustered(300, 16, 0), clustered(2000, 16, 1)
    plain, before = nearest(queries, index, 3, precision="bf16"), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        torch.set_float32_matmul_precision("medium")
        for precision in PRECISIONS:
            with torch.inference_mode():
                found = nearest(queries, index, 3, precision=precision)  # type: ignore[arg-type]
            np.testing.assert_array_equal(found.row, plain.row)
            np.testing.assert_array_equal(found.similarity, plain.similarity)
        assert torch.get_num_threads() == 3
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_num_threads(before)
        torch.set_float32_matmul_precision("highest")


def test_nothing_asked_or_nothing_known_gives_nothing() -> None:
    x = clustered(10, 8, 0)
    for precision in PRECISIONS:
        assert nearest(x[:0], x, 3, precision=precision).row.shape == (0, 3)
        assert (nearest(x, x[:0], 2, precision=precision).row == -1).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_rows_without_direction_are_refused(value: float) -> None:
    x = clustered(10, 8, 0)
    broken = x.copy()
    broken[3] = value
    with pytest.raises(UserError, match=r"the index.* row 3"):
        nearest(x, broken, 1)
    with pytest.raises(UserError, match="the queries"):
        nearest(broken, x, 1)


def test_nonsense_is_refused() -> None:
    x = clustered(10, 8, 0)
    with pytest.raises(UserError, match="k must"):
        nearest(x, x, 0)
    with pytest.raises(UserError, match="8 columns and the index 7"):
        nearest(x, x[:, :7], 1)
    with pytest.raises(UserError, match="exclude"):
        nearest(x, x, 1, exclude=(np.arange(10), np.arange(9)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_answer() -> None:
    queries, index = clustered(200, 64, 0), clustered(70_000, 64, 1)
    for precision in ("bf16", "32"):
        gpu = nearest(queries, index, 5, device="cuda", precision=precision)  # type: ignore[arg-type]
        cpu = nearest(queries, index, 5, precision="32")
        np.testing.assert_array_equal(gpu.row, cpu.row)
        np.testing.assert_array_equal(gpu.similarity, cpu.similarity)
