"""A run folder while it is being written: settings, log, progress bar, signals."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from types import TracebackType
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from tensorboardX import SummaryWriter

from slimp.data.files import (
    check_output,
    make_folder,
    new_file,
    read_json,
    remove_partials,
    write_json,
)
from slimp.data.signals import Stop as Stop
from slimp.data.signals import deferred_signals as deferred_signals
from slimp.errors import CheckpointError
from slimp.training.checkpoint import Progress
from slimp.training.config import PretrainConfig

UNHARMFUL = {
    *("workers", "checkpoint_every_steps", "keep_checkpoints"),
    *("accelerator", "devices", "nodes", "chunk"),
}
"""Settings that may change on resume, since they leave the result alone (the latter four up to
rounding, and to what dropout draws)."""
MAY_MOVE = {"run", "cohort"}
"""Entries of `config.json` that say where something lay or what it was called."""


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": python_version()}
    for name in ("slimp", "torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = "unknown"
    return found


def settle(
    out: Path,
    config: PretrainConfig,
    *,
    resume: bool,
    overwrite: bool,
    record: Mapping[str, Mapping[str, Any]] | None = None,
) -> PretrainConfig:
    """The settings of the run that may be written to `out`.

    On resume the saved settings count, and those of `config` must agree with them. Where there
    is nothing to resume a run is started, so that a job can always be given `resume`. Nothing
    is written yet: what else the user got wrong shows while the model and the data are made.

    Args:
        out: run folder.
        config: settings of the training.
        resume: continue what is there.
        overwrite: replace what is there.
        record: what else `config.json` will hold and a resumed run must agree on, by section.

    Raises:
        UserError: the folder is in use; or on resume, it holds no run or one of other settings.
    """
    path = out / "config.json"
    if resume and path.is_file():
        return _settings_to_resume(path, config, record or {})
    if resume and out.is_dir():
        remove_partials(out)  # of a run that was killed as it began
    if resume and out.is_dir() and any(out.iterdir()):
        raise CheckpointError(f"{out}: is not empty, but holds no run to resume (no config.json).")
    check_output(out, overwrite=overwrite)
    return config


def open_run(
    out: Path,
    config: PretrainConfig,
    *,
    resume: bool,
    record: Mapping[str, Mapping[str, Any]] | None = None,
    files: Mapping[str, Mapping[str, Any] | pd.DataFrame] | None = None,
) -> None:
    """Makes the folder that `settle` allowed, with `config.json`; empties it unless resuming."""
    path = out / "config.json"
    if resume and path.is_file():
        remove_partials(out)
        return
    if out.is_dir() and any(out.iterdir()):
        shutil.rmtree(out)
    make_folder(out)
    for name, content in (files or {}).items():
        if isinstance(content, pd.DataFrame):
            with new_file(out / name) as partial:
                content.to_parquet(partial, index=False)
        else:
            write_json(out / name, content)
    write_json(path, {"pretrain": asdict(config), **(record or {}), "versions": versions()})


def _settings_to_resume(
    path: Path, config: PretrainConfig, record: Mapping[str, Mapping[str, Any]]
) -> PretrainConfig:
    content = read_json(path)
    saved = content.get("pretrain") if isinstance(content, dict) else None
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path}: not the settings of a run. Choose another --out.")
    given = json.loads(json.dumps(asdict(config)))
    if config.precision == "auto":  # it was resolved when the run began
        given["precision"] = saved.get("precision")
    if config.chunk == "auto":
        given["chunk"] = saved.get("chunk", "auto")
    names = (f.name for f in fields(config) if f.name not in UNHARMFUL)
    _require_same(path, {name: given[name] for name in names}, saved)
    for section, values in json.loads(json.dumps(record)).items():
        compared = {k: v for k, v in values.items() if k not in given and k not in MAY_MOVE}
        _require_same(path, compared, content.get(section) or {})
    return PretrainConfig(**given)


def _require_same(path: Path, given: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value != saved.get(name):
            raise CheckpointError(
                f"{path}: the run was started with {name}={saved.get(name)!r}, not {value!r}. "
                "Resume with the same settings, or choose another --out."
            )


class Log:
    """`metrics.jsonl` and TensorBoard events of a run; continues where a checkpoint was.

    Args:
        out: run folder.
        length: bytes of `metrics.jsonl` to keep; rows beyond are of steps that will be repeated.
        main: whether this process writes for the run; if not, nothing is written.
    """

    def __init__(self, out: Path, length: int, *, main: bool = True) -> None:
        self._main = main
        if not main:
            return
        path = out / "metrics.jsonl"
        path.touch()
        length = min(length, path.stat().st_size)  # if someone removed it meanwhile
        self._file = path.open("r+b", buffering=0)  # each row shows at once, and whole
        self._file.truncate(length)
        self._file.seek(length)
        self._board = SummaryWriter(str(out / "tensorboard"))

    def write(self, kind: str, progress: Progress, **values: float | None) -> None:
        """Appends one row; `kind` is 'step' or 'epoch'."""
        if not self._main:
            return
        row = {"kind": kind, "step": progress.step, "epoch": progress.epoch, **values}
        self._file.write(json.dumps(row).encode() + b"\n")
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(f"{kind}/{name}", value, progress.step)

    @property
    def length(self) -> int:
        """Bytes of `metrics.jsonl` so far, all of them on the disk."""
        if not self._main:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._main:
            self._file.close()
            self._board.close()


def read_log(out: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = out / "metrics.jsonl"
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged, not JSON lines ({error}).") from None


@contextmanager
def step_bar(total: int, *, main: bool = True) -> Iterator[Callable[[int, float, float], None]]:
    """A function of (step, loss, lesions per second) that draws progress on stderr.

    Nothing is drawn where stderr is not a terminal, or where another process speaks for the run.
    """
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps  {task.description}"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    quiet = not (main and sys.stderr.isatty())
    with RichProgress(*columns, console=Console(stderr=True), disable=quiet) as bars:
        task = bars.add_task("", total=total)

        def advance(step: int, loss: float, pace: float) -> None:
            text = f"loss {loss:.3f}  {pace:,.0f} lesions/s " if not quiet else ""
            bars.update(task, completed=step, description=text)

        yield advance
