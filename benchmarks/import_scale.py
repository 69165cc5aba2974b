"""Importing many tiles: time per image, peak memory, and a straightforward loop beside it.

The data are made up on the spot in the layout of SLICE-3D: a CSV with its columns and an HDF5
file with a dataset per tile. A few hundred drawn JPEG tiles of 91 to 157 px stand behind all rows;
the metadata differ. Ours is `slimp.sources.import_source`, in a process of its own, of which memory
is sampled with all its children. The loop is what one writes in an afternoon: rows by `iterrows`,
the tile from HDF5, decoded by Pillow to prove that it can be, its bytes to a file of its own, the
row to a list, the list to Parquet; it types and checks nothing. It does some of the rows, since
each costs it the same. Modules are loaded before a clock starts.

    python benchmarks/import_scale.py
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
from PIL import Image, ImageFilter

from harness import plain_parser, record
from slimp.sources import get_source

TILES = 300
SIDES = (91, 157)
PATIENTS_PER_IMAGE = 1 / 385
"""As published."""
OURS = """
import sys, time
from slimp.sources import import_source
began = time.perf_counter()
cohort = import_source("slice3d", sys.argv[1], sys.argv[2])
print(len(cohort), time.perf_counter() - began)
"""
LOAD = """
import sys, time
from slimp.data.cohort import Cohort
began = time.perf_counter()
cohort = Cohort.load(sys.argv[1])
print(len(cohort), time.perf_counter() - began)
"""
LOOP = """
import io, sys, time
from pathlib import Path
import h5py, pandas as pd, pyarrow.parquet
from PIL import Image
raw, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
Image.init()
began = time.perf_counter()
(out / "images").mkdir(parents=True)
rows = []
table = pd.read_csv(raw / "train-metadata.csv", nrows=count, low_memory=False)
with h5py.File(raw / "train-image.hdf5") as file:
    for _, row in table.iterrows():
        encoded = file[row["isic_id"]][()]
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        (out / "images" / f"{row['isic_id']}.jpg").write_bytes(encoded)
        rows.append({**row, "width": image.width, "height": image.height})
pd.DataFrame(rows).to_parquet(out / "metadata.parquet")
print(len(rows), time.perf_counter() - began)
"""


def main() -> None:
    args = parse()
    rows = []
    tiles = draw_tiles()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        for size in args.sizes:
            raw = write_raw(Path(name) / "raw", tiles, size)
            rows.append(measure(raw, Path(name), size, min(args.loop, size)))
            shutil.rmtree(raw)
            show(rows[-1])
    costs = [row["microseconds_per_image"] for row in rows]
    result: dict[str, Any] = {
        "rows": rows,
        "tiles": len(tiles),
        "bytes_per_tile": sum(map(len, tiles)) / len(tiles),
        "speedup": min(row["speedup"] for row in rows),
        "peak_mib": max(row["peak_mib"] for row in rows),
        "cost_spread": max(costs) / min(costs),
    }
    print(
        f"at least {result['speedup']:.1f} times as fast as the loop; cost per image differs by "
        f"{result['cost_spread']:.2f} over the sizes; at most {result['peak_mib']:.0f} MiB"
    )
    if args.out:
        record(args.out, result, "import_scale.py")
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="2,000 and 10,000 tiles")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000], help="tiles")
    parser.add_argument("--loop", type=int, default=10_000, help="rows that the loop does")
    parser.add_argument("--folder", type=Path, help="where the tiles are written meanwhile")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.loop = [2_000, 10_000], 1_000
    return args


def draw_tiles() -> list[bytes]:
    """JPEG files: a darker spot on skin, blurred as in a crop of a whole body."""
    rng = np.random.default_rng(0)
    return [draw_tile(rng, int(rng.integers(SIDES[0], SIDES[1] + 1))) for _ in range(TILES)]


def draw_tile(rng: np.random.Generator, side: int) -> bytes:
    y, x = np.mgrid[:side, :side] / side - 0.5
    radius = np.hypot(x * rng.uniform(1, 2), y * rng.uniform(1, 2))
    spot = 1 / (1 + np.exp(40 * (radius - rng.uniform(0.1, 0.3))))[..., None]
    skin, mole = rng.normal((205, 165, 145), 12), rng.normal((120, 80, 60), 15)
    pixels = skin * (1 - spot) + mole * spot + rng.normal(0, 8, (side, side, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(0.8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write_raw(folder: Path, tiles: list[bytes], rows: int) -> Path:
    """The folder with table and tiles of `rows` images."""
    folder.mkdir()
    ids = [f"ISIC_{i:07d}" for i in range(rows)]
    pa.csv.write_csv(make_table(ids), folder / "train-metadata.csv")
    values = [np.bytes_(tile) for tile in tiles]
    with h5py.File(folder / "train-image.hdf5", "w") as file:
        for i, name in enumerate(ids):
            file[name] = values[i % len(values)]
    return folder


def make_table(ids: list[str]) -> pa.Table:
    """A table with every column of the source's schema, used or refused."""
    rng, rows = np.random.default_rng(1), len(ids)
    schema = get_source("slice3d").schema()
    patients = max(1, round(rows * PATIENTS_PER_IMAGE))
    patient = np.append(np.arange(patients), rng.integers(patients, size=rows - patients))
    columns: dict[str, Any] = {schema.image: ids}
    columns |= {str(schema.label): (rng.random(rows) < 0.001).astype(int)}
    columns |= {str(schema.patient): [f"IP_{i:07d}" for i in patient]}
    for level in schema.levels:
        source = patient if level.name == "patient" else np.arange(rows)
        for feature in level.features:
            some = rng.normal(20, 5, size=rows).round(9)
            words = rng.choice(["torso front", "left leg - lower", "head & neck"], size=rows)
            drawn = some if feature.kind == "continuous" else words
            columns |= dict.fromkeys(feature.columns, drawn[source])
    texts = ["", "Benign", "Memorial Sloan Kettering Cancer Center"]
    columns |= {name: rng.choice(texts, size=rows) for name in schema.refused}
    return pa.table(columns)


