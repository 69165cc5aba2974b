"""Opening a large cohort, reading its images, and feeding a model with them.

Opening: tables of 400,000 images with 40 columns of metadata, in a fresh process. Reading:
encoded images in random order from the packed file and from HDF5, opened once, as the published
SLICE-3D file has them (a dataset per image) and as one dataset of byte arrays; all of it in the
page cache. Feeding: images decoded and augmented per second by two processes, over those that the
small model takes in training steps on the same cores.

    python benchmarks/reads.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from cohorts import add_cohort, load_cohort
from harness import plain_parser, record
from slimp.data.batches import PatientBatches, epoch_loader
from slimp.data.cohort import Cohort
from slimp.data.files import PackedImages, write_json
from slimp.data.schema import Schema
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.devices import fast_precision
from slimp.training.loop import learn, prepare
from slimp.training.optimizer import make_optimizer

PATIENTS = 1000
KINDS = {"continuous": 32, "categorical": 5, "checkbox": 3}
OPEN = """
import sys, time
from slimp.data.cohort import Cohort
began = time.perf_counter()
cohort = Cohort.load(sys.argv[1])
print(time.perf_counter() - began)
"""


def main() -> None:
    args = parse()
    cohort = load_cohort(args.cohort)
    print(f"{cohort}; {args.images:,} images are read, {args.rows:,} opened", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        opened = time_opening(Path(folder) / "large", args.rows, args.repeats)
        print(f"{'opening ' + format(args.rows, ','):32s} {opened:8.2f} s", flush=True)
        reads = time_reads(Path(folder), cohort, args.images, args.repeats)
    for name, seconds in reads.items():
        print(f"{'reading, ' + name:32s} {1e6 * seconds:8.1f} µs", flush=True)
    rates = time_feeding(cohort, args)
    for name, rate in rates.items():
        print(f"{name:32s} {rate:8.0f} images/s")
    result = {
        "cohort": args.cohort,
        "open_images": args.rows,
        "open_seconds": opened,
        "read_images": args.images,
        "read_microseconds": {name: 1e6 * seconds for name, seconds in reads.items()},
        "speedup_vs_hdf5": reads["HDF5, a dataset per image"] / reads["packed"],
        "speedup_vs_hdf5_arrays": reads["HDF5, one of byte arrays"] / reads["packed"],
        "images_per_second": rates,
        "feeds": rates["loader"] / rates["small model"],
    }
    print(
        f"reads {result['speedup_vs_hdf5']:.0f} times as fast as HDF5 (as one dataset: "
        f"{result['speedup_vs_hdf5_arrays']:.0f} times); feeds {result['feeds']:.1f} small models"
    )
    if args.out:
        record(args.out, result, "reads.py")
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="a minute: fewer images and repeats")
    add_cohort(parser, real="pad-ufes-20")
    parser.add_argument("--rows", type=int, default=400_000, help="images of the opened cohort")
    parser.add_argument("--images", type=int, default=20_000, help="images to read from")
    parser.add_argument("--steps", type=int, default=10, help="training steps per repeat")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement, in turn")
    args = parser.parse_args()
    if args.quick:
        args.rows, args.images, args.steps, args.repeats = 50_000, 2_000, 4, 2
    return args


def time_opening(folder: Path, rows: int, repeats: int) -> float:
    """Median seconds of `Cohort.load` in processes of their own."""
    write_large(folder, rows)
    command = [sys.executable, "-c", OPEN, str(folder)]
    seconds = [float(subprocess.check_output(command, text=True)) for _ in range(repeats)]
    return median(seconds)


def write_large(folder: Path, rows: int) -> None:
    """A cohort of `rows` images, one per lesion; the file of images is a hole."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    patient = np.sort(np.append(np.arange(PATIENTS), rng.integers(PATIENTS, size=rows - PATIENTS)))
    ids = {"patient_id": [f"IP_{i:07d}" for i in patient]}
    lesions = pd.DataFrame({"lesion_id": [f"IL_{i:07d}" for i in rng.permutation(rows)], **ids})
    images = lesions.assign(image_id=[f"ISIC_{i:07d}" for i in rng.permutation(rows)])
    images["label"] = np.where(rng.random(rows) < 0.001, "malignant", "benign")
    lengths = rng.integers(2_500, 4_500, size=rows)
    images["byte_offset"], images["byte_length"] = np.cumsum(lengths) - lengths, lengths
    columns: dict[str, Callable[[], Any]] = {
        "continuous": lambda: rng.normal(size=rows),
        "categorical": lambda: rng.choice(["head & neck", "torso", "left arm"], size=rows),
        "checkbox": lambda: pd.array(rng.random(rows) < 0.5, dtype="boolean"),
    }
    metadata = {f"{k}_{i}": {"kind": k} for k, count in KINDS.items() for i in range(count)}
    values = {name: columns[column["kind"]]() for name, column in metadata.items()}
    schema = Schema.from_dict({"image": "image_id", "lesion_metadata": metadata})
    images.to_parquet(folder / "images.parquet", index=False)
    lesions.assign(**values).to_parquet(folder / "lesions.parquet", index=False)
    lesions[["patient_id"]].drop_duplicates().to_parquet(folder / "patients.parquet", index=False)
    with (folder / "images.bin").open("wb") as file:
        file.truncate(int(lengths.sum()))
    content = {"format": 1, "info": {"name": "large"}, "schema": schema.to_dict()}
    write_json(folder / "cohort.json", content)


