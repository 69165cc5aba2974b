"""What a batch holds, and the checks that all configurations share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from slimp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """What a batch holds and how its images are augmented."""

    patients: int = 64
    """B, patients per batch."""
    lesions: int = 100
    """N, lesions drawn per patient and epoch, at most."""
    images_per_lesion: int = 1
    """Images drawn per lesion and epoch, at most."""
    always_include: str | None = None
    """Label (such as malignant) whose lesions are always among the N drawn."""
    seed: int = 0
    """Of everything random: parts, weights, draws, augmentation, dropout."""
    crop_scale: float = 0.6
    """Smallest share of the image's area that a random crop keeps; 1 switches crops off."""
    flip: bool = True
    """Mirror images at random, both ways."""
    rotate: bool = True
    """Turn images by a random multiple of 90 degrees."""
    colour: float = 0.2
    """Largest relative change of brightness, contrast and saturation; 0 switches it off."""
    feature_dropout: float = 0.3
    """Probability with which a known metadata cell counts as missing in a training step."""
    feature_corruption: float = 0.0
    """Probability with which a metadata cell is swapped for another row's (SCARF)."""
    workers: int | Literal["auto"] = "auto"
    """Processes that decode and augment; the result does not depend on their number. auto: one
    where a CPU trains, up to 8 for each GPU."""

    def __post_init__(self) -> None:
        super_post_init(BatchConfig, self)
        require_positive(self, "patients", "lesions", "images_per_lesion")
        if not 0 < self.crop_scale <= 1:
            raise UserError(f"crop_scale must be in (0, 1], got {self.crop_scale}.")
        if not 0 <= self.colour < 1:
            raise UserError(f"colour must be in [0, 1), got {self.colour}.")
        for name in ("feature_dropout", "feature_corruption"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        if self.workers != "auto" and self.workers < 0:
            raise UserError(f"workers must not be negative, got {self.workers}.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must be 0 to {2**32 - 1}, got {self.seed}.")


def super_post_init(cls: type, config: object) -> None:
    """Runs the next `__post_init__` in the order of inheritance, if there is one."""
    check = getattr(super(cls, config), "__post_init__", None)
    if check is not None:
        check()


def require_choices(cls: type, config: object) -> None:
    """Raises unless each field of `cls` with a closed set of values has one of them."""
    for name, hint in get_type_hints(cls).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            choices = ", ".join(map(str, get_args(hint)))
            raise UserError(f"{name} must be one of {choices}, got {getattr(config, name)!r}.")


def require_positive(config: object, *names: str) -> None:
    """Raises unless each of these fields is above 0."""
    for name in names:
        if not getattr(config, name) > 0:  # so that NaN is refused too
            raise UserError(f"{name} must be positive, got {getattr(config, name)}.")
