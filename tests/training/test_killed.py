"""A run that is killed twenty times, without warning, ends with the bits of one that is not.

The runs are forks of this process, so that a life begins at once and not with imports.
"""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import VIT, log_without_pace, tiny_cohort, tiny_config

from slimp.data.cohort import Cohort
from slimp.training.config import PretrainConfig
from slimp.training.loop import pretrain
from slimp.training.run_folder import read_log

KILLS = 20
AT_WRITING = 3
"""Every third kill comes while a checkpoint is written."""
EVERY = 3
"""Steps between checkpoints."""


def config(workers: int = 0) -> PretrainConfig:
    """Much is drawn in every step, and the best weights are another thing than the last ones."""
    return tiny_config(
        encoder_options={**VIT, "drop_path_rate": 0.2},
        tabular_dropout=0.1,
        patients=4,
        lesions=3,
        epochs=24,
        learning_rate=1e-3,
        validation_fraction=0.15,
        held_out_fraction=0.1,
        validate_every=4,
        monitor="validation_loss",
        checkpoint_every_steps=EVERY,
        chunk=1000,
        workers=workers,
    )


@dataclass(frozen=True, kw_only=True)
class Life:
    """From the start of a process to its kill."""

    began: int
    """Step of the checkpoint that it found; 0 without one."""
    reached: int
    """Last step in the log when it was killed."""
    writing: bool
    """Whether it left an unfinished checkpoint."""


def steps(out: Path) -> list[int]:
    return [int(path.name[5:]) for path in sorted((out / "checkpoints").glob("step_*"))]


def unfinished(out: Path) -> bool:
    return any((out / "checkpoints").glob(".step_*.partial-*"))


def begin(cohort: Cohort, out: Path, workers: int = 0) -> int:
    """The number of a process, in a group of its own, that continues the run in `out`."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            pretrain(cohort, config(workers), out, resume=True)
            status = 0
        except BaseException:
            out.with_suffix(".error").write_text(traceback.format_exc())
        finally:
            os._exit(status)
    return child


def wait(child: int, out: Path, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        if os.waitpid(child, os.WNOHANG)[0] or time.monotonic() > deadline:
            error = out.with_suffix(".error")
            pytest.fail(error.read_text() if error.exists() else "it ended by itself, or hangs")
        time.sleep(0.0005)


def trains(out: Path) -> Callable[[], bool]:
    """Whether a process that is started after this call has logged a step of its own."""
    log, kept = out / "metrics.jsonl", 0
    if found := steps(out):
        state = json.loads((out / "checkpoints" / f"step_{found[-1]:08d}/state.json").read_text())
        kept = state["progress"]["log_bytes"]

    def after() -> bytes:
        return log.read_bytes()[kept:] if log.exists() else b""

    lost = after()  # the same steps will be logged again, at another pace
    return lambda: not lost.startswith(after())


def uninterrupted(cohort: Cohort, out: Path) -> float:
    """Seconds from the first step to the end."""
    begun, child = trains(out), begin(cohort, out)
    wait(child, out, begun)
    began = time.monotonic()
    assert os.waitpid(child, 0)[1] == 0
    return time.monotonic() - began


def killed(cohort: Cohort, out: Path, number: int, delay: float) -> Life:
    """One life, which ends `delay` seconds after its first step, or as a checkpoint is begun."""
    began, begun = max(steps(out), default=0), trains(out)
    child = begin(cohort, out, workers=number % 2)
    wait(child, out, begun)
    if number % AT_WRITING == 0:
        wait(child, out, lambda: not unfinished(out))  # a former life may have left one
        wait(child, out, lambda: unfinished(out))
    else:
        time.sleep(delay)
    os.killpg(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the run was over before it was killed"
    reached = [row["step"] for row in read_log(out) if row["kind"] == "step"][-1]
    return Life(began=began, reached=reached, writing=unfinished(out))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif(torch.cuda.is_available(), reason="autograd with a GPU cannot be forked")
def test_twenty_kills_change_no_bit(tmp_path: Path) -> None:
    cohort = tiny_cohort(patients=40)
    whole, out = tmp_path / "whole", tmp_path / "run"
    seconds = uninterrupted(cohort, whole)
    # Lives of which all together are too short for the whole run, however they are drawn.
    delays = np.random.default_rng(0).uniform(0, 0.8 * seconds / KILLS, size=KILLS)
    lives = [killed(cohort, out, n, delay) for n, delay in enumerate(delays.tolist())]
    assert os.waitpid(begin(cohort, out), 0)[1] == 0

    assert all(life.began < life.reached for life in lives), f"not all trained: {lives}"
    assert len({life.began for life in lives}) >= KILLS // 3, f"most found the same: {lives}"
    assert any(life.writing for life in lives), f"none died while it wrote: {lives}"
    for life, then in pairwise(lives):
        assert life.began <= then.began
        # The one of the last steps, and the one that was being written, may be missing.
        assert life.reached - then.began <= 2 * EVERY
    for name in ("model.safetensors", "model.json", "patients.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert log_without_pace(out) == log_without_pace(whole)
    assert steps(out) == steps(whole)
    assert len(steps(out)) == 2
    assert not unfinished(out)
    for step in steps(out):
        name = f"checkpoints/step_{step:08d}/tensors.safetensors"
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
