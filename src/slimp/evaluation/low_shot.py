"""The probe with few labelled patients: how many labels a clinic has to collect.

Two kinds of random subset of the training rows of a split, both nested: a smaller one is contained
in every larger one of the same draw, so that neighbouring points of the curve differ by the added
rows only.

- fraction f: whole patients with all their images. Each class (a patient counts for the rarest of
  its classes) gives f of its patients, rounded at random so that the mean over draws is exact. A
  rare class may be missing.
- k shots: k images of each class, each of another patient, because images of one patient are no
  independent examples; all that there are, if a class has fewer patients.

Axis names: n = training rows of one split, r = replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from slimp.evaluation.bootstrap import Array, Estimate, bootstrap
from slimp.evaluation.folds import Split
from slimp.evaluation.linear_probe import knn_predictions
from slimp.evaluation.logistic import fit_at, fit_logistic
from slimp.evaluation.metrics import balanced_accuracy, ranking_metrics
from slimp.evaluation.probe_config import LowShotConfig, ProbeConfig
from slimp.evaluation.result import Predictions, ProbeResult, Task


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
    """Mean over draws. A class that was not drawn counts as never found."""
    auroc_macro_ovr: float
    """Mean over splits and draws."""
    spread: float
    """Standard deviation of the balanced accuracy over draws, within a split."""
    unreached: Mapping[str, float]
    """Class -> fraction of draws without an image of it; classes that all draws have are left
    out."""
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
            often = ", ".join(f"{c} in {100 * s:.0f} %" for c, s in self.unreached.items())
            parts.append(f"draws without a class, which then counts as never found: {often}")
        if self.short:
            parts.append(
                f"fewer patients than shots, so all of them are used: {', '.join(self.short)}"
            )
        return f"{self.setting}: {'; '.join(parts)}." if parts else ""


@dataclass(frozen=True, kw_only=True, eq=False)
class LowShot:
    """The curve, and which images were drawn for it."""

    points: tuple[LowShotPoint, ...]
    draws: int
    rows: pd.DataFrame
    """`setting seed draw image_id patient_id`, a row per image that was learned from."""

    def to_dict(self) -> dict[str, Any]:
        """The entry `low_shot` of `metrics.json`."""
        points = [
            {**asdict(point), "balanced_accuracy": point.balanced_accuracy.to_dict()}
            for point in self.points
        ]
        return {"draws": self.draws, "points": points}


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
        task: whose training rows are subsampled; the test rows are those of the whole probe.
        config: of the probe.
        low: fractions, shots and draws.
        whole: the probe that learned from all patients, if it exists already.
    """
    points: list[LowShotPoint] = []
    frames: list[pd.DataFrame] = []
    values = [("fraction", value) for value in sorted(set(low.fractions))]
    values += [("shots", float(value)) for value in sorted(set(low.shots))]
    for kind, value in values:
        everyone = (kind, value) == ("fraction", 1)
        # All patients are the same patients in every draw.
        draws = range(1 if everyone else low.draws)
        drawn = [[_draw(task, s, kind, value, draw) for draw in draws] for s in task.splits]
        if everyone and whole is not None:
            tables = whole.predictions.groupby("seed", sort=False)
            found = [[Predictions.of_rows(rows, task.classes)] for _, rows in tables]
        else:
            found = [
                [_fit_and_predict(x, task, split, rows, config) for rows in of_split]
                for split, of_split in zip(task.splits, drawn, strict=True)
            ]
        setting = f"{kind} {value:g}"
        points.append(_point(task, config, setting, drawn, found))
        for split, of_split in zip(task.splits, drawn, strict=True):
            for draw, rows in enumerate(of_split):
                columns: dict[str, Any] = {"setting": setting, "seed": split.seed, "draw": draw}
                ids = task.ids.iloc[rows][["image_id", "patient_id"]]
                frames.append(ids.assign(**columns)[[*columns, *ids]])
    return LowShot(points=tuple(points), draws=low.draws, rows=pd.concat(frames, ignore_index=True))


def draw_fraction(
    labels: Shaped[Array, " n"], groups: Shaped[Array, " n"], fraction: float, *, seed: list[int]
) -> Int[Array, " m"]:
    """Rows of a fraction in (0, 1] of the patients, stratified by class; at least one patient.

    Subsets of the same seed nest.
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

    Subsets of the same seed nest.
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
    drawn: Sequence[Sequence[Array]],
    found: Sequence[Sequence[Predictions]],
) -> LowShotPoint:
    kind, _, value = setting.partition(" ")
    k, draws = len(task.classes), len(drawn[0])
    flat = [rows for of_split in drawn for rows in of_split]
    answers = [one for of_split in found for one in of_split]
    tests = [split.test for split in task.splits for _ in range(draws)]
    y = [task.y[rows] for rows in tests]

    def statistic(i: int, weights: Array) -> dict[str, Array]:
        return {"score": balanced_accuracy(y[i], answers[i].predicted, weights, k)}

    groups = [task.groups[rows] for rows in tests]
    score = bootstrap(groups, statistic, replicates=config.replicates, seed=config.seed)["score"]
    per_draw = np.reshape(score.per_seed, (-1, draws))  # (splits, draws)
    aurocs = [
        ranking_metrics(y[i], one.probabilities, np.ones((1, len(y[i]))))["auroc_macro_ovr"]
        for i, one in enumerate(answers)
    ]
    missed, short = {}, []
    for c, name in enumerate(task.classes):
        missed[name] = float(np.mean([(task.y[rows] != c).all() for rows in flat]))
        own = [split.train[task.y[split.train] == c] for split in task.splits]
        if kind == "shots" and min(len(set(task.groups[rows])) for rows in own) < float(value):
            short.append(name)
    return LowShotPoint(
        setting=setting,
        value=float(value),
        n_images=float(np.mean([len(rows) for rows in flat])),
        n_patients=float(np.mean([len(set(task.groups[rows])) for rows in flat])),
        balanced_accuracy=replace(score, per_seed=tuple(per_draw.mean(axis=1).tolist())),
        auroc_macro_ovr=float(np.mean(aurocs)),
        spread=float(per_draw.std(axis=1).mean()),
        unreached={name: fraction for name, fraction in missed.items() if fraction > 0},
        short=tuple(sorted(short)),
    )


def _fit_and_predict(
    x: Array, task: Task, split: Split, rows: Array, config: ProbeConfig
) -> Predictions:
    """The probe that learned from these rows alone, on the split's test rows."""
    y, groups, test = task.y[rows], task.groups[rows], x[split.test]
    present = np.unique(y)
    if len(present) == 1:  # nothing to distinguish
        certain = np.tile(np.eye(len(task.classes))[present], (len(test), 1))
        return Predictions(probabilities=certain, predicted=certain.argmax(axis=1))
    if config.method == "knn":
        return knn_predictions(x[rows], y, test, len(task.classes), config)
    patients = min(len(np.unique(groups[y == c])) for c in present)
    if patients < 2:  # a class of one patient cannot be both learned and validated
        middle = sorted(config.strengths)[len(config.strengths) // 2]
        probe = fit_at(x[rows], y, task.classes, middle)
    else:
        probe = fit_logistic(
            *(x[rows], y, groups, task.classes),
            strengths=config.strengths,
            folds=min(config.folds, patients),
            seed=split.seed,
        ).probe
    p = probe.predict_proba(test)
    return Predictions(probabilities=p, predicted=probe.decide(p))
