"""What of the image encoder learns, and how fast: layer decay, last blocks, embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import VIT, tiny_cohort, tiny_config

from slimp.errors import UserError
from slimp.models.nested import Slimp
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.optimizer import make_optimizer

DEEP = {**VIT, "depth": 3}


def model_of(**changes: Any) -> tuple[Slimp, PretrainConfig]:
    config = tiny_config(**{"encoder_options": DEEP, **changes})
    torch.manual_seed(1)
    return build_model(tiny_cohort(), config), config


def scales(model: Slimp, config: PretrainConfig) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, config).param_groups
    return {names[id(p)]: group["scale"] for group in groups for p in group["params"]}


def test_rates_fall_by_a_factor_per_layer_towards_the_stem() -> None:
    found = scales(*model_of(layer_decay=0.5, encoder_lr_scale=0.3))
    start = "image_encoder.model."
    expected = {"norm.weight": 1.0, "blocks.2.mlp.fc1.weight": 1.0, "blocks.1.norm1.bias": 0.5}
    expected |= {"blocks.0.attn.qkv.weight": 0.25, "patch_embed.proj.weight": 0.125}
    expected |= {"cls_token": 0.125, "pos_embed": 0.125}
    assert {n: found[start + n] for n in expected} == pytest.approx(
        {n: 0.3 * scale for n, scale in expected.items()}
    )
    assert {scale for name, scale in found.items() if not name.startswith(start)} == {1.0}


def test_the_norm_after_pooling_is_no_layer_of_its_own() -> None:
    """It is counted apart where timm averages patches, so that one block too few would learn."""
    averaged = {**DEEP, "global_pool": "avg", "class_token": False}
    found = model_of(encoder_options=averaged)[0].image_encoder.layers()
    assert found["model.fc_norm.weight"] == found["model.blocks.2.mlp.fc1.weight"]
    assert found["model.blocks.1.norm1.bias"] == found["model.fc_norm.weight"] - 1


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_without_decay_all_layers_have_the_encoders_rate(scale: float) -> None:
    found = scales(*model_of(encoder_lr_scale=scale))
    of_images = {x for name, x in found.items() if name.startswith("image_encoder.")}
    assert of_images == {scale}


def test_convolutional_encoders_have_layers_too() -> None:
    changes = {"encoder": "resnet10t", "encoder_options": {}, "image_size": 32}
    found = scales(*model_of(**changes, layer_decay=0.5))
    stem = found["image_encoder.model.conv1.0.weight"]
    assert stem < found["image_encoder.model.layer4.0.conv1.weight"] == 1.0


@pytest.mark.parametrize(
    ("what", "learns"),
    [
        ("all", {"cls_token", "pos_embed", "patch_embed", "blocks.0", "blocks.1", "blocks.2"}),
        (2, {"blocks.1", "blocks.2", "norm"}),
        (1, {"blocks.2", "norm"}),
        (0, set()),
        ("embeddings", {"cls_token", "pos_embed", "patch_embed"}),
    ],
)
def test_a_part_of_the_encoder_learns(what: Any, learns: set[str]) -> None:
    model, config = model_of(train_encoder=what)
    names = {n for n, p in model.image_encoder.model.named_parameters() if p.requires_grad}
    found = {".".join(n.split(".")[: 2 if n.startswith("blocks") else 1]) for n in names}
    assert found == (learns | {"norm"} if what == "all" else learns)
    given = scales(model, config)
    assert {n for n in given if n.startswith("image_encoder.")} == {
        f"image_encoder.model.{n}" for n in names
    }
    assert any(n.startswith("levels.lesion.") for n in given)  # whatever else the model has


def test_a_level_without_weight_stays_frozen() -> None:
    model, _ = model_of(train_encoder=0, patient_weight=0.0)
    assert not any(p.requires_grad for p in model.level("patient").parameters())


def test_weights_that_do_not_say_their_normalisation_are_not_taken_in_silence(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(model_of()[0].image_encoder.model.state_dict(), path)
    with pytest.warns(UserWarning, match=r"normalisation.*mean \(0\.5, 0\.5, 0\.5\)"):
        model_of(encoder_weights=str(path))


def test_weights_of_a_preset_that_give_way_do_not_do_so_in_silence() -> None:
    with pytest.warns(UserWarning, match=r"efficientnet-lite0.*vit_tiny.* starts at random"):
        model_of(preset="laptop")


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("view_positives", "patient", {"view_weight": 0.5}),
        ("sigmoid_bias", -5.0, {"contrast": "sigmoid"}),
        ("positive_temperature", 0.3, {"duplicates": "soft"}),
    ],
)
def test_a_setting_without_effect_is_told(
    name: str, value: Any, needed: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    model_of(**{name: value}, **needed)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=f"{name} has no effect without .*{next(iter(needed))}"):
        model_of(**{name: value})


@pytest.mark.parametrize(
    "changes", [{"layer_decay": 0.0}, {"layer_decay": 1.1}, {"train_encoder": -1}]
)
def test_values_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        tiny_config(**changes)
