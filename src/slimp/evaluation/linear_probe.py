"""Probes on frozen features: how well a simple classifier can read the diagnosis from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from slimp.errors import UserError
from slimp.evaluation.classifiers import Classifier, fit_boosting, fit_both, fit_neighbours
from slimp.evaluation.folds import Parts, Split
from slimp.evaluation.logistic import LinearProbe, decide, fit_logistic
from slimp.evaluation.metrics import Array
from slimp.evaluation.probe_config import ProbeConfig, SplitMode
from slimp.evaluation.result import Predictions, ProbeResult, Task, make_task, summarise
from slimp.features.design import Design
from slimp.features.embed import FeatureTable
from slimp.features.feature_sets import FeatureSet

Fitted = LinearProbe | Classifier
METHODS: dict[str, Callable[..., Fitted]] = {
    "logistic": fit_logistic,
    "boosting": fit_boosting,
    "logistic+boosting": fit_both,
    "knn": fit_neighbours,
}


def linear_probe(
    table: FeatureTable,
    *,
    features: FeatureSet = "full",
    split: SplitMode = "patient",
    seeds: int | None = None,
    parts: Parts | None = None,
    **options: Any,
) -> ProbeResult:
    """Metrics of a logistic regression on frozen features, with intervals over patients.

    Args:
        table: features per image, as `slimp.embed` gives them.
        features: image, image+lesion, full or relative.
        split: what must not be in both parts.
        seeds: splits to average over; None: 5, or 1 with grouped-5.
        parts: per image, the part of a given split (see `given_splits`).
        options: other fields of `ProbeConfig`.

    Raises:
        UserError: the labels, patients, features or options do not allow it.

    Example:
        >>> import pandas as pd
        >>> ids = pd.DataFrame({"image_id": range(60), "lesion_id": range(60)}).astype(str)
        >>> ids = ids.assign(patient_id=ids["image_id"], label=["nevus", "melanoma"] * 30)
        >>> x = np.random.default_rng(0).normal(size=(60, 2)) + [[0, 0], [3, 3]] * 30
        >>> table = FeatureTable(ids=ids, features={"image": x.astype(np.float32)})
        >>> result = linear_probe(table, features="image", seeds=1, replicates=10)
        >>> result.balanced_accuracy.mean > 0.7
        True
    """
    config = ProbeConfig(features=features, split=split, seeds=seeds, **options)
    return probe(table, config, parts=parts)


def probe(table: FeatureTable, config: ProbeConfig, *, parts: Parts | None = None) -> ProbeResult:
    """As `linear_probe`, from a configuration, which may also ask for another method."""
    design = table.design(config.features)
    return probe_design(design, make_task(table.ids, config, parts), config, name=config.method)


def probe_matrix(x: Array, task: Task, config: ProbeConfig, *, name: str) -> ProbeResult:
    """The probe of any feature matrix, a row per row of the task's ids."""
    return probe_design(Design(blocks={"features": x}), task, config, name=name)


def probe_design(design: Design, task: Task, config: ProbeConfig, *, name: str) -> ProbeResult:
    """The probe of any blocks, a row per row of the task's ids."""
    found, fitted = [], []
    for split in task.splits:
        fitted.append(fit(design, task, split.train, config, seed=split.seed))
        found.append(answer(task, split, fitted[-1], design[split.test], config))
    first = fitted[0]
    return replace(
        summarise(task, found, config, name=name, decision=config.decision),
        settings=tuple(one.strengths for one in fitted),
        converged=all(one.converged for one in fitted),
        probe=first if isinstance(first, LinearProbe) else None,
    )


def fit(design: Design, task: Task, rows: Array, config: ProbeConfig, *, seed: int) -> Fitted:
    """The classifier of these rows of a task."""
    design, copies = design[rows], config.blanked_copies
    copies = 0 if design.table is None else copies
    if copies:
        if not design.can_blank or config.method != "logistic":
            raise UserError(
                "blanked_copies needs --method logistic, and features that can be embedded anew "
                "without cells: not 'relative', not imputed ones, not a table without its model."
            )
        design, rows = design.with_blanked_copies(copies, seed=seed), np.tile(rows, 1 + copies)
    method = METHODS[config.method]
    found = method(design, task.y[rows], task.groups[rows], task.classes, config, seed=seed)
    return replace(found, blanked_copies=copies) if isinstance(found, LinearProbe) else found


def answer(
    task: Task, split: Split, fitted: Fitted, test: Design, config: ProbeConfig
) -> Predictions:
    """What a classifier says of the test rows of a split, decided by the configuration's rule."""
    p = fitted.predict_proba(test)
    return task.answer(split, p, predicted=decide(p, fitted.priors, config.decision))
