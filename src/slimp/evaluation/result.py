"""What a probe (or a baseline on the same splits) found, and its files.

Axis names: n = test rows of one split, k = classes, r = replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from slimp.data.files import new_file, new_folder, write_json
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, Record, bootstrap
from slimp.evaluation.folds import (
    Parts,
    Split,
    classes_of,
    given_splits,
    make_splits,
    parts_of_config,
)
from slimp.evaluation.metrics import Array, mean_over_present, metrics, recall_per_class
from slimp.evaluation.probe_config import Decision, ProbeConfig

if TYPE_CHECKING:
    from slimp.evaluation.logistic import LinearProbe

TWO = ("benign", "malignant")
"""The classes where several labels are joined; the positive one is last."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """A classifier's output for the test rows of one split, beside the truth."""

    y: Int[Array, " n"]
    """True class."""
    patients: Shaped[Array, " n"]
    probabilities: Float[Array, "n k"]
    """Where classes are as frequent as in training."""
    predicted: Int[Array, " n"]
    """Class decided on."""

    @classmethod
    def of_rows(cls, rows: pd.DataFrame, classes: Sequence[str]) -> Predictions:
        """From rows of `ProbeResult.predictions`; columns follow `classes`."""
        return cls(
            y=codes_of(rows["label"], classes),
            patients=rows["patient_id"].to_numpy(dtype=str),
            probabilities=rows[[f"p_{c}" for c in classes]].to_numpy(dtype=np.float64),
            predicted=codes_of(rows["predicted"], classes),
        )

    @classmethod
    def per_seed(cls, rows: pd.DataFrame, classes: Sequence[str]) -> list[Predictions]:
        """One per seed of `ProbeResult.predictions`, in the order of the seeds, folds together."""
        return [cls.of_rows(own, classes) for _, own in rows.groupby("seed", sort=True)]

    @classmethod
    def per_split(cls, rows: pd.DataFrame, classes: Sequence[str]) -> list[Predictions]:
        """One per seed and fold of `ProbeResult.predictions`, in the order of both."""
        keys = [name for name in ("seed", "fold") if name in rows]
        return [cls.of_rows(own, classes) for _, own in rows.groupby(keys, sort=True)]

    def select(self, rows: Shaped[Array, " m"]) -> Predictions:
        """Some of the rows, by number or mask."""
        return Predictions(**{name: values[rows] for name, values in vars(self).items()})

    def metrics(self, weights: Float[Array, "r n"]) -> dict[str, Float[Array, " r"]]:
        """Every metric by name."""
        return metrics(self.y, self.probabilities, self.predicted, weights)

    def recall(self, weights: Float[Array, "r n"]) -> Float[Array, "r k"]:
        """Of each class; NaN where it is absent."""
        return recall_per_class(self.y, self.predicted, weights, self.probabilities.shape[1])

    def balanced_accuracy(self, weights: Float[Array, "r n"]) -> Float[Array, " r"]:
        """Mean recall of the classes that are present."""
        return mean_over_present(self.recall(weights))


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Labelled rows, their classes, and the splits on which everything is compared."""

    ids: pd.DataFrame
    """`image_id lesion_id patient_id label`, a row per image, unlabelled ones included."""
    classes: tuple[str, ...]
    y: Int[Array, " rows"]
    """Class per row of `ids`; -1 where unlabelled."""
    splits: tuple[Split, ...]
    split: str
    """As `ProbeConfig.split`; or `file`; or `held_out`: by the parts of a run, or of who calls."""

    @property
    def groups(self) -> Array:
        """Patient per row."""
        return self.ids["patient_id"].to_numpy(dtype=str)

    @property
    def folds(self) -> int:
        """Splits of one seed; 1 where they are no folds."""
        seeds = {split.seed for split in self.splits}
        return 1 if self.splits[0].fold is None else len(self.splits) // len(seeds)

    @property
    def class_shares(self) -> dict[str, float]:
        """Of the training rows, mean over splits."""
        shares = [self.priors(split.train) for split in self.splits]
        return dict(zip(self.classes, np.mean(shares, axis=0).tolist(), strict=True))

    def priors(self, rows: Int[Array, " m"]) -> Float[Array, " k"]:
        """Class frequencies of some rows."""
        return np.bincount(self.y[rows], minlength=len(self.classes)) / max(len(rows), 1)

    def answer(
        self,
        split: Split,
        probabilities: Float[Array, "n k"],
        *,
        predicted: Int[Array, " n"] | None = None,
    ) -> Predictions:
        """A classifier's output for a split; it decides on the most probable class by default."""
        return Predictions(
            y=self.y[split.test],
            patients=self.groups[split.test],
            probabilities=probabilities,
            predicted=probabilities.argmax(axis=1) if predicted is None else predicted,
        )


