"""FT-Transformer against its published equations, and its place in the model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from metadata_rows import FEATURES, MISSING, rows_of
from tiny import fitted, tiny_cohort, tiny_config
from torch.nn.functional import mse_loss

from slimp.data.batches import PatientBatches
from slimp.data.encoding import Rows
from slimp.models.adapt_model import transfer
from slimp.models.config import ModelConfig
from slimp.models.ft_transformer import FTTransformer
from slimp.models.image_encoder import forward_operations
from slimp.models.losses import nested_loss
from slimp.models.nested import Slimp
from slimp.models.tabular import tabular_encoder
from slimp.models.trace_checkpoints import TraceFeatures
from slimp.training.config import part_of

WIDTH, HEADS = 12, 3


def ft_of(features: TraceFeatures = FEATURES, **settings: Any) -> FTTransformer:
    torch.manual_seed(0)
    return FTTransformer(features, **{"width": WIDTH, "depth": 2, "heads": HEADS, **settings})


def complete(rows: Rows) -> Rows:
    return replace(rows, present=torch.ones_like(rows.present))


# ------------------------------------------------------------------ the published equations


def published(state: dict[str, np.ndarray], tokens: list[np.ndarray], depth: int) -> np.ndarray:
    """Section 3.3 of arXiv 2106.11959, of one row: all tokens through every layer, then CLS."""
    x = np.stack([state["encoder.cls_token"][0, 0], *tokens])
    for k in range(depth):
        own = {
            name.removeprefix(f"encoder.transformer_encoder.layers.{k}."): value
            for name, value in state.items()
        }
        z = x if k == 0 else norm(x, own["norm1.weight"], own["norm1.bias"])
        x = x + attention(z, own)
        z = norm(x, own["norm2.weight"], own["norm2.bias"])
        hidden = z @ own["linear1.weight"].T + own["linear1.bias"]
        half = hidden.shape[1] // 2
        gated = hidden[:, :half] * np.maximum(hidden[:, half:], 0)
        x = x + gated @ own["linear2.weight"].T + own["linear2.bias"]
    return norm(x[0], state["encoder.norm.weight"], state["encoder.norm.bias"])


def norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * weight + bias


def attention(x: np.ndarray, own: dict[str, np.ndarray]) -> np.ndarray:
    weights = np.split(own["self_attn.in_proj_weight"], 3)
    biases = np.split(own["self_attn.in_proj_bias"], 3)
    q, k, v = (x @ w.T + b for w, b in zip(weights, biases, strict=True))
    heads = []
    for columns in np.split(np.arange(x.shape[1]), HEADS):
        scores = np.exp(q[:, columns] @ k[:, columns].T / math.sqrt(len(columns)))
        heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, columns])
    joined = np.concatenate(heads, axis=1)
    return joined @ own["self_attn.out_proj.weight"].T + own["self_attn.out_proj.bias"]


def published_tokens(state: dict[str, np.ndarray], rows: Rows, i: int) -> list[np.ndarray]:
    """A token per column of `FEATURES`: bias and slope times value, or bias and a table's row."""
    tokens = [
        bias + float(x) * slope
        for x, (slope, bias) in zip(rows.continuous[i], state["values"], strict=True)
    ]
    names = ["0", "1.0", "1.1", "1.2", "2"]
    codes = [rows.categorical[i, 0] - 1, *rows.checkbox[i].int(), rows.categorical[i, 1] - 1]
    for name, code in zip(names, codes, strict=True):
        bias, *categories = state[f"embeddings.{name}.weight"]
        tokens.append(bias + categories[int(code)])
    return tokens


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("missing", MISSING)
def test_equals_the_published_equations(depth: int, missing: str) -> None:
    made = ft_of(depth=depth, missing=missing)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    state = {name: x.double().numpy() for name, x in made.state_dict().items()}
    rows = complete(rows_of())
    want = [published(state, published_tokens(state, rows, i), depth) for i in range(len(rows))]
    got = made(rows).detach().double()
    torch.testing.assert_close(got, torch.from_numpy(np.stack(want)), atol=1e-5, rtol=1e-5)


