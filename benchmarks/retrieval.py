"""10,000 queries against 400,000 rows of 384: the exact search, and what else one might do.

Each way runs in a process of its own, so that its peak memory can be read, after a small search
that warms it up; ways take turns. The baseline is what one would write: fp32 products of blocks
of queries with all rows, and PyTorch's top-k. Ours scores in bf16 where that is fast, and proves
that its answer is the exact one. FAISS's exact index is timed where it is installed.

The rows are drawn to resemble embeddings: patients with lesions, all in one cone, most of the
variance in few directions. Metadata embeddings differ in one respect, many equal rows, so there
is a second table with each row 20 times.

    python benchmarks/retrieval.py
    python benchmarks/retrieval.py --neighbours 1 --quick
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from harness import last_line_of, plain_parser, record
from slimp.features.nearest import Neighbours, nearest
from step import used_mib

WIDTH = 384
LESIONS = 400
"""Per patient, as in SLICE-3D."""
BASELINE_BATCH = 256
"""Queries at once; 400,000 scores of each are 390 MiB."""


def main() -> None:
    args = parse()
    if args.way:
        print(json.dumps(draw(args) if args.way == "draw" else search(args)))
        return
    result: dict[str, Any] = {
        "queries": args.queries,
        "reference": args.reference,
        "neighbours": args.neighbours,
    }
    for copies in (1,) if args.quick else (1, 20):
        rows = compare(args, copies)
        show(f"{copies} of each row" if copies > 1 else "all rows different", rows)
        result["ways" if copies == 1 else "ways_of_20_copies"] = rows
    result["speedup"] = result["ways"]["ours"]["speedup"]
    result["top1_identical"] = result["ways"]["ours"]["top1"] == 1
    result["cuda"] = "measured" if torch.cuda.is_available() else "not measured"
    print(f"GPU: {result['cuda']}")
    if args.out:
        record(args.out, result, "retrieval.py", threads=torch.get_num_threads())
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="an eighth of the rows, once; no copies")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--reference", type=int, default=400_000)
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    for name in ("way", "folder"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--copies", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.reference, args.repeats = 50_000, 1
    return args


def compare(args: argparse.Namespace, copies: int) -> dict[str, dict[str, float]]:
    """Every way on the same rows: median seconds, memory, and agreement with the baseline."""
    ways = ["ours", "fp32"]
    if copies == 1 and find_spec("faiss"):
        ways += ["faiss_flat"]
    if torch.cuda.is_available():
        ways += ["ours_cuda"]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = (*sys.argv[1:], "--folder", name, "--copies", str(copies))
        # In a process of its own too: a child's peak is never below its parent's size.
        last_line_of(__file__, *flags, "--way", "draw")
        for turn in range(args.repeats):
            for way in ways:
                if turn == 0 or not way.startswith("faiss"):
                    found[way].append(last_line_of(__file__, *flags, "--way", way))
        exact = np.load(folder / "fp32.npy")
        rows = {way: summary(some) for way, some in found.items()}
        for way in ways:
            agree = np.load(folder / f"{way}.npy")
            first = np.isclose(agree[0, :, 0], exact[0, :, 0], atol=1e-6, rtol=0)
            same = agree[1, :, 0] == exact[1, :, 0]
            # Rows that are equally near may stand in for each other in other ways than ours.
            rows[way]["top1"] = float((same if copies == 1 else first).mean())
            rows[way]["speedup"] = rows["fp32"]["seconds"] / rows[way]["seconds"]
    return rows


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: median(run[key] for run in runs) for key in runs[0]}


def draw(args: argparse.Namespace) -> dict[str, float]:
    """Writes queries and rows."""
    np.save(Path(args.folder) / "queries.npy", embeddings(args.queries, seed=1))
    few = embeddings(args.reference // args.copies, seed=0)
    np.save(Path(args.folder) / "index.npy", np.tile(few, (args.copies, 1)))
    return {}


def embeddings(rows: int, *, seed: int) -> np.ndarray:
    """Rows around a centre per patient around a common one; variance falls as 1/direction."""
    spectrum = (np.arange(1, WIDTH + 1, dtype=np.float32)) ** -0.5
    rng = np.random.default_rng(seed)
    patients = rng.standard_normal((max(1, rows // LESIONS), WIDTH), dtype=np.float32)
    x = np.empty((rows, WIDTH), np.float32)
    for first in range(0, rows, 8192):
        some = x[first : first + 8192]
        some[:] = rng.standard_normal(some.shape, dtype=np.float32)
        some += patients[rng.integers(len(patients), size=len(some))]
        some *= spectrum
        some += 2.0 * WIDTH**-0.5  # the cone's axis, the same for all
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    return x


def search(args: argparse.Namespace) -> dict[str, float]:
    """Seconds, memory and answer of one way."""
    folder = Path(args.folder)
    queries, index = np.load(folder / "queries.npy"), np.load(folder / "index.npy")
    work = WAYS[args.way](queries, index, args.neighbours)
    device = torch.device("cuda" if args.way.endswith("cuda") else "cpu")
    before = used_mib(device)
    began = time.perf_counter()
    similarity, row, more = work()
    seconds = time.perf_counter() - began
    np.save(folder / f"{args.way}.npy", np.stack([similarity, row]).astype(np.float64))
    return {"seconds": seconds, "added_mib": used_mib(device) - before, **more}


Answer = tuple[np.ndarray, np.ndarray, dict[str, float]]
Work = Callable[[], Answer]


def ours(queries: np.ndarray, index: np.ndarray, k: int, device: str = "cpu") -> Work:
    nearest(queries[:256], index[:65536], k, device=device, precision="bf16")
    nearest(queries[:256], index[:65536], k, device=device, precision="32")

    def work() -> Answer:
        found: Neighbours = nearest(queries, index, k, device=device)
        return found.similarity, found.row, {"repeated_in_fp32": found.repeated}

    return work


def fp32(queries: np.ndarray, index: np.ndarray, k: int) -> Work:
    q, x = torch.from_numpy(queries), torch.from_numpy(index)
    (q[:64] @ x[:65536].T).topk(k)

    def work() -> Answer:
        parts = [(some @ x.T).topk(k) for some in q.split(BASELINE_BATCH)]
        similarity, row = (torch.cat([p[i] for p in parts]).numpy() for i in (0, 1))
        return similarity, row, {}

    return work


def faiss_flat(queries: np.ndarray, index: np.ndarray, k: int) -> Work:
    import faiss

    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(index)
    flat.search(queries[:64], k)
    return lambda: (*flat.search(queries, k), {})


WAYS: dict[str, Callable[[np.ndarray, np.ndarray, int], Work]] = {
    "ours": ours,
    "ours_cuda": lambda q, x, k: ours(q, x, k, "cuda"),
    "fp32": fp32,
    "faiss_flat": faiss_flat,
}


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    print(f"\n{title}")
    for way, row in rows.items():
        cells = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
        print(f"  {way:12s}{cells}", flush=True)


if __name__ == "__main__":
    main()
