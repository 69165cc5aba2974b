"""Heads into the space in which similarities are taken, and the temperature there."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slimp.models.config import ModelConfig

LARGEST_LOGIT_SCALE = 100.0
"""1 / temperature is capped there, as in CLIP."""


def projection(width: int, config: ModelConfig) -> nn.Module:
    """A head into the space in which similarities are taken; not normalised."""
    if config.projection_layers == 1:
        return nn.Linear(width, config.projection_width, bias=False)
    return nn.Sequential(
        nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.projection_width, bias=False)
    )


class Temperature(nn.Module):
    """A learned temperature, kept as the logarithm of its inverse (the logit scale).

    For the sigmoid loss, also its bias; else that is None.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        scale = min(1 / config.temperature, LARGEST_LOGIT_SCALE)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = None
        if config.contrast == "sigmoid":
            self.bias = nn.Parameter(torch.tensor(config.sigmoid_bias))

    def forward(self) -> Float[Tensor, ""]:
        """The temperature; `cap` keeps it at 1 / 100 or above."""
        return (-self.log_scale).exp()

    @torch.no_grad()
    def cap(self) -> None:
        """Brings a temperature below 1 / 100 back there, after each step (as CLIP does).

        A cap in the forward pass would have no gradient beyond it, and so no way back.
        """
        self.log_scale.clamp_(max=math.log(LARGEST_LOGIT_SCALE))
