"""AdamW, and the learning rate of each step."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW

from slimp.training.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW that decays matrices and convolutions, but no bias, norm, embedding or temperature.

    Each group has its `scale` of the learning rate: another one for the image encoder.
    """
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim in (2, 4) and id(parameter) not in embedded
            of_images = "image_encoder" in name.split(".")
            groups.setdefault((of_images, matrix), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if matrix else 0.0,
            "scale": config.encoder_lr_scale if of_images else 1.0,
        }
        for (of_images, matrix), parameters in groups.items()
    ]
    return AdamW(settings, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-6)


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """Linear warm-up to the peak, then a cosine to 0 after the last step."""
    warmup = config.warmup * total
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
