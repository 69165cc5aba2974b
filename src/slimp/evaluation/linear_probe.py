"""Probes on frozen features: how well a simple classifier can read the diagnosis from them.

And baselines that need no pre-training: the majority class, and the raw metadata table.

Axis names: n = rows, k = classes.
"""

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
from slimp.features.design import Design, RawTable
from slimp.features.feature_sets import METADATA_KEYS, TABLE_LEVELS, FeatureSet
from slimp.features.feature_table import FeatureTable

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
    design = design[rows]
    embedded = set(design.blocks) & set(METADATA_KEYS.values())
    copies = config.blanked_copies if embedded or design.table is not None else 0
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


def majority(task: Task, config: ProbeConfig) -> ProbeResult:
    """The most frequent training class for every test row; probabilities are class frequencies.

    Its balanced accuracy is 1 / classes and its AUROC 0.5, whatever the data.
    """
    found = []
    for split in task.splits:
        p = np.tile(task.priors(split.train), (len(split.test), 1))  # (n, k)
        found.append(task.answer(split, p))
    return summarise(task, found, config, name="majority")


def metadata_baseline(raw: RawTable | None, task: Task, config: ProbeConfig) -> ProbeResult:
    """The probe of the raw metadata alone, on a task's splits and by the probe's method.

    The columns are those of the schema's features at the levels that `config.features` includes,
    so never an id, the label or a refused column. Nearest neighbours give way to logistic
    regression.

    Raises:
        UserError: there are no metadata at those levels.
    """
    levels = TABLE_LEVELS[config.features]
    if raw is None or not any(raw.schema.level(name).features for name in levels):
        raise UserError(
            f"the cohort has no metadata columns at the levels that features '{config.features}' "
            f"include ({', '.join(levels) or 'none'}), so metadata alone say nothing."
        )
    if config.method == "knn":
        config = replace(config, method="logistic")
    design = Design(blocks={}, table=raw, levels=levels)
    found = probe_design(design, task, config, name=f"metadata, {config.method}")
    return replace(found, probe=None)  # it reads no image, so it is of no use for prediction
