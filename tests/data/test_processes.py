"""Real processes (gloo, on the CPU) against one: the same loss, gradients and weights."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from slimp.data.batches import PatientBatches
from slimp.data.cohort import Cohort
from slimp.data.processes import agree, exchange_gradients, gather_rows, shard
from slimp.errors import UserError
from slimp.models.losses import info_nce
from slimp.models.persistence import read_tensors
from slimp.training.config import PretrainConfig
from slimp.training.devices import make_fabric
from slimp.training.loop import pretrain
from slimp.training.run_folder import read_log

SECONDS = 240
"""After which processes that wait for each other are killed, and the test fails."""
STEPS = 21
"""Of a run: 7 epochs of batches of 4, 4 and 3 patients."""


@lru_cache
def cohort() -> Cohort:
    whole = tiny.tiny_cohort(patients=14, lesions=3, images_per_lesion=2, seed=4)
    images = whole.images
    keep = np.ones(len(images), dtype=bool)
    for patient in whole.patients["patient_id"][:4]:  # one image each, others have six
        keep &= ~((images["patient_id"] == patient) & images["patient_id"].duplicated())
    return whole.select(keep)


SETTINGS: dict[str, Any] = {
    **tiny.MODEL,
    **tiny.RUN,
    "view_weight": 0.3,
    "context": "patient",
    "pooling": "attention",
    "view_positives": "patient",
    "duplicates": "soft",
    "reconstruction_weight": 0.3,
    "images_per_lesion": 2,
    "patients": 4,
    "epochs": 7,
    "learning_rate": 1e-3,
    "validation_fraction": 0.2,
    "held_out_fraction": 0.0,
    "validate_every": 3,
    "monitor": "validation_loss",
}


def start(count: int, work: Callable[[], object], folder: Path) -> list[int]:
    """Forks of this process that find each other as torchrun would have set it up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared |= {"TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    started = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.environ |= {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(SECONDS)
                work()
                status = 0
            except KeyboardInterrupt:
                status = 130
            except BaseException:
                (folder / f"process_{rank}.log").write_text(traceback.format_exc())
            finally:
                os._exit(status)
        started.append(child)
    return started


def codes(started: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in started]


def processes(count: int, work: Callable[[], object], folder: Path) -> None:
    """Does `work` in as many processes, to the end."""
    found = codes(start(count, work, folder))
    logs = "\n".join(path.read_text() for path in sorted(folder.glob("process_*.log")))
    assert found == [0] * count, logs


forks = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.cuda.is_available(), reason="autograd here cannot be forked"
)


# ------------------------------------------------------------------ rows and gradients


def compare_rows() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    rows, targets = torch.randn(2, 7, 4, dtype=torch.float64)
    layer, unused = nn.Linear(4, 3, bias=False).double(), nn.Linear(2, 2)
    other = nn.Linear(4, 3, bias=False).double()
    scale = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    for count in (7, 5, 2):  # shards of 2, 2, 3; 1, 2, 2; 0, 1, 1
        groups = torch.arange(count) % 4
        own = shard(count, rank, 3)
        learned = (layer.weight, other.weight, scale)
        wanted = info_nce(
            layer(rows[:count]), other(targets[:count]), temperature=scale, groups=groups
        )
        expected = torch.autograd.grad(wanted, learned)
        for parameter in learned:
            parameter.grad = None
        gathered = gather_rows(layer(rows[own]), count)
        loss = info_nce(gathered, other(targets[:count]), temperature=scale, groups=groups)
        loss.backward()
        exchange_gradients([layer.weight, *unused.parameters()], [other.weight, scale])
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(tuple(p.grad for p in learned), expected)
        assert unused.weight.grad is None
    only_one = nn.Parameter(torch.ones(2))
    if rank == 1:
        (only_one.sum() * 3).backward()
    exchange_gradients([only_one], [])
    assert only_one.grad.tolist() == [3, 3]
    cpu = torch.device("cpu")
    assert [agree(float(rank), cpu, on=on) for on in ("least", "most", "first")] == [0, 2, 0]


@forks
def test_rows_losses_and_gradients_of_three_processes_are_those_of_one(tmp_path: Path) -> None:
    """A wrong shard, gathering without gradient, or averaging the image encoder fails here."""
    processes(3, compare_rows, tmp_path)


# ------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    cohort().save(folder / "cohort")
    pretrain(cohort(), PretrainConfig(**SETTINGS, chunk=1000), folder / "run")
    return folder


