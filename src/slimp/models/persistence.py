"""Models and weights on disk: read without running code, compared by name and shape before use.

`model.json` says what a model is, `model.safetensors` holds its weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimp.data.encoding import Encoding
from slimp.data.files import new_file, read_json, write_json
from slimp.data.schema import LevelName
from slimp.errors import CheckpointError, UserError
from slimp.models.config import DESCRIPTION, WEIGHTS, ModelConfig
from slimp.models.known_weights import PREFIX

FORMAT = 1
"""Version of `model.json`."""
WRAPPERS = ("model", "model_state_dict", "state_dict", "teacher")
"""Entries of a training checkpoint that hold its weights; teacher: the network that DINO keeps."""


def save_model(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    config: ModelConfig,
    encodings: Mapping[LevelName, Encoding],
    image: Mapping[str, Any],
    aligned: Iterable[LevelName],
) -> None:
    """Writes `model.safetensors` and `model.json`: enough to build the model anywhere."""
    save_tensors(folder / WEIGHTS, tensors)
    content = {
        "format": FORMAT,
        "config": asdict(config),
        "encodings": {name: encoding.to_dict() for name, encoding in encodings.items()},
        "image": dict(image),
        "aligned": list(aligned),
    }
    write_json(folder / DESCRIPTION, content)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes a .safetensors file, atomically.

    Raises:
        CheckpointError: it cannot be written.
    """
    content = {name: value.contiguous() for name, value in tensors.items()}
    try:
        with new_file(path) as partial:
            save_file(content, partial, metadata=metadata)
    except SafetensorError as error:  # for a full disk too
        raise CheckpointError(f"{path}: cannot write the weights ({error}).") from None


class Description(NamedTuple):
    """The content of `model.json`."""

    config: ModelConfig
    encodings: dict[LevelName, Encoding]
    image: dict[str, Any]
    """The preprocessing that the weights expect."""
    aligned: tuple[LevelName, ...]
    """As of `Slimp`; files that do not say it are taken as pre-training leaves them."""


def read_description(folder: Path) -> Description:
    """`model.json`: what a model is.

    Raises:
        CheckpointError: it is missing or damaged, or of another format.
    """
    path = folder / DESCRIPTION
    if str(folder).startswith(PREFIX):
        name = re.sub(r"@\d+$", "", str(folder).removeprefix(PREFIX))
        raise CheckpointError(
            f"{folder}: a published encoder, which has never read metadata. Pre-train from it "
            f"first: slimp pretrain COHORT --encoder-weights {name} --out RUN."
        )
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
        config = ModelConfig(**content["config"])
        encodings = {name: Encoding.from_dict(x) for name, x in content["encodings"].items()}
        aligned = tuple(content.get("aligned", config.trained(encodings)))
        if not set(aligned) <= set(encodings):
            raise ValueError(f"aligned {aligned}, but metadata of {tuple(encodings)}")
        return Description(config, encodings, dict(content["image"]), aligned)
    except CheckpointError:
        raise
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: describes no model of slimp ({error!r}).") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    tensors: dict[str, Tensor] = _load(path, load_file)
    return tensors


def read_state_dicts(path: Path) -> dict[str, dict[str, Tensor]]:
    """The state dicts of a file, by the entry that holds them; "" is the file itself.

    Args:
        path: a .safetensors file, or one of torch.save that holds tensors and plain values only.

    Raises:
        CheckpointError: the file is missing or damaged, would need code to load, or has no weights.
    """
    if path.suffix == ".safetensors":
        return {"": read_tensors(path)}
    content = _load(path, lambda file: torch.load(file, map_location="cpu", weights_only=True))
    entries = content if isinstance(content, dict) else {}
    named = {"": entries, **{name: entries[name] for name in WRAPPERS if name in entries}}
    found = {name: state for name, state in named.items() if _is_state_dict(state)}
    if not found:
        listed = some(map(str, entries)) if entries else f"a {type(content).__name__}"
        raise CheckpointError(
            f"{path}: holds other things than named tensors ({listed}); weights are expected at "
            f"the top or in an entry {', '.join(WRAPPERS[:-1])} or {WRAPPERS[-1]}."
        )
    return found


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Loads tensors that have exactly the names and shapes of the module's own.

    Raises:
        CheckpointError: names the first that does not fit, and the file that it came from.
    """
    if problem := misfit(tensors, module.state_dict()):
        raise CheckpointError(f"{path}: does not fit this model: {problem}.")
    module.load_state_dict(tensors)


def misfit(have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> str | None:
    """The first tensor of another name or shape than wanted, in words; None if all fit."""
    for name in [*want, *have]:
        if name not in have:
            return f"'{name}' is missing, expected {list(want[name].shape)}"
        if name not in want:
            return f"'{name}' {list(have[name].shape)} is not expected"
        if have[name].shape != want[name].shape:
            return f"'{name}' is {list(have[name].shape)}, expected {list(want[name].shape)}"
    return None


def below_prefixes(state: Mapping[str, Tensor], anchor: str) -> dict[str, dict[str, Tensor]]:
    """The readings of a state dict in which `anchor` is a name, by what stands before its names."""
    starts = [n.removesuffix(anchor) for n in state if n == anchor or n.endswith(f".{anchor}")]
    return {
        start: {n.removeprefix(start): value for n, value in state.items() if n.startswith(start)}
        for start in starts
    }


def some(names: Iterable[str]) -> str:
    """A few of the names, and how many there are."""
    listed = list(names)
    return ", ".join(listed[:4]) + (f", ... ({len(listed)} in all)" if len(listed) > 4 else "")


def _load(path: Path, load: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file.")
    try:
        return load(path)
    except Exception as error:  # safetensors and torch raise many kinds for damaged files
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: damaged or not a file of tensors ({reason}). Copy it or make it again."
        ) from None


def _is_state_dict(content: object) -> bool:
    named = isinstance(content, dict) and bool(content) and all(isinstance(x, str) for x in content)
    return named and all(isinstance(value, Tensor) for value in content.values())  # type: ignore[attr-defined]
