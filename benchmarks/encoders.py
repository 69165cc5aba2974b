"""Forward and backward of the image encoders: fp32 as PyTorch comes, against what slimp chooses.

Each way runs in a process of its own, in turn, because how the C library treats freed memory
holds for a process. The baseline is the plain timm model in fp32. The peak is that of large
square bf16 matrix products in the same run. Floating-point operations are those of the matrix
products of the forward pass, times three.

    python benchmarks/encoders.py
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch

from harness import last_line_of, plain_parser, record
from slimp.models.image_encoder import ImageEncoder, forward_operations, set_fused_attention
from slimp.models.precision import compile_encoder, suit_to_device
from slimp.training.config import PretrainConfig
from slimp.training.profile import matmul_peak

PRESETS = {"small": "small", "vits": "vit-s"}
WAYS = {
    "fp32": "fp32, plain timm",
    "fused": "bf16, fused attention",
    "unfused": "bf16, unfused",
    "slimp": "bf16, unfused, memory kept",
    "compiled": "the same, --compile",
}
CHUNKS = {"small": (32, 64, 128), "vits": (8, 16, 32)}


def main() -> None:
    args = parse()
    if args.way:
        print(json.dumps(measure(args.way, args)))
        return
    ways = ("fp32", "slimp") if args.quick else tuple(WAYS)
    rounds = [in_own_process(way) for _ in range(args.repeats) for way in ways]
    peak = max(row["peak"] for row in rounds)
    result: dict[str, Any] = {"peak_gflops": peak / 1e9, "milliseconds": {}}
    for name in PRESETS:
        best = {way: fastest(rounds, way, name) for way in ways}
        operations = rounds[0]["operations"][name]
        show(name, best, operations, peak)
        result["milliseconds"][name] = {
            way: {n: 1e3 * t for n, t in found.items()} for way, found in best.items()
        }
        baseline, ours = (min(best[way].values()) for way in ("fp32", "slimp"))
        result[f"{name}_speedup"] = baseline / ours
        result[f"{name}_of_peak"] = operations / ours / peak
    if args.device == "cpu":
        result["cuda"] = "not measured"
    if args.out:
        record(args.out, result, "encoders.py")
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="baseline and choice, one chunk size")
    parser.add_argument("--repeats", type=int, default=2, help="processes per way")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.repeats = 1
    return args


def in_own_process(way: str) -> dict[str, Any]:
    return {"way": way, **last_line_of(__file__, *sys.argv[1:], "--way", way)}


def measure(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds per image by encoder and chunk size; operations per image; the matrix peak."""
    device = torch.device(args.device)
    found: dict[str, Any] = {"seconds": {}, "operations": {}}
    found["peak"] = matmul_peak(device, torch.bfloat16)
    for name, preset in PRESETS.items():
        torch.manual_seed(0)
        encoder = ImageEncoder(PretrainConfig.from_preset(preset)).to(device)
        found["operations"][name] = 3 * forward_operations(encoder, an_image(encoder, 1))
        prepare(encoder, way, device)
        chunks = CHUNKS[name][1:2] if args.quick else CHUNKS[name]
        found["seconds"][name] = {n: seconds(encoder, n, way) for n in chunks}
    return found


def prepare(encoder: ImageEncoder, way: str, device: torch.device) -> None:
    if way in ("slimp", "compiled"):
        suit_to_device(encoder, device, "bf16")
        if way == "compiled":
            compile_encoder(encoder, device)
        return
    set_fused_attention(encoder, way != "unfused")
    if way == "fp32":  # timm's own layout
        for module in encoder.model.modules():
            module._forward_hooks.clear()


def an_image(encoder: ImageEncoder, n: int) -> torch.Tensor:
    side = encoder.spec.size
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, device=encoder.mean.device)


def seconds(encoder: ImageEncoder, n: int, way: str, repeats: int = 3) -> float:
    """Per image, of the fastest step after one that warms up."""
    pixels, device = an_image(encoder, n), encoder.mean.device.type
    times = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        encoder.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=way != "fp32"):
            embeddings = encoder(pixels)
        embeddings.float().square().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:]) / n


def fastest(rounds: list[dict[str, Any]], way: str, name: str) -> dict[str, float]:
    """Best seconds per image by chunk size."""
    same = [row["seconds"][name] for row in rounds if row["way"] == way]
    return {n: min(row[n] for row in same) for n in same[0]}


def show(name: str, best: dict[str, dict[str, float]], operations: float, peak: float) -> None:
    sizes = list(next(iter(best.values())))
    print(
        f"\n{name}: ms per image by chunk size, and share of {peak / 1e9:.0f} GFLOP/s at the best"
    )
    print(f"{'':28s}" + "".join(f"{n:>9s}" for n in sizes) + f"{'speed-up':>10s}{'of peak':>9s}")
    baseline = min(best["fp32"].values())
    for way, found in best.items():
        ours = min(found.values())
        row = "".join(f"{1e3 * found[n]:9.2f}" for n in sizes)
        print(f"{WAYS[way]:28s}{row}{baseline / ours:9.2f}x{operations / ours / peak:9.1%}")


if __name__ == "__main__":
    main()
