"""What continual pre-training buys on another dataset, and which parameters should learn.

Each seed splits the target's patients into training and held-out ones, adapts a model of the
source to the former under each policy, and probes on the latter; beside it a model trained on the
target alone, and the source's model as it is. Intervals are 95 %, over held-out patients, of the
mean over seeds. Paper (SLIMP, arXiv 2505.23709, Table 14): training everything loses 3.9 to 9.8
points against training the embeddings only.

    python benchmarks/transfer.py --pairs ham10000:pad-ufes-20 synthetic:pad-ufes-20 --seeds 3
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cohorts import load_cohort, real_data
from harness import interval, record
from pooling import pool_results
from pretraining import held_out, prepare, run_baselines, shared_parser
from slimp.data.cohort import Cohort
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.paired_bootstrap import compare
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import ProbeResult
from slimp.features.embed import embed
from slimp.models.nested import Slimp
from slimp.training.adapt import adapt
from slimp.training.build_model import build_model
from slimp.training.config import AdaptConfig, PretrainConfig, RunConfig, part_of
from slimp.training.loop import pretrain

POLICIES = ("embeddings", "heads", "full")
ARMS = ("random", "scratch", "as it is", *POLICIES, "metadata_only", "majority")
SAME = {
    "ham10000:pad-ufes-20": {"gender": "sex", "region": "localization"},
    "pad-ufes-20:ham10000": {"sex": "gender", "localization": "region"},
}
"""Features that two datasets hold under different names: target -> source."""


def main() -> None:
    args = parse()
    cohorts = {name: load_cohort(name) for name in names_of(args.pairs)}
    for name, cohort in cohorts.items():
        print(f"{name}: {cohort}")
    found: dict[tuple[str, str], list[ProbeResult]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            runs = {
                name: train(
                    cohorts[name], args, seed, Path(folder) / f"{name}_{seed}".replace("/", "_")
                )
                for name in names_of(args.pairs)
            }
            for pair in args.pairs:
                began = time.perf_counter()
                for arm, features, result in run_pair(pair, cohorts, runs, args, seed):
                    found.setdefault((f"{pair} {arm}", features), []).append(result)
                    score = result.balanced_accuracy.mean
                    print(
                        f"  seed {seed}  {pair:26s} {arm:14s} {features:6s} {score:.3f}", flush=True
                    )
                print(f"seed {seed}, {pair}: {time.perf_counter() - began:.0f} s", flush=True)
    rows = [row for pair in args.pairs for row in rows_of(pair, found)]
    show(rows)
    summary = {"pairs": args.pairs, "seeds": args.seeds, "steps": args.steps}
    summary |= {"adapt_steps": args.adapt_steps, "learning_rate": args.learning_rate, "rows": rows}
    if args.out:
        record(args.out, summary, "transfer.py", preset=args.preset, changed=args.set)
    print(json.dumps(summary))


def parse() -> argparse.Namespace:
    pairs = ["synthetic:synthetic-clinic"]
    if real_data():
        pairs = [*SAME, "synthetic:pad-ufes-20", "synthetic:ham10000"]
    parser = shared_parser(__doc__, seeds=3, steps=300, preset="tiny")
    parser.add_argument("--pairs", nargs="*", default=pairs, metavar="SOURCE:TARGET")
    parser.add_argument("--adapt-steps", type=int, default=200, help="steps of an adaptation")
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=AdaptConfig.learning_rate,
        help="peak, of adaptations; by default that of slimp adapt",
    )
    args = parser.parse_args()
    if args.quick:
        args.preset, args.steps, args.adapt_steps, args.seeds = "tiny", 10, 5, 1
        args.pairs = args.pairs[:1]
    return args


def names_of(pairs: list[str]) -> list[str]:
    return list(dict.fromkeys(name for pair in pairs for name in pair.split(":")))


def train(cohort: Cohort, args: argparse.Namespace, seed: int, out: Path) -> Path:
    """A run on one cohort: the source's model, and 'scratch' where it is the target."""
    config, _ = prepare(cohort, args, seed)
    pretrain(cohort, config, out)
    return out


def run_pair(
    pair: str,
    cohorts: dict[str, Cohort],
    runs: dict[str, Path],
    args: argparse.Namespace,
    seed: int,
) -> list[tuple[str, str, ProbeResult]]:
    """Arm, feature set and result of everything on one target."""
    source, target = pair.split(":")
    cohort = cohorts[target]
    config, parts = prepare(cohort, args, seed)
    torch.manual_seed(seed)
    models = {
        "random": build_model(parts.train, config).eval(),
        "scratch": Slimp.from_pretrained(runs[target]),
        "as it is": Slimp.from_pretrained(runs[source]),
    }
    for policy in POLICIES:
        with tempfile.TemporaryDirectory() as folder:
            settings = adaptation(config, parts.train, policy, SAME.get(pair, {}), args)
            models[policy] = adapt(runs[source], cohort, settings, Path(folder) / "run")
    results = []
    for arm, model in models.items():
        table = embed(model, cohort, lacking="missing")
        for features in ("image", "full"):
            asked = ProbeConfig(features=features, seed=seed, replicates=1)  # type: ignore[arg-type]
            results.append((arm, features, probe(table, asked, parts=held_out(cohort, parts))))
    baselines = run_baselines(cohort, config, parts)
    return [*results, *((name, "full", baseline) for name, baseline in baselines.items())]


def adaptation(
    config: PretrainConfig,
    train: Cohort,
    policy: str,
    same: dict[str, str],
    args: argparse.Namespace,
) -> AdaptConfig:
    """As the target's own training, but of `policy` and with fewer steps."""
    per_epoch = -(-len(train.patients) // config.patients)
    shared = dataclasses.asdict(part_of(config, RunConfig))
    shared |= {
        "epochs": max(1, round(args.adapt_steps / per_epoch)),
        "learning_rate": args.learning_rate,
    }
    return AdaptConfig(**shared, train=policy, rename=same)  # type: ignore[arg-type]


def rows_of(pair: str, found: dict[tuple[str, str], list[ProbeResult]]) -> list[dict[str, Any]]:
    """A row per arm; adaptations are compared with `embeddings` on the same patients."""
    rows = []
    for arm in ARMS:
        row: dict[str, Any] = {"pair": pair, "arm": arm}
        for features in ("image", "full"):
            if results := found.get((f"{pair} {arm}", features)):
                row[features] = pool_results(results).balanced_accuracy.to_dict()
                if arm in ("scratch", "as it is", "heads", "full"):
                    row[f"{features}_minus_embeddings"] = against(
                        results, found[f"{pair} embeddings", features]
                    )
        rows.append(row)
    return rows


def against(ours: list[ProbeResult], theirs: list[ProbeResult]) -> dict[str, Any]:
    """Difference in balanced accuracy on the same patients, with interval and p-value."""
    a, b = (pd.concat([result.predictions for result in side]) for side in (ours, theirs))
    found = compare(a, b).differences["balanced_accuracy"]
    return {"mean": found.difference, "ci95": list(found.ci95), "p": found.p_value}


def show(rows: list[dict[str, Any]]) -> None:
    heads = f"{'image':>22s} {'full':>22s} {'full: minus embeddings':>26s}"
    print(f"\n{'source:target':26s} {'arm':14s} {heads}")
    for row in rows:
        cells = [interval(row.get(name)) for name in ("image", "full", "full_minus_embeddings")]
        print(f"{row['pair']:26s} {row['arm']:14s} {cells[0]:>22s} {cells[1]:>22s} {cells[2]:>26s}")


if __name__ == "__main__":
    main()
