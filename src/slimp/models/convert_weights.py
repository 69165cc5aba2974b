"""Published checkpoints, of a file or from timm's hub -> safetensors with their preprocessing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slimp.data.files import sha256_of
from slimp.errors import CheckpointError
from slimp.models.checkpoint_keys import fitting_weights
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.known_weights import Weights, read_header
from slimp.models.persistence import read_state_dicts, save_tensors
from slimp.models.published_weights import from_package


def fetch_weights(weights: Weights) -> Path:
    """The cached file of a name, made from its package or from timm's hub.

    Raises:
        UserError: the package is not installed, or the hub cannot be reached.
        CheckpointError: the weights are not the ones that were published.
    """
    if weights.package:
        return from_package(weights)
    encoder = ImageEncoder(_config(weights), pretrained=True)
    save_tensors(weights.cached, encoder.model.state_dict(), weights.to_header())
    return weights.cached


def convert_weights(file: Path, weights: Weights, out: Path) -> Weights:
    """Writes the image encoder of a published checkpoint to `out`; what is then known of it.

    No code of the file is run: only tensors are read.

    Args:
        file: a .safetensors file, or one of torch.save.
        weights: what the checkpoint is.
        out: .safetensors file to write; its tensors have timm's names.

    Raises:
        CheckpointError: the file is missing or damaged, is of another architecture or hash, or says
            that it has another normalisation.
    """
    states = read_state_dicts(file)
    said = read_header(file) if file.suffix == ".safetensors" else None
    if said is not None and (said.mean, said.std) != (weights.mean, weights.std):
        raise CheckpointError(
            f"{file}: says that its weights expect mean {said.mean} and std {said.std}, not "
            f"{weights.mean} and {weights.std}. Convert the published file instead."
        )
    found = sha256_of(file) if said is None else said.sha256
    if weights.sha256 not in ("", found):
        raise CheckpointError(
            f"{file}: not the file of '{weights.name}' that was published. Download it again."
        )
    model = ImageEncoder(_config(weights)).model
    model.load_state_dict(fitting_weights(states, model, file))
    known = replace(weights, sha256=found)
    save_tensors(out, model.state_dict(), known.to_header())
    return known


def _config(weights: Weights) -> ModelConfig:
    return ModelConfig(
        encoder=weights.encoder, encoder_options=dict(weights.options), image_size=weights.size
    )
