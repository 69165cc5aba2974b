"""Nearest rows by cosine, exact.

Axis names: q = queries, n = rows of the index, d = width, k = neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch.nn import functional as F

from slimp.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]
SearchPrecision = Literal["auto", "bf16", "32"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The k nearest rows of each query, nearest first; of equally near ones the lower row first."""

    similarity: Float32[Array, "q k"]
    """Cosine in [-1, 1]; -inf where fewer than k rows were allowed."""
    row: Int64[Array, "q k"]
    """Row of the index; -1 where fewer than k rows were allowed."""


def nearest(
    queries: Float32[Array, "q d"],
    index: Float32[Array, "n d"],
    k: int,
    *,
    exclude: tuple[Shaped[Array, " q"], Shaped[Array, " n"]] | None = None,
    device: torch.device | str = "cpu",
    precision: SearchPrecision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """The k rows of `index` with the highest cosine to each query, exactly.

    Args:
        queries: need not be normalised, that is done here.
        index: likewise.
        k: neighbours per query; may exceed the rows there are.
        exclude: a group per query and per row of the index, such as patients; a row is never
            returned to a query of its own group.
        device: where to compute.
        precision: number format of the first pass; the answer does not depend on it.
        progress: called with the rows of the index that are done, and all of them.

    Raises:
        UserError: k is not positive, or a row is zero or not finite.
    """
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}.")
    q, x = (F.normalize(torch.from_numpy(a).to(device), dim=-1) for a in (queries, index))
    similarity = np.full((len(q), k), -np.inf, np.float32)
    row = np.full((len(q), k), -1, np.int64)
    for first in range(0, len(q), 256):
        score = q[first : first + 256] @ x.T
        if exclude is not None:
            same = exclude[0][first : first + 256, None] == exclude[1]
            score.masked_fill_(torch.from_numpy(same).to(device), -torch.inf)
        best, at = score.sort(dim=1, descending=True, stable=True)
        best, at = best[:, :k].cpu().numpy(), at[:, :k].cpu().numpy()
        similarity[first : first + 256, : best.shape[1]] = best
        row[first : first + 256, : best.shape[1]] = np.where(np.isfinite(best), at, -1)
    return Neighbours(similarity=similarity, row=row)
