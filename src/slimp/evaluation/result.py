"""What a probe (or a baseline on the same splits) found, and its files.

Axis names: n = test rows of one split, k = classes, r = replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from slimp.data.files import check_output, new_file, write_json
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.evaluation.folds import (
    Split,
    held_out_split,
    labelled_rows,
    make_splits,
    official_parts,
)
from slimp.evaluation.logistic import LinearProbe
from slimp.evaluation.metrics import brier, ece, metrics, recall_per_class
from slimp.evaluation.probe_config import ProbeConfig

Array = np.ndarray[Any, np.dtype[Any]]
ECES = ("ece", "ece_scaled")
"""Metrics that resampling only adds to, see `bootstrap`."""
TWO = ("benign", "malignant")
"""The classes where several labels are joined; the one looked for comes last."""
Kind = Literal["p", "q"]
"""Of probabilities: as the probe gives them, or calibrated."""


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
    """The split was given, not dealt."""

    @property
    def groups(self) -> Array:
        """Patient per row."""
        return self.ids["patient_id"].to_numpy(dtype=str)


def make_task(
    ids: pd.DataFrame, config: ProbeConfig, parts: Sequence[object] | Array | None = None
) -> Task:
    """The task that `config` describes; the same ids give the same splits.

    Args:
        ids: as in `FeatureTable.ids` or `cohort.images`.
        config: its split, seeds and positive class.
        parts: per row, the part of a given split; None deals splits at random.

    Raises:
        UserError: the classes or parts do not allow it; the message says why.
    """
    ids = relabelled(ids, config.malignant)
    rows = labelled_rows(ids)
    names = list(TWO) if config.malignant else sorted(set(ids["label"].iloc[rows]))
    if config.positive is not None:
        if len(names) != 2 or config.positive not in names:
            raise UserError(
                f"positive='{config.positive}' must be one of exactly two classes; "
                f"the classes are: {', '.join(names)}."
            )
        names.sort(key=lambda name: name == config.positive)
    if parts is None and config.split == "official":
        parts = official_parts(ids)
    if parts is None:
        splits = make_splits(
            ids, config.split, config.split_seeds, test_fraction=config.test_fraction
        )
    else:
        splits = (held_out_split(ids, parts, seed=config.seed),)
    return Task(
        ids=ids,
        classes=tuple(names),
        y=codes_of(ids["label"], names),
        splits=splits,
        held_out=parts is not None,
    )


def relabelled(ids: pd.DataFrame, malignant: Sequence[str]) -> pd.DataFrame:
    """The same rows with the labels benign and malignant; as they are if `malignant` is empty.

    Args:
        ids: with a column `label`; rows without one stay without.
        malignant: labels that count as malignant; every other one is benign.

    Raises:
        UserError: one of them does not occur, or no label is left to be benign.
    """
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
    names = np.where(ids["label"].isin(list(malignant)), TWO[1], TWO[0]).astype(object)
    names[ids["label"].isna().to_numpy()] = None
    return ids.assign(label=names)


def codes_of(labels: pd.Series, classes: Sequence[str]) -> Int[Array, " rows"]:
    """Position of each label in `classes`; -1 where it is missing."""
    return pd.Categorical(labels, categories=list(classes)).codes.astype(np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a classifier said about the test rows of one split."""

    probabilities: Float[Array, "n k"]
    predicted: Int[Array, " n"]
    """Class decided on."""
    calibrated: Float[Array, "n k"] | None = None
    """Probabilities for the class shares of the training rows, after temperature scaling."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeResult:
    """Metrics with intervals, what they were made from, and the probe itself."""

    name: str
    """What was probed, as in 'linear' or 'majority'."""
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
    """In any seed; they are what the intervals draw from."""
    n_unlabelled: int
    """Images left out because they have no label."""
    held_out: bool
    predictions: pd.DataFrame
    """`image_id patient_id seed label predicted p_<class>... q_<class>...`, a row per test image
    and seed; q_ are calibrated probabilities, of a linear probe only."""
    trained_on: Int[Array, " n_train"]
    """Rows of the ids that trained in the first split."""
    strengths: tuple[float, ...] = ()
    """The C chosen in each seed, if any."""
    temperatures: tuple[float, ...] = ()
    """Of the scaling, in each seed, if any."""
    converged: bool = True
    probe: LinearProbe | None = None
    """Of the first seed, fitted on all its training rows."""

    @property
    def balanced_accuracy(self) -> Estimate:
        """The headline figure."""
        return self.metrics["balanced_accuracy"]

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        return {
            **{name: estimate.to_dict() for name, estimate in self.metrics.items()},
            "recall": {name: estimate.to_dict() for name, estimate in self.recall.items()},
            "confusion": self.confusion.tolist(),
            "classes": list(self.classes),
            "n_train": self.n_train,
            "n_test": self.n_test,
            "n_test_patients": self.n_test_patients,
            "n_unlabelled": self.n_unlabelled,
            "split": self.config.split
            if self.config.split == "official" or not self.held_out
            else "held_out",
            "features": self.config.features,
            "name": self.name,
            "strengths": list(self.strengths),
            "temperatures": list(self.temperatures),
            "converged": self.converged,
            "probe_config": asdict(self.config),
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes `metrics.json`, `predictions.parquet` and, of a linear probe, the probe.

        Raises:
            UserError: the folder is not empty and `overwrite` is off.
        """
        folder = Path(folder)
        check_output(folder, overwrite=overwrite)
        with new_file(folder / "predictions.parquet") as partial:
            self.predictions.to_parquet(partial, index=False)
        if self.probe is not None:
            self.probe.save(folder)
        write_json(folder / "metrics.json", self.to_dict())


