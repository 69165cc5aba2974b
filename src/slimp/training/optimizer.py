"""AdamW, and the learning rate of each step."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW

from slimp.training.config import PretrainConfig


def make_optimizer(model: nn.Module, config: PretrainConfig) -> AdamW:
    """AdamW that decays matrices and convolutions, but no bias, norm, embedding or temperature."""
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim in (2, 4) and id(parameter) not in embedded
            (decayed if matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-6)


def learning_rate(step: int, total: int, config: PretrainConfig) -> float:
    """Linear warm-up to the peak, then a cosine to 0 after the last step."""
    warmup = config.warmup * total
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
