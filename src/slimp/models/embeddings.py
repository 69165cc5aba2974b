"""What leaves the model and enters the loss.

Axis names: n = rows of a level here, m = rows of it on all processes, d = width.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from slimp.data.processes import Shares


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sets of projections whose equal rows belong together."""

    name: str
    """The level: view, image, lesion or patient."""
    anchor: Float[Tensor, "n d"]
    """What lies below: images, with finer metadata from the second level on."""
    target: Float[Tensor, "n d"]
    """The level's metadata (for the view level: the second view)."""
    temperature: Float[Tensor, ""]
    groups: Int[Tensor, " m"] | None = None
    """Of all processes' rows: those of equal number are positives of one another; None: only
    equal rows are."""
    shares: Shares | None = None
    """How many rows each process has; None: all are here."""


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """The pairs that the objective compares, from fine to coarse; projections, not normalised."""

    pairs: tuple[Pair, ...]
