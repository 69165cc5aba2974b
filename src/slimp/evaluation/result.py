"""What a probe (or a baseline on the same splits) found, and its files.

Axis names: n = test rows of one split, k = classes, r = replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from slimp.data.files import check_output, new_file, write_json
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, Record, bootstrap
from slimp.evaluation.folds import (
    Split,
    held_out_split,
    labelled_rows,
    make_splits,
    official_parts,
)
from slimp.evaluation.logistic import LinearProbe
from slimp.evaluation.metrics import Array, metrics, recall_per_class
from slimp.evaluation.probe_config import Decision, ProbeConfig

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
        """One per seed of `ProbeResult.predictions`, in the order of the seeds."""
        return [cls.of_rows(own, classes) for _, own in rows.groupby("seed", sort=True)]

    def select(self, rows: Shaped[Array, " m"]) -> Predictions:
        """Some of the rows, by number or mask."""
        return Predictions(**{name: values[rows] for name, values in vars(self).items()})

    def metrics(self, weights: Float[Array, "r n"]) -> dict[str, Float[Array, " r"]]:
        """Every metric by name."""
        return metrics(self.y, self.probabilities, self.predicted, weights)

    def recall(self, weights: Float[Array, "r n"]) -> Float[Array, "r k"]:
        """Of each class; NaN where it is absent."""
        return recall_per_class(self.y, self.predicted, weights, self.probabilities.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Labelled rows, their classes, and the splits on which everything is compared."""

    ids: pd.DataFrame
    """`image_id lesion_id patient_id label`, a row per image, unlabelled ones included."""
    classes: tuple[str, ...]
    y: Int[Array, " rows"]
    """Class per row of `ids`; -1 where unlabelled."""
    splits: tuple[Split, ...]
    held_out: bool
    """The split was given, not drawn at random."""

    @property
    def groups(self) -> Array:
        """Patient per row."""
        return self.ids["patient_id"].to_numpy(dtype=str)

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


def make_task(
    ids: pd.DataFrame, config: ProbeConfig, parts: Sequence[object] | Array | None = None
) -> Task:
    """The task that `config` describes, on given `parts` (per row) or random splits.

    Raises:
        UserError: the classes or parts do not allow it.
    """
    ids = relabelled(ids, config.malignant)
    names = list(TWO) if config.malignant else sorted(set(ids["label"].iloc[labelled_rows(ids)]))
    if config.positive is not None:
        if len(names) != 2 or config.positive not in names:
            raise UserError(
                f"positive='{config.positive}' must be one of exactly two classes; "
                f"the classes are: {', '.join(names)}."
            )
        names.sort(key=lambda name: name == config.positive)
    if parts is None and config.split == "official":
        parts = official_parts(ids)
    splits = (
        make_splits(ids, config.split, config.split_seeds, test_fraction=config.test_fraction)
        if parts is None
        else (held_out_split(ids, parts, seed=config.seed),)
    )
    return Task(
        ids=ids,
        classes=tuple(names),
        y=codes_of(ids["label"], names),
        splits=splits,
        held_out=parts is not None,
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
    """Images, mean over seeds."""
    n_test: int
    n_test_patients: int
    """Over all seeds: what the intervals resample."""
    n_unlabelled: int
    """Images left out because they have no label."""
    held_out: bool
    predictions: pd.DataFrame
    """`image_id patient_id seed label predicted decision p_<class>...`, a row per test image and
    seed; `decision` is the rule by which `predicted` follows from the probabilities."""
    trained_on: Int[Array, " n_train"]
    """Rows of the ids that trained in the first split."""
    decision: Decision = "likeliest"
    """The rule by which classes were decided on."""
    class_shares: Mapping[str, float] = field(default_factory=dict)
    """Of the training images, mean over seeds: what `balanced` compares probabilities with."""
    settings: tuple[Mapping[str, float], ...] = ()
    """What was chosen by cross-validation in each seed, as the C of each block."""
    converged: bool = True
    probe: LinearProbe | None = None
    """Of the first seed, fitted on all its training rows."""

    @property
    def balanced_accuracy(self) -> Estimate:
        """The headline figure."""
        return self.metrics["balanced_accuracy"]

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        left_out = ("metrics", "config", "held_out", "predictions", "trained_on", "probe")
        given = self.held_out and self.config.split != "official"
        return {
            **{name: estimate.to_dict() for name, estimate in self.metrics.items()},
            **{name: value for name, value in super().to_dict().items() if name not in left_out},
            "confusion": self.confusion.tolist(),
            "split": "held_out" if given else self.config.split,
            "features": self.config.features,
            "probe_config": asdict(self.config),
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes `metrics.json`, `predictions.parquet` and, of a logistic probe, the probe."""
        folder = Path(folder)
        check_output(folder, overwrite=overwrite)
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
    """The metrics of one set of predictions per split, with intervals over patients."""
    k = len(task.classes)

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        recall = found[split].recall(weights)  # (r, k)
        named = {f"recall {c}": recall[:, i] for i, c in enumerate(task.classes)}
        return {**found[split].metrics(weights), **named}

    groups = [one.patients for one in found]
    estimates = bootstrap(
        groups, statistic, replicates=config.replicates, seed=config.seed, reflect=("ece",)
    )
    recall = {c: estimates.pop(f"recall {c}") for c in task.classes}
    confusion = np.zeros((k, k), dtype=np.int64)
    for one in found:
        np.add.at(confusion, (one.y, one.predicted), 1)
    return ProbeResult(
        name=name,
        config=config,
        classes=task.classes,
        metrics=estimates,
        recall=recall,
        confusion=confusion,
        n_train=round(np.mean([len(split.train) for split in task.splits])),
        n_test=round(np.mean([len(split.test) for split in task.splits])),
        n_test_patients=len(np.unique(np.concatenate(groups))),
        n_unlabelled=int((task.y < 0).sum()),
        held_out=task.held_out,
        predictions=_prediction_table(task, found, decision),
        trained_on=task.splits[0].train,
        decision=decision,
        class_shares=task.class_shares,
    )


def _prediction_table(task: Task, found: Sequence[Predictions], rule: Decision) -> pd.DataFrame:
    names, frames = np.array(task.classes), []
    for split, one in zip(task.splits, found, strict=True):
        ids = task.ids.iloc[split.test][["image_id", "patient_id"]].reset_index(drop=True)
        columns: dict[str, Any] = {"seed": split.seed, "label": names[one.y]}
        columns |= {"predicted": names[one.predicted], "decision": rule}
        columns |= {f"p_{c}": one.probabilities[:, i] for i, c in enumerate(task.classes)}
        frames.append(ids.assign(**columns))
    return pd.concat(frames, ignore_index=True)
