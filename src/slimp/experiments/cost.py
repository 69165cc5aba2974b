"""What an experiment will take on this machine, from a step that is timed here and now."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch

from slimp.evaluation.run_features import device_of
from slimp.experiments.cells import Cell
from slimp.experiments.cohorts import OTHER, images_in
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.precision import autocast_on
from slimp.training.config import PretrainConfig, part_of
from slimp.training.devices import fast_precision

IMAGES = 2
"""Timed at once."""


def training_seconds(wanted: Iterable[Cell], cohort: str, cells: Path) -> float | None:
    """Of the trainings that are not done, one after the other; None: the images are not known.

    It counts forward and backward passes of the image encoder, which are most of a training, but
    neither the decoding of images nor the probes.
    """
    total = 0.0
    for cell in wanted:
        if cell.stage not in ("pretrain", "adapt") or cell.is_done(cells):
            continue
        name = cohort
        if cell.stage == "pretrain" and "fold" not in cell.settings:
            name = OTHER[name]
        if (images := images_in(name)) is None:
            return None
        total += images * _passes(cell) * _seconds_per_image(_encoder_of(cell))
    return total


def _settings(cell: Cell) -> dict[str, object]:
    """Those of the pre-training whose encoder learns in this cell."""
    own = cell.of("pretrain")
    assert own is not None
    return {**own.settings["pretrain"], "encoder_weights": None, "pretrained": False}


def _passes(cell: Cell) -> float:
    """How often each image goes through the encoder."""
    if cell.settings.get("trainer") == "untrained":
        return 0
    config = PretrainConfig(**_settings(cell))  # type: ignore[arg-type]
    epochs = cell.settings["adapt"]["epochs"] if cell.stage == "adapt" else config.epochs
    return float(epochs * config.views)


def _encoder_of(cell: Cell) -> str:
    """What the time of an image depends on."""
    settings = _settings(cell)
    kept = ("encoder", "encoder_options", "image_size", "precision")
    return json.dumps({name: settings[name] for name in kept})


@cache
def _seconds_per_image(settings: str) -> float:
    """A forward and a backward pass, timed after one that is not counted."""
    config = fast_precision(PretrainConfig(**json.loads(settings)))
    device = torch.device(device_of("auto"))
    encoder = ImageEncoder(part_of(config, ModelConfig)).to(device).train()
    autocast = autocast_on(device, config.precision)
    side = config.image_size
    pixels = torch.randint(0, 256, (IMAGES, 3, side, side), dtype=torch.uint8, device=device)
    for _ in range(2):
        began = time.perf_counter()
        with autocast():
            features = encoder(pixels)
        features.float().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - began
    return took / IMAGES
