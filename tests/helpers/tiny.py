"""Small cohorts, settings and runs that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from raw_data import encoded
from torch import Tensor

from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.data.files import ImagesInMemory
from slimp.data.schema import LEVELS, LevelName, Schema
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.known_weights import Weights
from slimp.models.persistence import read_tensors, save_tensors
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
SMALL_RESNET: dict[str, Any] = {
    "encoder": "resnet10t",
    "encoder_options": {"stem_width": 8, "channels": (8, 8, 16, 16)},
}
RUN: dict[str, Any] = {"workers": 0, "precision": "32", "accelerator": "cpu"}


def tiny_config(**changes: Any) -> PretrainConfig:
    """A run of a small ViT that takes seconds."""
    return PretrainConfig(**{**MODEL, **RUN, **changes})


@lru_cache
def png(seed: int, side: int = 24) -> bytes:
    """A picture of noise, wider than high."""
    pixels = np.random.default_rng(seed).integers(0, 255, size=(side, side + 4, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "PNG")


def grid_cohort(lesions: Sequence[int], images: int = 1, *, camera: bool = False) -> Cohort:
    """Patient p has `lesions[p]` lesions k of so many images i each, which are named p0l0i0."""
    content: dict[str, Any] = {
        **{"image": "image_id", "lesion": "lesion_id", "patient": "patient_id", "label": "label"},
        "lesion_metadata": {"size": {"kind": "continuous"}, "site": {"kind": "categorical"}},
        "patient_metadata": {"age": {"kind": "continuous"}},
    }
    if camera:
        content["image_metadata"] = {"camera": {"kind": "categorical"}}
    patients = [{"patient_id": f"p{p}", "age": 30.0 + p} for p in range(len(lesions))]
    rows, found = [], []
    for p, count in enumerate(lesions):
        for k in range(count):
            ids = {"lesion_id": f"p{p}l{k}", "patient_id": f"p{p}"}
            rows.append({**ids, "size": 10.0 * p + k, "site": "ab"[k % 2]})
            ids["label"] = "usual" if k else "rare"
            found += [
                {**ids, "image_id": f"p{p}l{k}i{i}", "camera": "xy"[i % 2]} for i in range(images)
            ]
    return Cohort.from_tables(
        *(pd.DataFrame(table) for table in (found, rows, patients)),
        schema=Schema.from_dict(content),
        store=ImagesInMemory([png(i) for i in range(len(found))]),
    )


@lru_cache
def tiny_cohort(**changes: Any) -> Cohort:
    """20 patients of up to 2 lesions."""
    settings = {"patients": 20, "lesions": 2, "image_size": SIZE, "seed": 3, **changes}
    return synthesize(SyntheticConfig(**settings))


def with_features(cohort: Cohort, **wanted: Sequence[str] | None) -> Cohort:
    """The cohort with features of these names at these levels alone; None: all of a level."""
    levels = []
    for level in cohort.schema.levels:
        names = wanted.get(level.name, ())
        kept = tuple(f for f in level.features if names is None or f.name in names)
        levels.append(replace(level, features=kept))
    return replace(cohort, schema=replace(cohort.schema, levels=tuple(levels)))


def with_feature(schema: Schema, name: str, **changes: Any) -> Schema:
    """The schema with another statement of what a feature is."""
    levels = [
        replace(
            x, features=tuple(replace(f, **changes) if f.name == name else f for f in x.features)
        )
        for x in schema.levels
    ]
    return replace(schema, levels=tuple(levels))


def with_tables(cohort: Cohort, **tables: pd.DataFrame) -> Cohort:
    """The cohort with other tables of these names."""
    return replace(cohort, tables=replace(cohort.tables, **tables))


def with_images(cohort: Cohort, **columns: Any) -> Cohort:
    """The cohort with other columns in its table of images, such as `label` or `split`."""
    return with_tables(cohort, images=cohort.images.assign(**columns))


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
        encoder=SMALL_RESNET["encoder"],
        options=SMALL_RESNET["encoder_options"],
        size=32,
        mean=(0.2, 0.3, 0.4),
        std=(0.3, 0.2, 0.1),
    )
    config = ModelConfig(encoder=known.encoder, encoder_options=known.options, image_size=32)
    save_tensors(path, ImageEncoder(config).model.state_dict(), known.to_header())
    return known


class Malicious:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


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
