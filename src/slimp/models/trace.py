"""TRACE: a Transformer over metadata tokens (Christopoulos et al., arXiv 2411.08701).

Parameter names are those of the published implementation, so that its checkpoints load.

Axis names: n = rows, t = tokens (one per feature: continuous first, then the others), s = 1 + t
(the CLS token in front), h = width, c = continuous features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slimp.encoding import Encoding, Rows
from slimp.errors import CheckpointError, UserError

Missing = Literal["zero", "mask", "learned"]


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """Architecture of one tabular encoder; the defaults are the published ones."""

    width: int = 128
    depth: int = 1
    heads: int = 2
    mlp_ratio: int = 4
    dropout: float = 0.0
    pool: Literal["mean", "cls"] = "mean"
    """Output: mean over tokens without CLS, or CLS."""
    checkbox: Literal["sum", "prod", "max"] = "sum"
    """How the ticked boxes of a group become one token."""
    continuous: Literal["mlp", "embed"] = "mlp"
    """One MLP for all values, or each value times a learned vector."""
    missing: Missing = "zero"
    """Missing tokens: zero vectors that take part (published), masked out, or learned vectors."""


@dataclass(frozen=True, kw_only=True)
class TraceFeatures:
    """Sizes of the input, in token order."""

    continuous: int
    """Number of continuous features."""
    categorical: tuple[int | tuple[int, ...], ...]
    """Per further token: K of a categorical feature, or a tuple of ones, a per box of a group."""

    @classmethod
    def of(cls, encoding: Encoding) -> TraceFeatures:
        """Sizes of a fitted encoding."""
        others = [feature for feature in encoding.features if feature.kind != "continuous"]
        return cls(
            continuous=len(encoding.of_kind("continuous")),
            categorical=tuple(
                len(f.categories) if f.kind == "categorical" else (1,) * len(f.columns)
                for f in others
            ),
        )

    @classmethod
    def of_official(cls, metadata: Mapping[str, Any]) -> TraceFeatures:
        """Sizes of the published description: `{"continuous": [...], "categorical": {...}}`."""
        sizes = metadata["categorical"].values()
        return cls(
            continuous=len(metadata["continuous"]),
            categorical=tuple(tuple(k) if isinstance(k, list | tuple) else int(k) for k in sizes),
        )

    @property
    def tokens(self) -> int:
        """One per feature."""
        return self.continuous + len(self.categorical)


class Trace(nn.Module):
    """Tabular encoder: metadata rows to one vector each.

    Differs from the published implementation: missing is a mask of the input, never the number
    0, and may be masked out of attention and mean, or learned (`TraceConfig.missing`).

    Args:
        features: a fitted encoding, or the sizes alone.
        config: architecture.
        num_classes: adds the published linear head as `head`, which `forward` does not apply.

    Shape:
        rows of n rows and t tokens -> (n, h)
    """

    def __init__(
        self,
        features: Encoding | TraceFeatures,
        config: TraceConfig | None = None,
        *,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        sizes = TraceFeatures.of(features) if isinstance(features, Encoding) else features
        if sizes.tokens == 0:
            raise UserError("a tabular encoder needs at least one feature.")
        self.features = sizes
        self.config = config or TraceConfig()
        width = self.config.width
        self.embeddings = nn.ModuleList(_table(size, width) for size in sizes.categorical)
        if sizes.continuous:
            if self.config.continuous == "mlp":
                self.num_mlp = ContinuousMLP(sizes.continuous, width)
            else:
                self.num_vectors = nn.Parameter(torch.randn(sizes.continuous, width) * 0.02)
        if self.config.missing == "learned":
            self.missing_vectors = nn.Parameter(torch.randn(sizes.tokens, width) * 0.02)
        self.encoder = TokenEncoder(self.config)
        if num_classes is not None:
            self.head = nn.ModuleDict({"linear": nn.Linear(width, num_classes)})

    def forward(self, rows: Rows) -> Float[Tensor, "n h"]:
        """The pooled output, before any head."""
        tokens, absent = self.embed(rows)
        return self._pool(self.encoder(tokens, absent), absent)

    def attention(self, rows: Rows) -> list[Float[Tensor, "n heads s s"]]:
        """Attention per layer; CLS first, then the features in token order; rows sum to 1."""
        tokens, absent = self.embed(rows)
        return self.encoder.attention(tokens, absent)

    def embed(self, rows: Rows) -> tuple[Float[Tensor, "n t h"], Bool[Tensor, "n t"] | None]:
        """Tokens, and where attention must not look (None: everywhere is fine).

        What a missing cell holds has no influence: it is replaced, not multiplied by 0.
        """
        tokens = torch.cat([*self._continuous(rows), *self._categorical(rows)], dim=1)
        present = rows.present.unsqueeze(-1)  # (n, t, 1)
        if self.config.missing == "learned":
            return torch.where(present, tokens, self.missing_vectors.to(tokens.dtype)), None
        tokens = torch.where(present, tokens, torch.zeros_like(tokens))
        return tokens, ~rows.present if self.config.missing == "mask" else None

    def _continuous(self, rows: Rows) -> list[Float[Tensor, "n c h"]]:
        if not self.features.continuous:
            return []
        # The published MLP mixes columns, so a missing value must enter as 0 there.
        known = rows.present[:, : self.features.continuous]
        values = torch.where(known, rows.continuous, torch.zeros_like(rows.continuous))
        if self.config.continuous == "mlp":
            return [self.num_mlp(values)]
        return [values.unsqueeze(-1) * self.num_vectors]  # (n, c, h)

    def _categorical(self, rows: Rows) -> list[Float[Tensor, "n 1 h"]]:
        tokens, code, box = [], 0, 0
        for size, table in zip(self.features.categorical, self.embeddings, strict=True):
            if isinstance(size, int):
                tokens.append(table(rows.categorical[:, code]))
                code += 1
            else:
                ticks = rows.checkbox[:, box : box + len(size)]  # (n, boxes)
                tokens.append(self._checkbox(cast("nn.ModuleList", table), ticks))
                box += len(size)
        return [token.unsqueeze(1) for token in tokens]

    def _checkbox(
        self, tables: nn.ModuleList, ticks: Float[Tensor, "n boxes"]
    ) -> Float[Tensor, "n h"]:
        looked_up = [table(ticks[:, i].long()) for i, table in enumerate(tables)]
        boxes = torch.stack(looked_up, dim=1) * ticks.unsqueeze(-1)  # (n, boxes, h)
        if self.config.checkbox == "sum":
            return boxes.sum(dim=1)
        return boxes.prod(dim=1) if self.config.checkbox == "prod" else boxes.amax(dim=1)

    def _pool(
        self, encoded: Float[Tensor, "n s h"], absent: Bool[Tensor, "n t"] | None
    ) -> Float[Tensor, "n h"]:
        """A row without any known feature falls back to CLS, which always knows itself."""
        cls, tokens = encoded[:, 0], encoded[:, 1:]
        if self.config.pool == "cls":
            return cls
        if absent is None:
            return tokens.mean(dim=1)
        here = (~absent).to(encoded.dtype).unsqueeze(-1)  # (n, t, 1)
        known = here.sum(dim=1)  # (n, 1)
        return torch.where(known > 0, (tokens * here).sum(dim=1) / known.clamp(min=1), cls)

    @classmethod
    def from_official(
        cls,
        state_dict: Mapping[str, Tensor],
        metadata: Mapping[str, Any],
        *,
        heads: int = 2,
        pool: Literal["mean", "cls"] = "mean",
        checkbox: Literal["sum", "prod", "max"] = "sum",
    ) -> Trace:
        """The published implementation's encoder from its state dict, in evaluation mode.

        Args:
            state_dict: published names; a `module.` prefix is removed.
            metadata: `{"continuous": [names], "categorical": {name: K, group: [1, 1, 1]}}`.
            heads: attention heads, which the state dict does not tell.
            pool: as in `TraceConfig`.
            checkbox: as in `TraceConfig`.

        Raises:
            CheckpointError: names or shapes do not fit `metadata`.
        """
        state = {name.removeprefix("module."): value for name, value in state_dict.items()}
        try:
            width = state["encoder.cls_token"].shape[-1]
        except KeyError:
            raise CheckpointError(
                "this is no TRACE state dict: it lacks 'encoder.cls_token'."
            ) from None
        layers = {name.split(".")[3] for name in state if ".layers." in name}
        head = state.get("head.linear.weight")
        config = TraceConfig(
            width=width, depth=len(layers), heads=heads, pool=pool, checkbox=checkbox
        )
        trace = cls(
            TraceFeatures.of_official(metadata),
            config,
            num_classes=None if head is None else len(head),
        )
        try:
            trace.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"the state dict does not fit the metadata: {error}") from None
        return trace.eval()


class ContinuousMLP(nn.Module):
    """All c continuous values -> c tokens, through one MLP (published name: `num_mlp`)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count = count
        self.mlp = nn.Sequential(
            nn.Linear(count, width), nn.SELU(), nn.Linear(width, width * count)
        )

    def forward(self, values: Float[Tensor, "n c"]) -> Float[Tensor, "n c h"]:
        """One token per value; every token sees all values."""
        return cast("Tensor", self.mlp(values)).unflatten(-1, (self.count, -1))