def make_task(ids: pd.DataFrame, config: ProbeConfig, parts: Parts | None = None) -> Task:
    """The task that `config` describes, on the splits of `parts` (see `given_splits`) or its own.

    Raises:
        UserError: the classes or parts do not allow it.
    """
    ids, split = relabelled(ids, config.malignant), "held_out"
    names = classes_of(ids, config)
    if parts is None:
        parts, split = parts_of_config(ids, config), "file" if config.split_file else config.split
    splits = (
        make_splits(ids, config.split, config.split_seeds, test_fraction=config.test_fraction)
        if parts is None
        else given_splits(ids, parts, seed=config.seed)
    )
    return Task(
        ids=ids,
        classes=names,
        y=codes_of(ids["label"], names),
        splits=splits,
        split=split,
    )


def relabelled(ids: pd.DataFrame, malignant: Sequence[str]) -> pd.DataFrame:
    """The same rows with the labels benign and malignant; unchanged if `malignant` is empty."""
    if not malignant:
        return ids
    found = set(ids["label"].dropna())
    if unknown := set(malignant) - found:
        raise UserError(
            f"malignant='{min(unknown)}' is not a class here; "
            f"the classes are: {', '.join(sorted(found)) or 'none'}."
        )
    if not found - set(malignant):
        raise UserError("every class is named as malignant, so none is left to be benign.")
    names = {label: TWO[label in malignant] for label in found}
    return ids.assign(label=ids["label"].astype(object).map(names))


