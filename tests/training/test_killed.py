"""A run that is killed twenty times, without warning, ends with the bits of one that is not.

The runs are forks of this process, so that a life begins at once and not with imports.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import VIT, log_without_pace, tiny_cohort, tiny_config

from slimp.data.cohort import Cohort
from slimp.training import checkpoint, loop
from slimp.training.loop import pretrain
from slimp.training.run_folder import read_log

KILLS, AT_WRITING = 20, 3
"""Every third kill comes while a checkpoint is written."""
EVERY = 3
"""Steps between checkpoints."""
MOST = 5 * EVERY
"""Steps of the longest life: all lives together are shorter than the whole run."""
RUN = {
    # Much is drawn in every step, and the best weights are another thing than the last ones.
    **{"encoder_options": {**VIT, "drop_path_rate": 0.2}, "tabular_dropout": 0.1},
    **{"patients": 4, "lesions": 3, "epochs": 24, "learning_rate": 1e-3},
    **{"validation_fraction": 0.15, "held_out_fraction": 0.1, "validate_every": 4},
    **{"monitor": "validation_loss", "checkpoint_every_steps": EVERY, "chunk": 1000},
}


def steps(out: Path) -> list[int]:
    return [int(path.name[5:]) for path in sorted((out / "checkpoints").glob("step_*"))]


def begin(
    cohort: Cohort, out: Path, workers: int = 0, *, at_step: int = 1, at_writing: bool = False
) -> int:
    """The number of a process, in a group of its own, that continues the run in `out`.

    It leaves a mark after the step `at_step` of this life and goes on, or half way through its
    first checkpoint, and waits.
    """
    mark = out.with_suffix(".mark")
    mark.unlink(missing_ok=True)
    learn, child = loop.learn, os.fork()
    if child:
        return child
    made = itertools.count(1)

    def learn_and_tell(*arguments: Any) -> dict[str, float]:
        losses = learn(*arguments)
        if next(made) == at_step:
            mark.touch()
        return losses

    def tell_and_wait(tensors: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        mark.touch()
        time.sleep(600)

    status = 1
    try:
        os.setsid()
        if at_writing:
            checkpoint.save_file = tell_and_wait
        else:
            loop.learn = learn_and_tell
        pretrain(cohort, tiny_config(**RUN, workers=workers), out, resume=True)
        status = 0
    except BaseException:
        out.with_suffix(".error").write_text(traceback.format_exc())
    finally:
        os._exit(status)


def wait_for_mark(child: int, out: Path) -> None:
    deadline = time.monotonic() + 120
    while not out.with_suffix(".mark").exists():
        if os.waitpid(child, os.WNOHANG)[0] or time.monotonic() > deadline:
            error = out.with_suffix(".error")
            pytest.fail(error.read_text() if error.exists() else "it ended by itself, or hangs")
        time.sleep(0.0005)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif(torch.cuda.is_available(), reason="autograd with a GPU cannot be forked")
def test_twenty_kills_change_no_bit(tmp_path):
    whole, out, lives = tmp_path / "whole", tmp_path / "run", []
    cohort = tiny_cohort(patients=40)
    assert os.waitpid(begin(cohort, whole), 0)[1] == 0
    rng = np.random.default_rng(0)
    for number in range(KILLS):
        found, writing = max(steps(out), default=0), number % AT_WRITING == 0
        at_step = int(rng.integers(1, MOST, endpoint=True))
        child = begin(cohort, out, number % 2, at_step=at_step, at_writing=writing)
        wait_for_mark(child, out)
        # Counted in steps, for machines differ; a moment more, for it may come inside of one.
        time.sleep(0 if writing else rng.uniform(0, 0.02))
        os.killpg(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the run was over before it was killed"
        assert any((out / "checkpoints").glob(".step_*.partial-*")) or not writing
        rows = [row["step"] for row in read_log(out) if row["kind"] == "step"]
        lives.append((found, rows[-1] if rows else 0))
    assert os.waitpid(begin(cohort, out), 0)[1] == 0

    assert len({found for found, _ in lives}) >= KILLS // 3, f"most found the same: {lives}"
    for (found, reached), (then, _) in itertools.pairwise(lives):
        assert found <= then
        # The one of the last steps, and the one that was being written, may be missing.
        assert reached - then <= 2 * EVERY
    assert steps(out) == steps(whole)
    assert len(steps(out)) == 2
    assert not list((out / "checkpoints").glob(".*"))
    assert log_without_pace(out) == log_without_pace(whole)
    tensors = [f"checkpoints/step_{step:08d}/tensors.safetensors" for step in steps(out)]
    for name in ("model.safetensors", "model.json", "patients.parquet", *tensors):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