def time_reads(folder: Path, cohort: Cohort, count: int, repeats: int) -> dict[str, float]:
    """Seconds per read of an encoded image, the best of `repeats` taken in turn."""
    encoded = [cohort.read_image(i % len(cohort)) for i in range(count)]
    order = np.random.default_rng(0).permutation(count).tolist()
    (folder / "images.bin").write_bytes(b"".join(encoded))
    packed = PackedImages(folder / "images.bin", np.cumsum([0, *map(len, encoded)]))
    with h5py.File(folder / "a.hdf5", "w") as each, h5py.File(folder / "b.hdf5", "w") as arrays:
        for i, image in enumerate(encoded):
            each[f"ISIC_{i:07d}"] = np.bytes_(image)
        data = arrays.create_dataset("images", count, dtype=h5py.vlen_dtype(np.uint8))
        for i, image in enumerate(encoded):
            data[i] = np.frombuffer(image, dtype=np.uint8)
    with h5py.File(folder / "a.hdf5") as each, h5py.File(folder / "b.hdf5") as arrays:
        data = arrays["images"]
        ways: dict[str, Callable[[int], bytes]] = {
            "packed": packed.read,
            "HDF5, a dataset per image": lambda i: each[f"ISIC_{i:07d}"][()],
            "HDF5, one of byte arrays": lambda i: data[i].tobytes(),
        }
        for name, read in ways.items():
            if [read(i) for i in order[:100]] != [encoded[i] for i in order[:100]]:
                sys.exit(f"{name}: gives other bytes")
        best = dict.fromkeys(ways, np.inf)
        for _ in range(repeats):
            for name, read in ways.items():
                began = time.perf_counter()
                for i in order:
                    read(i)
                best[name] = min(best[name], (time.perf_counter() - began) / count)
    return best


def time_feeding(cohort: Cohort, args: argparse.Namespace) -> dict[str, float]:
    """Images per second, medians: of the decoding processes alone, and of training alone."""
    workers = min(2, os.cpu_count() or 1)
    changes = {"workers": workers, "accelerator": "cpu", "seed": 0}
    config = fast_precision(PretrainConfig.from_preset("small", **changes))
    torch.manual_seed(0)
    model = build_model(cohort, config)
    data = PatientBatches(cohort, model.encodings, config, image_size=config.image_size)
    device = torch.device("cpu")
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=config.precision == "bf16")
    config = prepare(model, data, config, device, autocast)
    optimizer = make_optimizer(model, config)
    batch = data[0, 0]

    def train() -> float:
        began = time.perf_counter()
        for step in range(args.steps):
            learn(model, batch, optimizer, config, autocast, step)
        return args.steps * len(batch.image_rows) / (time.perf_counter() - began)

    def load() -> float:
        epochs = range(1 + 8 * args.steps // data.batches_per_epoch)
        with closing(epoch_loader(data, epochs)) as loader:
            next(loader)  # the processes have started
            began = time.perf_counter()
            images = sum(len(batch.image_rows) for batch in loader)
        return images / (time.perf_counter() - began)

    train()  # warms up
    rates = [(train(), load()) for _ in range(args.repeats)]
    return {
        "small model": median(rate for rate, _ in rates),
        "loader": median(rate for _, rate in rates),
    }


if __name__ == "__main__":
    main()
