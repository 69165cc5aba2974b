"""What finds nearest rows: an exact search, or an approximate one whose recall is measured.

Axis names: q = queries, n = rows of the index, d = width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from slimp.evaluate.search import Neighbours, nearest

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How an approximate search fared on queries that were also searched exactly."""

    found: float
    """Share of the exact nearest row that was found."""
    queries: int
    searches: int
    """That were approximate; smaller references are searched exactly."""

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`."""
        return {"recall_at_1": self.found, "queries": self.queries, "searches": self.searches}


class Finder:
    """A `slimp.retrieve.routes.Search`.

    Args:
        approximate: use FAISS where it pays.
        device: where the exact search computes.
        seed: of the approximate index.
    """

    def __init__(
        self, *, approximate: bool = False, device: torch.device | str = "cpu", seed: int = 0
    ) -> None:
        self._approximate, self._device, self._seed = approximate, device, seed
        self.recall: Recall | None = None

    def __call__(
        self,
        queries: Float32[Array, "q d"],
        index: Float32[Array, "n d"],
        k: int,
        groups: tuple[Array, Array] | None,
    ) -> Neighbours:
        """The k nearest rows of another group."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        index = np.ascontiguousarray(index, dtype=np.float32)
        return nearest(queries, index, k, exclude=groups, device=self._device)
