"""Two runs on the same cohort: do they find the same neighbours?

Axis names: n = images, k = neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from slimp.app.embeddings import Embedded, fitted_into_square
from slimp.data.files import new_file

Array = np.ndarray[Any, np.dtype[Any]]
K = 10
"""Neighbours that are compared."""
MOST_QUERIES = 2_000
"""Images whose neighbours are compared where there are `MANY`; taken evenly."""
MANY = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """The other run, and how far its neighbours agree with the first one's."""

    run: str
    """As the user named it."""
    other: Embedded
    agreement: Float32[Array, " n"]
    """Share of the `K` nearest images of other patients that both runs name, or of all of them
    where they are fewer; NaN: not compared."""
    by_chance: float
    """What two unrelated runs would have, on average."""

    @classmethod
    def of(
        cls, run: str, first: Embedded, other: Embedded, patients: Shaped[Array, " n"]
    ) -> Comparison:
        """Computed once, and kept beside the embeddings of the first run."""
        path = first.folder / f"shared-{other.folder.name}.npy"
        if not path.is_file():
            found = _shared(first.spaces["image"], other.spaces["image"], patients)
            with new_file(path) as partial, partial.open("wb") as file:
                np.save(file, found)
        _, owner, images = np.unique(patients.astype(str), return_inverse=True, return_counts=True)
        others = np.maximum(len(patients) - images[owner], 1)  # of other patients
        agreement = (np.load(path) / np.minimum(K, others)).astype(np.float32)
        chance = float(np.minimum(1, K / others)[~np.isnan(agreement)].mean())
        return cls(run=run, other=other, agreement=agreement, by_chance=chance)

    def to_dict(self, runs: list[str]) -> dict[str, Any]:
        """For JSON: the mean agreement as `overlap`, and how it came to be."""
        known = self.agreement[~np.isnan(self.agreement)]
        return {
            "runs": runs,
            "k": K,
            "overlap": float(known.mean()),
            "by_chance": self.by_chance,
            "images": len(known),
        }

    def points(self, first: Embedded, projection: str) -> Float32[Array, "n 2"]:
        """The other run's map, turned and mirrored so that it fits the first one's best."""
        from scipy.linalg import orthogonal_procrustes

        ours, theirs = first.projection(projection), self.other.projection(projection)
        turn, _ = orthogonal_procrustes(theirs - theirs.mean(axis=0), ours - ours.mean(axis=0))
        return fitted_into_square(theirs @ turn)


def _shared(ours: Array, theirs: Array, patients: Array) -> Float32[Array, " n"]:
    """Number of common neighbours; NaN: not compared."""
    from slimp.features.nearest import nearest  # of many queries at once, by torch

    step = 1 if len(ours) <= MANY else -(-len(ours) // MOST_QUERIES)
    some = np.arange(0, len(ours), step)
    rows = []
    for x in (ours, theirs):
        x = np.asarray(x)
        rows.append(nearest(x[some], x, K, exclude=(patients[some], patients)).row)
    shared = [
        len(set(a) & set(b) - {-1}) for a, b in zip(*map(np.ndarray.tolist, rows), strict=True)
    ]
    found = np.full(len(ours), np.nan, dtype=np.float32)
    found[some] = shared
    return found
