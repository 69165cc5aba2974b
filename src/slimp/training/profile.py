"""Where the time of pre-training goes, measured on the cohort and the machine at hand.

A few steps are taken with every part timed; no run is written. Floating-point operations are
counted by PyTorch in one forward pass and, as is usual, three times that for a step: what the
gradient cache computes twice counts once.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode

from slimp.data.batches import Batch, PatientBatches, epoch_loader
from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.models.image_encoder import fused_attention
from slimp.models.nested import Slimp
from slimp.models.precision import autocast_on
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.devices import fast_precision, make_fabric
from slimp.training.loop import learn, prepare
from slimp.training.optimizer import make_optimizer
from slimp.training.parts import set_aside
from slimp.training.stopwatch import Stopwatch

WARM_UP = 2
"""Steps that are taken first and not counted."""
PARTS = (
    "waiting for data",
    "to the device",
    "encoders, forward",
    "loss, forward",
    "backward",
    "encoders, without graph",
    "loss and its gradient",
    "encoders, with gradient",
    "communication",
    "optimizer",
)
"""Names under which a step records what it does, in order; those of either way of `backward`."""
DECODED = 64
"""Images, at most, whose decoding is timed."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a step costs; times are seconds per step."""

    steps: int
    lesions: float
    """Per step, on average."""
    images: float
    """Per step, views counted one by one."""
    parts: dict[str, float]
    """Of a step on the device; they follow each other."""
    waiting: float
    """For the next batch: what the decoding processes could not hide."""
    decode: float
    """Of one step's images, in one process."""
    transform: float
    """Cropping, turning, recolouring and encoding metadata, in one process."""
    tera_operations: float
    """Useful operations, 10^12 per second."""
    peak_tera_operations: float
    """Of large matrix products in the same number format on this device."""
    peak_mib: float
    """Highest use of the device's memory, or of the process's main memory."""
    chunk: int
    device: str
    precision: str

    @property
    def seconds(self) -> float:
        """Per step, waiting included."""
        return sum(self.parts.values()) + self.waiting

    def rows(self) -> list[tuple[str, str, str]]:
        """(part, milliseconds per step, share of the step), as the command line shows them."""
        timed = {"waiting for data": self.waiting, **self.parts}
        found = [(n, f"{1e3 * s:.1f}", f"{s / self.seconds:.0%}") for n, s in timed.items()]
        hidden = {"decode (beside it)": self.decode, "transform (beside it)": self.transform}
        return [
            *found,
            ("step", f"{1e3 * self.seconds:.1f}", "100%"),
            *((name, f"{1e3 * seconds:.1f}", "") for name, seconds in hidden.items()),
        ]

    def summary(self) -> str:
        """What the parts add up to, in a few lines."""
        share = self.tera_operations / self.peak_tera_operations
        return (
            f"{self.device}, {self.precision}: {self.lesions:.0f} lesions ({self.images:.0f} "
            f"images) per step, {self.lesions / self.seconds:.0f} lesions/s, chunks of "
            f"{self.chunk}\n{self.tera_operations:.3g} Tflop/s, {share:.0%} of the "
            f"{self.peak_tera_operations:.3g} that matrix products reach here; peak memory "
            f"{self.peak_mib:,.0f} MiB"
        )


def profile(cohort: Cohort, config: PretrainConfig, steps: int) -> Profile:
    """Times `steps` steps of pre-training in this process, after a few that warm up.

    Raises:
        UserError: as `pretrain`; or several processes are asked for.
    """
    if (config.devices, config.nodes) != (1, 1):
        raise UserError("--profile times one process: leave --devices and --nodes out.")
    config = fast_precision(config)
    train = set_aside(cohort, config).train
    torch.manual_seed(config.seed)
    model = build_model(train, config)
    data = PatientBatches(
        train, model.encodings, config, image_size=config.image_size, views=config.views
    )
    device = make_fabric(config).device
    model.to(device)
    autocast = autocast_on(device, config.precision)
    config = prepare(model, data, config, device, autocast)
    optimizer = make_optimizer(model, config)
    lesions = images = 0
    epochs = range(-(-(steps + WARM_UP) // data.batches_per_epoch))
    with closing(epoch_loader(data, epochs, pin_memory=device.type == "cuda")) as loader:
        for step in range(WARM_UP):
            learn(model, next(loader).to(device), optimizer, config, autocast, step)
        with torch.profiler.profile() as trace:
            for step in range(WARM_UP, WARM_UP + steps):
                with record_function("waiting for data"):
                    batch = next(loader)
                with record_function("to the device"):
                    batch = batch.to(device)
                learn(model, batch, optimizer, config, autocast, step)
                lesions += batch.lesions
                images += batch.pixels.shape[0] * batch.pixels.shape[1]
    parts = {
        event.key: max(event.cpu_time_total, event.device_time_total) / 1e6 / steps
        for event in trace.key_averages()
        if event.key in PARTS
    }
    waiting = parts.pop("waiting for data")
    decode, transform = input_costs(data)
    operations = 3 * forward_operations(model, batch) * lesions / steps / batch.lesions
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return Profile(
        steps=steps,
        lesions=lesions / steps,
        images=images / steps,
        parts=parts,
        waiting=waiting,
        decode=decode,
        transform=transform,
        tera_operations=operations / (sum(parts.values()) + waiting) / 1e12,
        peak_tera_operations=matmul_peak(device, dtype) / 1e12,
        peak_mib=peak_bytes(device) / 2**20,
        chunk=int(config.chunk),
        device=str(device),
        precision=config.precision,
    )


def input_costs(data: PatientBatches) -> tuple[float, float]:
    """Seconds in one process for the images of a batch: decoding them, and all the rest.

    Each the best of two, since the first read of a file is the disk's affair.
    """
    rows = data.sampler.draw(0, 0)
    some = rows[:DECODED].tolist()

    def decode() -> None:
        for row in some:
            data.pictures.read(row, data.image_size)

    decoding = _best_of_two(decode) * len(rows) * data.views / len(some)
    return decoding, max(0.0, _best_of_two(lambda: data[0, 0]) - decoding)


def _best_of_two(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def forward_operations(model: Slimp, batch: Batch) -> float:
    """Floating-point operations of one forward pass of all encoders over a batch."""
    pixels = batch.pixels[0, :1]
    rows = model.inputs(batch)
    first = torch.zeros(1, dtype=torch.long, device=pixels.device)
    images = batch.pixels.shape[0] * batch.pixels.shape[1]
    with fused_attention(model, False):  # the counter does not know the fused kernel of CPUs
        total = _operations(partial(model.image_encoder, pixels)) * images
        for name, found in rows.items():
            total += _operations(partial(model.encode_rows, name, found[first])) * len(found)
    return total


@torch.no_grad()
def _operations(forward: Callable[[], Tensor]) -> float:
    with FlopCounterMode(display=False) as counter:
        forward()
    return float(counter.get_total_flops())


def matmul_peak(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Operations per second of large square matrix products, the best of a few."""
    best = 0.0
    for side in (2048, 4096) if device.type == "cpu" else (8192,):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        for _ in range(repeats):
            clock = Stopwatch(device)
            with clock("product"):
                product: Tensor = a @ b
            best = max(best, 2 * side**3 / clock.seconds["product"])
            del product
    return best


def peak_bytes(device: torch.device) -> int:
    """Highest use so far: of a GPU's memory, or of this process's main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
