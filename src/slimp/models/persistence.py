"""A model on disk: `model.json` says what it is, `model.safetensors` holds its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from slimp.data.encoding import Encoding
from slimp.data.files import new_file, read_json, write_json
from slimp.data.schema import LevelName
from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageSpec

FORMAT = 1
"""Version of `model.json`."""
DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"


def save_model(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    config: ModelConfig,
    encodings: Mapping[LevelName, Encoding],
    image: ImageSpec,
) -> None:
    """Writes `model.safetensors` and `model.json`: enough to build the model anywhere.

    Raises:
        CheckpointError: the weights cannot be written.
    """
    try:
        with new_file(folder / WEIGHTS) as partial:
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
    except SafetensorError as error:  # for a full disk too
        raise CheckpointError(f"{folder}: cannot write the weights ({error}).") from None
    content = {
        "format": FORMAT,
        "config": asdict(config),
        "encodings": {name: encoding.to_dict() for name, encoding in encodings.items()},
        "image": asdict(image),
    }
    write_json(folder / DESCRIPTION, content)


def read_description(folder: Path) -> tuple[ModelConfig, dict[LevelName, Encoding], dict[str, Any]]:
    """`model.json`: settings, encodings, and the preprocessing that the weights expect.

    Raises:
        CheckpointError: it is missing or damaged, or of another format.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no model here (no {DESCRIPTION}). Make one with: slimp pretrain."
        )
    try:
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: model format {content.get('format')!r}, this version reads {FORMAT}."
            )
        encodings = {name: Encoding.from_dict(x) for name, x in content["encodings"].items()}
        return ModelConfig(**content["config"]), encodings, dict(content["image"])
    except CheckpointError:
        raise
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: describes no model of slimp ({error!r}).") from None