def answer_of(rows: pd.DataFrame, classes: Sequence[str]) -> Answer:
    """The answer that rows of `ProbeResult.predictions` of one seed hold."""
    return Answer(
        probabilities=probabilities_of(rows, classes),
        predicted=codes_of(rows["predicted"], classes),
        calibrated=probabilities_of(rows, classes, "q") if has_probabilities(rows, "q") else None,
    )


def has_probabilities(rows: pd.DataFrame, kind: Kind) -> bool:
    """Whether predictions have probabilities of this kind; not every probe is calibrated."""
    return any(str(name).startswith(f"{kind}_") for name in rows.columns)


def probabilities_of(
    rows: pd.DataFrame, classes: Sequence[str], kind: Kind = "p", *, suffix: str = ""
) -> Float[Array, "n k"]:
    """Probabilities as a matrix, from columns `p_<class>` or `q_<class>` of predictions.

    Args:
        rows: as in `ProbeResult.predictions`.
        classes: in the order wanted.
        kind: p as the probe gives them, q calibrated.
        suffix: of the columns' names, where two tables were joined.
    """
    names = [f"{kind}_{name}{suffix}" for name in classes]
    return rows[names].to_numpy(dtype=np.float64)


def summarise(
    task: Task,
    answers: Sequence[Answer],
    config: ProbeConfig,
    *,
    name: str,
    strengths: tuple[float, ...] = (),
    temperatures: tuple[float, ...] = (),
    converged: bool = True,
    probe: LinearProbe | None = None,
) -> ProbeResult:
    """The result of one answer per split: metrics, and their intervals over patients."""
    tested = [task.y[split.test] for split in task.splits]
    groups = [task.groups[split.test] for split in task.splits]
    k = len(task.classes)

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        y, answer = tested[split], answers[split]
        recall = recall_per_class(y, answer.predicted, weights, k)  # (r, k)
        return {
            **metrics(y, answer.probabilities, answer.predicted, weights),
            **scaled_metrics(y, answer.calibrated, weights),
            **{f"recall {c}": recall[:, i] for i, c in enumerate(task.classes)},
        }

    estimates = bootstrap(
        groups, statistic, replicates=config.replicates, seed=config.seed, reflect=ECES
    )
    recall = {c: estimates.pop(f"recall {c}") for c in task.classes}
    confusion = np.zeros((k, k), dtype=np.int64)
    for y, answer in zip(tested, answers, strict=True):
        np.add.at(confusion, (y, answer.predicted), 1)
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
        predictions=_predictions(task, answers),
        trained_on=task.splits[0].train,
        strengths=strengths,
        temperatures=temperatures,
        converged=converged,
        probe=probe,
    )


def scaled_metrics(
    y: Int[Array, " n"], calibrated: Float[Array, "n k"] | None, weights: Float[Array, "r n"]
) -> dict[str, Float[Array, " r"]]:
    """`ece_scaled` and `brier_scaled` of calibrated probabilities; nothing where there are none."""
    if calibrated is None:
        return {}
    return {
        "ece_scaled": ece(y, calibrated, weights),
        "brier_scaled": brier(y, calibrated, weights),
    }


def _predictions(task: Task, answers: Sequence[Answer]) -> pd.DataFrame:
    names = np.array(task.classes)
    frames = []
    for split, answer in zip(task.splits, answers, strict=True):
        ids = task.ids.iloc[split.test][["image_id", "patient_id"]].reset_index(drop=True)
        frame = ids.assign(
            seed=split.seed,
            label=names[task.y[split.test]],
            predicted=names[answer.predicted],
        )
        shares = {f"p_{c}": answer.probabilities[:, i] for i, c in enumerate(task.classes)}
        if answer.calibrated is not None:
            shares |= {f"q_{c}": answer.calibrated[:, i] for i, c in enumerate(task.classes)}
        frames.append(frame.assign(**shares))
    return pd.concat(frames, ignore_index=True)