def measure(raw: Path, folder: Path, size: int, loop: int) -> dict[str, Any]:
    """Every figure of one size."""
    seconds, peak = run(OURS, size, raw, folder / "ours")
    loading, of_loading = run(LOAD, size, folder / "ours")
    by_loop, _ = run(LOOP, loop, raw, folder / "loop", loop)
    for name in ("ours", "loop"):
        shutil.rmtree(folder / name)
    ours, theirs = 1e6 * seconds / size, 1e6 * by_loop / loop
    return {
        "images": size,
        "seconds": seconds,
        "microseconds_per_image": ours,
        "peak_mib": peak,
        "loop_images": loop,
        "loop_microseconds_per_image": theirs,
        "speedup": theirs / ours,
        "load_seconds": loading,
        "load_peak_mib": of_loading,
    }


def run(code: str, images: int, *words: object) -> tuple[float, float]:
    """Seconds that the process prints, and the most MiB of it and its children together."""
    command = [sys.executable, "-c", code, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = max(memory_of(process.pid, lambda: process.poll() is None), default=0.0)
    stdout = process.communicate()[0]
    if process.returncode:
        sys.exit(f"the process failed with status {process.returncode}")
    count, seconds = stdout.split()
    if int(count) != images:
        sys.exit(f"{count} images instead of {images}")
    return float(seconds), peak


def memory_of(pid: int, alive: Any) -> Iterator[float]:
    """MiB of a process and its children, ten times a second; pages they share count once."""
    root = psutil.Process(pid)
    while alive():
        with contextlib.suppress(psutil.NoSuchProcess):
            yield sum(map(one_process, [root, *root.children(recursive=True)])) / 2**20
        time.sleep(0.1)


def one_process(process: psutil.Process) -> int:
    full = process.memory_full_info()
    return int(getattr(full, "pss", 0) or full.rss)


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['images']:9,} images: {row['seconds']:7.1f} s, {row['peak_mib']:5.0f} MiB, "
        f"{row['microseconds_per_image']:5.0f} µs each; "
        f"loop {row['loop_microseconds_per_image']:5.0f} µs; "
        f"opened in {row['load_seconds']:.2f} s, {row['load_peak_mib']:.0f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
