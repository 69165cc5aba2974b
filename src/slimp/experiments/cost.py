"""About what an experiment takes on this machine; nothing large is run for it.

What `machine` counts and times is kept in a file of the cache folder: importing torch and timm for
it takes longer than all the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from slimp.data.files import write_json
from slimp.errors import UserError
from slimp.experiments.cells import Cell
from slimp.experiments.cohorts import OTHER, images_in_epoch
from slimp.models.known_weights import cache_folder
from slimp.training.memory import CPU_FRACTION, free_main_memory
from slimp.training.run_folder import versions

BYTES_PER_PARAMETER = 16
"""Weight, gradient, and AdamW's two moments."""
ENVIRONMENT = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
"""Variables of the environment that change a machine's pace."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the trainings of some cells take, roughly."""

    seconds: float
    """Of the image encoder's passes, one training after the other: neither images are decoded in
    it, nor probes fitted."""
    bytes: float
    """Of the largest training in one process: its weights, and the activations of the images that
    it holds at once, which the gradient cache keeps to a fraction of the free memory."""


def cost_of(wanted: Iterable[Cell], cohort: str, cells: Path) -> Cost | None:
    """Of the trainings that are not done; None: it is not known how many images there are."""
    seconds = largest = 0.0
    count = cache(images_in_epoch)
    for cell in wanted:
        if cell.stage not in ("pretrain", "adapt") or cell.is_done(cells):
            continue
        own = cell.of("pretrain")
        assert own is not None
        known = own.settings["pretrain"]
        what = {name: known[name] for name in ("encoder", "encoder_options", "image_size")}
        encoder = remembered("encoder_cost", json.dumps(what))
        kept = ("epochs", "patients", "lesions", "images_per_lesion")
        epochs, patients, *drawn = (cell.settings.get("adapt", known)[name] for name in kept)
        other = cell.stage == "pretrain" and "fold" not in cell.settings
        images = count(OTHER[cohort] if other else cohort, *drawn)
        if images is None:
            return None
        views = 1 + (known["view_weight"] > 0)
        at_once = min(patients * drawn[0] * drawn[1], images) * views
        if cell.settings.get("trainer") in ("untrained", "frozen"):
            epochs = at_once = 0
        seconds += images * epochs * views * encoder["operations"] / remembered("training_pace")
        activations = min(at_once * encoder["activations"], _room())
        largest = max(largest, BYTES_PER_PARAMETER * encoder["parameters"] + activations)
    return Cost(seconds=seconds, bytes=largest)


def _room() -> float:
    """Bytes that the gradient cache lets activations have."""
    if (name := remembered("device_of", '{"accelerator": "auto"}')) == "cpu":
        return CPU_FRACTION * free_main_memory()
    import torch

    from slimp.training.chunk_size import GPU_FRACTION, free_bytes

    return GPU_FRACTION * free_bytes(torch.device(name))


@cache
def remembered(measure: str, settings: str = "{}") -> Any:
    """What a function of `machine` finds for these settings, or what `machine_file` holds of it.

    `machine` is imported for what is not held; the file gains it.
    """
    file, name = machine_file(), f"{measure} {settings}"
    known = _read(file)
    if name not in known:
        from slimp.experiments import machine

        value = getattr(machine, measure)(**json.loads(settings))
        known = {**_read(file), name: value}  # another process may have added to it meanwhile
        with suppress(UserError, OSError):  # measured again next time
            write_json(file, known)
    return known[name]


def machine_file() -> Path:
    """The file of the cache folder for this machine, these versions and these devices.

    Deleting it makes everything be measured again.
    """
    key = hashlib.sha256(json.dumps(_machine(), sort_keys=True).encode()).hexdigest()
    return cache_folder() / "machine" / f"{key[:12]}.json"


def _read(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        held = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(held, dict):
            return held
    return {"machine": _machine()}  # for who reads the file


@cache
def _machine() -> dict[str, Any]:
    """What the measurements depend on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "node": platform.node(),
        "processor": named[0] if named else platform.processor(),
        "processors": os.cpu_count(),
        "gpus": sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*")),
        "versions": versions(),
        **{name: os.environ.get(name, "") for name in ENVIRONMENT},
    }
