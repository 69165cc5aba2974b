"""Which recipe of pre-training wins: start, image size, views, weights, positives, rates, epochs.

Every arm is trained without the labels on the patients of four folds (StratifiedGroupKFold, 5
folds, seed 42) and scored by the probe on those of the fifth. Trainings are kept in --work, so
that an interrupted study goes on where it stopped and scores can be computed anew; the table with
paired intervals over patients goes to --out. Run it in parts: the arms and folds that are named
are trained, and the table shows all that there are. With more --seeds the trainings of a fold are
repeated from other seeds; scores are then means over seeds.

    python benchmarks/recipe.py --cohort pad-ufes-20 --arms plain compact_cells --seeds 0 1 2
    python benchmarks/recipe.py --cohort pad-ufes-20 --arms --out results/recipe_pad_ufes_20.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cohorts import load_cohort
from harness import plain_parser, record
from plain_contrast import plain_contrast
from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS
from slimp.evaluation.folds import Split, grouped_parts
from slimp.evaluation.linear_probe import probe_design
from slimp.evaluation.paired_bootstrap import Difference, compare
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import make_task
from slimp.experiments.cells import locked
from slimp.features.design import RawTable, one_hot
from slimp.features.embed import embed
from slimp.features.feature_table import FeatureTable
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.loop import pretrain

BASE: dict[str, Any] = {
    "encoder": "tf_efficientnet_lite0",
    "encoder_weights": "efficientnet-lite0",
    "image_size": 128,
    "patients": 64,
    "lesions": 4,
    "epochs": 10,
    "learning_rate": 1e-3,
    "encoder_lr_scale": 0.3,
    "clip_norm": 0.0,
    "duplicates": "positive",
    "crop_scale": 0.5,
    "colour": 0.3,
    "validation_fraction": 0.0,
    "held_out_fraction": 0.0,
    "workers": 0,
}
FLAT = {"hierarchy": "flat", "lesion_weight": 1.0, "patient_weight": 0.0}
LESION_ONLY = {"lesion_weight": 1.0, "patient_weight": 0.0}
COMPACT = {"projection_layers": 1, "temperature": 0.1, "feature_dropout": 0.5}
CELLS = {**COMPACT, "feature_dropout": 0.2}
LITE2 = {"encoder": "tf_efficientnet_lite2", "encoder_weights": "efficientnet-lite2"}
ARMS: dict[str, dict[str, Any]] = {
    "base": {},
    "flat": FLAT,
    "lesion_only": LESION_ONLY,
    "linear_heads": {"projection_layers": 1},
    "no_cell_dropout": {"feature_dropout": 0.0},
    "compact": COMPACT,
    "compact_flat": {**COMPACT, **FLAT},
    "compact_half": {**COMPACT, "lesion_weight": 0.5, "patient_weight": 0.5},
    "compact_4": {**COMPACT, "epochs": 4},
    "compact_20": {**COMPACT, "epochs": 20},
    "compact_images": {**COMPACT, "patients": 48, "images_per_lesion": 4},
    "compact_rotate": {**COMPACT, "rotate": "any"},
    "compact_cells": CELLS,
    "compact_hidden": {**COMPACT, "projection_layers": 2},
    "cells_20": {**CELLS, "epochs": 20},
    "cells_160": {**CELLS, "image_size": 160},
    "cells_rotate": {**CELLS, "rotate": "any"},
    "rotate_160": {**CELLS, "rotate": "any", "image_size": 160},
    "compact_negatives": {**COMPACT, "duplicates": "negative"},
    "compact_one_rate": {**COMPACT, "learning_rate": 3e-4, "encoder_lr_scale": 1.0},
    "compact_batch_norm": {**COMPACT, "batch_norm": "batch"},
    "compact_views": {**COMPACT, "view_weight": 1.0},
    "views_only": {"view_weight": 1.0, "lesion_weight": 0.0, "patient_weight": 0.0},
    "random_start": {
        **COMPACT,
        **{"encoder_weights": None, "encoder_lr_scale": 1.0, "batch_norm": "batch"},
    },
    "side_160": {**COMPACT, "image_size": 160},
    "after_ham10000": {**CELLS, "encoder_weights": "ham10000"},
    "imagenet_160": {"image_size": 160},
    "cells_lite2": {**CELLS, **LITE2},
    "imagenet_lite2": LITE2,
}
"""Arm -> what it changes of `BASE`. Besides: the script `plain`, and `imagenet`.

