"""Number formats: chosen by measuring, never guessed, and only where it is asked for."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimp.models import precision
from slimp.models.image_encoder import ImageEncoder
from slimp.models.precision import autocast_on, suit_to_device
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


def test_the_measurement_is_a_ratio_of_times_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    assert 0 <= precision._bf16_speedup_on_cpu(side=32, repeats=2) < 1000
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("asked", "dtype"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_in_the_format_asked_for_and_weights_in_32_bits(
    asked: str, dtype: torch.dtype
) -> None:
    layer = torch.nn.Linear(2, 2)
    for _ in range(2):
        with autocast_on(torch.device("cpu"), asked)():
            assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer(torch.ones(1, 2)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


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


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_bound_on_the_gradient_would_catch_a_wrong_kernel(factor: float) -> None:
    encoder = encoder_that_attends()
    want = gradients(encoder)
    suit_to_device(encoder, CPU, "bf16")
    for block in encoder.model.blocks:
        block.attn.scale *= factor
    assert error_and_cosine(gradients(encoder, bf16=True), want)[0] > 2 * BOUND


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
    monkeypatch.setattr(precision, "keep_freed_memory", lambda: True)
    tokens = TokenEncoder(width=4, depth=2, heads=2, mlp_ratio=2, dropout=0.0)
    both = nn.ModuleList([encoder_that_attends(), tokens])
    suit_to_device(both, torch.device(device), number_format)
    switches = [m.fused_attn for m in both.modules() if hasattr(m, "fused_attn")]
    assert switches == [fused] * (4 + 2)


FRESH_PAGES = """
import resource, numpy
def step():
    held = [numpy.ones(2**24, dtype="f4") for _ in range(2)]
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the switch")
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    def step() -> list[Tensor]:
        return [torch.ones(2**24) for _ in range(2)]  # 64 MiB each: more than glibc adapts to

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    if not precision.keep_freed_memory():
        pytest.skip("this C library has no mallopt")
    for _ in range(4):
        step()
    before = faults()
    for _ in range(4):
        step()
    assert faults() - before < 50
    # A process that did not ask: pages of 2 MiB, or of 4 KiB, which are 500 times as many.
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PAGES], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 2 * 50


@pytest.mark.gpu
def test_a_gpu_that_can_bf16_gets_it() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    wanted = "bf16" if torch.cuda.is_bf16_supported() else "32"
    assert fast_precision(config(accelerator="cuda")).precision == wanted
