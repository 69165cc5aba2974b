"""The loss of hidden cells against a loop over cells; what it must not depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import Tensor

from slimp.data.encoding import Encoding, Rows
from slimp.data.schema import Feature, Level
from slimp.models.reconstruction import CellDecoder

LEVEL = Level(
    name="lesion",
    features=(
        Feature(name="region", kind="categorical", columns=("region",)),
        Feature(name="diameter", kind="continuous", columns=("diameter",), unit="mm"),
        Feature(name="symptoms", kind="checkbox", columns=("itch", "hurt")),
        Feature(name="shape", kind="categorical", columns=("shape",)),
        Feature(name="depth", kind="continuous", columns=("depth",), unit="mm"),
        Feature(name="grew", kind="checkbox", columns=("grew",)),
    ),
)
TABLE = pd.DataFrame(
    {
        "region": ["NOSE", "ARM", None, "LEG", "ARM"],
        "diameter": [1.0, 3.0, 4.0, None, 9.0],
        "itch": pd.array([True, None, None, False, True], dtype="boolean"),
        "hurt": pd.array([False, True, None, None, True], dtype="boolean"),
        "shape": [None] * 5,  # no category is known
        "depth": [0.5, None, 2.0, 0.1, 0.3],
        "grew": pd.array([True, False, None, True, False], dtype="boolean"),
    }
)
ENCODING = Encoding.fit(LEVEL, TABLE)


def made(seed: int = 0) -> tuple[CellDecoder, Tensor, Rows, Tensor]:
    """A decoder in 64 bits, embeddings, rows, and about half of the known cells."""
    torch.manual_seed(seed)
    decoder = CellDecoder(4, ENCODING).double()
    rows = ENCODING.encode(TABLE)
    hidden = rows.present & (torch.rand(rows.present.shape) < 0.5)
    return decoder, torch.randn(5, 4).double(), rows, hidden


def slow_loss(decoder: CellDecoder, h: Tensor, hidden: Tensor) -> float:
    """From the cells of the table, one by one."""
    losses, outputs = [], decoder.predict(h).tolist()
    for row, cells in TABLE.iterrows():
        start = 0
        for token, feature in enumerate(ENCODING.features):
            size = max(1, len(feature.categories or feature.columns))
            own = outputs[row][start : start + size]
            start += size
            if not hidden[row, token]:
                continue
            values = [cells[column] for column in feature.columns]
            if feature.kind == "continuous":
                losses.append((own[0] - (values[0] - feature.mean) / feature.std) ** 2)
            elif feature.kind == "categorical":
                shares = [math.exp(x) for x in own]
                losses.append(-math.log(shares[feature.categories.index(values[0])] / sum(shares)))
            else:
                ticked = [value is not pd.NA and bool(value) for value in values]
                signs = [1 if tick else -1 for tick in ticked]
                each = [math.log1p(math.exp(-s * x)) for s, x in zip(signs, own, strict=True)]
                losses.append(sum(each) / len(each))
        assert start == len(outputs[row])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_loop_over_the_hidden_cells(seed):
    decoder, h, rows, hidden = made(seed)
    assert hidden.any()
    # The encoding standardises in 32 bits.
    assert decoder(h, rows, hidden).item() == pytest.approx(slow_loss(decoder, h, hidden), rel=1e-6)


def test_gradients():
    decoder, h, rows, hidden = made()
    weights = list(decoder.parameters())
    assert torch.autograd.gradcheck(
        lambda h, *_: decoder(h, rows, hidden), (h.requires_grad_(), *weights)
    )


def test_order_of_rows_and_cells_that_are_shown_do_not_matter():
    decoder, h, rows, hidden = made()
    loss = decoder(h, rows, hidden)
    order = torch.randperm(5)
    torch.testing.assert_close(decoder(h[order], rows[order], hidden[order]), loss)
    shown = ~hidden[:, : rows.continuous.shape[1]]  # continuous tokens stand first
    other = replace(rows, continuous=torch.where(shown, 99.0, rows.continuous))
    assert torch.equal(decoder(h, other, hidden), loss)


def test_nothing_hidden_costs_nothing():
    decoder, h, rows, hidden = made()
    loss = decoder(h.requires_grad_(), rows, torch.zeros_like(hidden))
    loss.backward()
    assert loss.item() == 0
    assert h.grad.abs().max() == 0
    empty = rows[torch.tensor([], dtype=torch.long)]
    assert decoder(h[:0], empty, hidden[:0]).item() == 0
