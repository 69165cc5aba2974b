"""Settings of a prediction; light, because the command line makes its flags of them."""

from __future__ import annotations

from dataclasses import dataclass

from slimp.data.config import Settings, require_fractions, require_positive
from slimp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Settings, heading="Prediction"):
    """All settings of `slimp.Predictor`.

    Example:
        >>> PredictConfig(coverage=0.8).novelty
        0.01
    """

    coverage: float = 0.9
    """Probability that the conformal set contains the true class."""
    per_class: bool = True
    """Coverage for each class, so for rare ones too; off: on average over classes, smaller sets."""
    novelty: float = 0.01
    """Refuse images that are out of distribution at this level: fewer than this fraction of the
    reference images are as far out; 0: refuse none."""
    cases: int = 3
    """Nearest reference images to show."""
    batch_size: int = 64
    """Images in memory at once."""

    def _check(self) -> None:
        require_positive(self, "batch_size")
        require_fractions(self, "novelty")
        if self.cases < 0:
            raise UserError(f"cases must not be negative, got {self.cases}.")
        if not 0 < self.coverage < 1:
            raise UserError(f"coverage must be in (0, 1), got {self.coverage}.")
