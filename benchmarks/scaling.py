"""How the cost of a training step grows: with lesions, image size, patients' lesions, processes.

Each point is one step of `step.py` in a process of its own, at a fixed chunk. Over lesions, time
per lesion should stay, and so should the peak memory of the whole process: nothing that grows
with the batch is held but pixels and embeddings.

    python benchmarks/scaling.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from harness import last_line_of, plain_parser, record
from slimp.models.losses import info_nce
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.training.run_folder import read_log

PROJECTION_WIDTH = 128
STEP = Path(__file__).with_name("step.py")
LESIONS = (256, 512, 1024, 2048, 4096, 8192)
IMAGE_SIZES = (32, 64, 96, 128)
LOSS_ROWS = (6400, 25600)
"""The paper's batch, and four processes of it: every process computes the loss of all rows."""


def main() -> None:
    args = parse()
    sizes = LESIONS[:3] if args.quick else LESIONS
    lesions = [point(lesions=n, chunk=args.chunk) for n in sizes]
    show("lesions per step", sizes, lesions)
    result: dict[str, Any] = {
        "lesions": dict(zip(map(str, sizes), lesions, strict=True)),
        "time_spread": spread([row["ms_per_lesion"] for row in lesions]),
        "memory_spread": spread([row["process_mib"] for row in lesions]),
        "chunk": args.chunk,
    }
    result["loss"] = {
        str(rows): loss_share(rows, lesions[-1]["ms_per_lesion"] / 1e3)
        for rows in (LOSS_ROWS[:1] if args.quick else LOSS_ROWS)
    }
    for rows, row in result["loss"].items():
        print(f"loss of {rows} rows: {row['seconds']:.2f} s, {row['share']:.1%} of such a step")
    if not args.quick:
        pixels = [point(lesions=512, chunk=args.chunk, image_size=side) for side in IMAGE_SIZES]
        show("side of the image, px", IMAGE_SIZES, pixels)
        result["image_size"] = dict(zip(map(str, IMAGE_SIZES), pixels, strict=True))
        result["processes"] = {str(n): lesions_per_second(n) for n in (1, 2)}
        for count, pace in result["processes"].items():
            print(f"{count} process(es) on {os.cpu_count()} cores: {pace:.0f} lesions/s")
    print(
        f"from {sizes[0]} to {sizes[-1]} lesions: time per lesion within "
        f"{result['time_spread']:.0%}, peak memory within {result['memory_spread']:.0%}"
    )
    if args.out:
        record(args.out, result, "scaling.py")
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="up to 1,024 lesions only")
    parser.add_argument("--chunk", type=int, default=192, help="images with graph at once")
    return parser.parse_args()


def point(**settings: int) -> dict[str, float]:
    """Seconds and memory of one step of the small model."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    row = last_line_of(STEP, "--way=slimp", *flags)
    return {**row, "ms_per_lesion": 1e3 * row["seconds"] / settings["lesions"]}


def loss_share(rows: int, seconds_per_lesion: float) -> dict[str, float]:
    """Seconds of the inner loss with its gradient, and their share of a step of one process."""
    torch.manual_seed(0)
    a, b = torch.randn(2, rows, PROJECTION_WIDTH).requires_grad_().unbind()
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        info_nce(a, b, temperature=0.07).backward(retain_graph=True)
        seconds.append(time.perf_counter() - began)
    return {"seconds": min(seconds), "share": min(seconds) / (rows * seconds_per_lesion)}


def lesions_per_second(processes: int) -> float:
    """Of a whole pre-training with decoding, by its own log; median of the later steps."""
    with tempfile.TemporaryDirectory() as folder:
        cohort = Path(folder) / "cohort"
        synthesize(SyntheticConfig(patients=96, lesions=4)).save(cohort)
        out = Path(folder) / "run"
        flags = f"--preset small --epochs 6 --patients 16 --devices {processes} --workers 1"
        flags += " --accelerator cpu --validation-fraction 0"
        words = ["-m", "slimp", "pretrain", str(cohort), "--out", str(out), *flags.split()]
        subprocess.run(
            [sys.executable, *words],
            env={**os.environ, "OMP_NUM_THREADS": str((os.cpu_count() or 1) // processes)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        paces = [row["lesions_per_second"] for row in read_log(out) if row["kind"] == "step"]
    return statistics.median(paces[len(paces) // 2 :])


def spread(values: list[float]) -> float:
    """(largest - smallest) / smallest."""
    return max(values) / min(values) - 1


def show(title: str, names: tuple[int, ...], rows: list[dict[str, float]]) -> None:
    print(f"\n{title:>22s} {'ms/lesion':>10s} {'step, MiB':>10s} {'process, MiB':>13s}")
    for name, row in zip(names, rows, strict=True):
        print(
            f"{name:22d} {row['ms_per_lesion']:10.2f} {row['step_mib']:10.0f} "
            f"{row['process_mib']:13.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
