"""Training state on disk: tensors as safetensors, the rest as JSON; no pickle is ever loaded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from slimp.errors import CheckpointError, UserError
from slimp.models.image import load_tensors, read_tensors
from slimp.storage import new_folder, read_json, write_json


@dataclass(kw_only=True)
class Progress:
    """How far training is; mutable, saved with each checkpoint."""

    step: int = 0
    """Optimizer steps taken."""
    epoch: int = 0
    """Epochs completed."""
    log_bytes: int = 0
    """Length of metrics.jsonl; what lies beyond is dropped on resume."""
    best: float | None = None
    """Best value of the monitored metric."""
    stale: int = 0
    """Validations since the best one."""
    stopped: bool = False
    """Early stopping has ended the run."""


class Checkpoints:
    """The checkpoints of one run, oldest dropped first.

    Args:
        folder: where `step_00000200/` and its like live.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
        """Writes one checkpoint, atomically, then drops the oldest beyond `keep`."""
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        state = optimizer.state_dict()
        for index, entry in state["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        for device, rng in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"rng.cuda.{device}"] = rng
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        target = self.folder / f"step_{progress.step:08d}"
        with new_folder(target, overwrite=True) as partial:
            save_file(contiguous, partial / "tensors.safetensors")
            content = {"progress": vars(progress), "param_groups": state["param_groups"]}
            write_json(partial / "state.json", content)
        for old in self._all()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def load_last(self, model: nn.Module, optimizer: Optimizer) -> Progress | None:
        """Restores the newest checkpoint, random state included; None where there is none.

        Raises:
            CheckpointError: it is damaged, or of another configuration.
        """
        if not (found := self._all()):
            return None
        newest = found[-1]
        tensors = read_tensors(newest / "tensors.safetensors")
        load_tensors(model, _below(tensors, "model."), newest)
        try:
            content = read_json(newest / "state.json")
            state = _optimizer_state(_below(tensors, "optimizer."))
            optimizer.load_state_dict({"state": state, "param_groups": content["param_groups"]})
            torch.set_rng_state(tensors["rng.cpu"])
            for device in range(torch.cuda.device_count()):
                if f"rng.cuda.{device}" in tensors:
                    torch.cuda.set_rng_state(tensors[f"rng.cuda.{device}"], device)
            return Progress(**content["progress"])
        except (UserError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{newest}: damaged, or not of this configuration ({error}). Remove that folder to "
                "resume from the checkpoint before it."
            ) from None

    def _all(self) -> list[Path]:
        """From the oldest to the newest; unfinished ones begin with a dot and are not matched."""
        return sorted(self.folder.glob("step_*"))


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    return state
