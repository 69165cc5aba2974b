"""Baselines that need no pre-training: the majority class, and the raw metadata table.

Axis names: n = rows, k = classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.evaluation.folds import Parts
from slimp.evaluation.linear_probe import probe_design
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import ProbeResult, make_task, summarise
from slimp.features.design import Design, RawTable
from slimp.features.feature_sets import TABLE_LEVELS


def majority(ids: pd.DataFrame, config: ProbeConfig, *, parts: Parts | None = None) -> ProbeResult:
    """The most frequent training class for every test row; probabilities are class frequencies.

    Its balanced accuracy is 1 / classes and its AUROC 0.5, whatever the data.
    """
    task = make_task(ids, config, parts)
    found = []
    for split in task.splits:
        p = np.tile(task.priors(split.train), (len(split.test), 1))  # (n, k)
        found.append(task.answer(split, p))
    return summarise(task, found, config, name="majority")


def metadata_baseline(
    cohort: Cohort,
    config: ProbeConfig,
    *,
    parts: Parts | None = None,
    raw: RawTable | None = None,
) -> ProbeResult:
    """The probe of the raw metadata alone, on the probe's splits and by its method.

    The columns are those of the schema's features at the levels that `config.features` includes,
    so never an id, the label or a refused column; their cells those of `raw`, or else all that
    are known. Nearest neighbours give way to logistic regression.

    Raises:
        UserError: there are no metadata at those levels, or the labels do not allow a probe.
    """
    levels = TABLE_LEVELS[config.features]
    if not any(cohort.schema.level(name).features for name in levels):
        raise UserError(
            f"cohort '{cohort.info.name}' has no metadata columns at the levels that features "
            f"'{config.features}' include ({', '.join(levels) or 'none'}), so there is no "
            "metadata baseline."
        )
    if config.method == "knn":
        config = replace(config, method="logistic")
    task = make_task(cohort.images, config, parts)
    design = Design(blocks={}, table=raw or RawTable.of(cohort), levels=levels)
    found = probe_design(design, task, config, name=f"metadata, {config.method}")
    return replace(found, probe=None)  # it reads no image, so it is of no use for prediction
