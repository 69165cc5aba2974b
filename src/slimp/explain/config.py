"""What `slimp explain` computes; apart from the code, so that help needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from slimp.data.config import Settings, require_positive
from slimp.data.schema import LevelName
from slimp.errors import UserError

Method = Literal["gradient-attention", "rollout", "grad-cam", "occlusion"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Settings):
    """What is explained, and how."""

    methods: tuple[str, ...] = ()
    """Of gradient-attention, rollout, grad-cam and occlusion. Default: gradient-attention for plain
    ViTs, grad-cam and occlusion for other encoders."""
    level: LevelName | None = None
    """Level whose metadata the images are matched with. Default: the finest that was trained; with
    --counterfactual, the finest that reads its column."""
    images: int = 200
    """Images, drawn at random from those that have a mask, if there are masks."""
    seed: int = 0
    """Random seed: which images, counterfactual values, random weights."""
    deletion: bool = True
    """Also blur what the map names first, and bring it back first: 42 passes per image and map."""
    shift: bool = True
    """Also give each metadata feature another image's value, and see how far the map of the first
    method moves."""
    counterfactual: str | None = None
    """COLUMN=VALUE: explain the match with the metadata as they are but for this column, which has
    this value in every row."""
    batch_size: int = 32
    """Images at once; changes speed and memory only."""

    def _check(self) -> None:
        require_positive(self, "images", "batch_size")
        if self.counterfactual is not None and "=" not in self.counterfactual:
            raise UserError(f"counterfactual is COLUMN=VALUE, not '{self.counterfactual}'.")
        if unknown := set(self.methods) - set(METHODS):
            raise UserError(f"methods are {', '.join(METHODS)}, not '{min(unknown)}'.")


def name_and_run(text: str) -> tuple[str, str]:
    """Of `NAME=RUN`, or of a run that is called by its place."""
    name, found, run = text.partition("=")
    return (name, run) if found and not Path(text).exists() else (text, text)
