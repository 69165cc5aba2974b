"""Settings of batches, and the checks that all configurations share."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Self, cast, get_args, get_origin, get_type_hints

from slimp.errors import UserError

ALSO_CALLED = {
    "accelerator": "ac cuda device gpu gpus",
    "batch_size": "batch bs",
    "cohort": "data data_dir dataset",
    "devices": "device gpu gpus nproc_per_node",
    "encoder": "arch backbone model net",
    "encoder_weights": "checkpoint ckpt weights",
    "epochs": "epoch iters n_epochs num_epochs steps",
    "held_out_fraction": "test_fraction test_size",
    "image_size": "img_size input_size resolution",
    "k": "k_neighbors k_neighbours neighbors neighbours",
    "learning_rate": "lr",
    "lesion_weight": "lambda",
    "licence": "license",
    "lesions": "batch batch_size bs",
    "nodes": "nnodes num_nodes",
    "out": "dir o output output_dir output_path save_dir",
    "overwrite": "force replace",
    "patients": "batch batch_size bs",
    "precision": "amp bf16 dtype fp16 fp32 half",
    "run": "checkpoint ckpt model weights",
    "seed": "random_seed random_state",
    "source": "dataset",
    "temperature": "tau temp",
    "test_fraction": "test_size",
    "validation_fraction": "val_split",
    "view_weight": "augment simclr",
    "weight_decay": "wd",
    "workers": "j n_jobs num_workers threads",
    "yes": "y",
}
"""Our name -> what other tools call it, and people type."""


class Settings:
    """Base of configurations: a field that is not there is answered by the one that was meant.

    A class has the rules of its own fields in `_check`; a configuration that joins several classes
    keeps to those of all. What is one of a closed set of values is checked here. A `heading` stands
    above the class's own fields in `--help`, where that is not the first line of its docstring.
    """

    heading: ClassVar[str]

    def __init_subclass__(cls, *, heading: str = "") -> None:
        super().__init_subclass__()
        cls.heading = heading

    def __new__(cls, *_: Any, **given: Any) -> Self:
        known = cast(Any, cls).__dataclass_fields__
        for name in given.keys() - known.keys():
            hint = suggestion(name, {field: field for field in known})
            raise TypeError(f"{cls.__name__} has no setting '{name}'{hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for name, allowed in _choices(kind).items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(str, allowed))
                raise UserError(f"{name} must be one of {choices}, got {getattr(self, name)!r}.")
        for part in reversed(kind.__mro__):
            if "_check" in vars(part):
                vars(part)["_check"](self)


def suggestion(typed: str, spellings: Mapping[str, str]) -> str:
    """An ending for 'no flag TYPED': our name of what was meant, or a full stop.

    What other tools call it goes before likeness, which must be close: a wrong hint is worse than
    none. `spellings`: by name, as the user types it.
    """
    name = typed.lstrip("-").replace("-", "_").lower()
    ours = [s for n, s in spellings.items() if name in ALSO_CALLED.get(n, "").split()]
    if ours:
        return f"; here it is {' and '.join(ours)}."
    close = difflib.get_close_matches(name, spellings, n=1, cutoff=0.8)
    return f"; did you mean {spellings[close[0]]}?" if close else "."


@dataclass(frozen=True, kw_only=True)
class BatchConfig(Settings):
    """Batches and augmentation."""

    patients: int = 64
    """Patients per batch (B)."""
    lesions: int = 100
    """Lesions drawn per patient and epoch, at most (N)."""
    images_per_lesion: int = 1
    """Images drawn per lesion and epoch, at most."""
    always_include: str | None = None
    """Label, such as malignant, whose lesions are always among the N drawn."""
    seed: int = 0
    """Random seed."""
    crop_scale: float = 0.6
    """Smallest fraction of the image's largest square that a random crop keeps; 1: all of it, at
    a random place of an oblong image."""
    flip: bool = True
    """Mirror images left to right at random; with turns that is in both directions."""
    rotate: Literal["none", "quarter", "any"] = "quarter"
    """Rotate images at random: quarter: by a multiple of 90 degrees; any: by any angle, black where
    a crop then reaches beyond the image."""
    colour: float = 0.2
    """Largest relative change of brightness, contrast and saturation; 0 switches it off."""
    feature_dropout: float = 0.3
    """Probability of hiding a known metadata cell in a training step."""
    feature_corruption: float = 0.0
    """Probability of replacing a metadata cell by that of another row (SCARF)."""
    workers: int | Literal["auto"] = "auto"
    """Data-loading processes; they do not change the result. auto: 1 on a CPU, up to 8 per GPU."""

    def _check(self) -> None:
        require_positive(self, "patients", "lesions", "images_per_lesion")
        require_fractions(self, "colour", "feature_dropout", "feature_corruption")
        if not 0 < self.crop_scale <= 1:
            raise UserError(f"crop_scale must be in (0, 1], got {self.crop_scale}.")
        if self.workers != "auto" and self.workers < 0:
            raise UserError(f"workers must not be negative, got {self.workers}.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must be 0 to {2**32 - 1}, got {self.seed}.")


@cache
def _choices(cls: type) -> dict[str, tuple[object, ...]]:
    """Field -> its values, where these are a closed set.

    To read hints takes a millisecond or more, and an experiment makes thousands of settings.
    """
    hints = get_type_hints(cls).items()
    return {name: get_args(hint) for name, hint in hints if get_origin(hint) is Literal}


def require_positive(config: object, *names: str) -> None:
    """Raises unless each of these fields is above 0."""
    for name in names:
        if not getattr(config, name) > 0:  # so that NaN is refused too
            raise UserError(f"{name} must be positive, got {getattr(config, name)}.")


def require_fractions(config: object, *names: str) -> None:
    """Raises unless each of these fields is in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"{name} must be in [0, 1), got {getattr(config, name)}.")
