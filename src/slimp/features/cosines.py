"""The cosine that decides which rows are nearest: of pairs, the same on every machine.

It is of rows scaled to length 1 in 32 bit, taken in 64 bit and rounded to 32; see `nearest`.

Axis names: n = rows, d = width, p = pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from slimp.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]
PAIRS_AT_ONCE = 1024
"""Pairs scored at once, so that they stay in cache."""


class Rows:
    """Rows as they came, and their lengths; scaled on demand, so that no copy is kept.

    Raises:
        UserError: a row is zero or not finite; `name` says of what.
    """

    def __init__(self, values: Float32[Array, "n d"], name: str) -> None:
        self.values = np.ascontiguousarray(values)
        self.length = np.empty(len(values), np.float32)
        for at in parts(np.arange(len(values)), PAIRS_AT_ONCE):
            exact = self.values[at].astype(np.float64)
            self.length[at] = np.sqrt(np.einsum("nd,nd->n", exact, exact))
        bad = np.flatnonzero(~(np.isfinite(self.length) & (self.length > 0)))
        if len(bad):
            raise UserError(
                f"{len(bad)} of {len(values)} rows of {name} are zero or not finite, such as row "
                f"{bad[0]}, whose length is {self.length[bad[0]]}. Leave them out."
            )

    def unit(self, at: Int64[Array, " _"]) -> Float32[Array, "_ d"]:
        """Some of them, scaled to length 1."""
        return np.asarray(self.values[at] / self.length[at, None])


def cosines(
    queries: Rows, index: Rows, query: Int64[Array, " p"], row: Int64[Array, " p"]
) -> Float32[Array, " p"]:
    """Of pairs, one by one and always in the same order of summation."""
    out = np.empty(len(row), np.float32)
    for at in parts(np.arange(len(row)), PAIRS_AT_ONCE):
        a = queries.unit(query[at]).astype(np.float64)
        b = index.unit(row[at]).astype(np.float64)
        out[at] = np.einsum("pd,pd->p", a, b)
    return np.clip(out, -1, 1)


def parts(rows: Array, size: int) -> list[Array]:
    """Rows in their order, at most `size` in each part."""
    return [rows[first : first + size] for first in range(0, len(rows), size)]
