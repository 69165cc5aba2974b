"""TRACE against an independent reference of the published implementation, and its own promises."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from metadata_rows import FEATURES, MISSING, rows_of
from torch import Tensor, nn
from torch.func import functional_call

from slimp.data.encoding import Rows
from slimp.models.trace import Trace, TraceConfig
from slimp.models.trace_checkpoints import TraceFeatures, official_rows

CONTINUOUS = ("mlp", "embed", "norm")


def product(*options: Any) -> list[tuple[Any, ...]]:
    return list(itertools.product(*options))


def trace_of(features: TraceFeatures = FEATURES, **config: Any) -> Trace:
    torch.manual_seed(0)
    return Trace(features, TraceConfig(**{"width": 8, **config}))


def double(rows: Rows) -> Rows:
    return replace(rows, continuous=rows.continuous.double())


# ---------------------------------------------------------------- the published implementation


def published_output(
    state: dict[str, Tensor],
    metadata: dict[str, Any],
    x: Tensor,
    *,
    heads: int,
    pool: str,
    checkbox: str,
    continuous: str,
) -> Tensor:
    """What the published implementation computes before its head, one row at a time."""
    count = len(metadata["continuous"])
    outputs = []
    for row in x:
        values = row[:count]
        tokens = continuous_tokens(state, values, continuous)
        column = count
        for i, size in enumerate(metadata["categorical"].values()):
            if isinstance(size, int):
                tokens.append(state[f"embeddings.{i}.weight"][int(row[column])])
                column += 1
                continue
            boxes = []
            for j in range(len(size)):
                boxes.append(state[f"embeddings.{i}.{j}.weight"][int(row[column])] * row[column])
                column += 1
            tokens.append(aggregate(torch.stack(boxes), checkbox))
        encoded = published_encoder(
            state, torch.stack([state["encoder.cls_token"][0, 0], *tokens]), heads
        )
        pooled = encoded[0] if pool == "cls" else encoded[1:].mean(dim=0)
        if continuous == "norm" and count:
            weight, bias = state["norm.weight"], state["norm.bias"]
            pooled = torch.cat([F.layer_norm(values, (count,), weight, bias, eps=1e-6), pooled])
        outputs.append(pooled)
    return torch.stack(outputs)


def continuous_tokens(state: dict[str, Tensor], values: Tensor, mode: str) -> list[Tensor]:
    if not len(values) or mode == "norm":
        return []
    if mode == "embed":
        return [v * e for v, e in zip(values, state["num_embeddings"][0], strict=True)]
    hidden = F.selu(state["num_mlp.mlp.0.weight"] @ values + state["num_mlp.mlp.0.bias"])
    flat = state["num_mlp.mlp.2.weight"] @ hidden + state["num_mlp.mlp.2.bias"]
    return [
        token * float(value != 0)
        for token, value in zip(flat.reshape(len(values), -1), values, strict=True)
    ]


def aggregate(boxes: Tensor, mode: str) -> Tensor:
    out = boxes[0]
    for box in boxes[1:]:
        out = {"sum": out + box, "prod": out * box, "max": torch.maximum(out, box)}[mode]
    return out


def published_encoder(state: dict[str, Tensor], x: Tensor, heads: int) -> Tensor:
    prefix = "encoder.transformer_encoder."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    depth = len({name.split(".")[1] for name in own})
    layer = nn.TransformerEncoderLayer(
        x.shape[-1], heads, own["layers.0.linear1.weight"].shape[0], 0.0, "gelu", batch_first=True
    )
    stack = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    stack.load_state_dict(own)
    return stack(x[None])[0]


def published_state(
    metadata: dict[str, Any], generator: torch.Generator, *, width: int, depth: int, continuous: str
) -> dict[str, Tensor]:
    """Random weights under the published names; rows for missing categories are not 0."""
    count = len(metadata["continuous"])
    shapes: dict[str, tuple[int, ...]] = {"encoder.cls_token": (1, 1, width)}
    for i, size in enumerate(metadata["categorical"].values()):
        if isinstance(size, int):
            shapes[f"embeddings.{i}.weight"] = ((2 if size == 1 else size) + 1, width)
        else:
            shapes |= {f"embeddings.{i}.{j}.weight": (2, width) for j in range(len(size))}
    head = width
    if count and continuous == "mlp":
        shapes |= {"num_mlp.mlp.0.weight": (width, count), "num_mlp.mlp.0.bias": (width,)}
        shapes |= {"num_mlp.mlp.2.weight": (width * count, width)}
        shapes |= {"num_mlp.mlp.2.bias": (width * count,)}
    elif count and continuous == "embed":
        shapes["num_embeddings"] = (1, count, width)
    elif count:
        shapes |= {"norm.weight": (count,), "norm.bias": (count,)}
        head += count
    for k in range(depth):
        layer = nn.TransformerEncoderLayer(width, 1, 4 * width)
        shapes |= {
            f"encoder.transformer_encoder.layers.{k}.{name}": tuple(value.shape)
            for name, value in layer.state_dict().items()
        }
    shapes |= {"head.linear.weight": (3, head), "head.linear.bias": (3,)}
    return {name: torch.randn(s, generator=generator) * 0.5 for name, s in shapes.items()}


@st.composite
def published_cases(draw: st.DrawFn) -> tuple[dict[str, Any], Tensor, str]:
    """A description, rows in the published coding with holes, and how values become tokens."""
    count = draw(st.integers(0, 5))
    continuous = draw(st.sampled_from(CONTINUOUS))
    size = st.one_of(st.integers(1, 6), st.lists(st.just(1), min_size=1, max_size=4))
    # The published code cannot take a mean over no tokens.
    least = 1 if count == 0 or continuous == "norm" else 0
    sizes = draw(st.lists(size, min_size=least, max_size=4))
    metadata = {
        "continuous": [f"value {i}" for i in range(count)],
        "categorical": {f"feature {i}": size for i, size in enumerate(sizes)},
    }
    n = draw(st.integers(1, 4))
    value = st.one_of(st.just(0.0), st.floats(-3, 3, width=32))
    columns = [st.lists(value, min_size=n, max_size=n) for _ in range(count)]
    for size in sizes:
        code = st.integers(0, 1 if isinstance(size, list) else max(size, 2))
        repeats = len(size) if isinstance(size, list) else 1
        columns += [st.lists(code.map(float), min_size=n, max_size=n)] * repeats
    return metadata, torch.tensor(draw(st.tuples(*columns))).T.contiguous(), continuous


@settings(max_examples=40, deadline=None)
@given(
    case=published_cases(),
    depth=st.integers(1, 2),
    heads=st.sampled_from([1, 2, 4]),
    pool=st.sampled_from(["mean", "cls"]),
    checkbox=st.sampled_from(["sum", "prod", "max"]),
    seed=st.integers(0, 99),
)
def test_equals_the_published_implementation(case, depth, heads, pool, checkbox, seed):
    metadata, x, continuous = case
    state = published_state(
        metadata, torch.Generator().manual_seed(seed), width=8, depth=depth, continuous=continuous
    )
    trace = Trace.from_official(state, metadata, heads=heads, pool=pool, checkbox=checkbox)
    got = trace(official_rows(x, metadata))
    want = published_output(
        state, metadata, x, heads=heads, pool=pool, checkbox=checkbox, continuous=continuous
    )
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------- missing is a mask


@pytest.mark.parametrize("missing", MISSING)
def test_the_number_zero_is_a_value(missing):
    trace = trace_of(missing=missing)
    rows = rows_of()
    zero = replace(rows, continuous=torch.zeros_like(rows.continuous))
    known = replace(zero, present=torch.ones_like(rows.present))
    absent = known.present.clone()
    absent[:, 0] = False
    difference = (trace(known) - trace(replace(known, present=absent))).abs().amax(dim=1)
    assert (difference > 1e-4).all()


@pytest.mark.parametrize("missing", ["zero", "mask"])
def test_missing_tokens_are_zero_and_stay_so(missing):
    trace, rows = trace_of(missing=missing), rows_of()
    optimizer = torch.optim.AdamW(trace.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        trace(rows).square().sum().backward()
        optimizer.step()
    tokens, _ = trace.embed(rows)
    assert (tokens[~rows.present] == 0).all()
    assert (tokens[rows.present].abs().sum(dim=-1) > 0).sum() > len(rows)


# ------------------------------------------------------------------------- shapes and symmetry


@pytest.mark.parametrize(
    "features",
    [
        TraceFeatures(continuous=1, categorical=()),
        TraceFeatures(continuous=4, categorical=()),
        TraceFeatures(continuous=0, categorical=(5,)),
        TraceFeatures(continuous=0, categorical=((1,),)),
        TraceFeatures(continuous=0, categorical=((1, 1), 2, (1, 1, 1))),
        TraceFeatures(continuous=2, categorical=(0,)),
    ],
)
@pytest.mark.parametrize(("missing", "continuous"), product(MISSING, CONTINUOUS))
def test_any_number_of_features_and_of_rows(features, missing, continuous):
    trace = trace_of(features, missing=missing, continuous=continuous)
    rows = rows_of(3, replace(features, categorical=tuple(s or 1 for s in features.categorical)))
    assert trace.embed_dim == 8 + (features.continuous if continuous == "norm" else 0)
    assert trace(rows).shape == (3, trace.embed_dim)
    assert trace(rows).isfinite().all()
    nobody = rows[torch.zeros(0, dtype=torch.long)]
    assert trace(nobody).shape == (0, trace.embed_dim)
    trace(nobody).sum().backward()


@pytest.mark.parametrize(
    ("missing", "continuous", "checkbox"),
    [*product(MISSING, ("mlp",), ("sum",)), ("mask", "embed", "prod"), ("learned", "norm", "max")],
)
def test_gradients(missing, continuous, checkbox):
    """Of every weight and of the values, against finite differences in 64 bits."""
    features = TraceFeatures(continuous=2, categorical=(2, (1, 1)))
    config = {"missing": missing, "continuous": continuous, "checkbox": checkbox}
    trace = trace_of(features, width=2, mlp_ratio=1, **config).double()
    rows = double(rows_of(3, features))
    rows.checkbox[0] = 1.0
    rows.present[0] = True
    rows.present[1] = False
    names = [name for name, _ in trace.named_parameters()]

    def output(values: Tensor, *weights: Tensor) -> Tensor:
        state = dict(zip(names, weights, strict=True))
        return functional_call(trace, state, (replace(rows, continuous=values),))

    inputs = [rows.continuous, *(p.detach() for p in trace.parameters())]
    # Rows of missing categories are constants by design, which finite differences cannot know.
    frozen = {"embeddings.0.weight"}
    for name, tensor in zip(["values", *names], inputs, strict=True):
        tensor.requires_grad_(name not in frozen)
    assert torch.autograd.gradcheck(output, inputs)


def test_zero_counts_missing_tokens_and_mask_does_not() -> None:
    state, complete = trace_of().state_dict(), replace(rows_of(), present=torch.ones(6, 5).bool())
    zero, mask = trace_of(missing="zero"), trace_of(missing="mask")
    for trace in (zero, mask):
        trace.load_state_dict(state)
    assert not torch.allclose(zero(rows_of()), mask(rows_of()), atol=1e-2)
    torch.testing.assert_close(zero(complete), mask(complete))
