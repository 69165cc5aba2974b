"""The floor below which pre-training bought nothing: the majority class, and the raw table.

Axis names: n = rows, d = columns of the one-hot table, k = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingClassifier

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS, Feature, LevelName
from slimp.errors import UserError
from slimp.evaluation.folds import Split
from slimp.evaluation.linear_probe import probe_designs
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Answer, ProbeResult, Task, make_task, summarise
from slimp.features.feature_sets import FeatureSet

Array = np.ndarray[Any, np.dtype[Any]]
LEVELS_OF: dict[FeatureSet, tuple[LevelName, ...]] = {
    "image": (),
    "image+lesion": ("image", "lesion"),
    "full": LEVELS,
}
"""The metadata that a feature set sees."""
MOST_CATEGORIES = 200
"""Of one column in gradient boosting, which allows 255; rarer ones count as one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MetadataFloor:
    """Both classifiers of the raw metadata table."""

    logistic: ProbeResult
    """One-hot logistic regression."""
    boosting: ProbeResult
    """Gradient boosting."""

    @property
    def best(self) -> ProbeResult:
        """The one with the higher mean balanced accuracy on the test rows.

        Choosing on the test rows favours the floor, which is the safe side: a model that beats
        it has beaten both.
        """
        return max(self.logistic, self.boosting, key=lambda r: r.balanced_accuracy.mean)


def majority(
    ids: pd.DataFrame,
    config: ProbeConfig | None = None,
    *,
    parts: Sequence[object] | Array | None = None,
) -> ProbeResult:
    """The most frequent training class for every test row; probabilities are its shares.

    Its balanced accuracy is 1 / classes and its AUROC 0.5, whatever the data.
    """
    config = config or ProbeConfig()
    task = make_task(ids, config, parts)
    answers = []
    for split in task.splits:
        counts = np.bincount(task.y[split.train], minlength=len(task.classes))
        shares = np.tile(counts / counts.sum(), (len(split.test), 1))  # (n, k)
        answers.append(Answer(probabilities=shares, predicted=shares.argmax(axis=1)))
    return summarise(task, answers, config, name="majority")


def metadata_floor(
    cohort: Cohort,
    config: ProbeConfig | None = None,
    *,
    parts: Sequence[object] | Array | None = None,
    levels: Sequence[LevelName] | None = None,
) -> MetadataFloor:
    """What the raw metadata say without any image or pre-training, on the probe's own splits.

    The columns are those of the schema's features at the levels that `config.features` sees,
    so never an id, the label or a refused column. Medians and categories are fitted on each
    split's training rows.

    Args:
        cohort: same rows, same splits as `slimp.linear_probe` of its features.
        config: as for the probe.
        parts: as for the probe.
        levels: whose columns; None: those that `config.features` sees.

    Raises:
        UserError: there are no metadata at those levels, or the labels do not allow a probe.
    """
    config = config or ProbeConfig()
    levels = LEVELS_OF[config.features] if levels is None else levels
    features = [feature for name in levels for feature in cohort.schema.level(name).features]
    if not features:
        raise UserError(
            f"cohort '{cohort.info.name}' has no metadata columns at the levels that features "
            f"'{config.features}' see ({', '.join(levels) or 'none'}), so there is no metadata "
            "floor."
        )
    table = metadata_table(cohort, levels)
    task = make_task(cohort.images, config, parts)
    designs = [one_hot(features, table, split) for split in task.splits]
    logistic = probe_designs(designs, task, config, name="metadata, logistic regression")
    return MetadataFloor(
        logistic=replace(logistic, probe=None),  # it reads this table, not a model's features
        boosting=_boosting(features, table, task, config),
    )


def metadata_table(cohort: Cohort, levels: Sequence[LevelName]) -> pd.DataFrame:
    """The typed feature columns of these levels, a row per image."""
    lesion = cohort.lesion_of_image
    row_of_image: dict[LevelName, Array] = {
        "image": np.arange(len(cohort)),
        "lesion": lesion,
        "patient": cohort.patient_of_lesion[lesion],
    }
    tables = []
    for name in levels:
        own = cohort.tables.of_level(name)[list(cohort.schema.level(name).columns)]
        tables.append(own.iloc[row_of_image[name]].reset_index(drop=True))
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


def _boosting(
    features: Sequence[Feature], table: pd.DataFrame, task: Task, config: ProbeConfig
) -> ProbeResult:
    answers = []
    for split in task.splits:
        x = _typed_for_trees(features, table, split)
        model = HistGradientBoostingClassifier(
            class_weight="balanced",
            categorical_features="from_dtype",
            early_stopping=False,  # its own validation split would not be patient-disjoint
            random_state=split.seed,
        )
        model.fit(x.iloc[split.train], task.y[split.train])
        probabilities = model.predict_proba(x.iloc[split.test])
        answers.append(Answer(probabilities=probabilities, predicted=probabilities.argmax(axis=1)))
    return summarise(task, answers, config, name="metadata, gradient boosting")


def _typed_for_trees(
    features: Sequence[Feature], table: pd.DataFrame, split: Split
) -> pd.DataFrame:
    """Numbers and categories, missing as such; categories are those of the training rows.

    Columns without any value in the training rows are left out: the trees refuse them.
    """
    columns: dict[str, pd.Series] = {}
    for feature in features:
        for name in feature.columns:
            column = table[name]
            if column.iloc[split.train].isna().all():
                continue
            if feature.kind == "categorical":
                seen = column.iloc[split.train].value_counts().index[:MOST_CATEGORIES]
                known = column.where(column.isin(seen))  # the others count as missing
                columns[name] = pd.Series(pd.Categorical(known, categories=sorted(seen)))
            else:
                columns[name] = pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return pd.DataFrame(columns or {"nothing known": pd.Series(0.0, index=range(len(table)))})
