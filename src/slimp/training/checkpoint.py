"""Training state on disk: tensors as safetensors, the rest as JSON; no pickle is ever loaded.

There is nothing random to save: whatever a step draws follows from the seed and the step's number.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from slimp.data.files import new_folder, read_json, remove_partials, write_json
from slimp.errors import CheckpointError, UserError
from slimp.models.image_encoder import load_tensors, read_tensors


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
    """The checkpoints of one run, written while training goes on; oldest dropped first.

    Leave it as a context manager, or `close` it: then the last one is whole. Of several processes
    only one may save; all may load before it does.

    Args:
        folder: where `step_00000200/` and its like live.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None
        self._copies: dict[str, Tensor] = {}

    def save(self, model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
        """Copies the state and returns; one checkpoint is then written, atomically, behind it.

        Where the one before is still being written, that is waited for.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self._wait()
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        state = optimizer.state_dict()
        for index, entry in state["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
        self._copies = _copied(tensors, self._copies)
        content = {"progress": asdict(progress), "param_groups": state["param_groups"]}
        self._writing = self._writer.submit(self._write, progress.step, self._copies, content)

    def load_last(self, model: nn.Module, optimizer: Optimizer) -> Progress | None:
        """Restores the newest whole checkpoint; None where there is none. Writes nothing.

        Damaged ones are passed over with a warning.

        Raises:
            CheckpointError: all are damaged, or the newest whole one is of another configuration.
        """
        self._wait()
        found = self._all()
        for folder in reversed(found):
            try:
                tensors, groups, progress = _read(folder)
            except UserError as error:
                warnings.warn(f"passed over a checkpoint that is not whole: {error}", stacklevel=2)
            else:
                _restore(model, optimizer, tensors, groups, folder)
                return progress
        if found:
            raise CheckpointError(
                f"{self.folder}: of {len(found)} checkpoint(s) none is whole. Begin the run anew "
                "with --overwrite, or choose another --out."
            )
        return None

    def close(self) -> None:
        """Returns when the last checkpoint is whole.

        Raises:
            CheckpointError: it could not be written.
        """
        try:
            self._wait()
        finally:
            self._writer.shutdown()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self) -> None:
        if self._writing is not None:
            error = self._writing.exception()  # interrupted here, it is left for `close`
            self._writing = None
            if error is not None:
                raise error

    def _write(self, step: int, tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
        """Writes one checkpoint, then drops the oldest beyond `keep`; runs in the one thread."""
        target = self.folder / f"step_{step:08d}"
        try:
            remove_partials(self.folder)
            for later in self._all():  # a run is only ahead of itself where it passed over damage
                if later.name >= target.name:
                    shutil.rmtree(later)
            with new_folder(target) as partial:
                save_file(tensors, partial / "tensors.safetensors")
                write_json(partial / "state.json", content)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{target}: could not be written ({error}). Make room or mend the disk; --resume "
                "then continues from the checkpoint before it."
            ) from error
        for old in self._all()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _all(self) -> list[Path]:
        """From the oldest to the newest; unfinished ones begin with a dot and are not matched."""
        return sorted(self.folder.glob("step_*"))


def _copied(tensors: Mapping[str, Tensor], reuse: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in main memory, where possible in that of `reuse`: new pages would cost more time."""
    copies = {}
    for name, value in tensors.items():
        copy = reuse.get(name)
        if copy is None or copy.shape != value.shape or copy.dtype != value.dtype:
            pinned = value.is_cuda
            copy = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=pinned)
        copies[name] = copy.copy_(value.detach())
    return copies


def _read(folder: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]], Progress]:
    """Tensors, the optimizer's settings and the progress.

    Raises:
        UserError: something is missing or damaged.
    """
    tensors = read_tensors(folder / "tensors.safetensors")
    content = read_json(folder / "state.json")
    try:
        return tensors, content["param_groups"], Progress(**content["progress"])
    except (KeyError, TypeError) as error:
        reason = f"{folder / 'state.json'}: damaged, not the state of a run ({error})."
        raise CheckpointError(reason) from None


def _restore(
    model: nn.Module,
    optimizer: Optimizer,
    tensors: Mapping[str, Tensor],
    groups: list[dict[str, Any]],
    folder: Path,
) -> None:
    load_tensors(model, _below(tensors, "model."), folder)
    try:
        state = _optimizer_state(_below(tensors, "optimizer."))
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: not of this configuration ({error}). Resume with the settings and the "
            "version that the run began with, or choose another --out."
        ) from None


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    return state
