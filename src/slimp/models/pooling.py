"""From children to their parent: mean (the paper) or gated attention; and back, to siblings.

Axis names: c = children, n = parents, d = width.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from slimp.data.batches import LevelBatch

HIDDEN = 64
"""Units of the attention."""


class AttentionPool(nn.Module):
    """Gated attention over children (Ilse et al. 2018, eq. 9), so that one lesion can stand out.

    Starts as the mean: the last layer begins at zero.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, HIDDEN), nn.Linear(width, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.score.weight)

    def weights(
        self, x: Float[Tensor, "c d"], parent: Int[Tensor, " c"], count: int
    ) -> Float[Tensor, " c"]:
        """Attention of each child; the children of a parent sum to 1."""
        hidden = torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))
        score: Tensor = self.score(hidden).squeeze(-1)  # (c,)
        score = score.to(torch.promote_types(score.dtype, torch.float32))
        # Softmax is unchanged by a constant per parent; its maximum keeps exp in range.
        top = score.new_full((count,), -torch.inf).scatter_reduce(0, parent, score.detach(), "amax")
        exp = (score - top[parent]).exp()
        return exp / exp.new_zeros(count).index_add(0, parent, exp)[parent]

    def forward(
        self, x: Float[Tensor, "c d"], parent: Int[Tensor, " c"], count: int
    ) -> Float[Tensor, "n d"]:
        """One row per parent."""
        weighted = x * self.weights(x, parent, count).unsqueeze(-1).to(x.dtype)
        return x.new_zeros(count, x.shape[-1]).index_add(0, parent, weighted)


def mean_pool(
    x: Float[Tensor, "c d"], parent: Int[Tensor, " c"], count: int
) -> Float[Tensor, "n d"]:
    """Mean of each parent's children (the paper); ragged, so no row is padding."""
    sums = x.new_zeros(count, x.shape[-1]).index_add(0, parent, x)
    sizes = torch.bincount(parent, minlength=count).unsqueeze(-1)
    return sums / sizes


class Siblings(nn.Module):
    """Adds to each child what sets it apart from its parent's other children; at first nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, width))

    def forward(self, x: Float[Tensor, "c d"], above: LevelBatch | None) -> Float[Tensor, "c d"]:
        """The children, given the level of their parents; an only child stays as it is."""
        if above is None:
            return x
        sizes = torch.bincount(above.parent, minlength=above.count).unsqueeze(-1)[above.parent]
        # x - (sum - x) / (size - 1), from the mean of all children, itself among them.
        apart = (x - mean_pool(x, above.parent, above.count)[above.parent]) * sizes
        return x + functional.linear(apart / (sizes - 1).clamp(min=1), self.weight)
