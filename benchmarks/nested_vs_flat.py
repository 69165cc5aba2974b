"""Nested against flat and against its controls, from scratch, on the same patients and budget.

Each seed splits patients into training and held-out ones, trains every arm on the former, and
probes on the latter. Intervals are 95 %, over held-out patients, of the mean over seeds. Paper
(SLIMP, arXiv 2505.23709, Table 3): nested is ahead of flat by 3.5 to 6.8 points.

    python benchmarks/nested_vs_flat.py --cohort pad-ufes-20 --seeds 3
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from cohorts import load_cohort, shuffle_metadata
from harness import record
from pooling import pool_results
from pretraining import held_out, prepare, run_baselines, shared_parser
from slimp.data.cohort import Cohort
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import ProbeResult
from slimp.features.embed import embed
from slimp.training.config import PretrainConfig
from slimp.training.loop import pretrain
from slimp.training.parts import Parts
from supervised import train_supervised

ARMS: dict[str, dict[str, Any]] = {
    "nested": {},
    "flat": {"hierarchy": "flat", "lesion_weight": 1.0, "patient_weight": 0.0},
    "lesion_only": {"lesion_weight": 1.0, "patient_weight": 0.0},  # lambda = 1
    "nested_view": {"view_weight": 1.0},
    "view_only": {"view_weight": 1.0, "lesion_weight": 0.0, "patient_weight": 0.0},
    # Images of one patient are positives, no metadata (HiDisc, PMC10468966).
    "same_patient": {
        **{"view_weight": 1.0, "view_positives": "patient"},
        **{"lesion_weight": 0.0, "patient_weight": 0.0},
    },
    "shuffled": {},  # nested, with the metadata of other patients
    "supervised": {},
}
BASELINES = ("metadata_only", "majority")


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
        for name, baseline in run_baselines(cohort, config, parts).items():
            results.setdefault(name, {}).setdefault("full", []).append(baseline)
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


def run_arm(
    arm: str, cohort: Cohort, config: PretrainConfig, parts: Parts
) -> dict[str, ProbeResult]:
    config = dataclasses.replace(config, **ARMS[arm])
    if arm == "supervised":
        model = train_supervised(parts.train, config)
    else:
        with tempfile.TemporaryDirectory() as folder:
            learned_from = shuffle_metadata(cohort, config.seed) if arm == "shuffled" else cohort
            model = pretrain(learned_from, config, Path(folder) / "run")
    table = embed(model, cohort)
    return {
        features: probe(
            table,
            ProbeConfig(features=features, seed=config.seed, replicates=1),  # type: ignore[arg-type]
            parts=held_out(cohort, parts),
        )
        for features in ("image", "full")
    }


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


if __name__ == "__main__":
    main()
