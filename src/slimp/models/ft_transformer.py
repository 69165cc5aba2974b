"""FT-Transformer: a Transformer over one token per column (Gorishniy et al., arXiv 2106.11959).

What TRACE is compared with, in its place (SLIMP, arXiv 2505.23709, Tables 10 and 11). Section 3.3
of its paper, as the published implementation (`rtdl_revisiting_models` 0.0.2) has it:

    token of the value x of column j     b_j + x W_j
    token of category k of column j      b_j + W_j[k]
    T = [CLS, tokens], then per layer    T = T + Attention(LN(T));  T = T + FFN(LN(T))
    with                                 FFN(z) = U (a * ReLU(g)) + u,  [a, g] = V z + v
    output                               LN(T of CLS)

without the first LN of the first layer. In the last layer only CLS attends.

Axis names: n = rows, c = continuous features, t = tokens (one per continuous or categorical
feature and per box of a checkbox group), s = 1 + t, q = tokens that attend, h = width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimp.data.encoding import Rows
from slimp.models.trace_checkpoints import TraceFeatures
from slimp.models.transformer import TokenEncoder, TransformerLayer

HIDDEN = 4 / 3
"""Hidden units of the FFN per unit of the width (the published default)."""


class FTTransformer(nn.Module):
    """Tabular encoder: metadata rows to one vector each.

    Differs from the published implementation: it has no missing values (its experiments put the
    mean of the training rows for a missing number, and a category of its own for a missing
    category); here they are treated as in TRACE. Its head, a linear layer after a ReLU, gives way
    to the projections. The residual branches have no dropout (its default).

    Args:
        features: sizes of the input.
        width: h, a multiple of `heads`; published default 192, with 3 layers of 8 heads.
        depth: layers.
        heads: attention heads.
        dropout: of attention weights and of the FFN's hidden units.
        missing: tokens of missing cells are zero vectors, masked out of the attention, or learned
            vectors, one per feature.

    Shape:
        rows of n rows -> (n, width)
    """

    owner: Tensor

    def __init__(
        self,
        features: TraceFeatures,
        *,
        width: int = 192,
        depth: int = 3,
        heads: int = 8,
        dropout: float = 0.0,
        missing: Literal["zero", "mask", "learned"] = "mask",
    ) -> None:
        super().__init__()
        self.features, self.missing, self.embed_dim = features, missing, width
        # Slope and intercept. A third axis, so that no weight decay acts on them, as published.
        self.values = nn.Parameter(torch.empty(features.continuous, 2, width))
        self.embeddings = nn.ModuleList(_table(size, width) for size in features.categorical)
        tokens = [1] * features.continuous
        tokens += [1 if isinstance(size, int) else len(size) for size in features.categorical]
        owner = torch.arange(features.tokens).repeat_interleave(torch.tensor(tokens))
        self.register_buffer("owner", owner, persistent=False)  # (t,) its feature
        if missing == "learned":
            self.missing_vectors = nn.Parameter(torch.empty(features.tokens, width))
        self.encoder = PreNormEncoder(width=width, depth=depth, heads=heads, dropout=dropout)
        for name, parameter in self.named_parameters():
            if not name.startswith("encoder.transformer_encoder.") and ".norm." not in name:
                nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(self, rows: Rows) -> Float[Tensor, "n h"]:
        """The normalised CLS token, before any head."""
        tokens, absent = self.embed(rows)
        return cast("Tensor", self.encoder(tokens, absent))

    def embed(self, rows: Rows) -> tuple[Float[Tensor, "n t h"], Bool[Tensor, "n t"] | None]:
        """Tokens, and where attention must not look (None: everywhere is fine).

        What a missing cell holds has no influence: it is replaced, not multiplied by 0.
        """
        known = rows.present[:, self.owner]  # (n, t)
        slope, intercept = self.values.unbind(1)  # each (c, h)
        values = rows.continuous.to(slope.dtype).nan_to_num()
        numbers = torch.addcmul(intercept, values.unsqueeze(-1), slope)  # (n, c, h)
        tokens = torch.cat([numbers, *self._looked_up(rows)], dim=1)
        if self.missing == "learned":
            instead = self.missing_vectors[self.owner].to(tokens.dtype)
            return torch.where(known.unsqueeze(-1), tokens, instead), None
        tokens = torch.where(known.unsqueeze(-1), tokens, 0.0)
        return tokens, ~known if self.missing == "mask" else None

    def _looked_up(self, rows: Rows) -> Iterator[Float[Tensor, "n 1 h"]]:
        """Tokens of categories and of boxes; row 0 of each table is the intercept."""
        codes = iter(rows.categorical.unbind(1))
        boxes = iter(rows.checkbox.long().unbind(1))
        for found in self.embeddings:
            group = isinstance(found, nn.ModuleList)
            for table in cast("nn.ModuleList", found) if group else [found]:
                row = next(boxes) + 1 if group else next(codes)
                weight = cast("nn.Embedding", table).weight
                yield (weight[0] + F.embedding(row, weight)).unsqueeze(1)


class PreNormEncoder(TokenEncoder):
    """CLS and tokens through the layers; what comes out is CLS alone, normalised."""

    def __init__(self, *, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__(width=width, depth=0, heads=heads, mlp_ratio=1, dropout=dropout)
        cast("nn.ModuleList", self.transformer_encoder["layers"]).extend(
            PreNormLayer(width, heads, dropout, first=k == 0, last=k == depth - 1)
            for k in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Float[Tensor, "n t h"], absent: Bool[Tensor, "n t"] | None
    ) -> Float[Tensor, "n h"]:
        """The representation of each row."""
        return cast("Tensor", self.norm(super().forward(tokens, absent)[:, 0]))


class PreNormLayer(TransformerLayer):
    """Normalised before attention and FFN, with a gated FFN (ReGLU, arXiv 2002.05202).

    Args:
        width: h.
        heads: attention heads.
        dropout: of attention weights and hidden units.
        first: without the first normalisation.
        last: only CLS attends, since nothing reads the other tokens.
    """

    def __init__(
        self, width: int, heads: int, dropout: float, *, first: bool = False, last: bool = False
    ) -> None:
        super().__init__(width, heads, 1, dropout)
        self.queries = 1 if last else None
        hidden = int(width * HIDDEN)
        self.linear1, self.linear2 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        if first:
            self.add_module("norm1", nn.Identity())
        bound = width**-0.5  # three layers, as published, not one of three times the outputs
        nn.init.uniform_(self.self_attn.in_proj_weight, -bound, bound)

    def forward(
        self, x: Float[Tensor, "n s h"], mask: Bool[Tensor, "n 1 1 s"] | None
    ) -> Float[Tensor, "n q h"]:
        """Self-attention, then the FFN, each added."""
        x = x[:, : self.queries] + self.attend(self.norm1(x), mask, self.queries)
        unit, gate = self.linear1(self.norm2(x)).chunk(2, dim=-1)
        return cast("Tensor", x + self.linear2(self.dropout(unit * F.relu(gate))))


def _table(size: int | tuple[int, ...], width: int) -> nn.Module:
    """Row 0: the intercept; then a row per category, or for a box not ticked and ticked."""
    if isinstance(size, int):
        return nn.Embedding(1 + size, width)
    return nn.ModuleList(nn.Embedding(3, width) for _ in size)
