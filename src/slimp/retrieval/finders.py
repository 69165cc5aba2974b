"""What finds nearest rows: an exact search, or an approximate one whose recall is measured.

Axis names: q = queries, n = rows of the index, d = width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from slimp.features.nearest import Neighbours, nearest

Array = np.ndarray[Any, np.dtype[Any]]
FEWEST_ROWS = 100_000
"""Of an index that is worth searching approximately."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """How approximate searches fared on queries that were also searched exactly."""

    worst: float
    """Share of the exact nearest rows that were found, of the search that found the least."""
    searches: int
    """That were approximate; smaller indices are searched exactly."""

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`."""
        return {"recall": self.worst, "approximate_searches": self.searches}


class Finder:
    """A `slimp.retrieval.routes.Search`, which remembers how well it searched.

    Args:
        approximate: search with FAISS from `FEWEST_ROWS` rows on.
        device: where the exact search computes.
        seed: of the approximate index, and of the queries on which it is measured.
        fewest_rows: see `FEWEST_ROWS`.
    """

    def __init__(
        self,
        *,
        approximate: bool = False,
        device: torch.device | str = "cpu",
        seed: int = 0,
        fewest_rows: int = FEWEST_ROWS,
    ) -> None:
        self._approximate, self._device, self._seed = approximate, device, seed
        self._fewest_rows = fewest_rows
        self._built: tuple[Array, Any] | None = None
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
        if not self._approximate or len(index) < self._fewest_rows:
            return nearest(queries, index, k, exclude=groups, device=self._device)
        inverted = self._inverted(index)
        found = inverted.measured_recall(queries, k, exclude=groups, seed=self._seed)
        worst = min(found, self.recall.worst) if self.recall else found
        searches = self.recall.searches + 1 if self.recall else 1
        self.recall = Recall(worst=worst, searches=searches)
        neighbours: Neighbours = inverted.search(queries, k, exclude=groups)
        return neighbours

    def _inverted(self, index: Float32[Array, "n d"]) -> Any:
        """The index of these rows, built once for searches that follow one another."""
        from slimp.retrieval.approximate import ApproximateIndex

        if self._built is None or self._built[0] is not index:
            self._built = index, ApproximateIndex.build(index, seed=self._seed)
        return self._built[1]
