"""About what an experiment takes on this machine, by counting; nothing large is run for it.

Operations and activations of an image encoder are counted on tensors without data, and the
machine's pace is that of a step of the smallest preset's encoder, timed here and now.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from slimp.experiments.cells import Cell
from slimp.experiments.cohorts import OTHER, images_in
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder, fused_attention, timm_model
from slimp.models.precision import autocast_on
from slimp.training.chunk_size import CPU_FRACTION, GPU_FRACTION, free_bytes
from slimp.training.config import PretrainConfig, part_of
from slimp.training.devices import device_of, fast_precision

TIMED = {"cuda": 256}
"""Images of the timed step; 16 on other devices."""
FORWARD_AND_BACKWARD = 3
"""Operations of a step as a multiple of those of the forward pass."""
BYTES_PER_PARAMETER = 16
"""Weight, gradient, and AdamW's two moments."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the trainings of some cells take, roughly."""

    seconds: float
    """Of the image encoder's passes, one training after the other: neither images are decoded in
    it, nor probes fitted."""
    bytes: float
    """Of the largest training in one process: its weights, and the activations of the images that
    it holds at once, which the gradient cache keeps to a fraction of the free memory."""


@dataclass(frozen=True, kw_only=True)
class EncoderCost:
    """What an image encoder takes."""

    operations: float
    """Floating-point operations of an image's forward pass."""
    activations: float
    """Bytes that an image's forward pass keeps for the backward pass, in 32 bits."""
    parameters: int


def cost_of(wanted: Iterable[Cell], cohort: str, cells: Path) -> Cost | None:
    """Of the trainings that are not done; None: it is not known how many images there are."""
    seconds = largest = 0.0
    count = cache(images_in)
    for cell in wanted:
        if cell.stage not in ("pretrain", "adapt") or cell.is_done(cells):
            continue
        other = cell.stage == "pretrain" and "fold" not in cell.settings
        images = count(OTHER[cohort] if other else cohort)
        if images is None:
            return None
        own = cell.of("pretrain")
        assert own is not None
        known = own.settings["pretrain"]
        encoder = _encoder_cost(_encoder_of(known))
        kept = ("epochs", "patients", "lesions", "images_per_lesion")
        epochs, *batch = (cell.settings.get("adapt", known)[name] for name in kept)
        views = 1 + (known["view_weight"] > 0)
        at_once = min(batch[0] * batch[1] * batch[2], images) * views
        if cell.settings.get("trainer") in ("untrained", "frozen"):
            epochs = at_once = 0
        passes = images * epochs * views
        seconds += passes * FORWARD_AND_BACKWARD * encoder.operations / _pace()
        activations = min(at_once * encoder.activations, _room())
        largest = max(largest, BYTES_PER_PARAMETER * encoder.parameters + activations)
    return Cost(seconds=seconds, bytes=largest)


def _encoder_of(settings: Mapping[str, Any]) -> str:
    """What its cost depends on, of the settings of a pre-training."""
    return json.dumps({x: settings[x] for x in ("encoder", "encoder_options", "image_size")})


@cache
def _encoder_cost(settings: str) -> EncoderCost:
    """Counted on the device `meta`, which has shapes alone."""
    config = ModelConfig(**json.loads(settings))
    with torch.device("meta"):
        encoder = timm_model(config, pretrained=False).eval()
        pixels = torch.zeros(1, 3, config.image_size, config.image_size)
    sizes: dict[int, int] = {}
    held = [parameter.untyped_storage() for parameter in encoder.parameters()]
    weights = {storage._cdata for storage in held}

    def keep(x: torch.Tensor) -> torch.Tensor:
        held.append(storage := x.untyped_storage())  # so that no number is used again
        sizes[storage._cdata] = storage.nbytes()
        return x

    with (
        fused_attention(encoder, False),  # the counter does not know it
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
    ):
        encoder(pixels)
    return EncoderCost(
        operations=counter.get_total_flops(),
        activations=sum(size for number, size in sizes.items() if number not in weights),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
    )


@cache
def _pace() -> float:
    """Operations per second in training, of one step after one that is not counted."""
    config = fast_precision(PretrainConfig.from_preset("tiny"))
    device = torch.device(device_of("auto"))
    encoder = ImageEncoder(part_of(config, ModelConfig)).to(device).train()
    autocast, side = autocast_on(device, config.precision), config.image_size
    images = TIMED.get(device.type, 16)
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, device=device)
    for _ in range(2):
        began = time.perf_counter()
        with autocast():
            features = encoder(pixels)
        features.float().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - began
    operations = _encoder_cost(_encoder_of(vars(config))).operations
    return images * FORWARD_AND_BACKWARD * operations / took


@cache
def _room() -> float:
    """Bytes that the gradient cache lets activations have."""
    device = torch.device(device_of("auto"))
    return (CPU_FRACTION if device.type == "cpu" else GPU_FRACTION) * free_bytes(device)
