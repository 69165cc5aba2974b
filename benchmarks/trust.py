"""Can the figures be trusted? Baselines, matching pairs, calibration and coverage, held out.

Each seed pre-trains on the training patients and tests on patients that it never saw: image and
full features against both baselines; cosines of matching and other pairs (paper, SLIMP arXiv
2505.23709, Table 4: medians 0.836 and -0.006); ECE and Brier score;
and the coverage of conformal sets, calibrated on half of the held-out patients and tested on the
other half (interval over patients, ends averaged over seeds).

    python benchmarks/trust.py --cohorts pad-ufes-20 ham10000 synthetic --seeds 3
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cohorts import load_cohort, real_data
from harness import interval, plain_parser, record
from pooling import pool_results
from pretraining import held_out, prepare, run_baselines
from slimp.data.cohort import Cohort
from slimp.evaluation.conformal import verified_coverage
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Predictions, ProbeResult
from slimp.evaluation.similarity import similarity_by_level
from slimp.features.embed import embed
from slimp.training.loop import pretrain

COVERAGES = (0.8, 0.9, 0.95)
METRICS = ("balanced_accuracy", "ece", "brier")


def main() -> None:
    args = parse()
    rows = [row for name in args.cohorts for row in of_cohort(name, args)]
    show(rows)
    summary = {"cohorts": args.cohorts, "seeds": args.seeds, "steps": args.steps, "rows": rows}
    if args.out:
        record(args.out, summary, "trust.py", preset=args.preset, changed=args.set)
    print(json.dumps(summary))


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="a minute: few steps, one seed, one cohort")
    real = ["pad-ufes-20", "ham10000"] if real_data() else []
    parser.add_argument("--cohorts", nargs="*", default=[*real, "synthetic"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps per run")
    parser.add_argument("--preset", default="tiny", choices=["tiny", "small", "vit-s"])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="settings")
    args = parser.parse_args()
    if args.quick:
        args.preset, args.steps, args.seeds, args.cohorts = "tiny", 20, 1, args.cohorts[:1]
    return args


def of_cohort(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per figure: cohort, what, and its mean over seeds with an interval over patients."""
    cohort = load_cohort(name)
    print(f"{name}: {cohort}", flush=True)
    probes: dict[str, list[ProbeResult]] = {}
    pairs: list[dict[str, float]] = []
    coverage: list[dict[str, float]] = []
    for seed in range(args.seeds):
        began = time.perf_counter()
        found, meeting = run_seed(cohort, args, seed)
        for feature_set, result in found.items():
            probes.setdefault(feature_set, []).append(result)
        pairs.append(meeting)
        coverage.append(coverages(found["full"]))
        print(f"  seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    rows = []
    for feature_set, results in probes.items():
        pooled = pool_results(results)
        for metric in METRICS if feature_set == "full" else METRICS[:1]:
            what = f"{feature_set}, {metric.replace('_', ' ')}"
            rows.append({"cohort": name, "what": what, **pooled.metrics[metric].to_dict()})
    for table in (pairs, coverage):
        rows += [{"cohort": name, "what": what, **over_seeds(table, what)} for what in table[0]]
    return rows


def run_seed(
    cohort: Cohort, args: argparse.Namespace, seed: int
) -> tuple[dict[str, ProbeResult], dict[str, float]]:
    """Probes and baselines, and cosines of matching and other pairs, on held-out patients."""
    config, parts = prepare(cohort, args, seed)
    with tempfile.TemporaryDirectory() as folder:
        model = pretrain(cohort, config, Path(folder) / "run")
    table, column = embed(model, cohort), held_out(cohort, parts)
    found = {
        features: probe(
            table,
            ProbeConfig(features=features, seed=seed, replicates=1),  # type: ignore[arg-type]
            parts=column,
        )
        for features in ("image", "full")
    }
    found |= run_baselines(cohort, config, parts)
    meeting: dict[str, float] = {}
    assert parts.held_out is not None
    unseen = table.select(column == "held_out").features["image"]
    for level, pair in similarity_by_level(model, parts.held_out, unseen).items():
        meeting |= {
            f"{level}, median of matching pairs": pair.median_matching,
            f"{level}, median of other pairs": pair.median_nonmatching,
            f"{level}, overlap": pair.overlap,
            f"{level}, AUROC of pairs": pair.auroc,
        }
    return found, meeting


def coverages(result: ProbeResult) -> dict[str, float]:
    """Coverage and size of the sets by nominal coverage, one threshold and one per class."""
    said = Predictions.of_rows(result.predictions, result.classes)
    found = {}
    for nominal in COVERAGES:
        for per_class in (False, True):
            verified = verified_coverage(said, nominal, per_class=per_class, replicates=500)
            of = "threshold per class" if per_class else "one threshold"
            found[f"coverage at {nominal:.0%}, {of}"] = verified.coverage.mean
            found[f"coverage at {nominal:.0%}, {of}: lower end"] = verified.coverage.ci95[0]
            found[f"coverage at {nominal:.0%}, {of}: upper end"] = verified.coverage.ci95[1]
            found[f"classes in a set at {nominal:.0%}, {of}"] = verified.set_size.mean
    return found


def over_seeds(table: list[dict[str, float]], what: str) -> dict[str, Any]:
    """Mean and range over seeds, each of which holds other patients out."""
    values = [row[what] for row in table]
    return {"mean": float(np.mean(values)), "per_seed": values}


def show(rows: list[dict[str, Any]]) -> None:
    print()
    for row in rows:
        text = interval(row) if "ci95" in row else f"{row['mean']:.3f}"
        seeds = ", ".join(f"{value:.3f}" for value in row["per_seed"])
        print(f"{row['cohort']:14s} {row['what']:44s} {text:>24s}   {seeds}")


if __name__ == "__main__":
    main()
