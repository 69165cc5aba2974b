"""What both tabular encoders promise: missing is a mask, and rows are on their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from metadata_rows import FEATURES, MISSING, rows_of

from slimp.data.encoding import Rows
from slimp.models.ft_transformer import FTTransformer
from slimp.models.trace import Trace, TraceConfig
from slimp.models.trace_checkpoints import TraceFeatures

TRACES = [
    {"continuous": kind, "checkbox": boxes, "pool": pool}
    for kind in ("mlp", "embed", "norm")
    for boxes, pool in (("sum", "mean"), ("prod", "cls"), ("max", "mean"))
]
KINDS = [*TRACES, {"kind": "ft"}]


def made(features: TraceFeatures = FEATURES, kind: str = "trace", **options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"width": 12, "depth": 2, "heads": 3, **options}
    if kind == "ft":
        return FTTransformer(features, **sizes)
    return Trace(features, TraceConfig(**sizes))


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_missing_cell_holds_does_not_matter(kind, missing):
    encoder, rows, other = made(missing=missing, **kind), rows_of(seed=0), rows_of(seed=1)
    known = rows.present
    hidden = Rows(
        continuous=torch.where(known[:, :2], rows.continuous, torch.nan),
        categorical=torch.where(known[:, [2, 4]], rows.categorical, other.categorical),
        checkbox=torch.where(known[:, 3:4], rows.checkbox, 1 - rows.checkbox),
        present=known,
    )
    assert not torch.equal(hidden.categorical, rows.categorical)
    assert torch.equal(encoder(hidden), encoder(rows))
    nothing = encoder(replace(hidden, present=torch.zeros_like(known)))
    assert torch.equal(nothing, nothing[:1].expand_as(nothing)), "they know nothing to differ by"
    (encoder(hidden).sum() + nothing.square().sum()).backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "kind",
    [{"continuous": "embed"}, {"continuous": "embed", "checkbox": "max"}, {"kind": "ft"}],
)
def test_masked_tokens_are_as_if_the_feature_did_not_exist(kind):
    """Of TRACE with `embed`, where no token sees another feature's value before attention."""
    encoder = made(missing="mask", **kind)
    rows = replace(rows_of(), present=torch.tensor([True, False, True, True, False]).expand(6, 5))
    fewer = made(TraceFeatures(continuous=1, categorical=(3, (1, 1, 1))), missing="mask", **kind)
    shortened = {"num_embeddings": (slice(None), slice(1)), "values": slice(1)}
    state = {
        name: value[shortened.get(name, ...)]
        for name, value in encoder.state_dict().items()
        if not name.startswith("embeddings.2")
    }
    fewer.load_state_dict(state)
    kept = Rows(
        continuous=rows.continuous[:, :1],
        categorical=rows.categorical[:, :1],
        checkbox=rows.checkbox,
        present=torch.ones(6, 3, dtype=torch.bool),
    )
    torch.testing.assert_close(encoder(rows), fewer(kept))


@pytest.mark.parametrize("kind", ["trace", "ft"])
def test_learned_vectors_stand_where_cells_are_missing(kind):
    encoder, rows = made(kind=kind, missing="learned"), rows_of()
    tokens, absent = encoder.embed(rows)
    owner = encoder.owner if kind == "ft" else torch.arange(FEATURES.tokens)
    vectors, known = encoder.missing_vectors[owner].expand_as(tokens), rows.present[:, owner]
    assert absent is None
    assert torch.equal(tokens[~known], vectors[~known])
    assert not torch.isclose(tokens[known], vectors[known]).all(dim=-1).any()


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("kind", ["trace", "ft"])
def test_neither_other_rows_nor_the_kernel_matter(kind, missing):
    encoder, rows = made(kind=kind, missing=missing).double(), rows_of(20)
    rows = replace(rows, continuous=rows.continuous.double())
    found = []
    for fused in (True, False):
        for layer in encoder.encoder.transformer_encoder["layers"]:
            layer.fused_attn = fused
        encoder.zero_grad()
        together = encoder(rows)
        together.square().sum().backward()
        gradients = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
        found.append((together, gradients))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
    order = torch.randperm(20)
    torch.testing.assert_close(encoder(rows[order]), together[order])
    alone = torch.cat([encoder(rows[torch.tensor([i])]) for i in range(20)])
    torch.testing.assert_close(alone, together)
