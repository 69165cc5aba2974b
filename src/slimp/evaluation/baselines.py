"""Baselines that need no pre-training: the majority class, and the raw metadata table.

Axis names: n = rows, d = columns of the one-hot table, k = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingClassifier

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS, Feature, LevelName
from slimp.errors import UserError
from slimp.evaluation.folds import Split
from slimp.evaluation.linear_probe import probe_designs
from slimp.evaluation.metrics import Array
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import ProbeResult, make_task, summarise
from slimp.features.encode import level_of_images
from slimp.features.feature_sets import FeatureSet

LEVELS_OF: dict[FeatureSet, tuple[LevelName, ...]] = {
    "image": (),
    "image+lesion": ("image", "lesion"),
    "full": LEVELS,
}
"""The metadata that a feature set includes."""
MOST_CATEGORIES = 200
"""Of one column in gradient boosting, which allows 255; rarer ones count as missing."""


def majority(
    ids: pd.DataFrame, config: ProbeConfig, *, parts: Sequence[object] | Array | None = None
) -> ProbeResult:
    """The most frequent training class for every test row; probabilities are class frequencies.

    Its balanced accuracy is 1 / classes and its AUROC 0.5, whatever the data.
    """
    task = make_task(ids, config, parts)
    found = []
    for split in task.splits:
        counts = np.bincount(task.y[split.train], minlength=len(task.classes))
        p = np.tile(counts / counts.sum(), (len(split.test), 1))  # (n, k)
        found.append(task.answer(split, p))
    return summarise(task, found, config, name="majority")


def metadata_baselines(
    cohort: Cohort, config: ProbeConfig, *, parts: Sequence[object] | Array | None = None
) -> tuple[ProbeResult, ProbeResult]:
    """One-hot logistic regression and gradient boosting of the raw metadata, on the probe's splits.

    The columns are those of the schema's features at the levels that `config.features` includes,
    so never an id, the label or a refused column. Medians and categories are fitted on each
    split's training rows.

    Raises:
        UserError: there are no metadata at those levels, or the labels do not allow a probe.
    """
    levels = LEVELS_OF[config.features]
    features = [feature for name in levels for feature in cohort.schema.level(name).features]
    if not features:
        raise UserError(
            f"cohort '{cohort.info.name}' has no metadata columns at the levels that features "
            f"'{config.features}' include ({', '.join(levels) or 'none'}), so there is no "
            "metadata baseline."
        )
    table = metadata_table(cohort, levels)
    task = make_task(cohort.images, config, parts)
    designs = [one_hot(features, table, split) for split in task.splits]
    config = replace(config, method="logistic")
    logistic = probe_designs(designs, task, config, name="metadata, logistic regression")
    found = []
    for split in task.splits:
        x = _typed_for_trees(features, table, split)
        model = HistGradientBoostingClassifier(
            class_weight="balanced",
            categorical_features="from_dtype",
            early_stopping=False,  # its own validation split would not be patient-disjoint
            random_state=split.seed,
        )
        model.fit(x.iloc[split.train], task.y[split.train])
        found.append(task.answer(split, model.predict_proba(x.iloc[split.test])))
    boosting = summarise(task, found, config, name="metadata, gradient boosting")
    # Its probe reads this table and not a model's features, so it is of no use for prediction.
    return replace(logistic, probe=None), boosting


def metadata_baseline(
    cohort: Cohort, config: ProbeConfig, *, parts: Sequence[object] | Array | None = None
) -> ProbeResult:
    """The better of `metadata_baselines` in mean balanced accuracy on the test rows.

    Choosing on the test rows favours the baseline: a model that beats it has beaten both.
    """
    both = metadata_baselines(cohort, config, parts=parts)
    return max(both, key=lambda result: result.balanced_accuracy.mean)


def metadata_table(cohort: Cohort, levels: Sequence[LevelName]) -> pd.DataFrame:
    """The typed feature columns of these levels, a row per image."""
    rows = level_of_images(cohort)
    tables = []
    for name in levels:
        own = cohort.tables.of_level(name)[list(cohort.schema.level(name).columns)]
        tables.append(own.iloc[rows[name]].reset_index(drop=True))
    return pd.concat(tables, axis=1)


def one_hot(
    features: Sequence[Feature], table: pd.DataFrame, split: Split
) -> tuple[Float[Array, "n_train d"], Float[Array, "n_test d"]]:
    """Numbers for logistic regression: train and test rows, fitted on the training rows.

    A continuous column is filled with its median and has an indicator of missing beside it; a
    categorical or checkbox column has a column per value seen, missing being a value of its own.
    A category unseen in training is 0 throughout.
    """
    train, columns = table.iloc[split.train], []
    for feature in features:
        for name in feature.columns:
            column = table[name]
            if feature.kind == "continuous":
                values = column.to_numpy(dtype=np.float64, na_value=np.nan)
                missing = np.isnan(values)
                known = values[split.train][~missing[split.train]]
                median = float(np.median(known)) if len(known) else 0.0
                columns += [np.where(missing, median, values), missing]
            else:
                seen = sorted(train[name].dropna().unique())
                hits = [(column == value).fillna(False) for value in seen]
                columns += [hit.to_numpy(dtype=bool) for hit in (*hits, column.isna())]
    x = np.column_stack(columns).astype(np.float64)  # (n, d)
    return x[split.train], x[split.test]


def _typed_for_trees(
    features: Sequence[Feature], table: pd.DataFrame, split: Split
) -> pd.DataFrame:
    """Numbers and categories, missing as such; categories are those of the training rows.

    Columns without any value in the training rows are left out: the trees refuse them.
    """
    columns: dict[str, pd.Series] = {}
    for feature in features:
        for name in feature.columns:
            column, train = table[name], table[name].iloc[split.train]
            if train.isna().all():
                continue
            if feature.kind == "categorical":
                seen = train.value_counts().index[:MOST_CATEGORIES]
                known = column.where(column.isin(seen))  # the others count as missing
                columns[name] = pd.Series(pd.Categorical(known, categories=sorted(seen)))
            else:
                columns[name] = pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return pd.DataFrame(columns or {"constant": pd.Series(0.0, index=range(len(table)))})