`compact_cells` is the preset `laptop`. `after_ham10000` starts from its run of that cohort's
fold 0, which has to be there."""
UNTRAINED = ("imagenet", "imagenet_160", "imagenet_lite2")
ALL = ("imagenet", "plain", *ARMS)
NO_HEADS = "image, heads not weighed"
"""As the probe read images before it weighed the heads of pre-training by themselves."""
SHOWN = {"balanced_accuracy": "balanced_accuracy", "auroc": "auroc_macro_ovr"}
COLUMNS = ["image_id", "lesion_id", "patient_id", "label"]


@dataclass(frozen=True, order=True, kw_only=True)
class Cell:
    """One training of an arm."""

    seed: int
    fold: int

    @property
    def name(self) -> str:
        return f"fold{self.fold}" + (f"-seed{self.seed}" if self.seed else "")

    @property
    def training_seed(self) -> int:
        """Another one in each fold and repetition."""
        return self.fold + 100 * self.seed


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    cohort = kept_cohort(args)
    folds = grouped_folds(cohort)
    for fold in args.folds:
        for seed in args.seeds:
            for arm in args.arms:
                train_cell(cohort, folds != fold, arm, Cell(fold=fold, seed=seed), args)
    show(cohort, folds, args)


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="seconds: a drawn cohort, one fold, no encoder trained")
    parser.add_argument("--cohort", default="pad-ufes-20")
    parser.add_argument("--arms", nargs="*", default=[*ALL], choices=[*ALL], help="to train now")
    parser.add_argument("--folds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--against", default="imagenet", choices=ALL, help="arm to subtract")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/recipe"))
    args = parser.parse_args()
    if args.quick:
        args.cohort, args.arms, args.folds = "synthetic", ["imagenet"], [0]
    return args


def kept_cohort(args: argparse.Namespace) -> Cohort:
    """The cohort in --work, imported there first."""
    folder = args.work / args.cohort / "cohort"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        load_cohort(args.cohort).save(folder)
    return Cohort.load(folder)


def grouped_folds(cohort: Cohort) -> NDArray[np.int64]:
    """The fold in which each image is scored; -1 for images without a label, which always train."""
    parts = grouped_parts(cohort.images, [42])[42]
    return parts.str.removeprefix("fold").astype(float).fillna(0).to_numpy(np.int64) - 1


def folder_of(arm: str, args: argparse.Namespace) -> Path:
    """Where the cells of an arm are: elsewhere once its settings change."""
    settings = json.dumps({**BASE, **ARMS.get(arm, {})}, sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return Path(args.work / args.cohort / f"{arm}-{digest}")


def train_cell(
    cohort: Cohort, train: NDArray[np.bool_], arm: str, cell: Cell, args: argparse.Namespace
) -> None:
    """Trains an arm on the patients of these rows; leaves its features of all images."""
    folder = folder_of(arm, args)
    done = folder / f"{cell.name}.parquet"
    with locked(folder / f"{cell.name}.lock") as mine:
        if not mine or done.exists():
            return
        began = time.perf_counter()
        train = train & ~cohort.images["patient_id"].isin(cohort.images["patient_id"][~train])
        same = next(folder.glob("fold*.parquet"), None) if arm in UNTRAINED else None
        if same is not None:  # untouched weights: the features of any fold
            shutil.copy(same, done)
            return
        train_arm(cohort, np.asarray(train), arm, cell, args).save(done)
        print(f"{arm} {cell.name}: {time.perf_counter() - began:.0f} s", flush=True)


def train_arm(
    cohort: Cohort, train: NDArray[np.bool_], arm: str, cell: Cell, args: argparse.Namespace
) -> FeatureTable:
    config = PretrainConfig(**{**BASE, "seed": cell.training_seed, **ARMS.get(arm, {})})
    if arm in UNTRAINED:
        return image_features(cohort, embed(build_model(cohort, config).eval(), cohort))
    if arm == "plain":
        table, rows = RawTable.of(cohort), np.flatnonzero(train)
        assert table is not None
        hot = [one_hot(e, e.encode(table.frame)) for e in table[rows].fit(LEVELS)]
        known = np.nan_to_num(np.hstack(hot))
        spread = known[rows].std(axis=0)
        scaled = (known - known[rows].mean(axis=0)) / np.where(spread > 0, spread, 1)
        found = plain_contrast(cohort, scaled, rows, seed=cell.training_seed)
        return FeatureTable(ids=cohort.images[COLUMNS], features={"image": found})
    if config.encoder_weights == "ham10000":
        earlier = folder_of("compact_cells", argparse.Namespace(work=args.work, cohort="ham10000"))
        config = replace(config, encoder_weights=str(earlier / "fold0" / "model.safetensors"))
    learning = cohort.select_patients(cohort.images["patient_id"][train].unique())
    run = folder_of(arm, args) / cell.name
    model = pretrain(learning, config, run, resume=run.exists())
    table_of_run = embed(model, cohort)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return table_of_run


def image_features(cohort: Cohort, table: FeatureTable) -> FeatureTable:
    """Without embeddings of metadata, which no training made."""
    return FeatureTable(ids=cohort.images[COLUMNS], features={"image": table.features["image"]})


def show(cohort: Cohort, folds: NDArray[np.int64], args: argparse.Namespace) -> None:
    """Scores what is trained; every arm beside the one to subtract, on the cells both have."""
    said: dict[str, dict[str, dict[Cell, pd.DataFrame]]] = {}
    for arm in ALL:
        for path in sorted(folder_of(arm, args).glob("fold*.parquet")):
            fold, _, seed = path.stem.removeprefix("fold").partition("-seed")
            cell = Cell(fold=int(fold), seed=int(seed or 0))
            for features, found in scored(cohort, folds, path, arm, cell).items():
                said.setdefault(arm, {}).setdefault(features, {})[cell] = found
    rows = []
    scores = f"balanced accuracy, AUROC; minus {args.against}, paired"
    print(f"{'arm':20s} {'features':24s} cells  {scores}")
    for arm, by_features in said.items():
        for features, by_cell in by_features.items():
            against = said.get(args.against, {})
            theirs = against.get("image" if features == NO_HEADS else features, {})
            if shared := sorted(set(by_cell) & set(theirs)):
                pair = (pd.concat([own[cell] for cell in shared]) for own in (by_cell, theirs))
                found = compare(*pair).differences
                rows.append({"arm": arm, "features": features} | row(shared, found, args.against))
                print(f"{arm:20s} {features:24s} {line(shared, found)}", flush=True)
    summary: dict[str, Any] = {"cohort": args.cohort, "rows": rows}
    trained = [r for r in rows if r["arm"] not in (*UNTRAINED, "plain") and r["features"] == "full"]
    if trained:
        # Arms with more folds first: a mean over other folds is no comparison.
        best = max(trained, key=lambda r: (len(r["folds"]), r["auroc"]))
        summary["best"] = best["arm"]
    if args.out:
        changes = {arm: ARMS[arm] for arm in said if arm in ARMS}
        record(args.out, summary, "recipe.py", base=BASE, changes=changes)
    print(json.dumps(summary))


def row(cells: list[Cell], found: Mapping[str, Difference], against: str) -> dict[str, Any]:
    """Scores of the pooled folds, and their difference from the other arm's on the same images."""
    folds, seeds = ({getattr(cell, name) for cell in cells} for name in ("fold", "seed"))
    out: dict[str, Any] = {"folds": sorted(folds), "seeds": sorted(seeds)}
    for name, metric in SHOWN.items():
        one = found[metric]
        out[name] = one.a
        out[f"{name}_minus_{against}"] = {"mean": one.difference, "ci95": list(one.ci95)}
    return out


