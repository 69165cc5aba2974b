"""AdamW, and the learning rate of each step."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW

from slimp.models.image_encoder import ImageEncoder
from slimp.training.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW that decays matrices and convolutions, but no bias, norm, embedding or temperature.

    Each group has its `scale` of the learning rate: another one for the image encoder, and there
    for each layer if rates fall towards the stem (BEiT, arXiv 2106.08254).
    """
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    depths = dict[str, int]()  # of the encoder's parameters, below its last layer
    for prefix, module in model.named_modules():
        if isinstance(module, ImageEncoder):
            layers = dict.fromkeys((name for name, _ in module.named_parameters()), 0)
            if config.layer_decay < 1:
                layers = module.layers()
            last = max(layers.values())
            depths |= {f"{prefix}.{name}": last - number for name, number in layers.items()}
    groups: dict[tuple[int | None, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim in (2, 4) and id(parameter) not in embedded
            groups.setdefault((depths.get(name), matrix), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if matrix else 0.0,
            "scale": 1.0 if depth is None else config.encoder_lr_scale * config.layer_decay**depth,
        }
        for (depth, matrix), parameters in groups.items()
    ]
    return AdamW(settings, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-6)


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """Linear warm-up to the peak, then a cosine to 0 after the last step."""
    warmup = config.warmup * total
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
