"""The nearest rows of one query among hundreds of thousands, exactly and at once.

Axis names: n = rows, d = width, k = neighbours.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from slimp.features.cosines import Rows, cosines

Array = np.ndarray[Any, np.dtype[Any]]
ROWS = 1 << 14
"""Rows that are read at once."""


class Search:
    """Rows, and what a query needs of all of them.

    `features.nearest` prepares an index for thousands of queries, with torch; here a product in 32
    bit keeps the rows that its rounding cannot rule out, and the same cosines decide among these.
    """

    def __init__(self, rows: Float32[Array, "n d"]) -> None:
        self.rows = rows
        # A sixth of the time of np.linalg.norm, which squares the rows into a block of their own.
        self.length = np.sqrt(np.concatenate([np.vecdot(part, part) for part in self._parts()]))

    def _parts(self) -> Iterator[Float32[Array, "_ d"]]:
        """All rows, block by block; of a mapped file no more than a block is resident.

        The system keeps the file's pages as long as it has room, so the next search is as quick.
        """
        file: Any = self.rows
        while isinstance(file, np.ndarray):
            file = file.base
        for first in range(0, len(self.rows), ROWS):
            yield self.rows[first : first + ROWS]
            if isinstance(file, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                file.madvise(mmap.MADV_DONTNEED)

    def nearest(
        self, query: Float32[Array, " d"], k: int, allowed: Bool[Array, " n"] | None = None
    ) -> tuple[Int64[Array, " k"], Float32[Array, " k"]]:
        """Rows and cosines, as of `features.nearest`; fewer than k where fewer are allowed."""
        with np.errstate(divide="ignore", invalid="ignore"):
            unit = query / np.linalg.norm(query)
            score = np.concatenate([part @ unit for part in self._parts()]) / self.length
        able = self.length > 0 if allowed is None else allowed & (self.length > 0)
        k = min(k, int(able.sum()))
        if not k:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        score[~able] = -np.inf
        rounding = 4 * (len(query) + 8) * np.finfo(np.float32).eps  # of two scores, generously
        least = np.partition(score, -k)[-k]
        some = np.flatnonzero(score >= least - rounding)
        one, left = Rows(query[None], "the query"), Rows(self.rows[some], "the index")
        cosine = cosines(one, left, np.zeros(len(some), np.int64), np.arange(len(some)))
        best = np.lexsort((some, -cosine))[:k]
        return some[best], cosine[best]
