"""How a search uses its device: number formats, and one thread per core."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

from slimp.models.precision import bf16_is_fast

WORTHWHILE = 1e10
"""Multiplications from which `auto` considers bf16."""


def first_format(precision: str, work: int, device: torch.device) -> torch.dtype:
    """Number format of the first stage; `auto`: bf16 where that is fast and the work is large."""
    auto = precision == "auto" and work >= WORTHWHILE and _bf16_is_fast_here(device.type)
    return torch.bfloat16 if auto or precision == "bf16" else torch.float32


@cache
def _bf16_is_fast_here(device: str) -> bool:
    """Measured once per process."""
    return bf16_is_fast(device)


@contextmanager
def true_precision() -> Iterator[None]:
    """While inside, 32 bit means that, and sums of 16-bit products are taken in 32 bit.

    Users of torch can switch both off; the bounds would not hold.
    """
    cuda = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cuda.allow_bf16_reduced_precision_reduction = before[1]


@contextmanager
def one_core_per_thread(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Threads, as many as torch has, each of which computes on one core.

    The other way round, every operation on all cores, is slower by a factor where another process
    wants a core: each of thousands of operations then waits for the core that is taken.
    """
    threads = torch.get_num_threads()
    count = threads if device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
