"""Nested against flat and against its controls, from scratch, on the same patients and budget.

Each seed deals patients into training and held-out ones, trains every arm on the former, and
probes on the latter. Intervals are 95 %, over held-out patients, of the mean over seeds. Paper
(SLIMP, arXiv 2505.23709, Table 3): nested is ahead of flat by 3.5 to 6.8 points.

    python benchmarks/nested_vs_flat.py --cohort pad-ufes-20 --seeds 3
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from slimp.baselines.floor import majority, metadata_floor
from slimp.baselines.supervised import train_supervised
from slimp.cohort import Cohort
from slimp.config import PretrainConfig
from slimp.evaluate.features import embed
from slimp.evaluate.linear_probe import probe
from slimp.evaluate.pooling import pool_results
from slimp.evaluate.probe_config import ProbeConfig
from slimp.evaluate.result import ProbeResult
from slimp.held_out import Parts, set_aside
from slimp.runs import versions
from slimp.sources import import_source
from slimp.sources.synthetic import SyntheticConfig, synthesize
from slimp.train import pretrain

ARMS: dict[str, dict[str, Any]] = {
    "nested": {},
    "flat": {"hierarchy": "flat", "lesion_weight": 1.0, "patient_weight": 0.0},
    "lesion_only": {"lesion_weight": 1.0, "patient_weight": 0.0},
    "nested_view": {"view_weight": 1.0},
    "view_only": {"view_weight": 1.0, "lesion_weight": 0.0, "patient_weight": 0.0},
    "supervised": {},
}
FLOORS = ("metadata_only", "majority")
SYNTHETIC = {
    "synthetic": SyntheticConfig(patients=400, lesions=4),
    "synthetic-clinic": SyntheticConfig(
        patients=300, lesions=2, seed=1, nuisance_columns=2, clinic_cast=0.12
    ),
}
"""Drawn cohorts: the reference, and a clinic with other people, cameras and columns."""
REAL = {"pad-ufes-20": "pad-ufes-20", "ham10000": "ham10000"}


def main() -> None:
    args = parse()
    cohort = load_cohort(args.cohort)
    arms = [arm for arm in ARMS if args.arms is None or arm in args.arms]
    print(f"{cohort}; {args.seeds} seeds, {args.steps} steps, arms: {', '.join(arms)}")
    results: dict[str, dict[str, list[ProbeResult]]] = {}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        began = time.perf_counter()
        config, parts = prepare(cohort, args, seed)
        for arm in arms:
            for features, result in run_arm(arm, cohort, config, parts).items():
                results.setdefault(arm, {}).setdefault(features, []).append(result)
            show_seed(seed, arm, results[arm])
        for name, floor in run_floors(cohort, config, parts).items():
            results.setdefault(name, {}).setdefault("full", []).append(floor)
            show_seed(seed, name, results[name])
        print(f"seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    pooled = {
        arm: {features: pool_results(found) for features, found in by_features.items()}
        for arm, by_features in results.items()
    }
    show_table(pooled)
    summary = summarise(args, pooled)
    if args.out:
        record(args.out, summary, "nested_vs_flat.py", config=dataclasses.asdict(config))
    print(json.dumps(summary))


def parse() -> argparse.Namespace:
    parser = shared_parser(__doc__, seeds=3, steps=300, preset="tiny")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS))
    args = parser.parse_args()
    if args.quick:
        args.preset, args.steps, args.seeds = "tiny", 20, 1
    return args


def shared_parser(
    description: str | None, *, seeds: int, steps: int, preset: str
) -> argparse.ArgumentParser:
    """The arguments that benchmarks of pre-training have in common."""
    parser = plain_parser(description, quick="a minute: tiny model, few steps")
    add_cohort(parser, real="pad-ufes-20")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--steps", type=int, default=steps, help="optimizer steps per run")
    parser.add_argument("--preset", default=preset, choices=["tiny", "small", "vit-s"])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="settings")
    return parser


def plain_parser(description: str | None, *, quick: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks have; `quick` says what the short run leaves out."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, help="also write the result there, as JSON")
    return parser


def add_cohort(parser: argparse.ArgumentParser, *, real: str) -> None:
    """`--cohort`, by default a real one where there are any."""
    parser.add_argument(
        "--cohort",
        default=real if real_data() else "synthetic",
        help="synthetic, synthetic-clinic, pad-ufes-20, ham10000 or a cohort folder",
    )


def last_line_of(script: str | Path, *flags: str) -> dict[str, Any]:
    """What a benchmark prints last, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(script), *flags], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def real_data() -> Path | None:
    """The folder with real images, where there is one."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SLIMP_TEST_DATA", beside))
    return folder if (folder / "README.md").is_file() else None


def load_cohort(name: str) -> Cohort:
    if name in SYNTHETIC:
        return synthesize(SYNTHETIC[name])
    if name not in REAL:
        return Cohort.load(name)
    if (data := real_data()) is None:
        sys.exit(f"no real data for {name}: set SLIMP_TEST_DATA, or pass a cohort folder")
    folder = Path(tempfile.mkdtemp()) / name
    return import_source(name, data / REAL[name], folder)


def prepare(cohort: Cohort, args: argparse.Namespace, seed: int) -> tuple[PretrainConfig, Parts]:
    """Settings and parts of one seed; epochs are chosen so that the steps add up."""
    changes = {"validation_fraction": 0.0, "held_out_fraction": 0.25, "seed": seed}
    changes |= dict(setting(item) for item in args.set)
    config = PretrainConfig.from_preset(args.preset, **changes)
    parts = set_aside(cohort, config)
    per_epoch = -(-len(parts.train.patients) // config.patients)
    return dataclasses.replace(config, epochs=max(1, round(args.steps / per_epoch))), parts


def setting(item: str) -> tuple[str, Any]:
    """Field and value of FIELD=VALUE; a value that is no JSON is a string."""
    field, _, value = item.partition("=")
    try:
        return field, json.loads(value)
    except json.JSONDecodeError:
        return field, value


def run_arm(
    arm: str, cohort: Cohort, config: PretrainConfig, parts: Parts
) -> dict[str, ProbeResult]:
    config = dataclasses.replace(config, **ARMS[arm])
    if arm == "supervised":
        model = train_supervised(parts.train, config)
    else:
        with tempfile.TemporaryDirectory() as folder:
            model = pretrain(cohort, config, Path(folder) / "run")
    table = embed(model, cohort)
    return {
        features: probe(
            table,
            ProbeConfig(features=features, seed=config.seed, replicates=1),  # type: ignore[arg-type]
            parts=held_out(cohort, parts),
        )
        for features in ("image", "full")
    }


def run_floors(cohort: Cohort, config: PretrainConfig, parts: Parts) -> dict[str, ProbeResult]:
    settings, column = ProbeConfig(seed=config.seed, replicates=1), held_out(cohort, parts)
    return {
        "metadata_only": metadata_floor(cohort, settings, parts=column).best,
        "majority": majority(cohort.images, settings, parts=column),
    }


def held_out(cohort: Cohort, parts: Parts) -> np.ndarray:
    assert parts.held_out is not None
    tests = cohort.images["patient_id"].isin(parts.held_out.patients["patient_id"])
    return np.where(tests, "held_out", "train")


def show_seed(seed: int, arm: str, found: dict[str, list[ProbeResult]]) -> None:
    scores = "  ".join(f"{k} {v[-1].balanced_accuracy.mean:.3f}" for k, v in found.items())
    print(f"  seed {seed}  {arm:14s} {scores}", flush=True)


def show_table(pooled: dict[str, dict[str, ProbeResult]]) -> None:
    print(f"\n{'balanced accuracy':18s} {'image':>24s} {'full':>24s}")
    for arm, by_features in pooled.items():
        cells = [
            str(by_features[name].balanced_accuracy) if name in by_features else "-"
            for name in ("image", "full")
        ]
        print(f"{arm:18s} {cells[0]:>24s} {cells[1]:>24s}")


def summarise(
    args: argparse.Namespace, pooled: dict[str, dict[str, ProbeResult]]
) -> dict[str, Any]:
    arms = {
        arm: {name: result.balanced_accuracy.to_dict() for name, result in by_features.items()}
        for arm, by_features in pooled.items()
    }
    return {"cohort": args.cohort, "seeds": args.seeds, **arms}


def record(path: Path, result: dict[str, Any], script: str, **more: Any) -> None:
    """Writes a result with what it takes to repeat it."""
    content = {
        "command": f"python benchmarks/{script} " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{os.cpu_count()} CPU cores, {cpu_name()}",
        "versions": versions(),
        **more,
        "result": result,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def cpu_name() -> str:
    flags = Path("/proc/cpuinfo")
    text = flags.read_text() if flags.is_file() else ""
    fast = [name for name in ("amx_bf16", "avx512_bf16", "avx2") if name in text]
    return f"{platform.machine()} {' '.join(fast)}"


if __name__ == "__main__":
    main()
