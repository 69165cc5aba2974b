"""The Transformer over metadata tokens: a CLS token in front, post-norm layers (TRACE).

Parameter names are those of the published TRACE implementation, so that its checkpoints load.

Axis names: n = rows, t = tokens, s = 1 + t (CLS in front), q = tokens that attend, h = width,
e = width of a head.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class TokenEncoder(nn.Module):
    """A learned CLS token in front, then Transformer layers.

    No token attends to `absent` ones (None: none is absent). All attend to CLS, so that the softmax
    is defined where everything else is absent.
    """

    def __init__(
        self, *, width: int, depth: int, heads: int, mlp_ratio: int, dropout: float
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        layers = [TransformerLayer(width, heads, mlp_ratio, dropout) for _ in range(depth)]
        self.transformer_encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def forward(
        self, tokens: Float[Tensor, "n t h"], absent: Bool[Tensor, "n t"] | None
    ) -> Float[Tensor, "n s h"]:
        """Encoded tokens, CLS first."""
        # Not len(tokens): that is a constant in an exported graph.
        cls = self.cls_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        x = torch.cat([cls, tokens], dim=1)  # (n, s, h)
        mask = None if absent is None else F.pad(~absent, (1, 0), value=True)[:, None, None, :]
        for layer in cast("nn.ModuleList", self.transformer_encoder["layers"]):
            x = layer(x, mask)
        return x


class TransformerLayer(nn.Module):
    """Post-norm Transformer layer with the parameter names of `nn.TransformerEncoderLayer`.

    Not that class itself, because its inference path rounds differently from its training path.
    `fused_attn` chooses the kernel; it has timm's name, so that one switch serves all encoders.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.fused_attn = True
        # Holds the projections under their published names; the arithmetic is below.
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.linear1 = nn.Linear(width, mlp_ratio * width)
        self.linear2 = nn.Linear(mlp_ratio * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.attn_drop = nn.Dropout(dropout)  # timm's name, where hooks find the attention

    def forward(
        self, x: Float[Tensor, "n s h"], mask: Bool[Tensor, "n 1 1 s"] | None
    ) -> Float[Tensor, "n s h"]:
        """Self-attention, then the MLP, each added and normalised."""
        x = self.norm1(x + self.dropout(self.attend(x, mask)))
        hidden = self.dropout(F.gelu(self.linear1(x)))
        return cast("Tensor", self.norm2(x + self.dropout(self.linear2(hidden))))

    def attend(
        self,
        x: Float[Tensor, "n s h"],
        mask: Bool[Tensor, "n 1 1 s"] | None,
        queries: int | None = None,
    ) -> Float[Tensor, "n q h"]:
        """Self-attention; `queries`: of the first tokens only."""
        weight, bias = self.self_attn.in_proj_weight, self.self_attn.in_proj_bias
        if queries is None:
            q, k, v = F.linear(x, weight, bias).chunk(3, dim=-1)
        else:
            q = F.linear(x[:, :queries], *(part[: x.shape[-1]] for part in (weight, bias)))
            k, v = F.linear(x, *(part[x.shape[-1] :] for part in (weight, bias))).chunk(2, dim=-1)
        q, k, v = (  # each (n, heads, s, e)
            part.reshape(*part.shape[:2], self.heads, x.shape[-1] // self.heads).transpose(1, 2)
            for part in (q, k, v)
        )
        if self.fused_attn:
            dropout = self.attn_drop.p if self.training else 0.0
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        else:
            scores = (q / q.shape[-1] ** 0.5) @ k.transpose(-2, -1)
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf)
            attended = self.attn_drop(torch.softmax(scores, dim=-1)) @ v
        return cast("Tensor", self.self_attn.out_proj(attended.transpose(1, 2).flatten(2)))
