"""Nearest rows by cosine: exact, although the first pass over them is in 16 bit.

The first pass (`shortlist.py`) scores everything in bf16, which is what modern processors are
fast at, and keeps no more than one block of scores. It leaves the rows that may matter by a bound
of its error, some dozens per query; these are scored in 64 bit, and only that decides. Where very
many rows are nearly equally near, a query is repeated in 32 bit.

Axis names: q = queries, n = rows of the index, d = width, k = neighbours, p = pairs of a query and
a row.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped

from slimp.errors import UserError
from slimp.features.shortlist import Chunk, Pairs, Shortlist, true_precision, workers
from slimp.models.precision import bf16_is_fast

Array = np.ndarray[Any, np.dtype[Any]]
Groups = tuple[Shaped[Array, " _"], Shaped[Array, " _"]]
SearchPrecision = Literal["auto", "bf16", "32"]

BLOCK, BLOCK_ON_GPU = (1024, 8192), (4096, 65536)
"""Queries and rows scored at once."""
AT_A_TIME = 4
"""Blocks of queries that are given to the threads together."""
QUERIES = 1 << 14
"""Queries of one pass over the index."""
PENDING = 1 << 22
"""Pairs that wait for their exact score, at most, beyond those of one block (80 MiB)."""
FLOOD = 1 / 64
"""Share of the index that 16 bit may leave to a query; beyond it, 32 bit is quicker."""
PAIRS_AT_ONCE = 1024
"""Pairs scored exactly at once, so that they stay in cache."""
WORTHWHILE = 1e10
"""Multiplications from which `auto` considers 16 bit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The k nearest rows of each query, nearest first; of equally near ones the lower row first."""

    similarity: Float32[Array, "q k"]
    """Cosine in [-1, 1]; -inf where fewer than k rows were allowed."""
    row: Int64[Array, "q k"]
    """Row of the index; -1 where fewer than k rows were allowed."""
    precision: Literal["bf16", "32"]
    """Of the first pass."""
    repeated: int
    """Queries that 16 bit left too many rows for, and that 32 bit decided."""


def nearest(
    queries: Float32[Array, "q _"],
    index: Float32[Array, "n _"],
    k: int,
    *,
    exclude: Groups | None = None,
    device: torch.device | str = "cpu",
    precision: SearchPrecision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """The k rows of `index` with the highest cosine to each query; proven, not only likely.

    The cosine that decides is that of the rows scaled to length 1 in 32 bit, taken in 64 bit and
    rounded to 32. So the answer depends neither on the device nor on `precision`.

    Args:
        queries: rows of any length but 0.
        index: likewise.
        k: neighbours per query; may exceed the rows there are.
        exclude: a group per query and per row of the index, such as patients; a row is never
            returned to a query of its own group.
        device: where to make the first pass.
        precision: number format of the first pass; `auto` takes the quick one.
        progress: called with the share of the work that is done, as rows compared, and all of it.

    Raises:
        UserError: k is not positive, the widths differ, or a row has no length.

    Example:
        >>> x = np.eye(3, dtype=np.float32)
        >>> nearest(x[:1], x, 2).row.tolist(), nearest(x[:1], x, 2).similarity.tolist()
        ([[0, 1]], [[1.0, 0.0]])
    """
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}.")
    if queries.shape[1] != index.shape[1]:
        raise UserError(
            f"queries have {queries.shape[1]} columns and the index {index.shape[1]}. Take both "
            "from the same model and the same features."
        )
    sides = UnitRows.of(queries, "the queries"), UnitRows.of(index, "the index")
    if exclude is not None:
        _require_groups(exclude, (len(queries), len(index)))
    groups = _codes(*exclude) if exclude is not None else None
    kept = rows_that_may_answer(sides[1].values, groups[1] if groups else None, k)
    device, work = torch.device(device), len(queries) * index.size
    fast = precision == "bf16" or (
        precision == "auto" and work >= WORTHWHILE and _measured_once(device.type)
    )
    search = _Search(sides=sides, groups=groups, kept=kept, k=k, device=device, progress=progress)
    # A caller's inference mode would not reach the threads that write into the same tensors.
    with torch.inference_mode(mode=False):
        found, repeated = search.all(torch.bfloat16 if fast else torch.float32)
    similarity, row = _as_table(found, len(queries), k)
    return Neighbours(
        similarity=similarity, row=row, precision="bf16" if fast else "32", repeated=repeated
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitRows:
    """Rows as they came, and their lengths."""

    values: Float32[Array, "n d"]
    length: Float32[Array, " n"]

    @classmethod
    def of(cls, values: Float32[Array, "n d"], name: str) -> UnitRows:
        """Measures the lengths; refuses rows that have none."""
        values = np.ascontiguousarray(values)
        length = np.empty(len(values), np.float32)
        for some in _slices(len(values), PAIRS_AT_ONCE):
            exact = values[some].astype(np.float64)
            length[some] = np.sqrt(np.einsum("nd,nd->n", exact, exact))
        bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
        if len(bad):
            raise UserError(
                f"{len(bad)} of {len(values)} rows of {name} point nowhere, the first of them row "
                f"{bad[0]}, whose length is {length[bad[0]]}. Leave out rows that are zero or not "
                "finite."
            )
        return cls(values=values, length=length)

    def unit(self, at: Array | slice) -> Float32[Array, "_ d"]:
        """Rows scaled to length 1."""
        return np.asarray(self.values[at] / self.length[at, None])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """What is asked, and of which rows."""

    sides: tuple[UnitRows, UnitRows]
    """Queries and index."""
    groups: tuple[Int64[Array, " q"], Int64[Array, " n"]] | None
    kept: Int64[Array, " _"]
    """Rows that may be in an answer."""
    k: int
    device: torch.device
    progress: Callable[[int, int], None] | None

    def all(self, dtype: torch.dtype) -> tuple[Pairs, int]:
        """Nearest rows of all queries with their cosines, and how many queries took two passes."""
        count, repeated = len(self.sides[0].values), 0
        found: list[Pairs] = []
        for some in _slices(count, QUERIES):
            queries = np.arange(some.start, some.stop)
            pairs, undecided = self.some(queries, dtype)
            found.append(pairs)
            if len(undecided):
                found.append(self.some(undecided, torch.float32)[0])
                repeated += len(undecided)
            if self.progress is not None:
                self.progress(some.stop, count)
        return _join(found), repeated

    def some(self, queries: Int64[Array, " _"], dtype: torch.dtype) -> tuple[Pairs, Array]:
        """Nearest rows of these queries, and those of them that `dtype` could not decide."""
        block, chunk = BLOCK if self.device.type == "cpu" else BLOCK_ON_GPU
        own = None if self.groups is None else self._tensor(self.groups[0][queries])
        sample = self.sides[1].unit(slice(None, None, 1 + len(self.sides[1].length) // 4096))
        shortlist = Shortlist(
            self._tensor(self.sides[0].unit(queries)),
            self.k,
            centre=self._tensor(sample.sum(axis=0) / max(len(sample), 1)),
            dtype=dtype,
            block=block,
            groups=own,
        )
        limit = max(16.0 * self.k, FLOOD * len(self.kept)) if dtype == torch.bfloat16 else np.inf

        def prepare(rows: slice) -> Chunk:
            kept = self.kept[rows]
            theirs = None if self.groups is None else self._tensor(self.groups[1][kept])
            return shortlist.prepare(self._tensor(self.sides[1].unit(kept)), theirs)

        with true_precision(), workers(self.device) as pool:
            pending = _Pending(self, queries, shortlist, limit, pool)
            chunks = _slices(len(self.kept), chunk)
            ahead = [pool.submit(prepare, rows) for rows in chunks[:1]]
            for at, rows in enumerate(chunks):
                prepared = ahead.pop().result()
                ahead += [pool.submit(prepare, later) for later in chunks[at + 1 : at + 2]]
                for some in _slices(len(queries), AT_A_TIME * block):  # so that memory is bounded
                    firsts = range(some.start, some.stop, block)
                    for pairs in pool.map(partial(shortlist.survivors, prepared), firsts):
                        if pairs is not None:
                            query, row, upper = pairs
                            pending.waiting.append((query, self.kept[rows][row], upper))
                    pending.settle_if_many()
            pending.settle()
        undecided = queries[pending.flooded]
        decided = ~np.isin(pending.found[0], undecided)
        query, row, score = pending.found
        return (query[decided], row[decided], score[decided]), undecided

    def cosines(self, query: Int64[Array, " p"], row: Int64[Array, " p"]) -> Float32[Array, " p"]:
        """Of pairs, one by one and always in the same order of summation."""
        a = self.sides[0].unit(query).astype(np.float64)
        b = self.sides[1].unit(row).astype(np.float64)
        return np.asarray(np.clip(np.einsum("pd,pd->p", a, b).astype(np.float32), -1, 1))

    def _tensor(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)


class _Pending:
    """Pairs that wait for their exact score, and the best of those that have it."""

    def __init__(
        self,
        search: _Search,
        queries: Int64[Array, " _"],
        shortlist: Shortlist,
        limit: float,
        pool: Executor,
    ) -> None:
        self.search, self.queries, self.shortlist, self.limit = search, queries, shortlist, limit
        self.pool = pool
        self.waiting: list[Pairs] = []
        """Query (its position in `queries`), row, and upper bound of the score."""
        self.work = np.zeros(len(queries), np.int64)
        self.found = _join([])

    @property
    def flooded(self) -> Array:
        """Which of the queries were given up."""
        return np.asarray(self.work > self.limit)

    def settle_if_many(self) -> None:
        """Keeps what waits bounded."""
        if sum(len(query) for query, *_ in self.waiting) > PENDING:
            self.settle()

    def settle(self) -> None:
        """Scores what waits and may still matter."""
        query, row, upper = _join(self.waiting)
        matters = self.shortlist.may_matter(query, upper)
        query, row = query[matters], row[matters]
        self.work += np.bincount(query, minlength=len(self.queries))
        flooded = self.flooded
        self.shortlist.stop(np.flatnonzero(flooded))
        query, row = query[~flooded[query]], row[~flooded[query]]
        asked = self.queries[query]
        slices = _slices(len(row), PAIRS_AT_ONCE)
        cosines = self.pool.map(lambda s: self.search.cosines(asked[s], row[s]), slices)
        scored = asked, row, np.concatenate([np.empty(0, np.float32), *cosines])
        self.found = _best(_join([self.found, scored]), self.search.k)
        self.waiting = []


def rows_that_may_answer(
    index: Float32[Array, "n d"], groups: Int64[Array, " n"] | None, k: int
) -> Int64[Array, " _"]:
    """Rows but those behind so many equal ones that no query can get to them.

    Metadata of few columns have thousands of equal embeddings. With k equal rows before it, a row
    is in no answer. If rows of a query's own group do not count, k of each group and 2 k in all
    must be before it.
    """
    if len(index) <= k:
        return np.arange(len(index))
    key = _fingerprints(index)
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=~key[order[:1]]))
    sizes = np.diff(starts, append=len(key))
    leader = np.empty(len(key), np.int64)
    leader[order] = np.repeat(order[starts], sizes)
    rows = np.flatnonzero(np.repeat(sizes > k, sizes)[np.argsort(order, kind="stable")])
    for some in _slices(len(rows), PAIRS_AT_ONCE):  # fingerprints may agree by chance
        same = (index[rows[some]] == index[leader[rows[some]]]).all(axis=1)
        leader[rows[some][~same]] = -1
    rows = rows[leader[rows] >= 0]
    surplus = np.zeros(len(key), bool)
    if groups is None:
        surplus[rows] = _rank(leader[rows]) >= k
    else:
        by_group = leader[rows] * (groups.max() + 1) + groups[rows]
        behind = _rank(by_group) >= k
        surplus[rows[behind]] = True
        rows = rows[~behind]
        surplus[rows] = _rank(leader[rows]) >= 2 * k
    return np.flatnonzero(~surplus)


def _fingerprints(rows: Array) -> Array:
    """A number per row, which equal rows share: a sum of its bits, weighted, modulo 2^64."""
    words = rows.view(np.uint64 if rows.shape[1] % 2 == 0 else np.uint32)
    rng = np.random.default_rng(0)
    weights = rng.integers(1 << 63, size=words.shape[1], dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    parts = [words[s].astype(np.uint64, copy=False) @ weights for s in _slices(len(rows), 8192)]
    return np.concatenate(parts)


def _rank(labels: Array) -> Array:
    """How often each element's label occurs before it."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=labels[order[:1]] - 1))
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(starts, np.diff(starts, append=len(labels)))
    return rank