def line(cells: list[Cell], found: Mapping[str, Difference]) -> str:
    shown = (f"{found[metric].a:.3f} {found[metric]}" for metric in SHOWN.values())
    return f"{len(cells)}      {'  '.join(shown)}"


def scored(
    cohort: Cohort, folds: NDArray[np.int64], path: Path, arm: str, cell: Cell
) -> dict[str, pd.DataFrame]:
    """Predictions of the scored fold by feature set."""
    table = replace(FeatureTable.load(path), raw=RawTable.of(cohort))
    config = ProbeConfig(seeds=1, replicates=1)
    split = Split(
        seed=cell.seed,
        train=np.flatnonzero((folds != cell.fold) & (folds >= 0)),
        test=np.flatnonzero(folds == cell.fold),
    )
    task = replace(make_task(table.ids, config), splits=(split,))
    full = table.design("full")
    both = replace(full, blocks={"image": full.blocks["image"]})
    designs = {"image": table.design("image"), "image+table": both, "full": full}
    if table.projection is not None:
        designs[NO_HEADS] = replace(designs["image"], projection=None)
    if arm in UNTRAINED:
        designs["table"] = replace(full, blocks={})
    return {
        name: probe_design(x, task, config, name=name).predictions for name, x in designs.items()
    }


if __name__ == "__main__":
    main()
