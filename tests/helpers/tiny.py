"""Small cohorts, settings and runs that several tests share."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.data.schema import LEVELS, LevelName
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.known_weights import Weights
from slimp.models.persistence import read_tensors
from slimp.models.published_weights import save_weights
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.training.config import PretrainConfig
from slimp.training.run_folder import read_log

torch.set_num_threads(1)

SIZE = 16
VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
MODEL: dict[str, Any] = {
    **{"encoder": "vit_tiny_patch16_224", "encoder_options": VIT, "image_size": SIZE},
    **{"tabular_width": 8, "projection_width": 8},
}
RUN: dict[str, Any] = {"workers": 0, "precision": "32", "accelerator": "cpu"}


def tiny_config(**changes: Any) -> PretrainConfig:
    """A run of a small ViT that takes seconds."""
    return PretrainConfig(**{**MODEL, **RUN, **changes})


@lru_cache
def tiny_cohort(**changes: Any) -> Cohort:
    """20 patients of up to 2 lesions."""
    settings = {"patients": 20, "lesions": 2, "image_size": SIZE, "seed": 3, **changes}
    return synthesize(SyntheticConfig(**settings))


def fitted(cohort: Cohort) -> dict[LevelName, Encoding]:
    """Encodings of the levels with features."""
    return {
        name: Encoding.fit(cohort.schema.level(name), cohort.tables.of_level(name))
        for name in LEVELS
        if cohort.schema.level(name).features
    }


def small_weights(path: Path) -> Weights:
    """Writes weights of a small convolutional encoder that expect a normalisation of their own."""
    torch.manual_seed(8)
    known = Weights(
        name="small",
        encoder="resnet10t",
        options={"stem_width": 8, "channels": (8, 8, 16, 16)},
        size=32,
        mean=(0.2, 0.3, 0.4),
        std=(0.3, 0.2, 0.1),
    )
    config = ModelConfig(encoder=known.encoder, encoder_options=known.options, image_size=32)
    save_weights(known, ImageEncoder(config).model.state_dict(), path)
    return known


def weights(out: Path) -> dict[str, Tensor]:
    """The weights of a run."""
    return read_tensors(out / "model.safetensors")


def same_weights(a: Path, b: Path) -> bool:
    """Whether two runs have the same weights, bit for bit."""
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def log_without_pace(out: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` but for what depends on the machine."""
    return [{k: v for k, v in row.items() if k != "lesions_per_second"} for row in read_log(out)]