def _best(pairs: Pairs, k: int) -> Pairs:
    """The k best pairs of each query, sorted."""
    query, row, score = pairs
    order = np.lexsort((row, -score, query))
    order = order[_rank(query[order]) < k]
    return query[order], row[order], score[order]


def _join(pairs: list[Pairs]) -> Pairs:
    none = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    query, row, score = zip(none, *pairs, strict=True)
    return np.concatenate(query), np.concatenate(row), np.concatenate(score)


def _as_table(found: Pairs, count: int, k: int) -> tuple[Array, Array]:
    similarity = np.full((count, k), -np.inf, np.float32)
    nearest_row = np.full((count, k), -1, np.int64)
    query, row, score = found
    place = _rank(query)
    similarity[query, place], nearest_row[query, place] = score, row
    return similarity, nearest_row


@cache
def _measured_once(device: str) -> bool:
    return bf16_is_fast(device)


def _require_groups(groups: tuple[Array, Array], counts: tuple[int, int]) -> None:
    names = "the queries", "the index"
    for codes, count, name in zip(groups, counts, names, strict=True):
        if len(codes) != count:
            raise UserError(
                f"exclude needs a group for each of the {count} rows of {name}, got {len(codes)}."
            )


def _codes(own: Array, theirs: Array) -> tuple[Array, Array]:
    """Groups of both sides as numbers, equal where the groups are."""
    _, codes = np.unique(np.concatenate([own, theirs]), return_inverse=True)
    return codes[: len(own)].astype(np.int64), codes[len(own) :].astype(np.int64)


def _slices(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]
