"""Settings of a retrieval; light, because the command line makes its flags of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slimp.data.config import Settings, require_positive
from slimp.errors import UserError

Route = Literal["ilp", "ii"]
"""ilp: image -> lesion metadata -> patient metadata. ii: image -> image, with its metadata."""
Impute = Literal["missing", "all"]


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(Settings):
    """Retrieval."""

    route: Route = "ilp"
    """ilp: the image retrieves lesion metadata, both retrieve patient metadata; ii: the image
    retrieves an image, with the metadata of its lesion and patient."""
    k: int = 1
    """Nearest neighbours per query; their embeddings are averaged, nearer ones with more weight."""
    temperature: float = 0.07
    """Temperature of these weights: a neighbour of cosine s has the weight exp(s / temperature)."""
    coverage: float = 0.9
    """Target coverage: fraction of in-distribution images for which metadata are imputed."""
    impute: Impute = "missing"
    """missing: rows without a known cell. all: every row, and known metadata are the truth to
    compare with."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Feature of the target = the reference's name for it, as in sex=gender; repeat for more."""
    groups: tuple[str, ...] | None = None
    """Columns of the target to group failures by, as in sex,age:30:60 (edges; without, quartiles);
    auto: categorical features, or none. Default: the label and text columns of 2 to 12 values,
    features or not."""
    seed: int = 0
    """Random seed of the halves that verify the coverage, the shift test and the bootstrap."""
    replicates: int = 1000
    """Bootstrap replicates over patients."""

    def _check(self) -> None:
        require_positive(self, "k", "replicates", "temperature")
        if not 0 < self.coverage < 1:
            raise UserError(f"coverage must be in (0, 1), got {self.coverage}.")
        if self.groups is not None and (
            not self.groups or (len(self.groups) > 1 and "none" in self.groups)
        ):
            raise UserError("groups takes names of columns, auto, or none alone.")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, got {self.seed}.")
