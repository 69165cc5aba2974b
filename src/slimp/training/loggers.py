"""Where the numbers of a run go besides `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow.

Nothing leaves this machine unless the user's environment says so: by WANDB_MODE=online, or by a
MLFLOW_TRACKING_URI that leads elsewhere. What the libraries report about their own use and errors
is switched off, if the user has not set it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from slimp.data.config import Settings
from slimp.errors import UserError


class Logger(Protocol):
    """What gets the numbers of one run."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes numbers by their names in `metrics.jsonl`; steps come in order."""

    def close(self, *, failed: bool) -> None:
        """All numbers are where they belong when it returns; a run that failed is told so."""


@dataclass(frozen=True, kw_only=True)
class LogConfig(Settings):
    """Logging."""

    logger: str = "tensorboard"
    """What gets the numbers of metrics.jsonl besides: tensorboard, wandb, mlflow, several as in
    tensorboard,wandb, or none. wandb and mlflow stay on this machine unless WANDB_MODE=online or
    MLFLOW_TRACKING_URI is set."""

    def _check(self) -> None:
        for name in self._names:
            if name not in LOGGERS:
                allowed = ", ".join((*LOGGERS, "none"))
                raise UserError(f"logger must be of {allowed}, got '{name}'.")
            if find_spec(package := LOGGERS[name][0]) is None:
                raise UserError(
                    f"logger {name} needs the package {package}, which is not installed. Run: "
                    f"pip install 'slimp[{name}]'."
                )

    @property
    def _names(self) -> list[str]:
        return [] if self.logger == "none" else self.logger.replace(" ", "").split(",")

    def open_loggers(self, out: Path, step: int) -> list[Logger]:
        """Those of the run in `out`, which has taken `step` steps; on resume they go on."""
        return [LOGGERS[name][1](out, asdict(self), step) for name in self._names]


class TensorBoard:
    """Events in `tensorboard/`; those after `step`, of a run that was cut off, are hidden."""

    def __init__(self, out: Path, settings: Mapping[str, Any], step: int) -> None:
        from tensorboardX import SummaryWriter  # it imports torch

        own = {"purge_step": step + 1, "filename_suffix": f".{step}"}  # files of one second differ
        self._writer = SummaryWriter(str(out / "tensorboard"), **own)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B in `wandb/`, offline unless WANDB_MODE says otherwise."""

    def __init__(self, out: Path, settings: Mapping[str, Any], step: int) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # before the import
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        quiet: Any = {"console": "off", "quiet": True, "disable_code": True, "disable_git": True}
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "slimp"),
            name=out.resolve().name,
            id=_identity(out),
            resume="allow" if mode == "online" else None,  # offline, wandb sync joins the parts
            config=dict(settings),
            dir=out,
            mode=mode,
            settings=wandb.Settings(**quiet, x_disable_meta=True),  # no path of this machine
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, "step": step})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MLflow:
    """A run of MLflow in `mlflow.db`, or where MLFLOW_TRACKING_URI says."""

    def __init__(self, out: Path, settings: Mapping[str, Any], step: int) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        local = f"sqlite:///{out.resolve() / 'mlflow.db'}"
        self._client = client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", local))
        self._metric, self._waiting, identity = Metric, list[Any](), _identity(out)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "slimp")
        known = client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else client.create_experiment(name)
        if found := client.search_runs([experiment], f"tags.slimp_run = '{identity}'"):
            self._id = found[0].info.run_id
        else:
            about: Any = {"tags": {"slimp_run": identity}, "run_name": out.resolve().name}
            self._id = client.create_run(experiment, **about).info.run_id
            params = [Param(key, str(value)[:500]) for key, value in settings.items()]
            client.log_batch(self._id, params=params)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._waiting += [self._metric(name, value, now, step) for name, value in metrics.items()]
        if now - self._waiting[0].timestamp > 1000:  # a transaction takes as long as a small step
            self._send()

    def close(self, *, failed: bool) -> None:
        self._send()
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")

    def _send(self) -> None:
        self._client.log_batch(self._id, metrics=self._waiting)
        self._waiting = []


LOGGERS: dict[str, tuple[str, Callable[[Path, Mapping[str, Any], int], Logger]]] = {
    "tensorboard": ("tensorboardX", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "mlflow": ("mlflow", MLflow),
}
"""Name -> the package that it needs, and what makes it of folder, settings and steps taken."""


def _identity(out: Path) -> str:
    """The run's name at the services; it stays in the run, which so continues there on resume."""
    path = out / "log_id.txt"
    if not path.is_file():
        path.write_text(uuid.uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8")
