"""Number format and attention kernel that are fast on this device, as measured.

In ms per image, forward and backward, on two cores with AMX (`benchmarks/encoders.py`): a small ViT
at 64 px takes 5.86 in fp32, 4.03 in bf16, 2.55 in bf16 with unfused attention, 2.45 where freed
memory is kept, and 2.11 compiled. On CUDA and MPS the fused kernels are PyTorch's defaults.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
from functools import cache, partial
from importlib.util import find_spec

import torch
from torch import nn

from slimp.errors import UserError
from slimp.models.image_encoder import ImageEncoder, set_fused_attention
from slimp.models.nested import Autocast

WORTHWHILE = 1.5
"""Speed-up of a bf16 matrix product from which bf16 is chosen."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # options of mallopt, from <malloc.h>


def bf16_is_fast(device: str, network: nn.Module | None = None) -> bool:
    """Whether bf16 is fast on a kind of device: a network there, or else matrix products.

    Products are measured on CPUs. Networks of depthwise convolutions (EfficientNet, MobileNet) take
    about twice as long in bf16 there, others less or about as long, also those that have linear
    layers beside such convolutions (`benchmarks/number_formats.py`).
    """
    if device == "cpu":
        return not _of_depthwise_convolutions(network) and _bf16_speedup_on_cpu() > WORTHWHILE
    return device == "cuda" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def autocast_on(device: torch.device, precision: str) -> Autocast:
    """Makes contexts in which products use the precision asked for; weights stay in 32 bit."""
    return partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")


def suit_to_device(model: nn.Module, device: torch.device, precision: str) -> None:
    """Switches all encoders to the kernels that are fast on a device; they compute the same.

    On a CPU the C library is told to keep freed memory, for the whole process.
    """
    # On CPUs under bf16 the fused backward pass is slower than matrix products on the bf16 units.
    set_fused_attention(model, not (device.type == "cpu" and precision == "bf16"))
    if device.type == "cpu":
        keep_freed_memory()


def compile_encoder(encoder: ImageEncoder, device: torch.device) -> None:
    """Compiles an image encoder in place, at its next call; its parameters keep their names.

    Raises:
        UserError: there is nothing to compile with.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"--compile needs a C++ compiler, and {compiler} is not there: install it, name "
            "another one in the environment variable CXX, or leave --compile out."
        )
    if device.type == "cuda" and find_spec("triton") is None:
        raise UserError("--compile needs Triton on CUDA: pip install triton, or leave it out.")
    # Dropout then draws as it does without, the same in both passes of the gradient cache.
    encoder.model.compile(dynamic=True, options={"fallback_random": True})


def keep_freed_memory() -> None:
    """Tells the C library (glibc) to reuse freed memory instead of returning it to the system.

    Otherwise activations are fresh pages in every step, which the system clears one by one: 8 % of
    a step of the small ViT in bf16, in batches of 64, and 39 % of embedding 32 images of 128 px
    by EfficientNet-Lite0 in fp32. The process then keeps its peak memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # Older versions refuse a threshold over 32 MiB.
    if mallopt and (mallopt(_MMAP_THRESHOLD, 2**30) or mallopt(_MMAP_THRESHOLD, 2**25)):
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_ARENA_MAX, 1)


def _of_depthwise_convolutions(network: nn.Module | None) -> bool:
    """Whether a network convolves each channel on its own, and has no linear layer."""
    modules = () if network is None else tuple(network.modules())
    apart = any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in modules)
    return apart and not any(isinstance(m, nn.Linear) for m in modules)


@cache
def _bf16_speedup_on_cpu() -> float:
    """Pace of a bf16 matrix product over that of an fp32 one, asked once a process.

    Not measured on x86 processors without AVX-512: they emulate bf16, up to 100 times slower, and
    the products would take seconds.
    """
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "NO AVX"):
        return 0.0
    bf16, fp32 = (matmul_pace("cpu", x, 768) for x in (torch.bfloat16, torch.float32))
    return bf16 / fp32


def matmul_pace(device: torch.device | str, dtype: torch.dtype, side: int) -> float:
    """Operations per second of products of square matrices, the best of six."""
    own = torch.Generator().manual_seed(0)  # the global state stays as it is
    best, a = 0.0, torch.randn(side, side, generator=own).to(device, dtype)
    for _ in range(6):
        began = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best
