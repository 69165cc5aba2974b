"""Which rows may be among the nearest: a first pass in few bits, with a bound of its error.

With a query q and a row x of length 1, and the centre m of the rows, q.x = q.(x - m) + q.m, so
that q.(x - m) ranks rows as the cosine does. Rounded to few bits, q' and y' of y = x - m, with
r the unit roundoff of those bits, the score s' that the processor returns obeys
|s' - q.y| <= |q' - q| |y'| + |q| |y' - y| + (rounding of sums) + r |s'|. The norms are measured,
not assumed. Whatever row has s' plus its bound below the k-th largest s' less its bound, which
k rows are known to reach, is none of the k nearest.

Axis names: q = queries, n = rows of the index, d = width, k = neighbours, b = queries of a block,
c = rows of a chunk (padded to whole groups), g = groups of a chunk, l = queries for which a chunk
may matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

GROUP = 64
"""Neighbouring rows of which only the maximum is looked at, unless it may matter."""
SUM_ROUNDING = 4 * 2.0**-24
"""Relative error of a sum in 32 bit per term; 4, since the units of GPUs truncate."""
SLACK = 2.0**-20
"""For the rounding of centred rows, of the bounds themselves and of the final scores."""

Rows = Int64[NDArray[np.int64], " _"]
Scores = Float32[NDArray[np.float32], " _"]
Pairs = tuple[Rows, Rows, Scores]
"""Query, row of the chunk, and an upper bound of the centred score."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Rows that are ready to be scored."""

    rounded: Float[Tensor, "c d"]
    """Less the centre, in few bits, padded to whole groups."""
    count: int
    """Rows without the padding."""
    error: float
    """Bound of the difference between a score and its exact value, less its own rounding."""
    order: Int64[Tensor, " n"] | None
    """Sorts the rows by group."""
    groups: Int64[Tensor, " n"] | None
    """Groups of the rows, sorted."""


