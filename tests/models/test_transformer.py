"""The token Transformer against PyTorch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimp.models.transformer import TokenEncoder

WIDTH, HEADS = 12, 3


def encoder(depth: int = 2, dropout: float = 0.0) -> TokenEncoder:
    torch.manual_seed(0)
    made = TokenEncoder(width=WIDTH, depth=depth, heads=HEADS, mlp_ratio=4, dropout=dropout)
    return made.double()


def pytorchs(made: TokenEncoder, depth: int = 2) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True
    )
    stack = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False).double()
    stack.load_state_dict(made.transformer_encoder.state_dict())
    return stack


def tokens_and_absent(n: int = 6, t: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(n, t, WIDTH, generator=generator, dtype=torch.float64)
    absent = torch.rand(n, t, generator=generator) < 0.4
    absent[0], absent[1] = True, False
    return tokens, absent


def with_cls(made: TokenEncoder, tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([made.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)


@pytest.mark.parametrize("masked", [False, True])
def test_equals_pytorchs_encoder(masked):
    made, (tokens, absent) = encoder(), tokens_and_absent()
    padding = torch.cat([torch.zeros(6, 1).bool(), absent], dim=1) if masked else None
    want = pytorchs(made)(with_cls(made, tokens), src_key_padding_mask=padding)
    torch.testing.assert_close(made(tokens, absent if masked else None), want)


@pytest.mark.parametrize("fused", [False, True])
def test_dropout_acts_in_training_only(fused):
    made, (tokens, absent) = encoder(dropout=0.5), tokens_and_absent()
    for layer in made.transformer_encoder["layers"]:
        layer.fused_attn = fused
    plain = encoder(dropout=0.0)(tokens, absent)
    assert not torch.equal(made(tokens, absent), made(tokens, absent))
    torch.testing.assert_close(made.eval()(tokens, absent), plain)
