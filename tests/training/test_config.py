"""Settings of pre-training: the paper's by default, and no nonsense."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any

import pytest

from slimp.data.config import BatchConfig
from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.training.config import PRESETS, OptimConfig, PretrainConfig, part_of

PAPER = {
    **{"encoder": "vit_small_patch16_224", "image_size": 224, "tabular_width": 128},
    **{"tabular_depth": 1, "tabular_heads": 2, "pooling": "mean", "hierarchy": "nested"},
    **{"temperature": 0.07, "view_weight": 0.0, "lesion_weight": 0.9, "patient_weight": 0.1},
    **{"duplicates": "negative", "patients": 64, "lesions": 100, "epochs": 150, "preset": "vit-s"},
}

FLAGS = {
    *("encoder", "encoder_options", "image_size", "tabular_width", "tabular_depth"),
    *("tabular_heads", "tabular_dropout", "missing", "projection_width", "projection_layers"),
    *("pooling", "temperature", "hierarchy", "view_weight", "image_weight", "lesion_weight"),
    *("patient_weight", "duplicates", "patients", "lesions", "images_per_lesion"),
    *("always_include", "seed", "crop_scale", "flip", "rotate", "colour", "feature_dropout"),
    *("feature_corruption", "workers", "epochs", "learning_rate", "warmup", "weight_decay"),
    *("clip_norm", "preset", "pretrained", "encoder_weights", "validation_fraction"),
    *("held_out_fraction", "validate_every", "patience", "monitor", "checkpoint_every_steps"),
    *("keep_checkpoints", "precision", "gradient_checkpointing", "accelerator", "devices"),
}
"""Flags and keys that users have in scripts and config files."""


def refused(name: str, value: Any, message: str) -> None:
    """The check itself, since type enforcement in tests is quicker with some values."""
    config = PretrainConfig()
    object.__setattr__(config, name, value)
    with pytest.raises(UserError, match=message):
        config.__post_init__()


def test_the_defaults_are_the_papers() -> None:
    assert asdict(PretrainConfig()).items() >= PAPER.items()


def test_no_setting_is_lost_or_renamed() -> None:
    """A new one may be added here; one that users know does not go."""
    assert {field.name for field in fields(PretrainConfig)} >= FLAGS


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        PretrainConfig().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_can_be_changed(name: str) -> None:
    config = PretrainConfig.from_preset(name, epochs=7)
    assert (config.preset, config.epochs) == (name, 7)
    assert asdict(config).items() >= {**PRESETS[name], "epochs": 7}.items()


def test_an_unknown_preset_names_the_others() -> None:
    with pytest.raises(UserError, match="no preset 'huge'; there are: tiny, small, vit-s"):
        PretrainConfig.from_preset("huge")


@pytest.mark.parametrize("part", [ModelConfig, BatchConfig, OptimConfig])
def test_a_part_has_the_values_of_the_whole(part: type) -> None:
    whole = PretrainConfig.from_preset("tiny", seed=3, missing="zero")
    values = asdict(part_of(whole, part))
    assert values
    assert asdict(whole).items() >= values.items()


@pytest.mark.parametrize(
    "name",
    [
        *("image_size", "tabular_width", "tabular_depth", "tabular_heads", "projection_width"),
        *("temperature", "patients", "lesions", "images_per_lesion", "epochs", "learning_rate"),
        *("clip_norm", "validate_every", "checkpoint_every_steps", "keep_checkpoints"),
    ],
)
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_counts_and_rates_are_positive(name: str, value: float) -> None:
    refused(name, value, f"{name} must be positive, got {value}")


@pytest.mark.parametrize(
    "name",
    [
        *("missing", "pooling", "hierarchy", "duplicates", "projection_layers", "preset"),
        *("monitor", "precision", "accelerator"),
    ],
)
def test_a_choice_is_one_of_those_on_offer(name: str) -> None:
    """A misspelt one would silently mean something else, as pooling='max' the mean."""
    refused(name, "sideways", f"{name} must be one of .*, got 'sideways'")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("crop_scale", [0.0, 1.1, math.nan], r"crop_scale must be in \(0, 1\]"),
        ("colour", [-0.1, 1.0], r"colour must be in \[0, 1\)"),
        ("feature_dropout", [-0.1, 1.0], r"feature_dropout must be in \[0, 1\)"),
        ("feature_corruption", [-0.1, 1.0], r"feature_corruption must be in \[0, 1\)"),
        ("warmup", [-0.1, 1.0, math.nan], r"warmup must be in \[0, 1\)"),
        ("weight_decay", [-0.1, math.nan], "weight_decay must not be negative"),
        ("validation_fraction", [-0.1, 1.0], r"validation_fraction must be in \[0, 1\)"),
        ("held_out_fraction", [-0.1, 1.0], r"held_out_fraction must be in \[0, 1\)"),
        ("held_out_fraction", [0.9, 0.95], "leave nothing to train on"),
        ("lesion_weight", [-0.1, math.nan, math.inf], "weights must be numbers from 0 up"),
        ("workers", [-1], "workers must not be negative"),
        ("seed", [-1, 2**32], "seed must be 0 to 4294967295"),
        ("tabular_heads", [3], "tabular_width 128 must be a multiple of tabular_heads 3"),
        ("devices", [0], "devices must be positive, got 0"),
        ("nodes", [-1], "nodes must be positive, got -1"),
        ("chunk", [0], "chunk must be positive, got 0"),
        ("patience", [3], "patience needs a monitor other than 'last'"),
    ],
)
def test_values_out_of_range_are_named(name: str, values: list[float], message: str) -> None:
    for value in values:
        refused(name, value, message)


def test_something_must_be_learned() -> None:
    none = {f"{level}_weight": 0.0 for level in ("image", "lesion", "patient")}
    with pytest.raises(UserError, match="all weights are 0"):
        ModelConfig(**none)
    assert ModelConfig(**none, view_weight=1.0).weights["view"] == 1.0


def test_a_monitor_needs_validation_patients() -> None:
    with pytest.raises(UserError, match="monitor=validation_loss needs validation patients"):
        PretrainConfig(monitor="validation_loss", validation_fraction=0.0)
