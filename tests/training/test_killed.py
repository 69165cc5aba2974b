"""A run that is killed twenty times, without warning, ends with the bits of one that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.training.run_folder import read_log

KILLS = 20
AT_WRITING = 3
"""Every third kill comes while a checkpoint is written."""
EVERY = 3
"""Steps between checkpoints."""
EPOCHS = 50
SETTINGS: dict[str, Any] = {
    "encoder": "vit_tiny_patch16_224",
    "encoder_options": {
        **{"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
        "drop_path_rate": 0.2,
    },
    "image_size": 16,
    "tabular_width": 8,
    "tabular_dropout": 0.1,
    "projection_width": 8,
    "patients": 4,
    "lesions": 3,
    "epochs": EPOCHS,
    "learning_rate": 1e-3,
    "validation_fraction": 0.15,
    "held_out_fraction": 0.1,
    "validate_every": 4,
    "monitor": "validation_loss",
    "checkpoint_every_steps": EVERY,
    "precision": "32",
    "accelerator": "cpu",
}
"""Much is drawn in every step, and the best weights are another thing than the last ones."""


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


@contextmanager
def running(cohort: Path, out: Path, workers: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """The command line in a process group of its own, which does not outlive the block."""
    config = cohort.with_suffix(".json")
    line = f"-m slimp pretrain {cohort} --out {out} --resume --config {config} --workers {workers}"
    with out.with_suffix(".stderr").open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, *line.split()],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(process: subprocess.Popen[bytes], out: Path, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"it ended by itself, or hangs: {out.with_suffix('.stderr').read_text()}")
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


def uninterrupted(cohort: Path, out: Path) -> float:
    """Seconds from the first step to the end."""
    begun = trains(out)
    with running(cohort, out) as process:
        wait(process, out, begun)
        began = time.monotonic()
        assert process.wait(300) == 0
    return time.monotonic() - began


def killed(cohort: Path, out: Path, number: int, delay: float) -> Life:
    """One life, which ends `delay` seconds after its first step, or as a checkpoint is begun."""
    began, begun = max(steps(out), default=0), trains(out)
    with running(cohort, out, workers=number % 2) as process:
        wait(process, out, begun)
        if number % AT_WRITING == 0:
            wait(process, out, lambda: not unfinished(out))  # a former life may have left one
            wait(process, out, lambda: unfinished(out))
        else:
            time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"
    reached = [row["step"] for row in read_log(out) if row["kind"] == "step"][-1]
    return Life(began=began, reached=reached, writing=unfinished(out))


def without_pace(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "lesions_per_second"} for row in read_log(out)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_change_no_bit(tmp_path: Path) -> None:
    cohort, whole, out = tmp_path / "cohort", tmp_path / "whole", tmp_path / "run"
    synthesize(SyntheticConfig(patients=60, lesions=2, image_size=16, seed=3)).save(cohort)
    cohort.with_suffix(".json").write_text(json.dumps(SETTINGS))
    seconds = uninterrupted(cohort, whole)
    # Lives of which all together are too short for the whole run, however they are drawn.
    delays = np.random.default_rng(0).uniform(0, 0.8 * seconds / KILLS, size=KILLS)
    lives = [killed(cohort, out, n, delay) for n, delay in enumerate(delays.tolist())]
    with running(cohort, out) as process:
        assert process.wait(300) == 0, out.with_suffix(".stderr").read_text()

    assert all(life.began < life.reached for life in lives), f"not all trained: {lives}"
    assert len({life.began for life in lives}) >= KILLS // 3, f"most found the same: {lives}"
    assert any(life.writing for life in lives), f"none died while it wrote: {lives}"
    for life, then in pairwise(lives):
        assert life.began <= then.began
        # The one of the last steps, and the one that was being written, may be missing.
        assert life.reached - then.began <= 2 * EVERY
    for name in ("model.safetensors", "model.json", "patients.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert without_pace(out) == without_pace(whole)
    assert steps(out) == steps(whole)
    assert len(steps(out)) == 2
    assert not unfinished(out)
    for step in steps(out):
        name = f"checkpoints/step_{step:08d}/tensors.safetensors"
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
