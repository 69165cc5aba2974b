"""Exact nearest rows by cosine, in two stages.

The first stage scores everything in bf16 where the processor is fast at it, else in fp32, and
keeps the rows that a bound of its error cannot rule out, some dozens per query. The second stage
scores these in 64 bit, and only that decides.

The bound: with a query q and a row x of length 1, and the centre m of the rows, q.x = q.(x - m) +
q.m, so q.(x - m) ranks rows as the cosine does. Rounded to few bits, q' and y' of y = x - m, with r
the unit roundoff of those bits, the computed score s' obeys
|s' - q.y| <= |q' - q| |y'| + |q| |y' - y| + (rounding of sums) + r |s'|. The norms are measured.
A row whose s' plus its bound is below the k-th largest s' less its bound is not among the k
nearest.

Axis names: q = queries, n = rows of the index, d = width, k = neighbours, b = queries of a block,
c = rows of a chunk (padded to whole groups), g = groups of a chunk, p = pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, Shaped

from slimp.errors import UserError
from slimp.features.cosines import Rows, cosines, parts
from slimp.models.precision import bf16_is_fast

Array = np.ndarray[Any, np.dtype[Any]]
Groups = tuple[Shaped[Array, " _"], Shaped[Array, " _"]]

BLOCK, BLOCK_ON_GPU = (1024, 8192), (4096, 65536)
"""Queries and rows scored at once, at most."""
QUERIES = 1 << 14
"""Queries of one pass over the index."""
PENDING = 1 << 18
"""Pairs of a block that wait for their exact score, at most, beyond those of one chunk."""
FLOOD = 1 / 64
"""Share of the index that bf16 may leave to a query; beyond it, fp32 is quicker."""
GROUP = 64
"""Neighbouring rows of which only the maximum is looked at, unless it may matter."""
SUM_ROUNDING = 4 * 2.0**-24
"""Relative error of a sum in 32 bit per term; 4, since the units of GPUs truncate."""
SLACK = 2.0**-20
"""For the rounding of centred rows, of the bounds themselves and of the final scores."""
WORTHWHILE = 1e10
"""Multiplications from which `auto` considers bf16."""

_bf16_is_fast = cache(bf16_is_fast)  # measured once per process
_NONE = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The k nearest rows of each query, nearest first; of equally near ones the lower row first."""

    similarity: Float32[Array, "q k"]
    """Cosine in [-1, 1]; -inf where fewer than k rows were allowed."""
    row: Int64[Array, "q k"]
    """Row of the index; -1 where fewer than k rows were allowed."""
    repeated: int
    """Queries that bf16 left too many rows for, and that fp32 decided."""


