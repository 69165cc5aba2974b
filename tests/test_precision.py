"""Number formats: chosen by measuring, never guessed, and only where it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slimp import precision
from slimp.config import PretrainConfig
from slimp.precision import fast_precision, make_fabric, prefers_fused_attention

torch.set_num_threads(1)


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig.from_preset("tiny", **{"accelerator": "cpu", **changes})


@pytest.mark.parametrize("asked", ["32", "bf16"])
def test_what_is_asked_for_is_kept_and_nothing_is_measured(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden() -> float:
        raise AssertionError("measured")

    monkeypatch.setattr(precision, "_bf16_speedup_on_cpu", forbidden)
    assert fast_precision(config(precision=asked)) == config(precision=asked)


@pytest.mark.parametrize(
    ("speedup", "chosen"), [(0.1, "32"), (1.0, "32"), (1.4, "32"), (1.6, "bf16"), (8.0, "bf16")]
)
def test_on_a_cpu_the_measured_speed_decides(
    speedup: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_bf16_speedup_on_cpu", lambda: speedup)
    settled = fast_precision(config(seed=5))
    assert settled == config(seed=5, precision=chosen)  # and nothing else changes


def test_the_measurement_is_a_ratio_of_times_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    assert 0 < precision._bf16_speedup_on_cpu(side=32, repeats=2) < 1000
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("asked", "dtype"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_in_the_format_asked_for_and_weights_in_32_bits(
    asked: str, dtype: torch.dtype
) -> None:
    fabric = make_fabric(config(precision=asked))
    layer = fabric.to_device(torch.nn.Linear(2, 2))
    with fabric.autocast():
        assert layer(torch.ones(1, 2)).dtype == dtype
    assert layer.weight.dtype == torch.float32
    assert fabric.device.type == "cpu"


@pytest.mark.parametrize(
    ("device", "number_format", "fused"),
    [("cpu", "bf16", False), ("cpu", "32", True), ("cuda", "bf16", True), ("cuda", "32", True)],
)
def test_attention_is_fused_except_in_bf16_on_a_cpu(
    device: str, number_format: str, fused: bool
) -> None:
    assert prefers_fused_attention(torch.device(device), number_format) is fused


@pytest.mark.gpu
def test_a_gpu_that_can_bf16_gets_it() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    wanted = "bf16" if torch.cuda.is_bf16_supported() else "32"
    assert fast_precision(config(accelerator="cuda")).precision == wanted
