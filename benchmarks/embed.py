"""Features of many images: slimp's backends against a plain timm model in fp32.

Two rows per model, for one set of weights: the encoder alone on pixels that are decoded already,
and end to end from encoded images, decoding and resizing included (one decoding process in every
row, `embed` against a loop over the same batches). The baseline is PyTorch with its defaults and
batches of 64. Peak is the best of large square bf16 matrix products in the same run; a share of
it counts the operations of the forward pass only. The profile says which operations take
OpenVINO's time. Start-up (compiling, comparing with torch) is a row of its own.

    python benchmarks/embed.py
    ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 python benchmarks/embed.py    # a CPU without AMX, imitated
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cohorts import add_cohort, load_cohort
from harness import plain_parser, record
from slimp.data.cohort import Cohort
from slimp.data.images import image_batches
from slimp.features.backends import (
    batch_size_of,
    compile_with_openvino,
    openvino_backend,
    torch_backend,
)
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.nested import Slimp
from slimp.training.config import PretrainConfig, part_of

CPU = torch.device("cpu")
BASELINE_BATCH = 64
BASELINE = "torch, fp32, plain"
SIDES = (1024, 2048, 4096)
"""Of the square matrices whose products are the peak."""


def main() -> None:
    args = parse()
    cohort = load_cohort(args.cohort)
    print(f"images: {cohort}", flush=True)
    result: dict[str, Any] = {"cohort": args.cohort}
    for preset, images, at_once in (("small", 3000, 512), ("vit-s", 256, 64)):
        kept = cohort.select(np.arange(len(cohort)) < images // (3 if args.quick else 1))
        result[preset] = one_model(preset, kept, at_once, args.repeats)
    result["speedup"] = min(result[preset]["speedup"] for preset in ("small", "vit-s"))
    result["of_peak"] = min(result[preset]["of_peak"] for preset in ("small", "vit-s"))
    result["cuda"] = cuda_rows() if torch.cuda.is_available() else "not measured"
    print(f"GPU: {result['cuda']}")
    if args.out:
        isa = os.environ.get("ONEDNN_MAX_CPU_ISA", "all")
        record(args.out, result, "embed.py", threads=torch.get_num_threads(), isa=isa)
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="a third of the images, once")
    add_cohort(parser, real="ham10000")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.quick:
        args.repeats = 1
    return args


def make_model(preset: str) -> Slimp:
    torch.manual_seed(0)
    return Slimp(part_of(PretrainConfig.from_preset(preset), ModelConfig), {}).eval()


def one_model(preset: str, cohort: Cohort, at_once: int, repeats: int) -> dict[str, Any]:
    """Every figure of one model; the encoder alone is timed on `at_once` images."""
    model = make_model(preset)
    encoder, size = model.image_encoder, model.image_spec.size
    pixels = torch.cat([pixels for pixels, _ in image_batches(cohort, size)])[:at_once]
    flops, linear = count_flops(encoder)
    encoders, peak = time_encoders(model, pixels, repeats)
    rows = {
        name: {
            "ms_per_image": 1e3 * seconds,
            "speedup": encoders[BASELINE] / seconds,
            "of_peak": flops / seconds / peak,
        }
        for name, seconds in encoders.items()
    }
    print(f"\n{preset}: {flops / 1e9:.2f} GFLOP per image, peak {peak / 1e9:.0f} GFLOP/s")
    show("encoder", rows)
    whole = end_to_end(model, cohort)
    for row in whole.values():
        row["speedup"] = whole[BASELINE]["ms_per_image"] / row["ms_per_image"]
    show(f"end to end, {len(cohort)} images", whole)
    best = min(rows.values(), key=lambda row: row["ms_per_image"])
    found: dict[str, Any] = {
        "peak_gflops": peak / 1e9,
        "gflop_per_image": flops / 1e9,
        "encoder": rows,
        "end_to_end": whole,
        "cosine": cosines(encoder, pixels),
        "speedup": best["speedup"],
        "of_peak": best["of_peak"],
    }
    for name, row in found["cosine"].items():
        print(f"  cosine with fp32, least of {BASELINE_BATCH} images: {name} {row}")
    if has_openvino():
        found["profile"] = profile(encoder, pixels[: batch_size_of("openvino", CPU)], linear, peak)
        show("OpenVINO's time", {"share": found["profile"]})
    return found


def has_openvino() -> bool:
    return find_spec("openvino") is not None


def plain_timm(model: Slimp) -> torch.nn.Module:
    """The same weights in a model that timm made."""
    config = model.config
    plain = timm.create_model(
        config.encoder, img_size=config.image_size, num_classes=0, **config.encoder_options
    )
    plain.load_state_dict(model.image_encoder.model.state_dict())
    return plain.eval()


def normalised(encoder: ImageEncoder, pixels: Tensor) -> Tensor:
    return (pixels.float() - encoder.mean) / encoder.std


def count_flops(encoder: ImageEncoder) -> tuple[float, float]:
    """Operations per image: of the forward pass, and of its linear layers."""
    size = encoder.spec.size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    by_kind = counter.get_flop_counts()["Global"]
    linear = sum(count for kind, count in by_kind.items() if "addmm" in str(kind))
    return float(counter.get_total_flops()), float(linear)


def time_encoders(model: Slimp, pixels: Tensor, repeats: int) -> tuple[dict[str, float], float]:
    """Seconds per image of each way, the best of `repeats` taken in turn, and peak FLOP/s."""
    encoder, plain = model.image_encoder, plain_timm(model)
    batches = pixels.split(BASELINE_BATCH)
    images = [normalised(encoder, batch) for batch in batches]

    def baseline() -> None:
        with torch.no_grad():
            for batch in images:
                plain(batch)

    ways: dict[str, Callable[[], object]] = {BASELINE: baseline}
    encode = torch_backend(encoder, CPU, "bf16")
    few = pixels.split(batch_size_of("torch", CPU))
    ways["torch, bf16"] = lambda: list(encode(few))
    if has_openvino():
        chunks = pixels.split(batch_size_of("openvino", CPU))
        compiled = openvino_backend(encoder, len(chunks[0]), "bf16")
        ways["openvino, bf16"] = lambda: list(compiled(chunks))
    best = dict.fromkeys(ways, float("inf"))
    peak = 0.0
    for turn in range(repeats + 1):  # the first one warms up
        for name, way in ways.items():
            seconds = timed(way) / len(pixels)
            best[name] = min(best[name], seconds) if turn else best[name]
        peak = max(peak, matmul_rate(CPU))
    return best, peak


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def matmul_rate(device: torch.device) -> float:
    """The most bf16 FLOP/s over `SIDES`, each the best of 3."""
    rates = []
    for side in SIDES:
        a = torch.randn(side, side, device=device).bfloat16()

        def product(a: Tensor = a) -> None:
            a @ a
            if device.type == "cuda":
                torch.cuda.synchronize()

        product()
        rates.append(2 * side**3 / min(timed(product) for _ in range(3)))
    return max(rates)


def end_to_end(model: Slimp, cohort: Cohort) -> dict[str, dict[str, float]]:
    """Milliseconds per image once the first batch is done, and seconds until then."""
    encoder, plain = model.image_encoder, plain_timm(model)
    rows = {BASELINE: paced(baseline_batches(encoder, plain, cohort))}
    backends = ["torch", *(["openvino"] if has_openvino() else [])]
    for backend in backends:
        done: list[tuple[float, int]] = []
        began = time.perf_counter()
        embed(
            model,
            cohort,
            InferenceConfig(workers=1, precision="bf16", backend=backend),  # type: ignore[arg-type]
            progress=lambda count, _, done=done: done.append((time.perf_counter(), count)),
        )
        rows[f"{backend}, bf16"] = pace(began, done)
    return rows


def baseline_batches(
    encoder: ImageEncoder, plain: torch.nn.Module, cohort: Cohort
) -> Iterator[int]:
    for pixels, rows in image_batches(
        cohort, encoder.spec.size, batch_size=BASELINE_BATCH, workers=1
    ):
        with torch.no_grad():
            plain(normalised(encoder, pixels)).numpy()
        yield len(rows)


def paced(batches: Iterator[int]) -> dict[str, float]:
    began, done, count = time.perf_counter(), [], 0
    for rows in batches:
        count += rows
        done.append((time.perf_counter(), count))
    return pace(began, done)


def pace(began: float, done: list[tuple[float, int]]) -> dict[str, float]:
    (first, before), (last, after) = done[0], done[-1]
    return {
        "ms_per_image": 1e3 * (last - first) / (after - before),
        "first_batch_s": first - began,
        "total_s": last - began,
    }


def cosines(encoder: ImageEncoder, pixels: Tensor) -> dict[str, dict[str, float]]:
    """Least cosine of features in bf16 with those in fp32: as they are, and less their mean."""
    pixels = pixels[:BASELINE_BATCH]
    (exact,) = torch_backend(encoder, CPU, "32")([pixels])
    fast = {"torch, bf16": torch_backend(encoder, CPU, "bf16")}
    if has_openvino():
        fast["openvino, bf16"] = openvino_backend(encoder, len(pixels), "bf16")
    found = {}
    for name, encode in fast.items():
        (features,) = encode([pixels])
        mean = exact.mean(axis=0)
        found[name] = {
            "plain": least_cosine(exact, features),
            "centred": least_cosine(exact - mean, features - mean),
        }
    return found


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return round(float(((a * b).sum(axis=1) / norms).min()), 6)


def profile(
    encoder: ImageEncoder, pixels: Tensor, linear_flops: float, peak: float
) -> dict[str, float]:
    """Share of OpenVINO's time by kind of operation, and of peak that linear layers run at.

    One request on all cores, so that the times of operations add up to that of the batch.
    """
    compiled = compile_with_openvino(
        encoder, len(pixels), "bf16", PERF_COUNT=True, PERFORMANCE_HINT="LATENCY"
    )
    request = compiled.create_infer_request()
    for _ in range(4):
        request.infer([pixels.numpy()])
    spent: dict[str, float] = defaultdict(float)
    for operation in request.get_profiling_info():
        spent[operation.node_type] += operation.real_time.total_seconds()
    total = sum(spent.values())
    rate = linear_flops * len(pixels) / spent["FullyConnected"]
    shares = {kind: seconds / total for kind, seconds in spent.items() if seconds > 0.01 * total}
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return {**ordered, "linear_layers_of_peak": rate / peak}


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    print(f"  {title}")
    for name, row in rows.items():
        print(f"    {name:20s}" + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))


def cuda_rows() -> dict[str, Any]:
    """Of torch in bf16 on the GPU."""
    device, found = torch.device("cuda"), {}
    for preset in ("small", "vit-s"):
        encoder = make_model(preset).image_encoder.to(device)
        size, count = encoder.spec.size, batch_size_of("torch", device)
        pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
        encode = torch_backend(encoder, device, "bf16")
        work = [pixels] * 8
        list(encode(work))
        seconds = min(timed(lambda: list(encode(work))) for _ in range(3)) / (8 * count)  # noqa: B023
        flops, _ = count_flops(make_model(preset).image_encoder)
        found[preset] = {
            "device": torch.cuda.get_device_name(),
            "ms_per_image": 1e3 * seconds,
            "of_peak": flops / seconds / matmul_rate(device),
        }
    return found


if __name__ == "__main__":
    main()
