"""Image encoders: any timm model, its own preprocessing, and weights from a local file."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny import Malicious
from torch import Tensor

from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder

VIT = {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}


def config(encoder: str = "vit_tiny_patch16_224", size: int = 16, **options: Any) -> ModelConfig:
    return ModelConfig(encoder=encoder, encoder_options=options, image_size=size)


def vit(size: int = 16, **options: Any) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(config(size=size, **{**VIT, **options}))


def pixels(n: int = 3, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def timm_state(**changes: Any) -> dict[str, Tensor]:
    """What a published file holds: the same model with a classifier."""
    torch.manual_seed(3)
    options = {**VIT, "img_size": 16, "num_classes": 5, **changes}
    return timm.create_model("vit_tiny_patch16_224", **options).state_dict()


# ------------------------------------------------------------------ the encoder


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [
        ("vit_small_patch16_224", 32, 384),
        ("resnet18", 32, 512),
        ("mobilenetv3_small_050", 32, 1024),  # timm's num_features says 288
    ],
)
def test_any_timm_model_gives_one_vector_per_image_from_pixels_normalised_as_it_expects(
    name: str, size: int, width: int
) -> None:
    encoder = ImageEncoder(config(name, size)).eval()
    expected = encoder.model.pretrained_cfg
    mean, std = (torch.tensor(expected[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = pixels(size=size)
    with torch.no_grad():
        out, by_hand = encoder(images), encoder.model((images / 255 - mean) / std)
    assert out.shape == (3, width)
    assert encoder.embed_dim == width
    assert (encoder.spec.size, encoder.spec.mean) == (size, tuple(expected["mean"]))
    torch.testing.assert_close(out, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config("nonsense"), "nonsense"),
        (config("resnet18", 32, depth=3), "depth"),
        (config(img_size=32), r"encoder_options\.img_size"),
        (config(**VIT, global_pool=""), "global_pool"),
        (config("resnet18", 32, global_pool=""), "global_pool"),
    ],
)
def test_what_timm_cannot_make_is_refused_in_one_line(settings: ModelConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ImageEncoder(settings)
    assert "\n" not in str(caught.value)


def test_published_weights_without_a_network_name_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="--encoder-weights"):
        ImageEncoder(config("resnet18", 32), pretrained=True)


def gradients(encoder: ImageEncoder) -> dict[str, Tensor]:
    encoder.zero_grad()
    encoder(pixels()).square().sum().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_changes_no_gradient() -> None:
    encoder = vit()
    plain = gradients(encoder)
    encoder.set_gradient_checkpointing(True)
    recomputed = gradients(encoder)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_the_layout_of_tokens_changes_no_value_and_no_gradient() -> None:
    encoder = vit(class_token=False, global_pool="avg").double()
    out, wanted = encoder(pixels()), gradients(encoder)
    encoder.model.patch_embed._forward_hooks.clear()
    torch.testing.assert_close(out, encoder(pixels()), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(wanted, gradients(encoder), rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------ weights from a file


def renamed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in timm_state().items()}


WRAPPED = {
    "plain": timm_state,
    "model": lambda: {"model": timm_state(), "epoch": 3},
    "model_state_dict": lambda: {"model_state_dict": timm_state(), "optimizer": {"lr": 0.1}},
    "state_dict": lambda: {"state_dict": renamed("module.")},
    "dino": lambda: {
        "teacher": {**renamed("backbone."), "head.mlp.0.weight": torch.ones(2)},
        "student": renamed("module.backbone."),
    },
    "multi-modal": lambda: {**renamed("encoder_imaging."), "encoder_tabular.0": torch.ones(2)},
    "encoder": lambda: renamed("encoder."),
    "slimp": lambda: {**renamed("image_encoder.model."), "view.weight": torch.ones(2)},
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_weights_load_from_common_wrappings_without_their_classifier(
    tmp_path: Path, wrapped: str
) -> None:
    torch.save(WRAPPED[wrapped](), tmp_path / "weights.pth")
    encoder, state = vit(), timm_state()
    encoder.load_weights(tmp_path / "weights.pth")
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_position_embeddings_of_another_size_are_resampled(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = timm_state(img_size=32)  # 4 x 4 patches and CLS; here 2 x 2
    # Constant over the image, so resampling must give the constant back.
    state["pos_embed"] = torch.ones(1, 17, 12) * torch.arange(12.0)
    save_file(state, path)
    encoder = vit()
    encoder.load_weights(path)
    torch.testing.assert_close(encoder.model.pos_embed, state["pos_embed"][:, :5])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (lambda: timm_state(depth=3), "'blocks.2.norm1.weight' [12] is not expected"),
        (lambda: timm_state(depth=1), "'blocks.1.norm1.weight' is missing, expected [12]"),
        (lambda: timm_state(embed_dim=16), "'cls_token' is [1, 1, 16], expected [1, 1, 12]"),
        (lambda: {"conv.weight": torch.ones(2)}, "Names found: conv.weight; expected: cls_token"),
        (lambda: {**renamed("a."), **renamed("b.")}, "several sets of weights fit"),
        (lambda: {"model": timm_state(), "state_dict": timm_state()}, "model, state_dict"),
        (lambda: [1, 2], "a list"),
        (lambda: torch.ones(3), "a Tensor"),
        (lambda: {"a": 1}, "named tensors (a)"),
        (lambda: {0: torch.ones(3)}, "named tensors (0)"),
        (lambda: {"state_dict": [1]}, "named tensors (state_dict)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, content: Callable[[], object], named: str
) -> None:
    path = tmp_path / "other.pth"
    torch.save(content(), path)
    with pytest.raises(CheckpointError, match=re.escape(named)) as caught:
        vit().load_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("as_torch", [True, False])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, as_torch: bool) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "executed"
    content = {"state_dict": {**timm_state(), "surprise": Malicious(trace)}}
    if as_torch:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        vit().load_weights(path)
    assert not trace.exists()


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99, None])
def test_truncated_and_absent_weights_are_refused(
    tmp_path: Path, ending: str, fraction: float | None
) -> None:
    path = tmp_path / f"weights.{ending}"
    if fraction is not None:
        (save_file if ending == "safetensors" else torch.save)(timm_state(), path)
        content = path.read_bytes()
        path.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(CheckpointError, match=rf"weights\.{ending}") as caught:
        vit().load_weights(path)
    assert "\n" not in str(caught.value)
