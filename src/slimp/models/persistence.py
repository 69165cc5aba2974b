"""A model on disk: `model.json` says what it is, `model.safetensors` holds its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

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


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """All that is needed to build a model, but for its weights."""

    config: ModelConfig
    encodings: Mapping[LevelName, Encoding]
    image: ImageSpec
    """Preprocessing that the weights expect."""

    def save(self, folder: Path) -> None:
        """Writes `model.json`."""
        content = {
            "format": FORMAT,
            "config": asdict(self.config),
            "encodings": {name: encoding.to_dict() for name, encoding in self.encodings.items()},
            "image": asdict(self.image),
        }
        write_json(folder / DESCRIPTION, content)

    @classmethod
    def load(cls, folder: Path) -> ModelDescription:
        """Reads `model.json`.

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
            encodings = {n: Encoding.from_dict(e) for n, e in content["encodings"].items()}
            image = content["image"]
            return cls(
                config=ModelConfig(**content["config"]),
                encodings=encodings,
                image=ImageSpec(
                    size=image["size"], mean=tuple(image["mean"]), std=tuple(image["std"])
                ),
            )
        except CheckpointError:
            raise
        except (UserError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: describes no model of slimp ({error!r}).") from None

    def require_preprocessing(self, found: ImageSpec, folder: Path) -> None:
        """Raises unless the encoder as built here preprocesses as the weights expect.

        Raises:
            CheckpointError: another version of timm would feed the weights other pixels.
        """
        if self.image != found:
            raise CheckpointError(
                f"{folder}: the weights expect preprocessing {asdict(self.image)}, this version of "
                f"timm would use {asdict(found)}. Install the timm version named in config.json."
            )


def save_weights(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Writes `model.safetensors`.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        with new_file(folder / WEIGHTS) as partial:
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
    except SafetensorError as error:  # for a full disk too
        raise CheckpointError(f"{folder}: cannot write the weights ({error}).") from None
