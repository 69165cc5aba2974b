"""TRACE: a Transformer over metadata tokens (Christopoulos et al., arXiv 2411.08701).

Parameter names are those of the published implementation, so that its checkpoints load.

Axis names: n = rows, t = tokens (one per feature: continuous first, then the others), s = 1 + t
(the CLS token in front), h = width, c = continuous and k = categorical features, g = groups of
checkboxes, b = boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from slimp.data.config import require_fractions, require_positive
from slimp.data.encoding import Rows
from slimp.errors import CheckpointError, UserError
from slimp.models.persistence import misfit
from slimp.models.trace_checkpoints import TraceFeatures, published_names
from slimp.models.transformer import TokenEncoder

Pool = Literal["mean", "cls"]
Checkbox = Literal["sum", "prod", "max"]
Continuous = Literal["mlp", "embed", "norm"]
Missing = Literal["zero", "mask", "learned"]


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """Architecture of a tabular encoder; the defaults are the published ones."""

    width: int = 128
    depth: int = 1
    heads: int = 2
    mlp_ratio: int = 4
    dropout: float = 0.0
    pool: Pool = "mean"
    """Output: mean over tokens without CLS, or CLS."""
    checkbox: Checkbox = "sum"
    """How the ticked boxes of a group become one token."""
    continuous: Continuous = "mlp"
    """mlp: one MLP makes a token per value from all values; embed: each value times a learned
    vector; norm: no tokens, the layer-normalised values stand in front of the output."""
    missing: Missing = "zero"
    """Missing tokens: zero vectors that take part (published), masked out, or learned vectors."""

    def __post_init__(self) -> None:
        require_positive(self, "width", "depth", "heads", "mlp_ratio")
        require_fractions(self, "dropout")
        if self.width % self.heads:
            raise UserError(f"heads must divide the width {self.width}, got {self.heads}.")


class Trace(nn.Module):
    """Tabular encoder: metadata rows to one vector each.

    Differs from the published implementation: missing is a mask of the input, never the number
    0, and may be masked out of attention and mean, or learned (`TraceConfig.missing`); dropout
    acts in the Transformer only, not on the categorical tokens before it; weights start as
    PyTorch's layers do, with rows of 0 for missing categories.

    Args:
        features: sizes of the input.
        config: architecture.

    Attributes:
        embed_dim: width of the output: h, or c + h where continuous features are `norm`.

    Shape:
        rows of n rows and t tokens -> (n, embed_dim)

    Example:
        >>> from slimp.models.trace_checkpoints import official_rows
        >>> metadata = {"continuous": ["age"], "categorical": {"site": 5}}
        >>> trace = Trace(TraceFeatures.of_official(metadata), TraceConfig(width=16))
        >>> trace(official_rows(torch.tensor([[40.0, 3], [0, 1]]), metadata)).shape
        torch.Size([2, 16])
    """

    coded: Tensor
    grouped: Tensor
    order: Tensor
    first_row: Tensor
    group_of_box: Tensor

    def __init__(self, features: TraceFeatures, config: TraceConfig | None = None) -> None:
        super().__init__()
        self.features = features
        self.config = config = config or TraceConfig()
        self.embed_dim = width = config.width
        self.embeddings = nn.ModuleList(_table(size, width) for size in features.categorical)
        self._number_tables()
        if features.continuous and config.continuous == "mlp":
            self.num_mlp = ContinuousMLP(features.continuous, width)
        elif features.continuous and config.continuous == "embed":
            self.num_embeddings = nn.Parameter(torch.randn(1, features.continuous, width))
        elif features.continuous:
            self.norm = nn.LayerNorm(features.continuous, eps=1e-6)
            self.embed_dim += features.continuous
        if config.missing == "learned":
            self.missing_vectors = nn.Parameter(torch.randn(features.tokens - self._skipped, width))
        self.encoder = TokenEncoder(
            width=width,
            depth=config.depth,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            dropout=config.dropout,
        )

    def _number_tables(self) -> None:
        """Where each feature is among those of its kind, and each table in all of them."""
        kinds = self.features.categorical
        grouped = torch.tensor([isinstance(size, tuple) for size in kinds], dtype=torch.bool)
        rows = [len(x.weight) for x in self.embeddings if isinstance(x, nn.Embedding)]
        sizes = [len(size) for size in kinds if isinstance(size, tuple)]
        self.register_buffer("coded", (~grouped).nonzero()[:, 0], persistent=False)
        self.register_buffer("grouped", grouped.nonzero()[:, 0], persistent=False)
        places = torch.cat([self.coded, self.grouped]).argsort()
        self.register_buffer("order", places, persistent=False)
        first = torch.tensor([0, *rows], dtype=torch.long).cumsum(0)[:-1]
        self.register_buffer("first_row", first, persistent=False)
        numbers = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.long))
        self.register_buffer("group_of_box", numbers, persistent=False)

    def forward(self, rows: Rows) -> Float[Tensor, "n embed_dim"]:
        """The pooled output, before any head."""
        tokens, absent = self.embed(rows)
        pooled = self._pool(self.encoder(tokens, absent), absent)
        if self._skipped:
            return torch.cat([self.norm(self._values(rows)), pooled], dim=-1)
        return pooled

    def embed(self, rows: Rows) -> tuple[Float[Tensor, "n t h"], Bool[Tensor, "n t"] | None]:
        """Tokens, and where attention must not look (None: everywhere is fine).

        What a missing cell holds has no influence: it is replaced, not multiplied by 0.
        """
        present = rows.present[:, self._skipped :]
        empty = self.encoder.cls_token.new_zeros(present.shape[0], 0, self.config.width)
        tokens = torch.cat([empty, *self._continuous(rows), *self._categorical(rows)], dim=1)
        if self.config.missing == "learned":
            vectors = self.missing_vectors.to(tokens.dtype)
            return torch.where(present.unsqueeze(-1), tokens, vectors), None
        return tokens, ~present if self.config.missing == "mask" else None

    @property
    def _skipped(self) -> int:
        """Features in front that make no token."""
        return self.features.continuous if self.config.continuous == "norm" else 0

    def _values(self, rows: Rows) -> Float[Tensor, "n c"]:
        known = rows.present[:, : self.features.continuous]
        return torch.where(known, rows.continuous, 0.0).to(self.encoder.cls_token.dtype)

    def _continuous(self, rows: Rows) -> Iterable[Float[Tensor, "n c h"]]:
        if not self.features.continuous or self._skipped:
            return
        values = self._values(rows)
        if self.config.continuous == "embed":
            yield values.unsqueeze(-1) * self.num_embeddings  # (n, c, h)
        else:
            # All tokens see all values, so the token of a missing one is not 0 by itself.
            known = rows.present[:, : self.features.continuous]
            yield torch.where(known.unsqueeze(-1), self.num_mlp(values), 0.0)

    def _categorical(self, rows: Rows) -> Iterable[Float[Tensor, "n _ h"]]:
        """Tokens of categories and of groups of boxes, in the order of the features.

        Few large operations: one per feature would take longer than the Transformer.
        """
        known = rows.present[:, self.features.continuous :]
        parts = []
        if len(self.coded):
            codes = torch.where(known[:, self.coded], rows.categorical, 0)
            parts.append(self._looked_up(codes))
        if len(self.grouped):
            parts.append(self._checkboxes(rows.checkbox, known[:, self.grouped]))
        if len(parts) == 2:
            parts = [torch.cat(parts, dim=1).index_select(1, self.order)]
        yield from parts

    def _looked_up(self, codes: Int[Tensor, "n k"]) -> Float[Tensor, "n k h"]:
        tables = [table.weight for table in self.embeddings if isinstance(table, nn.Embedding)]
        found = F.embedding(codes + self.first_row, torch.cat(tables))
        # Row 0 gets no gradient: it stays 0 here. In published checkpoints it is not 0, since
        # their tables are initialised once more after the row was zeroed.
        return torch.where((codes > 0).unsqueeze(-1), found, found.detach())

    def _checkboxes(
        self, ticks: Float[Tensor, "n b"], known: Bool[Tensor, "n g"]
    ) -> Float[Tensor, "n g h"]:
        """A token per group."""
        groups = [group for group in self.embeddings if isinstance(group, nn.ModuleList)]
        boxes = [cast("nn.Embedding", box).weight for group in groups for box in group]
        # The row of an unticked box is multiplied by 0, so only the row of a tick counts.
        ticked = torch.cat(boxes)[1::2]  # (b, h)
        ticks = torch.where(known[:, self.group_of_box], ticks, 0.0)
        tokens = ticked * ticks.to(ticked.dtype).unsqueeze(-1)  # (n, b, h)
        if len(boxes) == len(groups):
            return tokens
        parts = torch.split(tokens, [len(group) for group in groups], dim=1)
        return torch.stack([self._joined(part) for part in parts], dim=1)

    def _joined(self, boxes: Float[Tensor, "n b h"]) -> Float[Tensor, "n h"]:
        if self.config.checkbox == "sum":
            return boxes.sum(dim=1)
        return boxes.prod(dim=1) if self.config.checkbox == "prod" else boxes.amax(dim=1)

    def _pool(
        self, encoded: Float[Tensor, "n s h"], absent: Bool[Tensor, "n t"] | None
    ) -> Float[Tensor, "n h"]:
        """A row without any token to average falls back to CLS, which is always there."""
        cls, tokens = encoded[:, 0], encoded[:, 1:]
        if self.config.pool == "cls" or tokens.shape[1] == 0:
            return cls
        if absent is None:
            return tokens.mean(dim=1)
        here = (~absent).to(encoded.dtype).unsqueeze(-1)  # (n, t, 1)
        known = here.sum(dim=1)  # (n, 1)
        return torch.where(known > 0, (tokens * here).sum(dim=1) / known.clamp(min=1), cls)

    @classmethod
    def from_official(
        cls,
        state_dict: Mapping[str, Any],
        metadata: Mapping[str, Any],
        *,
        heads: int = 2,
        pool: Pool = "mean",
        checkbox: Checkbox = "sum",
    ) -> Trace:
        """The published implementation's encoder, without its classifier, in evaluation mode.

        Args:
            state_dict: published names, with or without a prefix such as `module.`; or the
                published checkpoint, which holds it as `model`.
            metadata: `{"continuous": [names], "categorical": {name: K, group: [1, 1, 1]}}`.
            heads: attention heads, which the state dict does not tell.
            pool: as in `TraceConfig`.
            checkbox: as in `TraceConfig`.

        Raises:
            CheckpointError: names or shapes do not fit `metadata`.
        """
        state = published_names(state_dict)
        state = {name: x for name, x in state.items() if not name.startswith("head.")}
        width = state["encoder.cls_token"].shape[-1]
        hidden = state.get("encoder.transformer_encoder.layers.0.linear1.bias")
        modes: dict[str, Continuous] = {"num_embeddings": "embed", "norm.weight": "norm"}
        config = TraceConfig(
            width=width,
            depth=max(1, len({name.split(".")[3] for name in state if ".layers." in name})),
            heads=heads,
            mlp_ratio=4 if hidden is None else max(1, len(hidden) // width),
            pool=pool,
            checkbox=checkbox,
            continuous=next((modes[name] for name in modes if name in state), "mlp"),
        )
        features = TraceFeatures.of_official(metadata)
        trace = cls(features, config)
        if problem := misfit(state, trace.state_dict()):
            raise CheckpointError(
                f"the state dict does not fit the metadata: {problem}. Are these the features it "
                "was trained with?"
            )
        trace.load_state_dict(state)
        return trace.eval()


class ContinuousMLP(nn.Module):
    """All c continuous values -> c tokens, through one MLP (published name: `num_mlp`)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.shape = (count, width)
        self.mlp = nn.Sequential(
            nn.Linear(count, width), nn.SELU(), nn.Linear(width, width * count)
        )

    def forward(self, values: Float[Tensor, "n c"]) -> Float[Tensor, "n c h"]:
        """One token per value; every token sees all values."""
        tokens: Tensor = self.mlp(values)  # (n, c h)
        return tokens.reshape(values.shape[0], *self.shape)


def _table(size: int | tuple[int, ...], width: int) -> nn.Module:
    if isinstance(size, int):  # K = 1 is widened to 2, as published
        return nn.Embedding(max(size, 2) + 1, width, padding_idx=0)
    return nn.ModuleList(nn.Embedding(2, width) for _ in size)
