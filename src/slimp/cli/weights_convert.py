"""Converts a published checkpoint of an image encoder to safetensors with its preprocessing.

The result brings its encoder and its normalisation along: --encoder-weights FILE needs no
--encoder. No code of the file is run. --as says which published weights it holds (slimp weights
list); for any others name timm's model with --encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimp.cli.console import say
from slimp.cli.inputs import check_file
from slimp.errors import UserError

if TYPE_CHECKING:
    from slimp.models.known_weights import Weights

EXAMPLE = "slimp weights convert panderm_bb_data6_checkpoint-499.pth --as panderm-base"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    file: Path
    """Checkpoint: .safetensors, or a file of torch.save that holds tensors."""
    as_: str | None = None
    """Name of the weights that it holds."""
    out: Path | None = None
    """.safetensors file to write. Default with --as: the cache, where the name finds it."""
    encoder: str | None = None
    """timm's name of the model, for weights without a name."""
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of timm's create_model."""
    mean: tuple[float, ...] | None = None
    """Mean per channel that the weights expect, from 0 to 1. Default: timm's of the model."""
    std: tuple[float, ...] | None = None
    """Standard deviation per channel. Default: timm's of the model."""
    image_size: int | None = None
    """Side of the images that the weights were trained on, px. Default: timm's of the model."""
    licence: str = "unknown"
    """Licence of the weights, to be kept with them."""
    overwrite: bool = False
    """Replace --out."""

    def __post_init__(self) -> None:
        others = (self.encoder, self.mean, self.std, self.image_size)
        if (self.as_ is None) == (self.encoder is None):
            raise UserError("say what the file holds: either --as NAME or --encoder MODEL.")
        if self.as_ is not None and (any(x is not None for x in others) or self.encoder_options):
            raise UserError("--as NAME says encoder and preprocessing: leave their flags out.")
        if self.out is None and self.as_ is None:
            raise UserError("--out is missing: name the .safetensors file to write.")
        if self.out is not None and self.out.suffix != ".safetensors":
            raise UserError(f"--out {self.out}: must end in .safetensors.")


def run(arguments: Arguments) -> None:
    """Converts, and says what the file holds."""
    from slimp.models.convert_weights import convert_weights
    from slimp.models.known_weights import named

    weights = _of_flags(arguments) if arguments.as_ is None else named(arguments.as_)
    out = arguments.out or weights.cached
    check_file(out, overwrite=arguments.overwrite)
    found = convert_weights(arguments.file, weights, out)
    say(f"{found.title or found.encoder}: mean {found.mean}, std {found.std}, {found.size} px")
    say(f"licence {found.licence}; sha256 of {arguments.file.name}: {found.sha256}")
    say(f"written: {out}")
    known = found.name if arguments.out is None else out
    say(f"next: slimp pretrain COHORT --out RUN --encoder-weights {known}")


def _of_flags(arguments: Arguments) -> Weights:
    """What the flags say of weights without a name; the rest as timm has it for the encoder."""
    import timm

    from slimp.models.known_weights import Weights, channels

    encoder = str(arguments.encoder)
    try:
        timms = timm.models.get_pretrained_cfg(encoder)
    except RuntimeError:  # of its tag, the part after the point
        timms = None
    if timms is None:
        raise UserError(f"--encoder {encoder}: no such model; choose one of timm.list_models().")
    try:
        mean, std = channels(arguments.mean or timms.mean), channels(arguments.std or timms.std)
    except ValueError as error:
        raise UserError(f"--mean and --std take three numbers from 0 to 1: {error}.") from None
    return Weights(
        name=arguments.file.stem,
        encoder=encoder,
        options=dict(arguments.encoder_options),
        size=arguments.image_size or timms.input_size[-1],
        mean=mean,
        std=std,
        licence=arguments.licence,
    )
