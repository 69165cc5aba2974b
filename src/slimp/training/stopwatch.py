"""Seconds per named part of a step; off unless someone asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

Clock = Callable[[str], AbstractContextManager[None]]
"""`with clock("loss"): ...` counts the block's seconds to the part "loss"."""


def untimed(part: str) -> AbstractContextManager[None]:
    """The clock of everyday use: none."""
    return nullcontext()


class Stopwatch:
    """A clock that adds up; it waits for the device at the ends of each block.

    Example:
        >>> clock = Stopwatch(torch.device("cpu"))
        >>> with clock("loss"):
        ...     pass
        >>> list(clock.seconds)
        ['loss']
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Counts the block to `part`."""
        began = self._now()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + self._now() - began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()
