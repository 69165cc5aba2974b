"""Opening the lesion explorer on a large cohort, and asking it for nearest cases.

A cohort of 400,000 drawn lesions with 40 columns of metadata and embeddings of the paper's widths,
stored as the first start leaves them. Opening (without the import of torch and the rest, which is
timed apart) and asking happen in a fresh process. Processor seconds stand beside the clock's: they
do not depend on what else the machine does. Linux only, for the peak of memory.

    python benchmarks/app.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from harness import plain_parser, record
from reads import write_large
from slimp.app.open import Sources, open_explorer
from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.features.embed import FeatureTable
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp

WIDTHS = {"image": 384, "lesion": 128}
ASK = """
import json, resource, sys, time
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime
began = used()
from contextlib import nullcontext
from pathlib import Path
import numpy as np
import torch
from slimp.app.open import Sources, open_explorer

imported = np.subtract(used(), began)
torch.set_num_threads(int(sys.argv[3]))
began = used()
run, cohort = Path(sys.argv[1]), Path(sys.argv[2])
explorer = open_explorer(
    Sources(run=run, cohort=cohort), lambda title: nullcontext(lambda done, total: None)
)
explorer.describe()
opened = np.subtract(used(), began)
rng, asked = np.random.default_rng(0), {}
for space in explorer.embedded.spaces:
    times = []
    for row in rng.integers(len(explorer.cohort), size=21).tolist():
        began = used()
        explorer.neighbours(row, space, 12)
        times.append(np.subtract(used(), began))
    asked[space] = [*(1000 * np.median(times[1:], axis=0)).tolist(), 1000 * times[0][0]]
# Not ru_maxrss: a child process begins with its parent's.
status = Path("/proc/self/status").read_text()
peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
times = {"imported": imported.tolist(), "opened": opened.tolist()}
print(json.dumps({**times, "asked": asked, "peak_mib": peak}))
"""


def main() -> None:
    parser = plain_parser(__doc__, quick="20,000 lesions")
    parser.add_argument("--rows", type=int, default=400_000, help="lesions")
    args = parser.parse_args()
    rows = 20_000 if args.quick else args.rows
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), rows)
    (clock, cpu), asked = found["opened"], found["asked"]
    print(f"{rows:,} lesions, 40 columns, embeddings of {WIDTHS}")
    (before, of_it) = found["imported"]
    print(f"{'imports':24s} {before:8.2f} s    {of_it:8.2f} s of a processor")
    print(f"{'opening':24s} {clock:8.2f} s    {cpu:8.2f} s of a processor")
    for space, (each, own, first) in asked.items():
        name = f"12 nearest, {space}"
        print(f"{name:24s} {each:8.0f} ms   {own:8.0f} ms of a processor, the first {first:.0f} ms")
    print(f"{'peak memory':24s} {found['peak_mib']:8.0f} MiB")
    result = {
        "lesions": rows,
        "open_seconds": clock,
        "open_cpu_seconds": cpu,
        "import_seconds": before,
        "import_cpu_seconds": of_it,
        "neighbour_ms": {space: of[0] for space, of in asked.items()},
        "neighbour_cpu_ms": {space: of[1] for space, of in asked.items()},
        "peak_mib": found["peak_mib"],
    }
    if args.out:
        record(args.out, result, "app.py")
    print(json.dumps(result))


def measure(folder: Path, rows: int) -> dict[str, Any]:
    """Stores what a first start leaves, and asks a second one."""
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}
    write_large(folder / "cohort", rows)
    cohort = Cohort.load(folder / "cohort")
    level = cohort.schema.level("lesion")
    encodings = {"lesion": Encoding.fit(level, cohort.lesions.iloc[:1000])}
    Slimp(ModelConfig(encoder="vit_small_patch16_224"), encodings).save_pretrained(folder / "run")
    rng = np.random.default_rng(0)
    features = {
        name: rng.standard_normal((rows, width), dtype=np.float32)
        for name, width in {**WIDTHS, "outlier": 4}.items()
    }
    table = FeatureTable(ids=cohort.images, features=features)
    with (
        mock.patch("slimp.app.embeddings.embed", return_value=table),
        mock.patch.dict(os.environ, cache),
    ):
        open_explorer(
            Sources(run=folder / "run", cohort=folder / "cohort"),
            lambda title: nullcontext(lambda done, total: None),
        )
    del table, features, cohort
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-c", ASK, str(folder / "run"), str(folder / "cohort"), threads]
    answer = subprocess.check_output(command, text=True, env={**os.environ, **cache})
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