def codes_of(labels: pd.Series, classes: Sequence[str]) -> Int[Array, " rows"]:
    """Position of each label in `classes`; -1 where it is missing or another one."""
    return pd.Index(list(classes)).get_indexer(pd.Index(labels)).astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeResult(Record):
    """Metrics with intervals, what they were made from, and the probe itself."""

    name: str
    """What was probed, as in 'logistic' or 'majority'."""
    config: ProbeConfig
    classes: tuple[str, ...]
    metrics: dict[str, Estimate]
    recall: dict[str, Estimate]
    """Per class."""
    confusion: Int[Array, "k k"]
    """Rows: truth, columns: decision; summed over seeds, so an image may count several times."""
    n_train: int
    """Images, mean over splits."""
    n_test: int
    n_test_patients: int
    """Over all seeds: what the intervals resample."""
    n_unlabelled: int
    """Images left out because they have no label."""
    split: str
    """What the parts are by, see `Task.split`."""
    predictions: pd.DataFrame
    """`image_id patient_id seed label predicted decision p_<class>...`, a row per test image and
    seed, and `fold` after `seed` where there are folds; `decision` is the rule by which
    `predicted` follows from the probabilities."""
    splits: tuple[Split, ...]
    """Rows of the ids that trained and tested."""
    pooled: dict[str, Estimate] = field(default_factory=dict)
    """Of splits into folds: each metric of the predictions of all folds of a seed together."""
    decision: Decision = "likeliest"
    """The rule by which classes were decided on."""
    class_shares: Mapping[str, float] = field(default_factory=dict)
    """Of the training images, mean over seeds: what `balanced` compares probabilities with."""
    settings: tuple[Mapping[str, float], ...] = ()
    """What was chosen by cross-validation in each seed, as the C of each block."""
    converged: bool = True
    probe: LinearProbe | None = None
    """Of the first seed, fitted on all its training rows."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {found}" for name, found in self.metrics.items())
        images = self.predictions["image_id"].nunique()
        tested = f"{images} test images of {self.n_test_patients} patients"
        return f"ProbeResult({self.name} on '{self.config.features}', {tested}: {shown})"

    def to_frame(self) -> pd.DataFrame:
        """A row per metric: `mean`, and `low` and `high` of the 95 % interval."""
        rows = {name: (found.mean, *found.ci95) for name, found in self.metrics.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "low", "high"])

    @property
    def balanced_accuracy(self) -> Estimate:
        """The headline figure."""
        return self.metrics["balanced_accuracy"]

    @property
    def by_fold(self) -> str:
        """The balanced accuracy of each fold, in a sentence; empty without folds."""
        each = self.balanced_accuracy.per_fold
        if not each:
            return ""
        return (
            f"balanced accuracy per fold {', '.join(f'{value:.3f}' for value in each)} (standard "
            f"deviation {np.nanstd(each):.3f}); of all folds' predictions together "
            f"{self.pooled['balanced_accuracy']}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        left_out = ["metrics", "config", "predictions", "splits", "probe"]
        left_out += ["pooled"] * (not self.pooled)
        return {
            **{name: estimate.to_dict() for name, estimate in self.metrics.items()},
            **{name: value for name, value in super().to_dict().items() if name not in left_out},
            "confusion": self.confusion.tolist(),
            "features": self.config.features,
            "probe_config": asdict(self.config),
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """A folder of what `write` writes; with `overwrite` in the place of one of slimp."""
        with new_folder(Path(folder), overwrite=overwrite) as partial:
            self.write(partial)

    def write(self, folder: Path) -> None:
        """Writes `metrics.json`, `predictions.parquet` and, of a logistic probe, the probe."""
        with new_file(folder / "predictions.parquet") as partial:
            self.predictions.to_parquet(partial, index=False)
        if self.probe is not None:
            self.probe.save(folder)
        write_json(folder / "metrics.json", self.to_dict())


def summarise(
    task: Task,
    found: Sequence[Predictions],
    config: ProbeConfig,
    *,
    name: str,
    decision: Decision = "likeliest",
) -> ProbeResult:
    """The metrics of one set of predictions per split, with intervals over patients.

    Of folds, each metric is the mean over them, as cross-validation is reported; a replicate of
    its interval draws from the patients of all folds at once.
    """
    k, table = len(task.classes), prediction_table(task, found, decision)
    estimates = _estimates(found, task, config, folds=task.folds)
    recall = {c: estimates.pop(f"recall {c}") for c in task.classes}
    confusion = np.zeros((k, k), dtype=np.int64)
    for one in found:
        np.add.at(confusion, (one.y, one.predicted), 1)
    pooled = {}
    if task.folds > 1:
        pooled = _estimates(Predictions.per_seed(table, task.classes), task, config, folds=1)
    return ProbeResult(
        name=name,
        config=config,
        classes=task.classes,
        metrics=estimates,
        recall=recall,
        pooled={name: value for name, value in pooled.items() if name in estimates},
        confusion=confusion,
        n_train=round(np.mean([len(split.train) for split in task.splits])),
        n_test=round(np.mean([len(split.test) for split in task.splits])),
        n_test_patients=table["patient_id"].nunique(),
        n_unlabelled=int((task.y < 0).sum()),
        split=task.split,
        predictions=table,
        splits=task.splits,
        decision=decision,
        class_shares=task.class_shares,
    )


def _estimates(
    found: Sequence[Predictions], task: Task, config: ProbeConfig, *, folds: int
) -> dict[str, Estimate]:
    """Every metric, and `recall <class>`."""

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        recall = found[split].recall(weights)  # (r, k)
        named = {f"recall {c}": recall[:, i] for i, c in enumerate(task.classes)}
        return {**found[split].metrics(weights), **named}

    groups = [one.patients for one in found]
    how: dict[str, Any] = {"replicates": config.replicates, "seed": config.seed, "folds": folds}
    return bootstrap(groups, statistic, reflect=("ece",), **how)


def prediction_table(task: Task, found: Sequence[Predictions], rule: Decision) -> pd.DataFrame:
    """The rows of `ProbeResult.predictions`."""
    names, frames = np.array(task.classes), []
    for split, one in zip(task.splits, found, strict=True):
        ids = task.ids.iloc[split.test][["image_id", "patient_id"]].reset_index(drop=True)
        columns: dict[str, Any] = {"seed": split.seed}
        columns |= {} if split.fold is None else {"fold": split.fold}
        columns |= {"label": names[one.y], "predicted": names[one.predicted], "decision": rule}
        columns |= {f"p_{c}": one.probabilities[:, i] for i, c in enumerate(task.classes)}
        frames.append(ids.assign(**columns))
    return pd.concat(frames, ignore_index=True)
