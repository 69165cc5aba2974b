"""The tabular encoder of a level: which one the settings ask for."""

from __future__ import annotations

from typing import Any

from slimp.data.encoding import Encoding
from slimp.models.config import ModelConfig
from slimp.models.ft_transformer import FTTransformer
from slimp.models.trace import Trace, TraceConfig
from slimp.models.trace_checkpoints import TraceFeatures

Tabular = Trace | FTTransformer


def tabular_encoder(encoding: Encoding, config: ModelConfig) -> Tabular:
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
