"""Which number format and attention kernel is fast on this device: measured, not guessed."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import torch
from lightning_fabric import Fabric

from slimp.config import PretrainConfig

WORTHWHILE = 1.5
"""Speed-up of a bf16 matrix product from which bf16 is chosen."""


def fast_precision(config: PretrainConfig) -> PretrainConfig:
    """The configuration with `precision="auto"` resolved for the device that will be used."""
    if config.precision != "auto":
        return config
    on_cpu = config.accelerator == "cpu" or (
        config.accelerator == "auto"
        and not torch.cuda.is_available()
        and not torch.backends.mps.is_available()
    )
    if on_cpu:
        bf16 = _bf16_speedup_on_cpu() > WORTHWHILE
    else:
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return replace(config, precision="bf16" if bf16 else "32")


def make_fabric(config: PretrainConfig) -> Fabric:
    """Devices and number format of a configuration whose precision is resolved."""
    # Fabric would announce the number format, which stands in config.json already.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    return Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
    )


def prefers_fused_attention(device: torch.device, precision: str) -> bool:
    """Whether fused attention is the faster one.

    Not on CPUs under bf16: there its backward pass is slower than plain matrix products, which
    run on the processor's bf16 units.
    """
    return not (device.type == "cpu" and precision == "bf16")


def _bf16_speedup_on_cpu(side: int = 768, repeats: int = 5) -> float:
    """Time of an fp32 matrix product over that of a bf16 one, each the best of `repeats`."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(side, side, dtype=dtype)
        times = []
        for _ in range(repeats + 1):  # the first one warms up
            began = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - began)
        seconds[dtype] = min(times[1:])
    return seconds[torch.float32] / seconds[torch.bfloat16]