def nearest(
    queries: Float32[Array, "q _"],
    index: Float32[Array, "n _"],
    k: int,
    *,
    exclude: Groups | None = None,
    device: torch.device | str = "cpu",
    precision: Literal["auto", "bf16", "32"] = "auto",
) -> Neighbours:
    """The k rows of `index` with the highest cosine to each query, proven.

    The cosine that decides is of rows scaled to length 1 in 32 bit, taken in 64 bit and rounded to
    32. So the answer depends neither on the device nor on `precision`.

    Args:
        queries: rows of any length but 0; those of the index likewise.
        index: rows to search.
        k: neighbours per query; may exceed the rows there are.
        exclude: a group per query and per row of the index, such as patients; a row is never
            returned to a query of its own group.
        device: of the first stage.
        precision: of the first stage; `auto` takes the faster one.

    Raises:
        UserError: k is not positive, the widths differ, or a row is zero or not finite.

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
    device, large = torch.device(device), len(queries) * index.size >= WORTHWHILE
    few_bits = precision == "bf16" or (precision == "auto" and large and _bf16_is_fast(device.type))
    search = _Search(Rows(queries, "the queries"), Rows(index, "the index"), k, exclude, device)
    repeated = 0
    # A caller's inference mode would not reach the threads that write into the same tensors.
    with torch.inference_mode(mode=False), _workers(device) as pool:
        for rows in parts(np.arange(len(queries)), QUERIES):
            if few_bits:
                rows = search.answer(rows, torch.bfloat16, pool)
                repeated += len(rows)
            if len(rows):
                search.answer(rows, torch.float32, pool)
    return Neighbours(similarity=search.similarity, row=search.row, repeated=repeated)


class _Search:
    """What is asked, of which rows, and the answers so far."""

    def __init__(
        self, queries: Rows, index: Rows, k: int, exclude: Groups | None, device: torch.device
    ) -> None:
        self.queries, self.index, self.device = queries, index, device
        counts = len(queries.length), len(index.length)
        self.groups = None if exclude is None else _codes(exclude, *counts)
        self.kept = rows_that_may_answer(index.values, self.groups and self.groups[1], k)
        self.similarity = np.full((counts[0], k), -np.inf, np.float32)
        self.row = np.full((counts[0], k), -1)
        sample = index.unit(np.arange(0, counts[1], 1 + counts[1] // 4096))
        self.centre = self.tensor(sample.sum(axis=0) / max(len(sample), 1))

    def answer(
        self, rows: Int64[Array, " _"], dtype: torch.dtype, pool: ThreadPoolExecutor
    ) -> Int64[Array, " _"]:
        """Fills in the answers of some queries; returns those that `dtype` could not decide."""
        block, chunk = BLOCK if self.device.type == "cpu" else BLOCK_ON_GPU
        block = min(block, -(-len(rows) // pool._max_workers))
        blocks = [_Block(self, some, dtype) for some in parts(rows, block)]
        for some in parts(self.kept, chunk):
            list(pool.map(partial(_Block.add, chunk=_Chunk(self, some, dtype)), blocks))
        return np.concatenate(list(pool.map(_Block.finish, blocks)))

    def cosines(self, query: Int64[Array, " p"], row: Int64[Array, " p"]) -> Float32[Array, " p"]:
        return cosines(self.queries, self.index, query, row)

    def tensor(self, values: Array) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)


class _Chunk:
    """Rows of the index, ready to be scored."""

    def __init__(self, search: _Search, rows: Int64[Array, " _"], dtype: torch.dtype) -> None:
        self.rows = rows
        exact = search.tensor(search.index.unit(rows)) - search.centre
        self.rounded = F.pad(exact, (0, 0, 0, -len(rows) % GROUP)).to(dtype)  # (c, d)
        self.longest = _longest(self.rounded)
        self.blur = _longest(self.rounded[: len(rows)].float() - exact)  # by rounding
        self.groups = search.groups and search.tensor(search.groups[1][rows])

    def scores(self, queries: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        """(c, b); -inf for padding, and for rows of a query's own group."""
        score = self.rounded @ queries.T
        score[len(self.rows) :] = -torch.inf
        if own is not None and self.groups is not None:
            shared = torch.isin(self.groups, own).nonzero()[:, 0]
            same = self.groups[shared, None] == own  # (shared, b)
            score[shared] = score[shared].masked_fill(same, -torch.inf)
        return score


class _Block:
    """Queries, what is known of their k-th best score, and the rows that may still matter."""

    def __init__(self, search: _Search, rows: Int64[Array, " b"], dtype: torch.dtype) -> None:
        self.search, self.rows, self.k = search, rows, search.row.shape[1]
        queries = search.tensor(search.queries.unit(rows))
        self.queries = queries.to(dtype)
        self.blur = _longest(self.queries - queries)
        self.own = search.groups and search.tensor(search.groups[0][rows])
        self.roundoff = torch.finfo(dtype).eps / 2
        self.best = torch.full((len(rows), self.k), -torch.inf, device=search.device)
        """(b, k) lower bounds of the best centred scores, of k different rows; descending."""
        self.pending = [_NONE]  # query of the block, row of the index, upper bound of the score
        self.scored = _NONE  # the k best pairs per query, with their cosines
        few = dtype == torch.bfloat16
        self.limit = max(16.0 * self.k, FLOOD * len(search.kept)) if few else np.inf
        self.work = np.zeros(len(rows), np.int64)

    def add(self, chunk: _Chunk) -> None:
        """Keeps the pairs of these queries and a chunk that may matter, given all before it."""
        score = chunk.scores(self.queries, self.own)  # (c, b)
        error = self.error(chunk)
        groups = score.view(-1, GROUP, score.shape[1])  # (g, GROUP, b)
        top = groups.amax(dim=1)  # (g, b)
        live = (top.amax(dim=0).float() >= self._least(self.best, error)).nonzero()[:, 0]
        if not len(live):
            return
        top = top[:, live].float()
        lower = (top - self.roundoff * top.abs() - error).T
        best = torch.cat([self.best[live], lower], dim=1).topk(self.k, dim=1).values
        self.best[live] = best
        least = self._least(best, error)
        group, column = (top >= least).nonzero(as_tuple=True)
        inside = groups[group, :, live[column]].float()  # (hits, GROUP)
        hit, place = (inside >= least[column, None]).nonzero(as_tuple=True)
        upper = inside[hit, place]
        upper = upper + self.roundoff * upper.abs() + error
        row = chunk.rows[(group[hit] * GROUP + place).cpu().numpy()]
        self.pending.append((live[column[hit]].cpu().numpy(), row, upper.cpu().numpy()))
        if sum(len(rows) for _, rows, _ in self.pending) > PENDING:
            self._score_pending()

    def finish(self) -> Int64[Array, " _"]:
        """Writes the answers; returns the queries with too many rows to decide."""
        self._score_pending()
        flooded = self.work > self.limit
        query, row, cosine = (x[~flooded[self.scored[0]]] for x in self.scored)
        at = self.rows[query], _occurrence(query)
        self.search.row[at], self.search.similarity[at] = row, cosine
        return self.rows[flooded]

    def error(self, chunk: _Chunk) -> float:
        """Bound of the difference between a score and its exact value, less its own rounding."""
        sums = SUM_ROUNDING * self.queries.shape[1] * chunk.longest
        return (self.blur * chunk.longest + chunk.blur) * 1.001 + 1.01 * sums + SLACK

    def _least(self, best: torch.Tensor, error: float) -> torch.Tensor:
        """The least score whose upper bound reaches the k-th lower bound; never -inf."""
        least = best[:, -1] - error
        least = torch.where(least >= 0, least / (1 + self.roundoff), least / (1 - self.roundoff))
        return least.clamp_min(torch.finfo(torch.float32).min)

    def _score_pending(self) -> None:
        """Scores exactly what is pending and may still matter, and keeps the best."""
        query, row, upper = _join(self.pending)
        self.pending = [_NONE]
        matters = upper >= self.best[:, -1].cpu().numpy()[query]
        query, row = query[matters], row[matters]
        self.work += np.bincount(query, minlength=len(self.work))
        flooded = self.work > self.limit
        self.best[torch.from_numpy(flooded).to(self.best.device)] = torch.inf
        query, row = query[~flooded[query]], row[~flooded[query]]
        cosine = self.search.cosines(self.rows[query], row)
        query, row, cosine = _join([self.scored, (query, row, cosine)])
        order = np.lexsort((row, -cosine, query))
        order = order[_occurrence(query[order]) < self.k]
        self.scored = query[order], row[order], cosine[order]