class TokenEncoder(nn.Module):
    """A learned CLS token in front, then Transformer layers."""

    def __init__(self, config: TraceConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.depth))
        self.transformer_encoder = nn.ModuleDict({"layers": layers})

    def forward(
        self, tokens: Float[Tensor, "n t h"], absent: Bool[Tensor, "n t"] | None
    ) -> Float[Tensor, "n s h"]:
        """Encoded tokens, CLS first."""
        x, mask = self._with_cls(tokens, absent)
        for layer in self._layers():
            x = layer(x, mask)
        return x

    def attention(
        self, tokens: Float[Tensor, "n t h"], absent: Bool[Tensor, "n t"] | None
    ) -> list[Float[Tensor, "n heads s s"]]:
        """Attention weights of each layer."""
        x, mask = self._with_cls(tokens, absent)
        maps = []
        for layer in self._layers():
            maps.append(layer.attention(x, mask))
            x = layer(x, mask)
        return maps

    def _layers(self) -> list[TransformerLayer]:
        return list(cast("nn.ModuleList", self.transformer_encoder["layers"]))  # type: ignore[arg-type]

    def _with_cls(
        self, tokens: Float[Tensor, "n t h"], absent: Bool[Tensor, "n t"] | None
    ) -> tuple[Float[Tensor, "n s h"], Bool[Tensor, "n 1 1 s"] | None]:
        cls = self.cls_token.to(tokens.dtype).expand(len(tokens), -1, -1)
        x = torch.cat([cls, tokens], dim=1)  # (n, s, h)
        if absent is None:
            return x, None
        look = F.pad(~absent, (1, 0), value=True)  # CLS is always there, so no row is empty
        return x, look[:, None, None, :]


