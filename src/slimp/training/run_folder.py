"""A run folder while it is being written: settings, log and progress bar."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from slimp import __version__
from slimp.data.files import (
    check_output,
    make_folder,
    new_file,
    read_json,
    remove_partials,
    write_json,
)
from slimp.errors import CheckpointError
from slimp.training.config import PretrainConfig
from slimp.training.loggers import LogConfig

if TYPE_CHECKING:
    from slimp.training.checkpoint import Progress

MAY_CHANGE = {
    *("workers", "checkpoint_every_steps", "keep_checkpoints", "logger"),
    *("accelerator", "devices", "nodes", "chunk", "compile"),
}
"""Settings that may change on resume, since they do not change the result (the latter five change
rounding, and what dropout draws)."""
MAY_MOVE = {"run", "cohort", "unit"}
"""Entries of `config.json` that say where something was or what it was called."""
Sections = Mapping[str, Mapping[str, Any]]
"""Sections of `config.json`."""


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn")
    found = {"python": python_version(), "slimp": __version__}
    return found | {name: version(name) for name in names}


def resolve_settings(
    out: Path,
    config: PretrainConfig,
    *,
    resume: bool,
    overwrite: bool,
    record: Sections | None = None,
    defaults: Sections | None = None,
) -> PretrainConfig:
    """The settings of the run that may be written to `out`; nothing is written yet.

    On resume they are the saved ones, and those of `config` and `record` (further sections of
    `config.json`, with `defaults`) must agree with them. A setting that the version which began the
    run did not have counts as saved with its default. If there is nothing to resume, a new run is
    started, so that a job can always pass `resume`.

    Raises:
        UserError: the folder is in use; or on resume, it holds no run or one of other settings.
    """
    path = out / "config.json"
    if resume and path.is_file():
        saved = read_json(path)
        if not isinstance(saved, dict) or not isinstance(begun := saved.get("pretrain"), dict):
            raise CheckpointError(f"{path}: not the settings of a run. Choose another --out.")
        given = asdict(config)
        if config.precision == "auto":  # it was resolved when the run started
            given["precision"] = begun.get("precision", "auto")
        if config.chunk == "auto":
            given["chunk"] = begun.get("chunk", "auto")
        usual = {"pretrain": asdict(PretrainConfig()), **(defaults or {})}
        require_same(path, {"pretrain": given, **(record or {})}, saved, usual)
        return PretrainConfig(**json.loads(json.dumps(given)))
    if resume and out.is_dir():
        remove_partials(out)  # of a run that was killed as it started
        if any(out.iterdir()):
            raise CheckpointError(
                f"{out}: is not empty, but holds no run to resume (no config.json). Choose another "
                "--out, or --overwrite in place of --resume."
            )
    check_output(out, overwrite=overwrite)
    return config


def open_run(
    out: Path,
    record: Sections,
    *,
    resume: bool,
    files: Mapping[str, Mapping[str, Any] | pd.DataFrame] | None = None,
) -> None:
    """Makes the run folder with `config.json` and `files`; an existing one is emptied, or resumed.

    Call `resolve_settings` or `open_record` first: they refuse folders that may not be emptied.
    """
    path = out / "config.json"
    if resume and path.is_file():
        remove_partials(out)
        return
    if out.is_dir():
        shutil.rmtree(out)
    make_folder(out)
    for name, content in (files or {}).items():
        if isinstance(content, pd.DataFrame):
            with new_file(out / name) as partial:
                content.to_parquet(partial, index=False)
        else:
            write_json(out / name, content)
    write_json(path, {**record, "versions": versions()})


def open_record(
    out: Path, record: Sections, *, defaults: Sections, resume: bool, overwrite: bool
) -> None:
    """Makes a folder with `config.json`, or resumes one whose sections agree with `record`.

    Settings that the version which began it did not have count as saved with their `defaults`.

    Raises:
        UserError: the folder is in use; or on resume, it was begun with other settings.
    """
    path = out / "config.json"
    if resume and path.is_file():
        require_same(path, record, read_json(path), defaults)
    else:
        check_output(out, overwrite=overwrite)
    open_run(out, record, resume=resume)


def require_same(
    path: Path, record: Sections, saved: Mapping[str, Any], defaults: Sections
) -> None:
    """Raises a CheckpointError unless the sections in a `config.json` are those of `record`."""
    record, defaults = json.loads(json.dumps([record, defaults]))
    trained = record.get("pretrain", {})  # other sections may repeat its settings, unresolved
    for section, values in record.items():
        begun = {**defaults.get(section, {}), **(saved.get(section) or {})}
        for name, value in values.items():
            repeated = values is not trained and name in trained
            if name not in (MAY_CHANGE | MAY_MOVE) and not repeated and value != begun.get(name):
                raise CheckpointError(
                    f"{path}: the run was started with {name}={begun.get(name)!r}, not {value!r}. "
                    "Resume with the same settings, or choose another --out."
                )


def require_same_data(path: Path, fingerprint: str) -> None:
    """Raises a CheckpointError if the run of a `config.json` began with other metadata or labels.

    Its weights were learned from the old ones, in the old scale: go on with others, and no file
    would say so. `fingerprint` is that of the cohort now; a run that is not there may begin.
    """
    begun = read_json(path).get("data", {}).get("fingerprint") if path.is_file() else None
    if begun not in (None, "", fingerprint):
        raise CheckpointError(
            f"{path}: the run was started with other patients, metadata or labels than the cohort "
            "has now. Resume with the same cohort, or choose another --out."
        )


class Log(AbstractContextManager["Log"]):
    """`metrics.jsonl` of a run, and its loggers; continues where a checkpoint was.

    Args:
        out: run folder.
        config: names the loggers, and is what they note as the run's settings.
        progress: of the checkpoint; later rows are of steps that will be repeated, and dropped.
        main: whether this process writes; otherwise nothing is written.
    """

    def __init__(
        self, out: Path, config: LogConfig, progress: Progress, *, main: bool = True
    ) -> None:
        self._main = main
        if not main:
            return
        path = out / "metrics.jsonl"
        path.touch()
        length = min(progress.log_bytes, path.stat().st_size)  # in case someone removed it
        self._loggers = config.open_loggers(out, progress.step)
        self._file = path.open("r+b", buffering=0)  # each row appears at once, and complete
        self._file.truncate(length)
        self._file.seek(length)

    def write(self, kind: str, progress: Progress, **values: float | None) -> None:
        """Appends one row; `kind` is 'step' or 'epoch'."""
        if not self._main:
            return
        row = {"kind": kind, "step": progress.step, "epoch": progress.epoch, **values}
        self._file.write(json.dumps(row).encode() + b"\n")
        metrics = {name: x for name, x in values.items() if x is not None}
        for logger in self._loggers:
            logger.log({"epoch": progress.epoch, **metrics}, progress.step)

    @property
    def length(self) -> int:
        """Bytes of `metrics.jsonl` so far, all on disk."""
        if not self._main:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._main:
            self._file.close()
            for logger in self._loggers:
                logger.close(failed=kind is not None)


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
    """A function of (step, loss, lesions per second) that shows progress on stderr.

    Nothing is shown if stderr is not a terminal, or if this is not the main process.
    """
    quiet = not (main and sys.stderr.isatty())
    columns = (*RichProgress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("steps, {task.fields[text]}")
    with RichProgress(*columns, text, console=Console(stderr=True), disable=quiet) as bars:
        task = bars.add_task("training", total=total, text="")

        def advance(step: int, loss: float, pace: float) -> None:
            text = "" if quiet else f"loss {loss:.3f}, {pace:,.0f} lesions/s"
            bars.update(task, completed=step, text=text)

        yield advance