def rows_that_may_answer(
    index: Float32[Array, "n d"], groups: Int64[Array, " n"] | None, k: int
) -> Int64[Array, " _"]:
    """Rows but those behind so many equal ones that no query can get to them.

    Metadata of few columns have thousands of equal embeddings. With k equal rows before it, a row
    is in no answer; if a query's own group does not count, with k of each group and 2 k in all.
    """
    sums = index.view(np.uint32).sum(axis=1, dtype=np.uint64)  # equal rows have equal ones
    code = pd.factorize(sums)[0]
    rows = np.flatnonzero(np.bincount(code)[code] > k) if len(code) else code
    digests = [hashlib.blake2b(index[row], digest_size=16).digest() for row in rows]
    table = pd.DataFrame({"digest": digests, "group": 0 if groups is None else groups[rows]})
    few = table.groupby(["digest", "group"]).cumcount() < k
    few[few] = table[few].groupby("digest").cumcount() < (k if groups is None else 2 * k)
    return np.delete(np.arange(len(index)), rows[~few.to_numpy()])


@contextmanager
def _workers(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Threads, as many as torch has, each of which computes on one core and in true precision.

    Where another process wants a core, operations on all cores would wait for it by the thousand.
    True: 32 bit means that, and sums of 16-bit products are taken in 32 bit; the bounds need it.
    """
    cuda, threads = torch.backends.cuda.matmul, torch.get_num_threads()
    before = torch.get_float32_matmul_precision(), cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_bf16_reduced_precision_reduction = False
    count = threads if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(before[0])
        cuda.allow_bf16_reduced_precision_reduction = before[1]


def _join(parts: list[tuple[Array, Array, Array]]) -> tuple[Array, Array, Array]:
    query, row, value = zip(*parts, strict=True)
    return np.concatenate(query), np.concatenate(row), np.concatenate(value)


def _occurrence(labels: Array) -> Array:
    """Of each element of sorted labels: how often it occurs before."""
    return np.arange(len(labels)) - np.searchsorted(labels, labels)


def _longest(rows: torch.Tensor) -> float:
    return torch.linalg.vector_norm(rows.float(), dim=-1).max().item() if len(rows) else 0.0


def _codes(exclude: Groups, *counts: int) -> tuple[Array, Array]:
    """Groups of both sides as numbers, equal where the groups are."""
    if (lengths := tuple(map(len, exclude))) != counts:
        raise UserError(f"exclude needs a group per query and row, {counts}, got {lengths}.")
    codes = np.unique(np.concatenate(exclude), return_inverse=True)[1].astype(np.int64)
    return codes[: counts[0]], codes[counts[0] :]
