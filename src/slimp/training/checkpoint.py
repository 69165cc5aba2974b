"""Checkpoints of a training run: tensors as safetensors, the rest as JSON, no pickles.

There is no random state to save: what a step draws follows from the seed and the step's number.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from slimp.data.files import new_folder, read_json, remove_partials, write_json
from slimp.errors import CheckpointError, UserError
from slimp.models.persistence import load_tensors, read_tensors


@dataclass(kw_only=True)
class Progress:
    """Progress of training; mutable, saved with each checkpoint."""

    step: int = 0
    """Optimizer steps taken."""
    epoch: int = 0
    """Epochs completed."""
    log_bytes: int = 0
    """Length of metrics.jsonl; what follows is dropped on resume."""
    best: float | None = None
    """Best value of the monitored metric."""
    stale: int = 0
    """Validations since the best one."""
    stopped: bool = False
    """Early stopping has ended the run."""

    def improves(self, value: float, *, lower: bool, patience: int) -> bool:
        """Whether the monitored metric is the best so far; may end the run, if `patience` > 0.

        `lower`: the lower the better. Of equal values the first is the best.
        """
        sign = -1 if lower else 1
        if self.best is None or sign * value > sign * self.best:
            self.best, self.stale = value, 0
            return True
        self.stale += 1
        self.stopped = 0 < patience <= self.stale
        return False


class Checkpoints(AbstractContextManager["Checkpoints"]):
    """The checkpoints of one run, written in the background; the oldest are deleted.

    On leaving the context, or after `close`, the last one is complete. Of several processes only
    one may save; all may load before it does.

    They are the folders `step_00000200/` and so on in `folder`; the newest `keep` stay.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._writing: Future[None] | None = None

    def save(self, model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
        """Copies the state and returns; it is then written, atomically, in the background.

        Raises:
            CheckpointError: the previous one could not be written.
        """
        self._wait()
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        state = optimizer.state_dict()
        for index, entry in state["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
        copies = {n: x.detach().to("cpu", copy=True).contiguous() for n, x in tensors.items()}
        content = {"progress": asdict(progress), "param_groups": state["param_groups"]}
        self._writing = self._writer.submit(self._write, progress.step, copies, content)

    def load_last(self, model: nn.Module, optimizer: Optimizer) -> Progress | None:
        """Restores the newest intact checkpoint; None if there is no checkpoint. Writes nothing.

        Damaged ones are skipped with a warning.

        Raises:
            CheckpointError: all are damaged, or the newest intact one is of another configuration.
        """
        self._wait()
        found = self._all()
        for folder in reversed(found):
            try:
                tensors, groups, progress = _read(folder)
            except UserError as error:
                warnings.warn(f"skipped a damaged checkpoint: {error}", stacklevel=2)
            else:
                _restore(model, optimizer, tensors, groups, folder)
                return progress
        if found:
            raise CheckpointError(
                f"{self.folder}: all {len(found)} checkpoint(s) are damaged. Start the run again "
                "with --overwrite, or choose another --out."
            )
        return None

    def close(self) -> None:
        """Returns when the last checkpoint is complete, or raises what kept it from being so."""
        try:
            self._wait()
        finally:
            self._writer.shutdown()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _wait(self) -> None:
        if self._writing is not None:
            error = self._writing.exception()  # if interrupted here, `close` waits again
            self._writing = None
            if error is not None:
                raise error

    def _write(self, step: int, tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
        """Writes one checkpoint, then deletes the oldest beyond `keep`; runs in the thread."""
        target = self.folder / f"step_{step:08d}"
        try:
            remove_partials(self.folder)
            for later in self._all():  # left where resuming skipped damaged ones
                if later.name >= target.name:
                    shutil.rmtree(later)
            with new_folder(target) as partial:
                save_file(tensors, partial / "tensors.safetensors")
                write_json(partial / "state.json", content)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{target}: could not be written ({error}). Free some space or repair the disk; "
                "--resume then continues from the previous checkpoint."
            ) from error
        for old in self._all()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _all(self) -> list[Path]:
        """From the oldest to the newest; unfinished ones start with a dot and do not match."""
        return sorted(self.folder.glob("step_*"))


def _read(folder: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]], Progress]:
    """Tensors, the optimizer's settings and the progress."""
    tensors = read_tensors(folder / "tensors.safetensors")
    content = read_json(folder / "state.json")
    try:
        return tensors, content["param_groups"], Progress(**content["progress"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'state.json'}: damaged ({error!r}).") from None


def _restore(
    model: nn.Module,
    optimizer: Optimizer,
    tensors: Mapping[str, Tensor],
    groups: list[dict[str, Any]],
    folder: Path,
) -> None:
    own = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    load_tensors(model, own, folder)
    state: dict[int, dict[str, Tensor]] = {}
    try:
        for name in tensors.keys() - {f"model.{name}" for name in own}:
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensors[name]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: from another configuration ({error}). Resume with the settings and the "
            "version that the run was started with, or choose another --out."
        ) from None
