"""The probe with few labelled patients: how many labels a clinic has to collect.

Two kinds of draw from the training rows of a split, both nested: a smaller draw is contained
in every larger one of the same number, so that neighbouring points of the curve differ by the
rows that came in and by nothing else.

- a fraction f: whole patients. Each class (a patient counts for the rarest of his own) gives f of
  its patients, rounded at random so that the mean over draws is exact; a drawn patient brings
  all his images. A rare class may come away with nothing.
- k shots: k images of each class, each of another patient, because images of one patient
  are no independent examples; all that there are, if a class has fewer patients.

Axis names: n = training rows of one split, r = replicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.evaluation.folds import Split
from slimp.evaluation.linear_probe import knn_answer
from slimp.evaluation.logistic import fit_at, fit_logistic
from slimp.evaluation.metrics import ranking_metrics, recall_per_class
from slimp.evaluation.probe_config import LowShotConfig, ProbeConfig
from slimp.evaluation.result import Answer, ProbeResult, Task, answer_of

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class LowShotPoint:
    """The score at one number of labels."""

    setting: str
    """As in 'fraction 0.1' or 'shots 5'."""
    value: float
    """The fraction, or the shots."""
    n_images: float
    """Images learned from, mean over splits and draws."""
    n_patients: float
    balanced_accuracy: Estimate
    """Mean over draws, then as ever. A class that was not drawn counts as never found."""
    auroc_macro_ovr: float
    """Mean over splits and draws."""
    spread: float
    """Standard deviation of the balanced accuracy over draws, within a split."""
    unreached: Mapping[str, float]
    """Class -> share of draws without an image of it; classes that all draws have are left out."""
    short: tuple[str, ...]
    """Classes with fewer patients than the shots asked for, in some split."""

    @property
    def kind(self) -> str:
        """`fraction` or `shots`."""
        return self.setting.partition(" ")[0]

    @property
    def remark(self) -> str:
        """Which classes are missing from draws, in a sentence; empty if none is."""
        parts = []
        if self.unreached:
            shares = ", ".join(f"{c} in {100 * s:.0f} %" for c, s in self.unreached.items())
            parts.append(f"draws without a class, which then counts as never found: {shares}")
        if self.short:
            parts.append(
                f"fewer patients than shots, so all of them are used: {', '.join(self.short)}"
            )
        return f"{self.setting}: {'; '.join(parts)}." if parts else ""

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`."""
        return {
            **{name: getattr(self, name) for name in ("setting", "value", "n_images")},
            "n_patients": self.n_patients,
            "balanced_accuracy": self.balanced_accuracy.to_dict(),
            "auroc_macro_ovr": self.auroc_macro_ovr,
            "spread": self.spread,
            "unreached": dict(self.unreached),
            "short": list(self.short),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class LowShot:
    """The curve, and who was drawn for it."""

    points: tuple[LowShotPoint, ...]
    draws: int
    rows: pd.DataFrame
    """`setting seed draw image_id patient_id`, a row per image that was learned from."""

    def to_dict(self) -> dict[str, Any]:
        """The entry `low_shot` of `metrics.json`."""
        return {"draws": self.draws, "points": [point.to_dict() for point in self.points]}


def low_shot(
    x: Array,
    task: Task,
    config: ProbeConfig,
    low: LowShotConfig,
    *,
    whole: ProbeResult | None = None,
) -> LowShot:
    """The probe of `config` at each fraction and each number of shots.

    Args:
        x: features, a row per row of the task's ids.
        task: whose splits are drawn from; the test rows are those of the whole probe.
        config: of the probe.
        low: what to draw.
        whole: the probe that learned from all patients, if it is at hand already.
    """
    points: list[LowShotPoint] = []
    frames: list[pd.DataFrame] = []
    kinds: tuple[tuple[str, Sequence[float]], ...] = (
        ("fraction", low.fractions),
        ("shots", low.shots),
    )
    for kind, values in kinds:
        for value in sorted({float(value) for value in values}):
            everyone = (kind, value) == ("fraction", 1)
            # All patients are the same patients in every draw.
            draws = 1 if everyone else low.draws
            drawn = [
                [_draw(task, split, kind, value, draw) for draw in range(draws)]
                for split in task.splits
            ]
            if everyone and whole is not None:
                said = whole.predictions.groupby("seed", sort=False)
                answers = [[answer_of(rows, task.classes)] for _, rows in said]
            else:
                answers = [
                    [_answer(x, task, split, rows, config) for rows in of_split]
                    for split, of_split in zip(task.splits, drawn, strict=True)
                ]
            points.append(_point(task, config, f"{kind} {value:g}", value, drawn, answers))
            frames.extend(_who(task, f"{kind} {value:g}", drawn))
    return LowShot(points=tuple(points), draws=low.draws, rows=pd.concat(frames, ignore_index=True))


def draw_fraction(
    labels: Shaped[Array, " n"], groups: Shaped[Array, " n"], fraction: float, *, seed: list[int]
) -> Int[Array, " m"]:
    """Rows of a share of the patients, stratified by class; at least one patient.

    Args:
        labels: class per row.
        groups: patient per row.
        fraction: in (0, 1].
        seed: of the draw; the same seed nests.
    """
    rng = np.random.default_rng(seed)
    names, codes = np.unique(groups, return_inverse=True)
    classes, y = np.unique(labels, return_inverse=True)
    has = np.zeros((len(names), len(classes)), dtype=bool)  # (patients, classes)
    has[codes, y] = True
    rarity = np.argsort(np.argsort(has.sum(axis=0), kind="stable"), kind="stable")
    stratum = np.where(has, rarity, len(classes)).argmin(axis=1)
    # Systematic sampling: patients of a class stand at equal distances on (0, 1), from a
    # random start, and those below the fraction are drawn.
    position = np.empty(len(names))
    for c in range(len(classes)):
        members = rng.permutation(np.flatnonzero(stratum == c))
        position[members] = (np.arange(len(members)) + rng.random()) / max(len(members), 1)
    drawn = (position < fraction) | (position == position.min())
    return np.flatnonzero(drawn[codes])


def draw_shots(
    labels: Shaped[Array, " n"], groups: Shaped[Array, " n"], shots: int, *, seed: list[int]
) -> Int[Array, " m"]:
    """Rows with at most `shots` of each class, no two rows of a class from one patient.

    Args:
        labels: class per row.
        groups: patient per row.
        shots: images per class.
        seed: of the draw; the same seed nests.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for label in np.unique(labels):
        order = rng.permutation(np.flatnonzero(labels == label))
        _, first = np.unique(groups[order], return_index=True)  # one image of each patient
        rows.append(order[np.sort(first)[:shots]])
    return np.sort(np.concatenate(rows))


def _draw(task: Task, split: Split, kind: str, value: float, draw: int) -> Int[Array, " m"]:
    """Rows of the task's ids; they do not depend on the order of the ids."""
    rows = split.train[np.argsort(task.ids["image_id"].to_numpy(dtype=str)[split.train])]
    labels, groups, seed = task.y[rows], task.groups[rows], [split.seed, draw]
    if kind == "fraction":
        return rows[draw_fraction(labels, groups, value, seed=seed)]
    return rows[draw_shots(labels, groups, int(value), seed=seed)]


def _point(
    task: Task,
    config: ProbeConfig,
    setting: str,
    value: float,
    drawn: Sequence[Sequence[Array]],
    answers: Sequence[Sequence[Answer]],
) -> LowShotPoint:
    k = len(task.classes)
    tested = [task.y[split.test] for split in task.splits]

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        recalls = [
            recall_per_class(tested[split], answer.predicted, weights, k)
            for answer in answers[split]
        ]
        return {"balanced_accuracy": np.nanmean(recalls, axis=(0, 2))}

    groups = [task.groups[split.test] for split in task.splits]
    found = bootstrap(groups, statistic, replicates=config.replicates, seed=config.seed)
    alone = [
        [_plain(y, answer, k) for answer in said] for y, said in zip(tested, answers, strict=True)
    ]
    scores = np.array(alone)  # (splits, draws, 2)
    flat = [rows for draws in drawn for rows in draws]
    without = {
        c: float(np.mean([(task.y[rows] != i).all() for rows in flat]))
        for i, c in enumerate(task.classes)
    }
    short = {
        c
        for i, c in enumerate(task.classes)
        for split in task.splits
        if len(np.unique(task.groups[split.train][task.y[split.train] == i])) < value
    }
    return LowShotPoint(
        setting=setting,
        value=value,
        n_images=float(np.mean([len(rows) for rows in flat])),
        n_patients=float(np.mean([len(np.unique(task.groups[rows])) for rows in flat])),
        balanced_accuracy=found["balanced_accuracy"],
        auroc_macro_ovr=float(scores[..., 1].mean()),
        spread=float(scores[..., 0].std(axis=1).mean()),
        unreached={c: share for c, share in without.items() if share > 0},
        short=tuple(sorted(short)) if setting.startswith("shots") else (),
    )


def _answer(x: Array, task: Task, split: Split, rows: Array, config: ProbeConfig) -> Answer:
    """The probe that learned from these rows alone, on the split's test rows."""
    y, groups, test = task.y[rows], task.groups[rows], x[split.test]
    present = np.unique(y)
    if len(present) == 1:  # nothing to tell apart
        certain = np.tile(np.eye(len(task.classes))[present], (len(test), 1))
        return Answer(probabilities=certain, predicted=certain.argmax(axis=1))
    if config.method == "knn":
        return knn_answer(x[rows], y, test, len(task.classes), config)
    patients = min(len(np.unique(groups[y == c])) for c in present)
    if patients < 2:  # a class of one patient cannot be both learned and validated
        middle = sorted(config.strengths)[len(config.strengths) // 2]
        probe = fit_at(x[rows], y, task.classes, strength=middle, features=config.features)
    else:
        probe = fit_logistic(
            x[rows],
            y,
            groups,
            task.classes,
            strengths=config.strengths,
            folds=min(config.folds, patients),
            seed=split.seed,
            features=config.features,
        ).probe
    probabilities = probe.predict_proba(test)
    return Answer(probabilities=probabilities, predicted=probe.decide(probabilities))


def _plain(y: Array, answer: Answer, k: int) -> tuple[float, float]:
    """Balanced accuracy and AUROC, every row weighing the same."""
    one = np.ones((1, len(y)))
    recall = recall_per_class(y, answer.predicted, one, k)
    auroc = ranking_metrics(y, answer.probabilities, one)["auroc_macro_ovr"]
    return float(np.nanmean(recall)), float(auroc[0])


def _who(task: Task, setting: str, drawn: Sequence[Sequence[Array]]) -> Iterator[pd.DataFrame]:
    for split, draws in zip(task.splits, drawn, strict=True):
        for draw, rows in enumerate(draws):
            ids = task.ids.iloc[rows][["image_id", "patient_id"]].reset_index(drop=True)
            ids.insert(0, "setting", setting)
            ids.insert(1, "seed", split.seed)
            ids.insert(2, "draw", draw)
            yield ids
