"""Number formats: chosen by measuring, never guessed, and only where it is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimp.errors import UserError
from slimp.models import precision
from slimp.models.image_encoder import ImageEncoder
from slimp.models.precision import compile_encoder, suit_to_device
from slimp.models.transformer import TokenEncoder
from slimp.training.config import PretrainConfig
from slimp.training.devices import fast_precision

torch.set_num_threads(1)

BOUND = 0.015
"""Relative error of the whole gradient in bf16."""


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig.from_preset("tiny", **{"accelerator": "cpu", **changes})


@pytest.mark.parametrize(
    ("asked", "speedup", "chosen"),
    [("32", None, "32"), ("bf16", None, "bf16"), ("auto", 1.4, "32"), ("auto", 1.6, "bf16")],
)
def test_the_measured_speed_decides_where_nothing_is_asked_for(
    asked: str, speedup: float | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured() -> float:
        assert speedup is not None, "measured without need"
        return speedup

    monkeypatch.setattr(precision, "_bf16_speedup_on_cpu", measured)
    found = fast_precision(config(seed=5, precision=asked))
    assert found == config(seed=5, precision=chosen)  # and nothing else changes


@pytest.mark.parametrize(
    ("encoder", "chosen"),
    [
        ("tf_efficientnet_lite0", "32"),
        ("mobilenetv3_small_050", "32"),
        ("convnext_atto", "32"),
        ("twins_svt_small", "bf16"),
        ("resnet10t", "bf16"),
        ("regnety_002", "bf16"),
        ("vit_tiny_patch16_224", "bf16"),
    ],
)
def test_encoders_of_depthwise_convolutions_compute_in_32_bit_on_cpus(
    encoder: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_bf16_speedup_on_cpu", lambda: 10.0)
    before = torch.get_rng_state()
    asked = PretrainConfig(encoder=encoder, accelerator="cpu")
    assert fast_precision(asked) == replace(asked, precision=chosen)
    assert torch.equal(torch.get_rng_state(), before)
    assert fast_precision(replace(asked, precision="bf16")).precision == "bf16"


CPU = torch.device("cpu")


def encoder_that_attends() -> ImageEncoder:
    """Random weights with pointed attention: near-uniform one would hide a wrong kernel."""
    torch.manual_seed(0)
    made = ImageEncoder(config())
    with torch.no_grad():
        for block in made.model.blocks:
            block.attn.qkv.weight.mul_(4)
    return made


def gradients(encoder: ImageEncoder, *, bf16: bool = False) -> dict[str, Tensor]:
    """Of picking each image's target among all, as in pre-training, in fp64."""
    generator = torch.Generator().manual_seed(1)
    size = encoder.spec.size
    pixels = torch.randint(256, (8, 3, size, size), generator=generator, dtype=torch.uint8)
    targets = torch.randn(8, encoder.embed_dim, generator=generator)
    encoder.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        embeddings = encoder(pixels)
    embeddings = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
    logits = F.normalize(embeddings) @ F.normalize(targets.to(embeddings.dtype)).T / 0.1
    F.cross_entropy(logits, torch.arange(8)).backward()
    return {name: p.grad.double() for name, p in encoder.named_parameters()}  # type: ignore[union-attr]


def error_and_cosine(got: dict[str, Tensor], want: dict[str, Tensor]) -> tuple[float, float]:
    """Relative norm of the difference of whole gradients, and their cosine."""
    a, b = (torch.cat([g.flatten() for g in grads.values()]) for grads in (got, want))
    return float((a - b).norm() / b.norm()), float(F.cosine_similarity(a, b, dim=0))


def test_the_gradient_in_bf16_is_near_that_in_32_and_in_64_bit() -> None:
    encoder = encoder_that_attends()
    in_32 = gradients(encoder)
    suit_to_device(encoder, CPU, "bf16")
    in_bf16 = gradients(encoder, bf16=True)
    in_64 = gradients(encoder.double())
    assert error_and_cosine(in_32, in_64)[0] < 1e-5
    for want in (in_32, in_64):
        error, cosine = error_and_cosine(in_bf16, want)
        assert error < BOUND
        assert cosine > 1 - BOUND**2
    for name, want in in_64.items():  # none hides behind the large ones
        assert F.cosine_similarity(in_bf16[name].flatten(), want.flatten(), dim=0) > 0.999, name


@pytest.mark.parametrize("number_format", ["32", "bf16"])
def test_suiting_a_device_changes_no_gradient_in_64_bit(number_format: str) -> None:
    encoder = encoder_that_attends().double()
    want = gradients(encoder)
    suit_to_device(encoder, CPU, number_format)
    assert error_and_cosine(gradients(encoder), want)[0] < 1e-12


@pytest.mark.parametrize(
    ("device", "number_format", "fused"),
    [("cpu", "bf16", False), ("cpu", "32", True), ("cuda", "bf16", True), ("cuda", "32", True)],
)
def test_every_encoder_is_suited_to_its_device(
    device: str, number_format: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "keep_freed_memory", lambda: None)
    tokens = TokenEncoder(width=4, depth=2, heads=2, mlp_ratio=2, dropout=0.0)
    both = nn.ModuleList([encoder_that_attends(), tokens])
    suit_to_device(both, torch.device(device), number_format)
    switches = [m.fused_attn for m in both.modules() if hasattr(m, "fused_attn")]
    assert switches == [fused] * (4 + 2)


@pytest.mark.gpu
def test_a_gpu_that_can_bf16_gets_it() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    wanted = "bf16" if torch.cuda.is_bf16_supported() else "32"
    assert fast_precision(config(accelerator="cuda")).precision == wanted


def test_nothing_is_compiled_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, cpu = ImageEncoder(config()), torch.device("cpu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler is not there"):
        compile_encoder(encoder, cpu)
    assert encoder.model._compiled_call_impl is None
