"""Equal rows of an index: which of them can be among the k nearest of any query.

Axis names: n = rows, d = width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

Array = np.ndarray[Any, np.dtype[Any]]
ROWS_AT_ONCE = 8192


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
    code = pd.factorize(_fingerprints(index))[0]
    rows = np.flatnonzero(np.bincount(code)[code] > k)
    leader = np.unique(code, return_index=True)[1][code]
    for some in range(0, len(rows), ROWS_AT_ONCE):  # fingerprints may agree by chance
        part = rows[some : some + ROWS_AT_ONCE]
        leader[part[(index[part] != index[leader[part]]).any(axis=1)]] = -1
    rows = rows[leader[rows] >= 0]
    table = pd.DataFrame({"row": rows, "leader": leader[rows], "group": 0})
    if groups is None:
        few = table.groupby("leader").cumcount() < k
    else:
        table["group"] = groups[rows]
        few = table.groupby(["leader", "group"]).cumcount() < k
        few[few] = table[few].groupby("leader").cumcount() < 2 * k
    return np.delete(np.arange(len(index)), table["row"][~few])


def _fingerprints(rows: Array) -> Array:
    """A number per row, which equal rows share: a sum of its bits, weighted, modulo 2^64."""
    words = rows.view(np.uint64 if rows.shape[1] % 2 == 0 else np.uint32)
    odd = np.random.default_rng(0).integers(1 << 63, size=words.shape[1], dtype=np.uint64)
    weights = odd * np.uint64(2) + np.uint64(1)
    parts = np.array_split(words, -(-len(words) // ROWS_AT_ONCE))
    return np.concatenate([part.astype(np.uint64, copy=False) @ weights for part in parts])