class TransformerLayer(nn.Module):
    """Post-norm Transformer layer with the parameter names of `nn.TransformerEncoderLayer`."""

    def __init__(self, config: TraceConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        # Holds the projections under their published names; the arithmetic is below.
        self.self_attn = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.linear1 = nn.Linear(width, config.mlp_ratio * width)
        self.linear2 = nn.Linear(config.mlp_ratio * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "n s h"], mask: Bool[Tensor, "n 1 1 s"] | None
    ) -> Float[Tensor, "n s h"]:
        """Self-attention, then the MLP, each added and normalised."""
        q, k, v = self._heads(x)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        attended = self.self_attn.out_proj(attended.transpose(1, 2).flatten(2))  # (n, s, h)
        x = self.norm1(x + self.dropout(attended))
        hidden = self.dropout(F.gelu(self.linear1(x)))
        return cast("Tensor", self.norm2(x + self.dropout(self.linear2(hidden))))

    def attention(
        self, x: Float[Tensor, "n s h"], mask: Bool[Tensor, "n 1 1 s"] | None
    ) -> Float[Tensor, "n heads s s"]:
        """The weights with which each token (row) looks at each other (column)."""
        q, k, _ = self._heads(x)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(dim=-1)

    def _heads(self, x: Float[Tensor, "n s h"]) -> list[Float[Tensor, "n heads s e"]]:
        weight, bias = self.self_attn.in_proj_weight, self.self_attn.in_proj_bias
        qkv = F.linear(x, weight, bias).unflatten(-1, (3, self.heads, -1))  # (n, s, 3, heads, e)
        return list(qkv.permute(2, 0, 3, 1, 4))


def official_rows(x: Float[Tensor, "n columns"], metadata: Mapping[str, Any]) -> Rows:
    """Rows in the published coding: continuous first, then integer codes; 0 is missing.

    Raises:
        UserError: the number of columns, or a code, does not fit `metadata`.
    """
    features = TraceFeatures.of_official(metadata)
    names = [*metadata["continuous"], *metadata["categorical"]]
    width = features.continuous + sum(
        1 if isinstance(size, int) else len(size) for size in features.categorical
    )
    if x.shape[1] != width:
        raise UserError(f"the metadata describes {width} columns, the rows have {x.shape[1]}.")
    continuous = x[:, : features.continuous]
    present = [continuous != 0]
    codes, boxes, column = [], [], features.continuous
    for name, size in zip(names[features.continuous :], features.categorical, strict=True):
        stop = column + (1 if isinstance(size, int) else len(size))
        values, column = x[:, column:stop], stop
        largest = max(size, 2) if isinstance(size, int) else 1
        if len(x) and not ((values == values.round()) & (values >= 0) & (values <= largest)).all():
            raise UserError(f"column '{name}': codes must be whole numbers from 0 to {largest}.")
        (codes if isinstance(size, int) else boxes).append(values)
        # An unticked box is a zero vector like a missing one, so a group counts as present.
        known = values != 0 if isinstance(size, int) else torch.ones_like(values[:, :1]).bool()
        present.append(known)
    return Rows(
        continuous=continuous,
        categorical=torch.cat([x[:, :0], *codes], dim=1).long(),
        checkbox=torch.cat([x[:, :0], *boxes], dim=1),
        present=torch.cat(present, dim=1),
    )


def _table(size: int | tuple[int, ...], width: int) -> nn.Module:
    if isinstance(size, int):  # K = 1 is widened to 2, as published
        return nn.Embedding(max(size, 2) + 1, width, padding_idx=0)
    return nn.ModuleList(nn.Embedding(2, width) for _ in size)
