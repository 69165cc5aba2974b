"""Probes on frozen features: how well a simple classifier can read the diagnosis from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from slimp.evaluation.folds import Split
from slimp.evaluation.logistic import LinearProbe, fit_logistic
from slimp.evaluation.metrics import Array
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
    return probe_matrix(x, make_task(table.ids, config, parts), config, name=config.method)


def probe_matrix(x: Array, task: Task, config: ProbeConfig, *, name: str) -> ProbeResult:
    """The probe of any feature matrix, a row per row of the task's ids."""
    return probe_designs([(x[s.train], x[s.test]) for s in task.splits], task, config, name=name)


def probe_designs(
    designs: Sequence[tuple[Array, Array]], task: Task, config: ProbeConfig, *, name: str
) -> ProbeResult:
    """The probe of one (train, test) feature matrix per split."""
    found, probes = [], []
    for split, (train, test) in zip(task.splits, designs, strict=True):
        if config.method == "knn":
            found.append(knn_answer(task, split, split.train, (train, test), config))
            continue
        fitted = fit_logistic(
            *(train, task.y[split.train], task.groups[split.train], task.classes),
            strengths=config.strengths,
            folds=config.folds,
            seed=split.seed,
        )
        found.append(logistic_answer(task, split, fitted, test))
        probes.append(fitted)
    result = summarise(task, found, config, name=name)
    if not probes:
        return result
    return replace(
        result,
        strengths=tuple(fitted.strength for fitted in probes),
        temperatures=tuple(fitted.temperature for fitted in probes),
        converged=all(fitted.converged for fitted in probes),
        probe=replace(probes[0], features=config.features),
    )


def logistic_answer(task: Task, split: Split, fitted: LinearProbe, test: Array) -> Predictions:
    """What a fitted probe says of the test rows of a split."""
    p = fitted.predict_proba(test)
    return task.answer(
        split, p, predicted=fitted.decide(p), calibrated=fitted.calibrated_proba(test)
    )


def knn_answer(
    task: Task, split: Split, rows: Array, design: tuple[Array, Array], config: ProbeConfig
) -> Predictions:
    """A vote of the nearest of these training rows; `design`: their features, and the test rows'.

    Features are standardised, so that in joined ones no part outweighs the others.
    """
    train, test = (x.astype(np.float64) for x in design)
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale[scale == 0] = 1.0
    p = knn_predict(
        torch.from_numpy((train - mean) / scale),
        torch.from_numpy(task.y[rows]),
        torch.from_numpy((test - mean) / scale),
        classes=len(task.classes),
        neighbours=config.neighbours,
        temperature=config.temperature,
    )
    return task.answer(split, p.numpy())
