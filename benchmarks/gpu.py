"""What can only be said on a GPU, in one run: `gpu.sh` installs what it takes and calls this.

- tests: those marked gpu (gradients as on the CPU, interrupted training, search, pinned memory).
- step: the paper's batch, 6,400 lesions, ViT-S/16 at 224 px: seconds, memory, and the fraction of
  the peak, which is that of large square bf16 matrix products. What the gradient cache computes
  twice counts once.
- encoders, retrieval: as their own scripts. train, large, views: beside the peers, see `peers.py`.

The result is written after every part, so that what was cut short is not lost.

    benchmarks/gpu.sh
    python benchmarks/gpu.py --quick --device cpu    # whether the script itself runs
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from encoders import an_image
from harness import last_line_of, plain_parser, record
from slimp.models.image_encoder import ImageEncoder, forward_operations
from slimp.training.config import PretrainConfig
from slimp.training.profile import matmul_peak

LESIONS = 6400


def main() -> None:
    parser = plain_parser(__doc__, quick="few lesions and rows")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py: there is no CUDA device here. Run it where one is, or pass --device cpu.")
    device, quick = ["--device", args.device], ["--quick"] if args.quick else []
    parts: dict[str, Callable[[], Any]] = {
        "tests": run_tests,
        "step": lambda: step(args.device, 64 if args.quick else LESIONS),
        "encoders": lambda: last_line_of(script("encoders"), *device, *quick, "--repeats", "1"),
        "peers": lambda: last_line_of(
            script("peers"), *device, *quick, "--row", "train", "large", "views", "--repeats", "3"
        ),
        "retrieval": lambda: last_line_of(script("retrieval"), *quick, "--repeats", "1"),
    }
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    result: dict[str, Any] = {"device": name}
    for part, work in parts.items():
        began = time.perf_counter()
        try:
            result[part] = work()
        except subprocess.CalledProcessError as error:  # the others are worth having without it
            result[part] = f"failed: exit code {error.returncode}"
        result[f"{part}_seconds"] = time.perf_counter() - began
        print(f"{part}: {result[f'{part}_seconds']:.0f} s, {result[part]}", flush=True)
        result |= named(result)
        if args.out:
            record(args.out, result, "gpu.py", cuda=torch.version.cuda)
    print(json.dumps(result))


def named(result: dict[str, Any]) -> dict[str, Any]:
    """The figures that are looked for first, by name, as far as they are known."""
    step, peers = result.get("step"), result.get("peers")
    found: dict[str, Any] = {}
    if isinstance(step, dict):
        of = step["slimp"]
        found |= {"step_s": of["seconds"], "mfu": step["of_peak"]}
        found["peak_gib"] = of["process_mib"] / 1024
    if isinstance(peers, dict) and "open_clip" in peers["large"]:
        found["open_clip_step_s"] = peers["large"]["open_clip"]["seconds"]
    return found


def script(name: str) -> str:
    return f"{__file__.removesuffix('gpu.py')}{name}.py"


def run_tests() -> dict[str, Any]:
    """How many passed and failed; all pass, or this part has failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1]
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", last)}
    return {"exit_code": done.returncode, **counts}


def step(device: str, lesions: int) -> dict[str, Any]:
    """One step of the paper's batch, and its fraction of the device's peak."""
    flags = ("--preset", "vit-s", "--lesions", str(lesions), "--no-naive", "--chunk", "auto")
    found = last_line_of(script("step"), *flags, "--device", device)
    encoder = ImageEncoder(PretrainConfig.from_preset("vit-s"))
    operations = 3 * forward_operations(encoder, an_image(encoder, 1)) * lesions
    number_format = torch.bfloat16 if found["slimp"]["bf16"] else torch.float32
    peak = matmul_peak(torch.device(device), number_format)
    of_peak = operations / found["slimp"]["seconds"] / peak
    return {**found, "peak_tflops": peak / 1e12, "of_peak": of_peak}


if __name__ == "__main__":
    main()
