"""Probes on frozen features: how well a simple classifier can read the diagnosis from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from slimp.evaluation.bootstrap import Array
from slimp.evaluation.logistic import fit_logistic
from slimp.evaluation.probe_config import ProbeConfig, SplitMode
from slimp.evaluation.result import Predictions, ProbeResult, Task, make_task, summarise
from slimp.features.embed import FeatureTable
from slimp.features.feature_sets import FeatureSet
from slimp.features.knn import knn_predict


def linear_probe(
    table: FeatureTable,
    *,
    features: FeatureSet = "full",
    split: SplitMode = "patient",
    seeds: int = 5,
    parts: Sequence[object] | Array | None = None,
    **options: Any,
) -> ProbeResult:
    """Metrics of a logistic regression on frozen features, with intervals over patients.

    Args:
        table: features per image, as `slimp.embed` gives them.
        features: image, image+lesion or full.
        split: what must not be in both parts.
        seeds: splits to average over.
        parts: per image, the part of a given split (see `held_out_split`).
        options: other fields of `ProbeConfig`.

    Raises:
        UserError: the labels, patients, features or options do not allow it.
    """
    config = ProbeConfig(features=features, split=split, seeds=seeds, **options)
    return probe(table, config, parts=parts)


def probe(
    table: FeatureTable, config: ProbeConfig, *, parts: Sequence[object] | Array | None = None
) -> ProbeResult:
    """As `linear_probe`, from a configuration, which may also ask for nearest neighbours."""
    x = table.matrix(config.features)
    task = make_task(table.ids, config, parts)
    if config.method == "logistic":
        return probe_matrix(x, task, config, name="logistic")
    found = [
        knn_predictions(x[s.train], task.y[s.train], x[s.test], len(task.classes), config)
        for s in task.splits
    ]
    return summarise(task, found, config, name="knn")


def probe_matrix(x: Array, task: Task, config: ProbeConfig, *, name: str) -> ProbeResult:
    """The logistic probe of any feature matrix, a row per row of the task's ids."""
    return probe_designs([(x[s.train], x[s.test]) for s in task.splits], task, config, name=name)


def probe_designs(
    designs: Sequence[tuple[Array, Array]], task: Task, config: ProbeConfig, *, name: str
) -> ProbeResult:
    """The logistic probe of one (train, test) feature matrix per split."""
    fits, found = [], []
    for split, (train, test) in zip(task.splits, designs, strict=True):
        fit = fit_logistic(
            train,
            task.y[split.train],
            task.groups[split.train],
            task.classes,
            strengths=config.strengths,
            folds=config.folds,
            seed=split.seed,
        )
        p = fit.probe.predict_proba(test)
        found.append(
            Predictions(
                probabilities=p,
                predicted=fit.probe.decide(p),
                calibrated=fit.probe.calibrated_proba(test),
            )
        )
        fits.append(fit)
    return replace(
        summarise(task, found, config, name=name),
        strengths=tuple(fit.strength for fit in fits),
        temperatures=tuple(fit.probe.temperature for fit in fits),
        converged=all(fit.converged for fit in fits),
        probe=replace(fits[0].probe, features=config.features),
    )


def knn_predictions(
    train: Array, y: Array, test: Array, classes: int, config: ProbeConfig
) -> Predictions:
    """A vote of the nearest training rows."""
    train, test = train.astype(np.float64), test.astype(np.float64)
    # Standardised, so that in joined features no part outweighs the others.
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale[scale == 0] = 1.0
    p = knn_predict(
        torch.from_numpy((train - mean) / scale),
        torch.from_numpy(y),
        torch.from_numpy((test - mean) / scale),
        classes=classes,
        neighbours=config.neighbours,
        temperature=config.temperature,
    ).numpy()
    return Predictions(probabilities=p, predicted=p.argmax(axis=1))
