"""How probes, held-out loss and recall move with the steps, with and without feature dropout.

Metadata encoders memorise a small cohort: training loss keeps falling while features of unseen
patients get worse. One run per dropout and seed; its checkpoints are probed on patients that
pre-training never saw.

    python benchmarks/memorisation.py --cohort pad-ufes-20 --dropouts 0 0.3
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cohorts import load_cohort
from harness import record
from pretraining import held_out, setting, shared_parser
from slimp.data.cohort import Cohort
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.probe_config import ProbeConfig
from slimp.features.embed import embed
from slimp.models.nested import Slimp
from slimp.models.persistence import read_tensors
from slimp.training.config import PretrainConfig
from slimp.training.loop import pretrain
from slimp.training.parts import Parts, set_aside
from slimp.training.run_folder import read_log


def main() -> None:
    args = parse()
    cohort = load_cohort(args.cohort)
    print(cohort, flush=True)
    rows = []
    for seed in range(args.seeds):
        for dropout in args.dropouts:
            rows += curve(cohort, args, dropout, seed)
    summary = {"cohort": args.cohort, "seeds": args.seeds, "curves": mean_over_seeds(rows)}
    show(summary["curves"])
    if args.out:
        record(args.out, summary, "memorisation.py")
    print(json.dumps(summary))


def parse() -> argparse.Namespace:
    parser = shared_parser(__doc__, seeds=1, steps=600, preset="small")
    parser.add_argument("--dropouts", type=float, nargs="*", default=[0.0, 0.3])
    parser.add_argument("--every", type=int, default=100, help="steps between probes")
    args = parser.parse_args()
    if args.quick:
        args.preset, args.steps, args.every = "tiny", 20, 10
    return args


def curve(
    cohort: Cohort, args: argparse.Namespace, dropout: float, seed: int
) -> list[dict[str, Any]]:
    """A row per probed checkpoint."""
    changes = dict(setting(item) for item in args.set)
    config = PretrainConfig.from_preset(
        args.preset,
        **{
            "seed": seed,
            "feature_dropout": dropout,
            "held_out_fraction": 0.25,
            "validate_every": 1,
            "checkpoint_every_steps": args.every,
            "keep_checkpoints": 1000,
            **changes,
        },
    )
    parts = set_aside(cohort, config)
    per_epoch = -(-len(parts.train.patients) // config.patients)
    config = dataclasses.replace(
        config,
        epochs=max(1, round(args.steps / per_epoch)),
        validate_every=max(1, args.every // per_epoch),
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        model = pretrain(cohort, config, run)
        log = read_log(run)
        rows = []
        for checkpoint in sorted((run / "checkpoints").iterdir()):
            step = int(checkpoint.name.removeprefix("step_"))
            tensors = read_tensors(checkpoint / "tensors.safetensors")
            prefix = "model."
            model.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
            row = {"seed": seed, "dropout": dropout, "step": step}
            row |= probes(model, cohort, parts, config) | logged(log, step)
            print("  " + "  ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
            rows.append(row)
    return rows


def probes(model: Slimp, cohort: Cohort, parts: Parts, config: PretrainConfig) -> dict[str, float]:
    table, column = embed(model, cohort), held_out(cohort, parts)
    scores = {}
    for features in ("image", "image+lesion", "full"):
        settings = ProbeConfig(features=features, seed=config.seed, replicates=1)
        result = probe(table, settings, parts=column)
        scores[features] = result.balanced_accuracy.mean
    return scores


def logged(log: list[dict[str, Any]], step: int) -> dict[str, float]:
    """Losses at a step, and the last validation up to it."""
    steps = [row for row in log if row["kind"] == "step" and row["step"] <= step]
    validations = [row for row in log if row["kind"] == "epoch" and row["step"] <= step]
    found = {"training_loss": float(np.mean([row["loss"] for row in steps[-20:]]))}
    for name in ("validation_loss", "recall_at_5", "knn_balanced_accuracy"):
        if validations and name in validations[-1]:
            found[name] = validations[-1][name]
    return found


def mean_over_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = sorted({(row["dropout"], row["step"]) for row in rows})
    means = []
    for dropout, step in keys:
        same = [row for row in rows if (row["dropout"], row["step"]) == (dropout, step)]
        names = [name for name in same[0] if name not in ("seed", "dropout", "step")]
        values = {name: float(np.mean([row[name] for row in same])) for name in names}
        means.append({"dropout": dropout, "step": step, **values})
    return means


def show(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    print("\n" + "  ".join(f"{name:>14s}" for name in names))
    for row in rows:
        print("  ".join(f"{row[name]:14.3f}" for name in names))


if __name__ == "__main__":
    main()
