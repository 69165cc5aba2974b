"""Time per part of a pre-training step, measured on this cohort and machine; writes nothing.

Parts are the ranges that the loop and the gradient cache mark for `torch.profiler`.
"""

from __future__ import annotations

import resource
import sys
from contextlib import closing

import torch
from torch.profiler import ProfilerActivity, record_function

from slimp.data.batches import Batch, PatientBatches, epoch_loader
from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.models.image_encoder import forward_operations
from slimp.models.nested import Slimp
from slimp.models.precision import autocast_on, matmul_pace
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.devices import fast_precision, make_fabric
from slimp.training.loop import learn, prepare
from slimp.training.optimizer import make_optimizer
from slimp.training.parts import set_aside

WARM_UP = 2
"""Steps that are taken first and not counted."""
PARTS = (
    *("waiting for data", "to the device", "encoders, forward", "loss, forward", "backward"),
    *("encoders, without graph", "loss and its gradient", "encoders, with gradient"),
    *("communication", "optimizer"),
)
"""Names of `record_function` ranges, in order; together they are the step."""


def profile(
    cohort: Cohort, config: PretrainConfig, steps: int
) -> tuple[list[tuple[str, str, str]], str]:
    """Rows of (part, ms per step, fraction of the step), and a summary of speed and memory.

    Floating-point operations are counted in one forward pass, and as usual three times that for a
    step: what the gradient cache computes twice counts once.

    Raises:
        UserError: as `pretrain`; or several processes are asked for.
    """
    if (config.devices, config.nodes) != (1, 1):
        raise UserError("--profile measures one process: leave out --devices and --nodes.")
    config = fast_precision(config)
    train = set_aside(cohort, config).train
    torch.manual_seed(config.seed)
    model = build_model(train, config)
    data = PatientBatches(
        train, model.encodings, config, image_size=config.image_size, views=config.views
    )
    device = make_fabric(config).device
    model.to(device)
    config = prepare(model, data, config, device, autocast_on(device, config.precision))
    parts, lesions, images, batch = _time(model, data, config, device, steps)
    seconds = sum(parts.values())
    rows = [
        (name, f"{1e3 * part / steps:.1f}", f"{part / seconds:.0%}") for name, part in parts.items()
    ]
    rate = 3 * operations_of(model, batch) / batch.lesions * lesions / seconds
    peak = matmul_peak(device, torch.bfloat16 if config.precision == "bf16" else torch.float32)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory *= 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    summary = (
        f"{device}, {config.precision}: {lesions / steps:.0f} lesions ({images / steps:.0f} images)"
        f" per step, {lesions / seconds:.0f} lesions/s, chunks of {config.chunk}\n"
        f"{rate / 1e12:.3g} Tflop/s, {rate / peak:.0%} of the {peak / 1e12:.3g} that matrix "
        f"products reach here; peak memory {memory / 2**20:,.0f} MiB"
    )
    return [*rows, ("step", f"{1e3 * seconds / steps:.1f}", "100%")], summary


def _time(
    model: Slimp, data: PatientBatches, config: PretrainConfig, device: torch.device, steps: int
) -> tuple[dict[str, float], int, int, Batch]:
    """Over some steps: seconds of each part, lesions, images; and the last batch."""
    autocast, optimizer = autocast_on(device, config.precision), make_optimizer(model, config)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] * (device.type == "cuda"))]
    lesions = images = 0
    epochs = range(-(-(steps + WARM_UP) // data.batches_per_epoch))
    with closing(epoch_loader(data, epochs, pin_memory=device.type == "cuda")) as loader:
        for step in range(WARM_UP):
            learn(model, next(loader).to(device), optimizer, config, autocast, step)
        with torch.profiler.profile(activities=activities) as trace:
            for step in range(WARM_UP, WARM_UP + steps):
                with record_function("waiting for data"):
                    batch = next(loader)
                with record_function("to the device"):
                    batch = batch.to(device)
                learn(model, batch, optimizer, config, autocast, step)
                lesions += batch.lesions
                images += batch.pixels.shape[0] * batch.pixels.shape[1]
    found = {event.key: event for event in trace.key_averages() if event.key in PARTS}
    parts = {
        name: max(found[name].cpu_time_total, found[name].device_time_total) / 1e6
        for name in PARTS
        if name in found
    }
    return parts, lesions, images, batch


def operations_of(model: Slimp, batch: Batch) -> int:
    """Floating-point operations of one forward pass of all encoders over a batch."""
    images = batch.pixels.shape[0] * batch.pixels.shape[1]
    total = images * forward_operations(model.image_encoder, batch.pixels[0, :1])
    for name, rows in model.inputs(batch).items():
        total += len(rows) * forward_operations(model.level(name).tabular, rows[:1])
    return total


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of large square matrix products."""
    sides = (2048, 4096) if device.type == "cpu" else (8192,)
    return max(matmul_pace(device, dtype, side) for side in sides)