def assert_same_run(found: Path, wanted: Path) -> None:
    for ours, theirs in zip(read_log(found), read_log(wanted), strict=True):
        for name in theirs.keys() - {"kind", "lesions_per_second"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    steps = [row for row in read_log(found) if row["kind"] == "step"]
    assert len(steps) == STEPS
    ours = read_tensors(found / "model.safetensors")
    theirs = read_tensors(wanted / "model.safetensors")
    start = max(value.abs().max().item() for value in theirs.values())
    assert start > 0.1
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
def test_the_gradient_cache_trains_to_the_same_weights(alone: Path, tmp_path: Path) -> None:
    pretrain(cohort(), PretrainConfig(**SETTINGS, chunk=5), tmp_path / "run")
    assert_same_run(tmp_path / "run", alone / "run")


@pytest.mark.slow
def test_two_processes_of_torchrun_train_to_the_same_weights(alone: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "run", tmp_path / "settings.json"
    settings.write_text(json.dumps({**SETTINGS, "chunk": 1000}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["pretrain", alone / "cohort", "--out", out, "--config", settings]
    done = subprocess.run(
        [*command, "-m", "slimp", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: slimp probe") == 1, "one process speaks"
    assert_same_run(out, alone / "run")
    assert read_log(out)[-1]["validation_loss"] > 0


@forks
@pytest.mark.parametrize(
    ("count", "chunk"), [(2, 1000), pytest.param(3, 4, marks=pytest.mark.slow)]
)
def test_several_processes_train_to_the_same_weights(
    alone: Path, tmp_path: Path, count: int, chunk: int
) -> None:
    """Batches of three and four patients, of which two have one image."""
    config = PretrainConfig(**SETTINGS, chunk=chunk)
    processes(count, partial(pretrain, cohort(), config, tmp_path / "run"), tmp_path)
    assert_same_run(tmp_path / "run", alone / "run")


@forks
@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_and_another_number_goes_on(
    alone: Path, tmp_path: Path
) -> None:
    """The second of two processes is warned, as by a scheduler; one process ends the run."""
    out, config = tmp_path / "run", PretrainConfig(**SETTINGS, chunk=1000)
    log = out / "metrics.jsonl"
    often = replace(config, checkpoint_every_steps=1000)
    started = start(2, partial(pretrain, cohort(), often, out), tmp_path)
    until = time.monotonic() + SECONDS
    while not (log.is_file() and log.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < until
        time.sleep(0.005)
    os.kill(started[1], signal.SIGTERM)
    assert codes(started) == [130, 130]
    (kept,) = (out / "checkpoints").iterdir()
    assert 0 < int(kept.name.removeprefix("step_")) < STEPS
    pretrain(cohort(), config, out, resume=True)
    assert_same_run(out, alone / "run")


# ------------------------------------------------------------------ shards


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_the_shards_of_a_batch_make_up_the_batch(count: int) -> None:
    """Also where there are more processes than images: the metadata are everybody's."""
    config = PretrainConfig(**SETTINGS, feature_corruption=0.3)
    batches = PatientBatches(cohort(), tiny.fitted(cohort()), config, image_size=16)
    whole = batches[1, 2]
    parts = [batches.of_process(process, count)[1, 2] for process in range(count)]
    torch.testing.assert_close(torch.cat([part.pixels for part in parts], dim=1), whole.pixels)
    for part in parts:
        assert torch.equal(part.image_rows, whole.image_rows)
        for ours, theirs in zip(part.levels, whole.levels, strict=True):
            assert (ours.name, ours.count) == (theirs.name, theirs.count)
            assert torch.equal(ours.parent, theirs.parent)
            assert torch.equal(ours.groups, theirs.groups)
            assert torch.equal(ours.rows.continuous, theirs.rows.continuous)
            assert torch.equal(ours.rows.present, theirs.rows.present)


@given(st.integers(0, 300), st.integers(1, 9))
def test_shards_are_contiguous_and_nearly_even(rows: int, count: int) -> None:
    shards = [shard(rows, process, count) for process in range(count)]
    assert [row for part in shards for row in range(rows)[part]] == list(range(rows))
    sizes = [part.stop - part.start for part in shards]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == -(-rows // count)


# ------------------------------------------------------------------ launchers


def test_a_launcher_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
    for name, value in {**launched, "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert make_fabric(PretrainConfig(**SETTINGS)).world_size == 2
    assert make_fabric(PretrainConfig(**SETTINGS, devices=2)).world_size == 2
    with pytest.raises(UserError, match=r"torchrun started 2 process\(es\) on each of 1 node"):
        make_fabric(PretrainConfig(**SETTINGS, devices=3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(UserError, match="accelerator 'cuda' with 2 device"):
        make_fabric(PretrainConfig(**{**SETTINGS, "accelerator": "cuda"}, devices=2))
