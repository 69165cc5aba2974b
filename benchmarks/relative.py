"""What the patient's other lesions add to a lesion's own features: `relative` minus `full`.

On drawn cohorts with and without ugly ducklings (melanomas that are nevi in every respect but the
comparison with their patient's), a cohort per seed; or on a real one, a split per seed. The encoder
is pre-trained on patients who do not test, or with --encoder imagenet a frozen EfficientNet-Lite0.
Intervals are 95 %, paired, over held-out patients. Goals: at least +0.05 with, -0.01 without.

    python benchmarks/relative.py --cohort ducklings synthetic --seeds 3
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

from cohorts import load_cohort
from harness import record
from pretraining import held_out, prepare, shared_parser
from slimp.data.cohort import Cohort
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.paired_bootstrap import compare
from slimp.evaluation.probe_config import ProbeConfig
from slimp.features.embed import embed
from slimp.models.nested import Slimp
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.loop import pretrain
from slimp.training.parts import Parts

DRAWN = {"ducklings": 0.8, "synthetic": 0.0}
"""Share of ugly ducklings among the melanomas of a drawn cohort."""
ARMS = ("image", "full", "relative")


def main() -> None:
    args = parse()
    summary = {name: measure(name, args) for name in args.cohort}
    if args.out:
        config, _ = prepare(cohort_of(args.cohort[-1], args, 0), args, 0)
        record(args.out, summary, "relative.py", config=dataclasses.asdict(config))
    print(json.dumps(summary))


def parse() -> argparse.Namespace:
    parser = shared_parser(__doc__, seeds=3, steps=200, preset="tiny")
    parser.set_defaults(cohort=list(DRAWN))
    next(a for a in parser._actions if a.dest == "cohort").nargs = "*"
    parser.add_argument("--encoder", default="pretrained", choices=["pretrained", "imagenet"])
    parser.add_argument("--patients", type=int, default=250, help="of a drawn cohort")
    parser.add_argument("--lesions", type=int, default=10, help="of a drawn patient, mean")
    args = parser.parse_args()
    if args.quick:
        args.preset, args.steps, args.seeds, args.patients = "tiny", 10, 1, 60
    return args


def cohort_of(name: str, args: argparse.Namespace, seed: int) -> Cohort:
    if name not in DRAWN:
        return load_cohort(name)
    return synthesize(
        SyntheticConfig(
            patients=args.patients,
            lesions=args.lesions,
            seed=seed,
            ugly_duckling=DRAWN[name],
            signature_spread=0.35,  # wide: the pigment shows in the noted colour, patterns do not
        )
    )


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Balanced accuracy per feature set, and `relative` minus `full`."""
    said: dict[str, list[pd.DataFrame]] = {arm: [] for arm in ARMS}
    for seed in range(args.seeds):
        began, cohort = time.perf_counter(), cohort_of(name, args, seed)
        config, parts = prepare(cohort, args, seed)
        table, column = embed(encoder(cohort, parts, config, args), cohort), held_out(cohort, parts)
        for arm in ARMS:
            settings = ProbeConfig(features=arm, seed=seed, replicates=1)  # type: ignore[arg-type]
            result = probe(table, settings, parts=column)
            said[arm].append(result.predictions.assign(seed=seed))
            print(f"  {name} seed {seed}  {arm:9s} {result.balanced_accuracy.mean:.3f}")
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    rows = {arm: pd.concat(frames, ignore_index=True) for arm, frames in said.items()}
    found = compare(rows["relative"], rows["full"]).differences["balanced_accuracy"]
    image = compare(rows["full"], rows["image"]).differences["balanced_accuracy"]
    low, high = found.ci95
    print(f"{name}: relative - full {found.difference:+.3f} [{low:+.3f}, {high:+.3f}]", flush=True)
    return {
        **{"image": image.b, "full": found.b, "relative": found.a},
        **{"difference": found.difference, "ci95": found.ci95, "seeds": args.seeds},
    }


def encoder(
    cohort: Cohort, parts: Parts, config: PretrainConfig, args: argparse.Namespace
) -> Slimp:
    if args.encoder == "imagenet":  # and untrained encoders of the tables
        frozen = {"encoder": "tf_efficientnet_lite0", "encoder_weights": "efficientnet-lite0"}
        return build_model(parts.train, dataclasses.replace(config, encoder_options={}, **frozen))
    with tempfile.TemporaryDirectory() as folder:
        return pretrain(cohort, config, Path(folder) / "run")


if __name__ == "__main__":
    main()
