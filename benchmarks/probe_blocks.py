"""The probe on blocks, against one penalty for all columns, on a frozen ImageNet encoder.

Grouped folds, no patient in two of them. Peers are scikit-learn's own: standardised columns, one C
chosen in grouped folds of the training patients, with class weights or without.

    python benchmarks/probe_blocks.py --cohort pad-ufes-20 --seeds 3
"""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cohorts import add_cohort, load_cohort
from harness import plain_parser, record
from slimp.evaluation.folds import Split, grouped_folds
from slimp.evaluation.linear_probe import probe_design
from slimp.evaluation.logistic import decide
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Predictions, Task, make_task, summarise
from slimp.features.design import Design, one_hot
from slimp.features.embed import embed
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig

LADDER = (1e-4, 1e-3, 1e-2, 1e-1)
METRICS = ("balanced_accuracy", "auroc_macro_ovr", "ece")


def peer(design: Design, task: Task, split: Split, *, weights: str | None, k: int) -> Predictions:
    """One C for the one-hot table and the image: all columns, or `k` whitened components."""
    assert design.table is not None
    encodings = design.table[split.train].fit(design.levels)
    hot = [one_hot(e, r) for e, r in zip(encodings, design.encode(encodings), strict=True)]
    image = StandardScaler().fit(design.blocks["image"][split.train])
    scaled = image.transform(design.blocks["image"])
    if k:
        scaled = PCA(k, random_state=0).fit(scaled[split.train]).transform(scaled)
    x, priors = np.nan_to_num(np.hstack([scaled, *hot])), task.priors(split.train)
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight=weights, max_iter=1000))
    grid = {"logisticregression__C": LADDER}
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=folds)
    search.fit(x[split.train], task.y[split.train], groups=task.groups[split.train])
    p = search.predict_proba(x[split.test])
    rule = "likeliest" if weights else "balanced"
    return task.answer(split, p, predicted=decide(p, priors, rule))


def main() -> None:
    parser = plain_parser(__doc__, quick="a minute: one fold")
    add_cohort(parser, real="pad-ufes-20")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    cohort = load_cohort(args.cohort)
    config = PretrainConfig.from_preset("laptop", image_size=128)
    table = embed(build_model(cohort, config), cohort)
    task = make_task(table.ids, settings := ProbeConfig(seeds=1, replicates=200))
    rows, splits = np.flatnonzero(task.y >= 0), list[Split]()
    for seed in range(1 if args.quick else args.seeds):
        fold = grouped_folds(task.y[rows], task.groups[rows], 5, seed=seed)
        for f in range(1 if args.quick else 5):
            splits.append(Split(seed=5 * seed + f, train=rows[fold != f], test=rows[fold == f]))
    task, full = replace(task, splits=tuple(splits)), table.design("full")
    both = replace(full, blocks={"image": full.blocks["image"]})
    found, took = {}, {}
    for name, design in {
        "image": table.design("image"),
        "table": replace(full, blocks={}),
        "image, table": both,
        "image, table, embedded table": full,
    }.items():
        began = time.perf_counter()
        found[name] = probe_design(design, task, settings, name=name)
        took[name] = (time.perf_counter() - began) / len(splits)
    for name, weights, k in (
        ("one C, class weights", "balanced", 0),
        ("one C, 64 components, class weights", "balanced", 64),
        ("one C, 64 components", None, 64),
    ):
        began = time.perf_counter()
        answers = [peer(both, task, split, weights=weights, k=k) for split in splits]
        took[name] = (time.perf_counter() - began) / len(splits)
        found[name] = summarise(task, answers, settings, name=name)
    rows_out = {
        name: {m: result.metrics[m].mean for m in METRICS} | {"seconds": took[name]}
        for name, result in found.items()
    }
    for name, row in rows_out.items():
        print(f"{name:38s}", *(f"{value:8.3f}" for value in row.values()))
    summary = {"cohort": args.cohort, "splits": len(splits), "arms": rows_out}
    if args.out:
        record(args.out, summary, "probe_blocks.py")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
