"""What planning needs to know of encoders and of this machine: counted, or timed for a moment.

Operations and activations are counted on tensors without data; the machine's pace is that of a step
of the smallest preset's encoder.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import torch

from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder, forward_operations, fused_attention, timm_model
from slimp.models.precision import autocast_on
from slimp.training.chunk_size import saved_bytes
from slimp.training.config import PretrainConfig, part_of
from slimp.training.devices import device_of, fast_precision

TIMED = {"cuda": 256}
"""Images of a timed step; 16 on other devices."""
STEPS = 20
"""Timed steps, of which the fastest counts: others may be at work on the machine."""


def encoder_cost(**settings: Any) -> dict[str, int]:
    """What an image encoder takes, counted on the device `meta`, which has shapes alone.

    `settings` are those of `ModelConfig`. Its `parameters`; of an image's forward pass the
    `operations`, floating-point ones, and the `activations`, bytes in 32 bits that it keeps for
    the backward pass.
    """
    config = ModelConfig(**settings)
    with torch.device("meta"):
        encoder = timm_model(config, pretrained=False).eval()
        pixels = torch.zeros(1, 3, config.image_size, config.image_size)
    with fused_attention(encoder, False):  # as on CPUs in bf16: what keeps most
        activations = saved_bytes(lambda: encoder(pixels), encoder)
    return {
        "operations": forward_operations(encoder, pixels),
        "activations": activations,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
    }


def training_pace() -> float:
    """Operations of the forward pass per second in training, which passes backward as well."""
    config = fast_precision(PretrainConfig.from_preset("tiny"))
    device = torch.device(device_of("auto"))
    encoder = ImageEncoder(part_of(config, ModelConfig)).to(device).train()
    autocast, side = autocast_on(device, config.precision), config.image_size
    images = TIMED.get(device.type, 16)
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, device=device)
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        with autocast():
            features = encoder(pixels)
        features.float().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return (
        images * encoder_cost(**asdict(part_of(config, ModelConfig)))["operations"] / min(seconds)
    )
