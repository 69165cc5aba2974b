"""One training step on a large batch: slimp's against naive fp32 backpropagation of the whole.

Both compute the gradient of the nested loss over all lesions, for the same weights and batch,
each in a process of its own so that its peak memory can be read. slimp's step works in bf16
where that is fast, and in chunks. The naive one is the same model in fp32 with PyTorch's
defaults and one graph over the whole batch. The error of the chunked gradient is taken in 64 bit
against one graph, on a smaller batch.

    python benchmarks/step.py                                        # 2,048 lesions, small ViT
    python benchmarks/step.py --preset vit-s --lesions 6400 --no-naive    # the paper's batch
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from contextlib import nullcontext
from typing import Any

import torch

from harness import last_line_of, plain_parser, record
from slimp.data.batches import Batch, LevelBatch
from slimp.data.encoding import Encoding, Rows
from slimp.models.config import ModelConfig
from slimp.models.losses import nested_loss
from slimp.models.nested import Slimp
from slimp.models.precision import autocast_on, suit_to_device
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.training.chunk_size import rows_that_fit
from slimp.training.config import PretrainConfig, part_of
from slimp.training.devices import fast_precision
from slimp.training.gradient_cache import backward

MIB = 2**20
LESIONS_PER_PATIENT = 32
ERROR_LESIONS = 96


def main() -> None:
    args = parse()
    if args.way:
        print(json.dumps(take_step(args.way, args)))
        return
    ways = ["slimp"] if args.no_naive else ["slimp", "naive"]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(args.repeats):
        for way in ways:  # in turn, so that a slow minute of the machine is everybody's
            found[way].append(last_line_of(__file__, *sys.argv[1:], "--way", way))
            show(way, found[way][-1], args.lesions)
    best = {way: min(rows, key=lambda row: row["seconds"]) for way, rows in found.items()}
    result: dict[str, Any] = {
        "lesions": args.lesions,
        "preset": args.preset,
        "gradient_error_fp64": gradient_error(args.preset),
        **{way: best[way] for way in ways},
    }
    if "naive" in best:
        ours, naive = best["slimp"], best["naive"]
        result["speedup"] = naive["seconds"] / ours["seconds"]
        result["memory_ratio"] = ours["step_mib"] / naive["step_mib"]
        result["memory_ratio_of_process"] = ours["process_mib"] / naive["process_mib"]
        print(
            f"{result['speedup']:.1f} times faster with {result['memory_ratio']:.3f} of the "
            f"memory ({result['memory_ratio_of_process']:.3f} of the whole process)"
        )
    print(f"relative error of the gradient in 64 bit: {result['gradient_error_fp64']:.1e}")
    if args.device == "cpu":
        result["cuda"] = "not measured"
    if args.out:
        record(args.out, result, "step.py")
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="256 lesions, once")
    parser.add_argument("--lesions", type=int, default=2048)
    parser.add_argument("--preset", default="small", choices=["tiny", "small", "vit-s"])
    parser.add_argument("--chunk", default="384", help="images with graph at once, or auto")
    parser.add_argument("--image-size", type=int, help="px; default: the preset's")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-naive", action="store_true", help="only slimp's step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--way", choices=["slimp", "naive"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.lesions, args.repeats = 256, 1
    return args


def take_step(way: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak memory of one step, after a small one that warms up."""
    device = torch.device(args.device)
    changes = {"image_size": args.image_size} if args.image_size else {}
    precision = "32" if way == "naive" else "auto"
    config = fast_precision(PretrainConfig.from_preset(args.preset, precision=precision, **changes))
    model = make_model(config).to(device).train()
    batch = make_batch(model, args.lesions).to(device)
    autocast = autocast_on(device, config.precision)
    chunk = args.lesions
    if way == "slimp":
        suit_to_device(model, device, config.precision)
        rows = model.inputs(batch)
        fit = rows_that_fit(model, rows, device, autocast)
        chunk = min(args.lesions, fit) if args.chunk == "auto" else int(args.chunk)

    def step(batch: Batch) -> None:
        model.zero_grad(set_to_none=True)
        backward(model, batch, chunk=chunk, autocast=autocast)
        if device.type == "cuda":
            torch.cuda.synchronize()

    step(make_batch(model, 64).to(device))
    before = used_mib(device)
    began = time.perf_counter()
    step(batch)
    seconds = time.perf_counter() - began
    peak = used_mib(device)
    return {
        "seconds": seconds,
        "step_mib": peak - before,
        "process_mib": peak,
        "chunk": chunk,
        "bf16": config.precision == "bf16",
    }


def used_mib(device: torch.device) -> float:
    """Highest use so far: of the device, or of this process in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def make_model(config: PretrainConfig) -> Slimp:
    """Of random weights, with the metadata of the synthetic cohort at both levels."""
    cohort = synthesize(SyntheticConfig(patients=16, lesions=4, image_size=32))
    encodings = {
        name: Encoding.fit(cohort.schema.level(name), cohort.tables.of_level(name))
        for name in ("lesion", "patient")
    }
    torch.manual_seed(0)
    return Slimp(part_of(config, ModelConfig), encodings)  # type: ignore[arg-type]


def make_batch(model: Slimp, lesions: int) -> Batch:
    """Random pixels and metadata, an image per lesion: the work does not depend on the content."""
    cohort = synthesize(SyntheticConfig(patients=16, lesions=4, image_size=32))
    generator = torch.Generator().manual_seed(1)
    patients = -(-lesions // LESIONS_PER_PATIENT)
    size = model.image_spec.size

    def some_rows(level: Any, count: int) -> Rows:
        rows = model.encodings[level].encode(cohort.tables.of_level(level))
        return rows[torch.randint(len(rows), (count,), generator=generator)]

    return Batch(
        pixels=torch.randint(
            0, 256, (1, lesions, 3, size, size), dtype=torch.uint8, generator=generator
        ),
        levels=(
            LevelBatch(
                name="lesion",
                rows=some_rows("lesion", lesions),
                groups=None,
                parent=torch.arange(lesions),
                count=lesions,
            ),
            LevelBatch(
                name="patient",
                rows=some_rows("patient", patients),
                groups=None,
                parent=torch.arange(lesions) // LESIONS_PER_PATIENT,
                count=patients,
            ),
        ),
        image_rows=torch.arange(lesions),
    )


def gradient_error(preset: str) -> float:
    """Of the chunked gradient against one graph, in 64 bit, relative to the whole's norm."""
    config = PretrainConfig.from_preset("small" if preset == "vit-s" else preset)
    model = make_model(config).double().train()
    batch = make_batch(model, ERROR_LESIONS)
    gradients = []
    for chunked in (False, True):
        model.zero_grad()
        if chunked:
            backward(model, batch, chunk=10, autocast=nullcontext)
        else:
            nested_loss(model(batch), config.weights).total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    whole, parts = gradients
    return ((parts - whole).norm() / whole.norm()).item()


def show(way: str, row: dict[str, float], lesions: int) -> None:
    print(
        f"{way:6s} {row['seconds']:8.2f} s  {1e3 * row['seconds'] / lesions:6.2f} ms/lesion  "
        f"{row['step_mib']:8.0f} MiB for the step  {row['process_mib']:8.0f} MiB in all  "
        f"chunk {row['chunk']:.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
