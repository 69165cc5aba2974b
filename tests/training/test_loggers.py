"""Loggers, with the real libraries: what they are handed comes out again, and nothing leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import pytest

from slimp.cli.main import main
from slimp.errors import UserError
from slimp.training import loggers
from slimp.training.checkpoint import Progress
from slimp.training.config import FinetuneConfig, PretrainConfig
from slimp.training.run_folder import Log, read_log

LIBRARIES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


def tensorboard(out: Path) -> list[tuple[str, int, float]]:
    """(name, step, value) of the events, without those that a restart hides."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    rows: list[tuple[str, int, float]] = []
    for path in sorted((out / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):  # length, its checksum, the event, its checksum
            size = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + size])
            at += 16 + size
            if event.session_log.status == SessionLog.START:
                rows = [row for row in rows if row[1] < event.step]
            rows += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return rows


def wandb(out: Path) -> list[tuple[str, int, float]]:
    from wandb.proto.wandb_internal_pb2 import Record

    rows, names = [], set()
    for path in sorted((out / "wandb").glob("offline-run-*/*.wandb")):
        for content in logged(path.read_bytes()):
            record = Record.FromString(content)
            if record.run.run_id:
                names.add(record.run.run_id)
            assert str(out) not in str(record), "no path of this machine"
            row = {x.key or x.nested_key[0]: json.loads(x.value_json) for x in record.history.item}
            own = {name: value for name, value in row.items() if not name.startswith("_")}
            rows += [(name, row["step"], x) for name, x in own.items() if name != "step"]
    assert len(names) <= 1, "a resumed run is the same there"
    return rows


def logged(content: bytes) -> Iterator[bytes]:
    """The records of a W&B file, which is a log as LevelDB has it: blocks of 32 KiB."""
    at, whole = 7, b""
    while at < len(content):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # all of a record, or its last part
            yield whole
            whole = b""


def mlflow_run(out: Path) -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'slimp'")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def mlflow(out: Path) -> list[tuple[str, int, float]]:
    client, run = mlflow_run(out)
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] in ("1", "40"), "settings go along"
    return [
        (name, metric.step, metric.value)
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]


READERS = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("WANDB_", "MLFLOW_")):
            monkeypatch.delenv(name)


@pytest.mark.filterwarnings("default")  # of the libraries
@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize("name", LIBRARIES)
def test_every_number_arrives_under_its_name_and_a_resumed_run_goes_on(name, tmp_path):
    pytest.importorskip(LIBRARIES[name], reason=f"needs pip install 'slimp[{name}]'")
    config = PretrainConfig.from_preset("tiny", logger=name)
    progress = Progress(step=1)
    with suppress(KeyboardInterrupt), Log(tmp_path, config, Progress()) as log:
        log.write("step", progress, loss=3.0, temperature=None)
        saved = Progress(step=1, log_bytes=log.length)
        log.write("step", Progress(step=2), loss=9.0)
        raise KeyboardInterrupt
    if name == "mlflow":
        assert mlflow_run(tmp_path)[1].info.status == "FAILED"
    with Log(tmp_path, config, saved) as log:
        log.write("step", Progress(step=2), loss=2.5)
        log.write("epoch", Progress(step=2, epoch=1), validation_loss=0.5)
    found = READERS[name](tmp_path)
    if name != "tensorboard":  # both keep what was written before the interruption
        found.remove(("loss", 2, 9.0))
    wanted = [
        (key, row["step"], value)
        for row in read_log(tmp_path)
        for key, value in row.items()
        if key not in ("kind", "step", "epoch") and value is not None
    ]
    assert sorted(x for x in found if x[0] != "epoch") == sorted(wanted)
    assert ("epoch", 2, 1) in found


@contextmanager
def counted() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a proxy that answers nobody, and what it was asked."""
    asked: list[bytes] = []

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(200))

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries
def test_a_run_with_every_logger_sends_nothing(made, tmp_path):
    """As a process of its own, whose every request would go through the proxy."""
    names = [name for name, library in LIBRARIES.items() if find_spec(library)]
    words = f"pretrain {made['cohort']} --preset tiny --image-size 32 --epochs 1 --workers 0"
    command = [*words.split(), "--out", str(tmp_path / "run"), "--logger", ",".join(names)]
    with counted() as (address, asked):
        keys = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        given = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
        environment = {**given, **dict.fromkeys(keys, address)}
        subprocess.run([sys.executable, "-m", "slimp", *command], env=environment, check=True)
    assert not asked
    steps = [row["loss"] for row in read_log(tmp_path / "run") if row["kind"] == "step"]
    for name in names:
        found = [x for key, _, x in READERS[name](tmp_path / "run") if key == "loss"]
        assert found == pytest.approx(steps)


def test_another_process_and_none_write_nothing(tmp_path):
    with Log(tmp_path, PretrainConfig(), Progress(), main=False) as log:
        log.write("step", Progress(step=1), loss=3.0)
    assert not [*tmp_path.iterdir()]
    with Log(tmp_path, PretrainConfig(logger="none"), Progress()) as log:
        log.write("step", Progress(step=1), loss=3.0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("verb", ["pretrain", "adapt", "finetune"])
def test_a_library_that_is_not_here_is_named_before_anything_is_done(
    verb: str, made: dict[str, Path], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setitem(loggers.LOGGERS, "mlflow", ("nobody_has_this", loggers.MLflow))
    run = [] if verb == "pretrain" else [str(made["run"])]
    words = [verb, *run, str(made["cohort"]), "--out", str(tmp_path / "out")]
    assert main([*words, "--logger", "tensorboard,mlflow"]) == 2
    said = capsys.readouterr().err
    assert "nobody_has_this" in said
    assert "pip install 'slimp[mlflow]'" in said
    assert not [*tmp_path.iterdir()]


def test_a_logger_that_there_is_not_is_refused():
    for kind in (PretrainConfig, FinetuneConfig):
        with pytest.raises(UserError, match=r"tensorboard, wandb, mlflow, none, got 'comet'"):
            kind(logger="tensorboard,comet")
