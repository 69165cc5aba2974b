"""Settings of pre-training: flat, checked, and the paper's by default."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Any, Literal, get_origin, get_type_hints

import pytest
import yaml

from slimp.cli.main import main
from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.models.known_weights import named
from slimp.training.config import PRESETS, AdaptConfig, PretrainConfig

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


def refused(name: str, value: Any) -> None:
    """The check itself, since the test run refuses some values by their type already."""
    config = PretrainConfig()
    object.__setattr__(config, name, value)
    with pytest.raises(UserError, match=name):
        config.__post_init__()


def test_the_defaults_are_the_papers() -> None:
    assert asdict(PretrainConfig()).items() >= PAPER.items()


def test_no_setting_is_lost_or_renamed() -> None:
    """A new one may be added here; one that users know does not go."""
    assert {field.name for field in fields(PretrainConfig)} >= FLAGS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_can_be_changed(name: str) -> None:
    config = PretrainConfig.from_preset(name, epochs=7)
    assert asdict(config).items() >= {**PRESETS[name], "preset": name, "epochs": 7}.items()


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"encoder": "resnet18"}, {}),
        ({"encoder": "resnet18", "encoder_options": {"stem_width": 16}}, {"stem_width": 16}),
        ({"encoder": PRESETS["tiny"]["encoder"]}, PRESETS["tiny"]["encoder_options"]),
        ({"encoder_options": {"depth": 2}}, {"depth": 2}),
    ],
)
def test_options_of_a_preset_belong_to_its_encoder(
    changes: dict[str, Any], options: dict[str, Any]
) -> None:
    config = PretrainConfig.from_preset("tiny", **changes)
    assert config.encoder_options == options
    assert config.image_size == 64  # other settings of the preset stay


def test_weights_of_a_preset_belong_to_its_encoder() -> None:
    assert PretrainConfig.from_preset("laptop").encoder_weights == "efficientnet-lite0"
    assert PretrainConfig.from_preset("laptop", encoder="resnet18").encoder_weights is None
    tagged = PretrainConfig.from_preset("laptop", encoder="tf_efficientnet_lite0.in1k")
    assert tagged.encoder_weights == "efficientnet-lite0"
    assert PretrainConfig.from_preset("laptop", pretrained=True).encoder_weights is None


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_bring_their_encoder_along(preset: str) -> None:
    config = PretrainConfig.from_preset(preset, encoder_weights="panderm-base")
    assert config.encoder == "beit_base_patch16_224"
    assert config.encoder_options == named("panderm-base").options
    other = PretrainConfig.from_preset(preset, encoder_weights="monet", encoder="resnet18")
    assert (other.encoder, other.encoder_options) == ("resnet18", {})  # refused when they load
    own = {"global_pool": "avg"}
    typed = PretrainConfig.from_preset(preset, encoder_weights="mae-base", encoder_options=own)
    assert typed.encoder_options == {**named("mae-base").options, **own}
    more = PretrainConfig.from_preset(
        preset, encoder_weights="panderm-base", encoder_options={"drop_path_rate": 0.1}
    )
    assert more.encoder_options == {**named("panderm-base").options, "drop_path_rate": 0.1}


COUNTS = [
    *("image_size", "tabular_width", "tabular_depth", "tabular_heads", "projection_width"),
    *("temperature", "patients", "lesions", "images_per_lesion", "epochs", "learning_rate"),
    "positive_temperature",
    *("encoder_lr_scale", "validate_every", "checkpoint_every_steps", "keep_checkpoints"),
    *("devices", "nodes", "chunk"),
]
FRACTIONS = [
    *("colour", "feature_dropout", "feature_corruption", "warmup", "tabular_dropout"),
    *("validation_fraction", "held_out_fraction"),
]
CHOICES = [x for x, hint in get_type_hints(PretrainConfig).items() if get_origin(hint) is Literal]


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (COUNTS, [0, -1, math.nan]),
        (FRACTIONS, [-0.1, 1.0, math.nan]),
        (CHOICES, ["sideways"]),
        (["crop_scale"], [0.0, 1.1, math.nan]),
        (["weight_decay", "clip_norm"], [-0.1, math.nan]),
        (["held_out_fraction"], [0.95]),  # nothing is left to train on
        (["workers"], [-1]),
        (["seed"], [-1, 2**32]),
        (["tabular_heads"], [3]),
        (["patience"], [3]),  # without a monitor
    ],
)
def test_values_out_of_range_are_named(names: list[str], values: list[Any]) -> None:
    for name in names:
        for value in values:
            refused(name, value)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_weights_are_finite_and_not_negative(weight: float) -> None:
    for name in ("lesion", "reconstruction"):
        with pytest.raises(UserError, match=name):
            ModelConfig(**{f"{name}_weight": weight})
    with pytest.raises(UserError, match="view_weight"):
        AdaptConfig(view_weight=weight)


NO_LEVEL = {f"{level}_weight": 0.0 for level in ("image", "lesion", "patient")}


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        (ModelConfig, NO_LEVEL, "all weights are 0"),
        (ModelConfig, {**NO_LEVEL, "reconstruction_weight": 0.5}, "all weights are 0"),
        (ModelConfig, {"contrast": "sigmoid", "duplicates": "soft"}, "duplicates=soft"),
        (PretrainConfig, {"pretrained": True, "encoder_weights": "monet"}, "drop one"),
        (PretrainConfig, {"reconstruction_weight": 0.5, "feature_dropout": 0.0}, "feature_dropout"),
        (PretrainConfig, {"monitor": "recall_at_5", "validation_fraction": 0.0}, "validation_frac"),
        (AdaptConfig, {"patience": 2}, "patience"),
        (AdaptConfig, {"rename": {"a": "c", "b": "c"}}, r"rename.* 'a' and 'b'.* 'c'"),
    ],
)
def test_settings_that_do_not_go_together_are_named(
    kind: type, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        kind(**settings)


def test_the_settings_of_a_run_make_those_of_its_adaptation() -> None:
    model = ModelConfig(view_weight=0.3, tabular_width=64)
    config = AdaptConfig(epochs=7)
    made = config.of_run(model, images_alone=False)
    assert (made.epochs, made.tabular_width, made.view_weight) == (7, 64, 0.3)
    assert config.of_run(ModelConfig(), images_alone=True).view_weight == 1.0
    assert config.of_run(model, images_alone=True).view_weight == 0.3
    assert AdaptConfig(view_weight=0.0).of_run(model, images_alone=False).view_weight == 0.0
    hides = ModelConfig(reconstruction_weight=0.5)
    assert config.of_run(hides, images_alone=False).reconstruction_weight == 0


def test_a_flag_for_the_encoder_leaves_the_presets_options_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "pretrain x --preset tiny --encoder resnet18 --encoder-options block_args=null"
    for line in (words.rpartition(" --")[0], words):
        assert main([*line.split(), "--print-config"]) == 0
        settings = yaml.safe_load(capsys.readouterr().out)
        assert (settings["encoder"], settings["image_size"]) == ("resnet18", 64)
        assert set(settings["encoder_options"]) == ({"block_args"} if line is words else set())