class Shortlist:
    """Per query, what is known of the k-th best score, and thereby which rows may still matter."""

    def __init__(
        self,
        queries: Float32[Tensor, "q d"],
        k: int,
        *,
        centre: Float32[Tensor, " d"],
        dtype: torch.dtype,
        block: int,
        groups: Int64[Tensor, " q"] | None,
    ) -> None:
        """Starts with no row known.

        Args:
            queries: of length 1, on the device that shall work.
            k: neighbours asked for.
            centre: anything near the mean of the rows.
            dtype: what scores are computed in.
            block: queries scored at once.
            groups: a query's group, of which no row may be its neighbour.
        """
        self.k, self.centre, self.block, self.groups = k, centre, block, groups
        self.queries = queries.to(dtype)
        self.blur = _lengths(self.queries - queries).max().item()
        self.roundoff = torch.finfo(dtype).eps / 2
        self.best = torch.full((len(queries), k), -torch.inf, device=queries.device)
        """(q, k) lower bounds of the best centred scores, of k different rows; descending."""

    def prepare(self, rows: Float32[Tensor, "n d"], groups: Int64[Tensor, " n"] | None) -> Chunk:
        """Rows of length 1 in the form that `survivors` scores, with the bound of its error."""
        centred = rows - self.centre
        rounded = F.pad(centred, (0, 0, 0, -len(rows) % GROUP)).to(self.queries.dtype)  # (c, d)
        order = None if groups is None else groups.argsort(stable=True)
        return Chunk(
            rounded=rounded,
            count=len(rows),
            error=self._error(centred, rounded[: len(rows)].float()),
            order=order,
            groups=None if groups is None or order is None else groups[order],
        )

    def survivors(self, chunk: Chunk, first: int) -> Pairs | None:
        """Pairs of the block of queries from `first` on that may matter, given all rows so far.

        Blocks do not touch each other's state, so threads may work on several.
        """
        block = slice(first, first + self.block)
        score = chunk.rounded @ self.queries[block].T  # (c, b)
        score[chunk.count :] = -torch.inf
        if self.groups is not None and chunk.groups is not None and chunk.order is not None:
            _mask_own(score, self.groups[block], chunk.groups, chunk.order)
        return self._survivors(score, first, chunk.error)

    def may_matter(self, query: Rows, upper: Scores) -> Bool[NDArray[np.bool_], " _"]:
        """Whether pairs found earlier still do."""
        return upper >= self.best[:, -1].cpu().numpy()[query]

    def stop(self, query: Rows) -> None:
        """No row matters to these queries any more."""
        self.best[torch.from_numpy(query).to(self.best.device)] = torch.inf

    def _error(self, exact: Tensor, rounded: Tensor) -> float:
        """Bound of the difference between a score and its exact value, less its own rounding."""
        longest = _lengths(rounded).max().item()
        blur = _lengths(rounded - exact).max().item()
        sums = SUM_ROUNDING * exact.shape[1] * longest
        return (self.blur * longest + blur) * 1.001 + 1.01 * sums + SLACK

    def _threshold(self, best: Tensor, error: float) -> Tensor:
        """The least score whose upper bound reaches the k-th lower bound; never -inf."""
        least = best[..., -1] - error
        least = torch.where(least >= 0, least / (1 + self.roundoff), least / (1 - self.roundoff))
        return least.clamp_min(torch.finfo(torch.float32).min)

    def _survivors(self, score: Float[Tensor, "c b"], first: int, error: float) -> Pairs | None:
        groups = score.view(-1, GROUP, score.shape[1])  # (g, GROUP, b)
        top = groups.amax(dim=1)  # (g, b)
        best = self.best[first : first + score.shape[1]]
        live = (top.amax(dim=0).float() >= self._threshold(best, error)).nonzero()[:, 0]  # (l,)
        if len(live) == 0:
            return None
        top = top[:, live].float()  # (g, l)
        lower = (top - self.roundoff * top.abs() - error).T  # (l, g)
        best = torch.cat([best[live], lower], dim=1).topk(self.k, dim=1).values
        self.best[first + live] = best
        least = self._threshold(best, error)  # (l,)
        group, column = (top >= least).nonzero(as_tuple=True)
        inside = groups[group, :, live[column]].float()  # (hits, GROUP)
        hit, place = (inside >= least[column, None]).nonzero(as_tuple=True)
        upper = inside[hit, place]
        upper = upper + self.roundoff * upper.abs() + error
        query, row = first + live[column[hit]], group[hit] * GROUP + place
        return query.cpu().numpy(), row.cpu().numpy(), upper.cpu().numpy()


def _lengths(rows: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return lengths


def _mask_own(score: Tensor, own: Tensor, ordered: Tensor, order: Tensor) -> None:
    """Sets the scores of rows of a query's own group to -inf; `order` sorts the rows by group."""
    first = torch.searchsorted(ordered, own)
    count = torch.searchsorted(ordered, own, right=True) - first  # (b,)
    total = int(count.sum())
    if total == 0:
        return
    column = torch.arange(len(own), device=own.device).repeat_interleave(count)
    skipped = (first - count.cumsum(0) + count).repeat_interleave(count)
    place = torch.arange(total, device=own.device) + skipped
    score[order[place], column] = -torch.inf


@contextmanager
def true_precision() -> Iterator[None]:
    """While inside, 32 bit means that, and sums of 16-bit products are taken in 32 bit.

    Both can be switched off by whoever uses torch, or are by default, and the bounds would not
    hold.
    """
    cuda = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cuda.allow_bf16_reduced_precision_reduction = before[1]


@contextmanager
def workers(device: torch.device) -> Iterator[Executor]:
    """Threads, as many as torch has, each of which computes on one core.

    The other way round, every operation on all cores, is slower by a factor where another
    process wants a core: each of the thousands of operations then waits for the core that is
    taken, and not only the block of queries that is worked on there.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu":
        with ThreadPoolExecutor(1) as pool:
            yield pool
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
