"""The tabular encoder of a level: which one the settings ask for, and what it costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimp.data.encoding import Encoding, Rows
from slimp.models.config import ModelConfig
from slimp.models.ft_transformer import FTTransformer
from slimp.models.image_encoder import fused_attention
from slimp.models.trace import Trace, TraceConfig
from slimp.models.trace_checkpoints import TraceFeatures


def tabular_encoder(encoding: Encoding, config: ModelConfig) -> Trace | FTTransformer:
    """An encoder of one level's rows, `config.tabular_width` wide."""
    sizes: dict[str, Any] = {
        "width": config.tabular_width,
        "depth": config.tabular_depth,
        "heads": config.tabular_heads,
        "dropout": config.tabular_dropout,
        "missing": config.missing,
    }
    if config.tabular == "ft-transformer":
        return FTTransformer(TraceFeatures.of(encoding), **sizes)
    return Trace(TraceFeatures.of(encoding), TraceConfig(**sizes))


@torch.no_grad()
def cost(encoder: nn.Module, rows: Rows) -> tuple[int, float]:
    """Parameters of a tabular encoder, and floating-point operations per row.

    Operations of matrix products in a forward pass, a multiplication and an addition each.
    """
    # The counter does not know the fused kernel of CPUs.
    with fused_attention(encoder, False), FlopCounterMode(display=False) as counter:
        encoder(rows)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return parameters, counter.get_total_flops() / len(rows)