def test_the_sizes_are_the_published_ones() -> None:
    """192 wide, 3 layers, of which the first has no first norm; FFN of 256 gated units."""
    made = FTTransformer(FEATURES)
    attention, ffn, norms = 4 * (192 * 192 + 192), (192 * 512 + 512) + (256 * 192 + 192), 2 * 192
    tokens = 192 * (1 + 2 * 2 + (3 + 1) + 3 * (2 + 1) + (1 + 1))
    expected = tokens + 3 * (attention + ffn) + 5 * norms + norms
    assert sum(p.numel() for p in made.parameters()) == expected


# ------------------------------------------------------------------ training


def test_overfits_a_batch() -> None:
    made, rows = ft_of(missing="learned"), rows_of(16)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    head = torch.nn.Linear(WIDTH, 1)
    target = torch.randn(16, 1, generator=torch.Generator().manual_seed(2))
    optimizer.add_param_group({"params": head.parameters()})
    for _ in range(150):
        loss = mse_loss(head(made(rows).relu()), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02 < target.var()


def model_of(**changes: Any) -> Slimp:
    torch.manual_seed(0)
    config = tiny_config(tabular="ft-transformer", **changes)
    return Slimp(part_of(config, ModelConfig), fitted(tiny_cohort()))


def test_it_takes_the_place_of_trace_at_every_level(tmp_path) -> None:
    model, config = model_of(), tiny_config(patients=20)
    assert {type(model.level(name).tabular) for name in model.encodings} == {FTTransformer}
    batch = PatientBatches(tiny_cohort(), model.encodings, config, image_size=16)[0, 0]
    loss = nested_loss(model(batch), config.weights)
    loss.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.save_pretrained(tmp_path)
    again = Slimp.from_pretrained(tmp_path)
    for level, encoding in model.encodings.items():
        rows = encoding.encode(tiny_cohort().tables.of_level(level))
        torch.testing.assert_close(again.encode_rows(level, rows), model.encode_rows(level, rows))


def test_adaptation_keeps_shared_columns() -> None:
    """Under another order, with a new category and a new number, which are missing here."""
    model = model_of().eval()
    encodings = fitted(tiny_cohort())
    known = encodings["lesion"]
    extended = [
        replace(f, categories=("unheard of", *f.categories[::-1]))
        if f.kind == "categorical"
        else replace(f, columns=f.columns[::-1])
        for f in known.features
    ]
    fresh = replace(known.of_kind("continuous")[0], name="new", columns=("new",))
    other = replace(known, features=(fresh, *extended))
    found = transfer(model, {**encodings, "lesion": other}, model.config)
    assert sum(part.parameters for part in found.parts) == sum(
        p.numel() for p in found.model.parameters()
    )
    status = {part.part: part.status for part in found.parts}
    assert status["lesion: new"] == "new"
    assert status["lesion: blocks and norms"] == "kept"
    table = tiny_cohort().tables.of_level("lesion")
    before = model.encode_rows("lesion", known.encode(table))
    encoded = found.model.encodings["lesion"].encode(table.assign(new=np.nan))
    after = found.model.eval().encode_rows("lesion", encoded)
    torch.testing.assert_close(after, before)


# ------------------------------------------------------------------ cost


def test_the_cost_is_that_of_its_matrix_products() -> None:
    encoding = fitted(tiny_cohort())["lesion"]
    rows: Rows = encoding.encode(tiny_cohort().tables.of_level("lesion"))
    config = ModelConfig(
        tabular="ft-transformer", tabular_width=WIDTH, tabular_heads=HEADS, tabular_depth=2
    )
    made = tabular_encoder(encoding, config)
    assert isinstance(made, FTTransformer)
    operations = forward_operations(made, rows[:1])
    s, hidden = 1 + len(made.owner), 4 * WIDTH // 3
    first = s * 4 * WIDTH**2 + 2 * s * s * WIDTH + s * 3 * hidden * WIDTH
    last = (2 * s + 2) * WIDTH**2 + 2 * s * WIDTH + 3 * hidden * WIDTH
    assert operations == 2 * (first + last)
