"""Near-duplicates among 10,000 pictures, decoding included, against a straightforward loop.

The pictures are drawn: smooth coloured noise, 600 x 450 px, as JPEG. One in fifty is another one
again: compressed, smaller, brighter, slightly cropped, and in one of the 8 positions. The loop is
what one would write: each picture decoded in full and hashed to the usual 64 bits (the signs of
8 x 8 cosine coefficients about their median) in all 8 positions, then each hash compared with all
by NumPy, a row at a time. A loop over pairs in Python is timed on a part and scaled up.

Our pictures are decoded here no finer than a thumbnail needs, which is all that a search for
near-duplicates takes. `data check` decodes each picture in full, because it also compares pixels
and measures sharpness, exposure and frames: its scan is timed on a part. The search alone is also
timed on 50,000 hashes, to show how it grows.

    python benchmarks/near_duplicates.py
    python benchmarks/near_duplicates.py --quick
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from harness import plain_parser, record
from slimp.checks.images import measure_image
from slimp.checks.near_duplicates import (
    ALIKE,
    SIDE,
    likeness,
    near_pairs,
    perceptual_hashes,
    shrink,
    turned,
)

SIZE = (600, 450)
EVERY = 50
"""One picture in so many is the one before it, edited."""
LOOP_RADIUS = 10
"""Of 64 bits, as is usual."""
SCANNED = 1000
Pairs = set[tuple[int, int]]


def main() -> None:
    args = parse()
    pictures = load_or_draw(args.pictures, args.folder)
    true = {(k - 1, k) for k in range(1, len(pictures)) if k % EVERY == 0}
    rows = {"ours": ours(pictures), "loop": loop(pictures)}
    for row in rows.values():
        found: Pairs = row.pop("pairs")
        row |= {"recall": len(found & true) / len(true), "false_pairs": len(found - true)}
    for way, row in rows.items():
        cells = "  ".join(f"{name} {value:.3f}" for name, value in row.items())
        print(f"{way:6s}{cells}", flush=True)
    result: dict[str, Any] = {
        "pictures": len(pictures),
        "planted": len(true),
        "ways": rows,
        "speedup": rows["loop"]["seconds"] / rows["ours"]["seconds"],
        "search_speedup": rows["loop"]["search"] / rows["ours"]["search"],
        "growth": growth(20_000 if args.quick else 50_000),
        "scan_ms_per_picture": 1e3
        * seconds_of(lambda: in_threads(measure_image, pictures[:SCANNED]))
        / min(SCANNED, len(pictures)),
    }
    print(f"scan of the audit: {result['scan_ms_per_picture']:.2f} ms per picture")
    print(f"growth: {result['growth']}")
    print(f"ours is {result['speedup']:.1f} times as fast, {len(pictures):,} pictures")
    if args.out:
        record(args.out, result, "near_duplicates.py", threads=os.cpu_count())
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="a tenth of the pictures")
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="keep the drawn pictures here for other runs")
    args = parser.parse_args()
    if args.quick:
        args.pictures //= 10
    return args


def load_or_draw(count: int, folder: Path | None) -> list[bytes]:
    """Encoded pictures; drawing takes longer than all that is timed."""
    if folder is not None and folder.is_dir():
        return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))[:count]]
    pictures = in_threads(draw, range(count))
    if folder is not None:
        folder.mkdir(parents=True)
        for number, encoded in enumerate(pictures):
            (folder / f"{number:06}.jpg").write_bytes(encoded)
    return pictures


def draw(number: int) -> bytes:
    """Picture number k, or the one before it, edited."""
    copied = number > 0 and number % EVERY == 0
    rng = np.random.default_rng(number - copied)
    coarse, fine = rng.normal(0, 40, (5, 6, 3)), rng.normal(0, 25, (45, 60, 3))
    layers = [
        np.asarray(
            Image.fromarray((layer + 128).clip(0, 255).astype(np.uint8)).resize(
                SIZE, Image.Resampling.BICUBIC
            ),
            dtype=np.int16,
        )
        for layer in (coarse, fine)
    ]
    picture = Image.fromarray((layers[0] + layers[1] - 128).clip(0, 255).astype(np.uint8))
    return encode(edit(picture, rng), 70) if copied else encode(picture, 92)


def edit(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = SIZE
    crop = rng.uniform(0, 0.03, 4) * (width, height, width, height)
    box = (crop[0], crop[1], width - crop[2], height - crop[3])
    picture = picture.resize((420, 315), Image.Resampling.BICUBIC, box=box)
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.8, 1.15))
    turn = int(rng.integers(8))
    pixels = np.asarray(picture)
    moved = [turned(pixels[..., channel], turn) for channel in range(3)]
    return Image.fromarray(np.ascontiguousarray(np.stack(moved, axis=-1)))


def encode(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def in_threads(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(work, items))


def thumbnail_of(encoded: bytes) -> np.ndarray:
    """The grey thumbnail of an encoded picture, decoded no finer than it needs."""
    with Image.open(io.BytesIO(encoded)) as image:
        image.draft("L", (4 * SIDE, 4 * SIDE))
        return shrink(image)


def ours(pictures: Sequence[bytes]) -> dict[str, Any]:
    """Seconds of each part, and the pairs found."""
    began = time.perf_counter()
    thumbnails = np.stack(in_threads(thumbnail_of, pictures))
    decoded = time.perf_counter()
    hashes = perceptual_hashes(thumbnails)
    hashed = time.perf_counter()
    pairs, _ = near_pairs(hashes)
    searched = time.perf_counter()
    alike = likeness(thumbnails, pairs) >= ALIKE
    done = time.perf_counter()
    found = pairs.loc[alike, ["first", "second"]].itertuples(index=False, name=None)
    return {
        "seconds": done - began,
        "decode": decoded - began,
        "hash": hashed - decoded,
        "search": searched - hashed,
        "verify": done - searched,
        "candidates": len(pairs),
        "pairs": set(found),
    }


def loop(pictures: Sequence[bytes]) -> dict[str, Any]:
    """The same of the straightforward loop."""
    began = time.perf_counter()
    hashes = np.array([plain_hashes(encoded) for encoded in pictures])  # (n, 8)
    hashed = time.perf_counter()
    found: Pairs = set()
    for row, own in enumerate(hashes[:, 0]):
        near = np.bitwise_count(hashes[row + 1 :] ^ own) <= LOOP_RADIUS  # (later, 8)
        found |= {(row, row + 1 + int(k)) for k in np.flatnonzero(near.any(axis=1))}
    done = time.perf_counter()
    return {
        "seconds": done - began,
        "decode_and_hash": hashed - began,
        "search": done - hashed,
        "search_in_python": python_pairs(hashes),
        "pairs": found,
    }


def plain_hashes(encoded: bytes) -> list[int]:
    """64 bits for each of the 8 positions."""
    with Image.open(io.BytesIO(encoded)) as image:
        grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS))
    found = []
    for turn in range(8):
        low = dctn(turned(grey, turn).astype(float))[:8, :8]
        bits = (low > np.median(low)).ravel()
        found.append(int("".join("1" if bit else "0" for bit in bits), 2))
    return found


def python_pairs(hashes: np.ndarray, most: int = 50_000) -> float:
    """Seconds of a loop over all pairs and positions in Python, from a part of them."""
    some = [int(x) for x in hashes[:, 0]]
    began = time.perf_counter()
    count = 0
    for k in range(most):
        count += ((some[k % len(some)] ^ some[(7 * k) % len(some)]).bit_count()) <= LOOP_RADIUS
    return (time.perf_counter() - began) / most * 8 * len(hashes) * (len(hashes) - 1) / 2


def growth(most: int) -> dict[str, float]:
    """Seconds of the search on hashes of noise; 400,000 by the square of the last."""
    rng = np.random.default_rng(0)
    found = {}
    for count in (most // 5, most):
        hashes = rng.integers(0, 2**64, (count, 2, 4), dtype=np.uint64)
        found[f"seconds_at_{count}"] = seconds_of(partial(near_pairs, hashes))
    found["seconds_at_400000_projected"] = found[f"seconds_at_{most}"] * (400_000 / most) ** 2
    return found


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
