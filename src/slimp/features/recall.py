"""Recall of retrieval among embeddings.

Axis names: n = rows, d = width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

CELLS_AT_ONCE = 1 << 24
"""Cells of the similarity matrix that are held at once (64 MiB in 32 bit)."""


@torch.no_grad()
def recall_at_k(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    ks: Sequence[int] = (1, 5, 10),
    groups: Int[Tensor, " n"] | None = None,
) -> dict[int, float]:
    """Per k, the share of rows of `a` that find a row of their own group among the k nearest of b.

    Nearest by cosine. A tie counts against the row, so that a model that maps everything to one
    point scores 0 and not 1. Computed block by block on the device of `a`.

    Args:
        a: queries.
        b: candidates; row i belongs to query i.
        ks: ranks; the result has them as keys.
        groups: rows of equal groups match each other; None: each row only matches itself.

    Raises:
        ValueError: there are no rows, or a k is not positive.

    Example:
        >>> eye = torch.eye(3)
        >>> recall_at_k(eye, eye[[1, 0, 2]], ks=(1, 3))
        {1: 0.3333333432674408, 3: 1.0}
    """
    if len(a) == 0 or min(ks, default=0) < 1:
        raise ValueError(f"recall_at_k needs rows and ks >= 1, got {len(a)} rows and ks={ks}")
    groups = group_numbers(a, groups)
    a, b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
    ranks, block = [], max(1, CELLS_AT_ONCE // len(b))
    for first in range(0, len(a), block):
        cosine = a[first : first + block] @ b.T  # (rows, n)
        match = groups[first : first + block, None] == groups  # (rows, n)
        best = cosine.masked_fill(~match, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((cosine >= best) & ~match).sum(dim=1))  # (rows,) others that are as near
    rank = torch.cat(ranks)
    return {k: (rank < k).float().mean().item() for k in ks}


def group_numbers(rows: Tensor, groups: Tensor | None) -> Tensor:
    """The groups, each row its own where none are given."""
    return torch.arange(len(rows), device=rows.device) if groups is None else groups.to(rows.device)
