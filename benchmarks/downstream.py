"""What the runs of an arm of `recipe.py` are worth later: few labels, missing cells, fine-tuning.

Reads the trainings in --work, each of which has never seen the patients of its fold, beside the
same ImageNet network. All intervals are 95 %, paired, over the patients of all folds:

- low_shot: labels of 10 % of the training patients, 8 draws, image features and full; minus those
  of another arm (--against; ImageNet's unless told), and image features minus the network
  fine-tuned from ImageNet on the first draw.
- missing: the probe with metadata cells blanked at test, minus image features alone.
- finetune: end to end with metadata, started from the run and started from ImageNet.
- symmetries: image features averaged over the 8 symmetries of the square, minus the same of one.

    python benchmarks/downstream.py --cohort pad-ufes-20 --arm compact_cells --folds 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from harness import plain_parser, record
from recipe import ALL, Cell, folder_of, grouped_folds, kept_cohort, train_cell
from slimp.data.cohort import Cohort
from slimp.evaluation.fine_tuning import fine_tune
from slimp.evaluation.folds import Split
from slimp.evaluation.linear_probe import probe_design
from slimp.evaluation.low_shot import draw_fraction
from slimp.evaluation.missing_grid import missing_grid
from slimp.evaluation.paired_bootstrap import Difference, compare
from slimp.evaluation.probe_config import FullFinetuneConfig, ProbeConfig
from slimp.evaluation.result import Task, make_task
from slimp.features.design import RawTable, metadata_encoder
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig
from slimp.features.feature_table import FeatureTable
from slimp.models.nested import Slimp
from slimp.training.weights_run import as_run

DRAWS, FRACTION = 8, 0.1
FROM_IMAGENET = "weights:efficientnet-lite0@128"
CONFIG = ProbeConfig(seeds=1, replicates=1)
FEW_LABELS = FullFinetuneConfig(features="image", seeds=1, replicates=1, epochs=40, patience=0)
"""Two or three steps make an epoch of so few images."""
TUNED = FullFinetuneConfig(features="full", seeds=1, replicates=1)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    args.cells = folder_of(args.arm, args)
    cohort = kept_cohort(args)
    if args.quick:
        cell = Cell(fold=args.folds[0], seed=0)
        train_cell(cohort, grouped_folds(cohort) != cell.fold, args.arm, cell, args)
    summary = {"cohort": args.cohort, "arm": args.arm, "folds": args.folds}
    for part in args.parts:
        summary[part] = PARTS[part](cohort, grouped_folds(cohort), args)
    if args.out:
        record(args.out, summary, "downstream.py")
    print(json.dumps(summary))


def parse() -> argparse.Namespace:
    parser = plain_parser(
        __doc__, quick="low_shot of a drawn cohort, one fold and epoch, ImageNet's"
    )
    parser.add_argument("--cohort", default="pad-ufes-20")
    parser.add_argument("--arm", default="compact_cells", choices=ALL)
    parser.add_argument("--against", default="imagenet", choices=ALL, help="of low_shot")
    parser.add_argument("--folds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/recipe"))
    args = parser.parse_args()
    if args.quick:
        args.cohort, args.arm, args.parts, args.folds = "synthetic", "imagenet", ["low_shot"], [0]
    return args


def task_of(table: FeatureTable, folds: np.ndarray, fold: int) -> Task:
    """Learned from the labelled rows of the other folds; scored on this one."""
    train = np.flatnonzero((folds != fold) & (folds >= 0))
    split = Split(seed=fold, train=train, test=np.flatnonzero(folds == fold))
    return replace(make_task(table.ids, CONFIG), splits=(split,))


def low_shot(cohort: Cohort, folds: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """Draws count as seeds, so that the intervals are over patients and the mean over draws."""
    arms = {"run": args.cells, "other": folder_of(args.against, args)}
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    supervised = []
    for fold in args.folds:
        read = {
            name: replace(FeatureTable.load(cells / f"fold{fold}.parquet"), raw=RawTable.of(cohort))
            for name, cells in arms.items()
        }
        task = task_of(read["run"], folds, fold)
        for draw in range(DRAWS):
            few = drawn(task, draw)
            for (name, table), features in product(read.items(), ("image", "full")):
                said = probe_design(table.design(features), few, CONFIG, name=name).predictions
                found.setdefault((name, features), []).append(said.assign(seed=draw))
        out = args.work / args.cohort / "supervised-10-percent" / f"fold{fold}"
        config = replace(FEW_LABELS, epochs=1) if args.quick else FEW_LABELS
        supervised.append(tune(FROM_IMAGENET, cohort, drawn(task, 0), config, out))
    said = {key: pd.concat(tables) for key, tables in found.items()}
    first = said["run", "image"].query("seed == 0")
    return {
        f"minus_{args.against}": both(said["run", "image"], said["other", "image"]),
        f"full_minus_{args.against}": both(said["run", "full"], said["other", "full"]),
        "minus_supervised_first_draw": both(first, pd.concat(supervised)),
    }


def drawn(task: Task, draw: int) -> Task:
    (split,) = task.splits
    rows = split.train
    few = rows[draw_fraction(task.y[rows], task.groups[rows], FRACTION, seed=[split.seed, draw])]
    return replace(task, splits=(replace(split, train=few),))


def missing(cohort: Cohort, folds: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """Per rate, mean over folds and draws; probes without and with blanked copies of their rows."""
    shown: dict[str, Any] = {}
    for copies in (0, 1):
        config = replace(CONFIG, features="full", blanked_copies=copies, replicates=200)
        by_rate: dict[float, list[Difference]] = {}
        for fold in args.folds:
            table = FeatureTable.load(args.cells / f"fold{fold}.parquet")
            encoder = metadata_encoder(Slimp.from_pretrained(args.cells / f"fold{fold}"))
            table = replace(table, raw=RawTable.of(cohort), encoder=encoder)
            for point in missing_grid(table, task_of(table, folds, fold), config, draws=2).points:
                by_rate.setdefault(point.rate, []).append(point.difference)
        shown[f"blanked_copies_{copies}"] = {
            rate: {
                "probe": float(np.mean([d.a for d in found])),
                "image_alone": float(np.mean([d.b for d in found])),
            }
            for rate, found in by_rate.items()
        }
    print(pd.DataFrame(shown).map(lambda x: f"{x['probe']:.3f} ({x['image_alone']:.3f})"))
    return shown


def finetune(cohort: Cohort, folds: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, list[pd.DataFrame]] = {"run": [], "imagenet": []}
    for fold in args.folds:
        task = task_of(FeatureTable.load(args.cells / f"fold{fold}.parquet"), folds, fold)
        beside = args.work / args.cohort / "finetuned-imagenet"
        starts = {
            "run": (args.cells / f"fold{fold}", args.cells / f"fold{fold}-tuned"),
            "imagenet": (FROM_IMAGENET, beside / f"fold{fold}"),
        }
        for name, (start, out) in starts.items():
            found[name].append(tune(start, cohort, task, TUNED, out))
    return {"minus_imagenet": both(*(pd.concat(tables) for tables in found.values()))}


def symmetries(cohort: Cohort, folds: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    how = InferenceConfig(test_time_augmentation="dihedral")
    found: dict[str, list[pd.DataFrame]] = {"mean": [], "one": []}
    for fold in args.folds:
        table = FeatureTable.load(args.cells / f"fold{fold}.parquet")
        kept = args.cells / f"fold{fold}-symmetries.parquet"
        if not kept.exists():
            embed(Slimp.from_pretrained(args.cells / f"fold{fold}"), cohort, how).save(kept)
        for name, features in (("mean", FeatureTable.load(kept)), ("one", table)):
            design, task = features.design("image"), task_of(table, folds, fold)
            said = probe_design(design, task, CONFIG, name=name).predictions
            found[name].append(said.assign(seed=0))
    return {"minus_one_view": both(*(pd.concat(tables) for tables in found.values()))}


def tune(
    start: str | Path, cohort: Cohort, task: Task, config: FullFinetuneConfig, out: Path
) -> pd.DataFrame:
    """Predictions of the scored fold; continues what is there."""
    out.mkdir(parents=True, exist_ok=True)
    model = Slimp.from_pretrained(as_run(start))
    result = fine_tune(model, cohort, task, config, out, how=InferenceConfig())
    return result.predictions.assign(seed=0)  # folds are pooled, as recipe.py pools them


def both(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    found = compare(ours.reset_index(drop=True), theirs.reset_index(drop=True)).differences
    out: dict[str, Any] = {}
    for name in ("balanced_accuracy", "auroc_macro_ovr"):
        one = found[name]
        out[name] = {
            **{"ours": one.a, "theirs": one.b, "difference": one.difference},
            "ci95": list(one.ci95),
        }
        print(f"{name}: {one}", flush=True)
    return out


PARTS: dict[str, Callable[[Cohort, np.ndarray, argparse.Namespace], dict[str, Any]]] = {
    "low_shot": low_shot,
    "missing": missing,
    "finetune": finetune,
    "symmetries": symmetries,
}

if __name__ == "__main__":
    main()
