"""Settings of a prediction; light, because the command line makes its flags of them."""

from __future__ import annotations

from dataclasses import dataclass

from slimp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Everything that changes what is said about an image, given the probe."""

    coverage: float = 0.9
    """Probability with which the conformal set holds the truth."""
    per_class: bool = True
    """Promise the coverage for each class, so for rare ones too; off: on average, smaller sets."""
    novelty: float = 0.01
    """Refuse images that fewer than this share of the reference are as far out as; 0: none."""
    cases: int = 3
    """Nearest reference images to show."""
    batch_size: int = 64
    """Images in memory at once."""

    def __post_init__(self) -> None:
        for name, low in (("cases", 0), ("batch_size", 1)):
            if getattr(self, name) < low:
                raise UserError(f"{name} must be at least {low}, got {getattr(self, name)}.")
        if not 0 < self.coverage < 1:
            raise UserError(f"coverage must be in (0, 1), got {self.coverage}.")
        if not 0 <= self.novelty < 1:
            raise UserError(f"novelty must be in [0, 1), got {self.novelty}.")
