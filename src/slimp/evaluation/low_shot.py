"""The probe with few labelled patients: how many labels a clinic has to collect.

Of the training rows of a split a random subset trains; a smaller one is contained in every larger
one of the same draw, so that neighbouring points of the curve differ by the added rows only.

- fraction f: whole patients with all their images. Each class (a patient counts for the rarest of
  its classes) gives f of its patients, rounded at random so that the mean over draws is exact.
- k shots: k images of each class, each of another patient, because images of one patient are no
  independent examples; all that there are, if a class has fewer patients.

Axis names: n = training rows of one split, r = replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from slimp.evaluation.bootstrap import Estimate, Record, bootstrap
from slimp.evaluation.folds import Split
from slimp.evaluation.linear_probe import answer, fit
from slimp.evaluation.metrics import Array, ranking_metrics
from slimp.evaluation.probe_config import ProbeConfig, ProtocolConfig
from slimp.evaluation.result import Predictions, ProbeResult, Task
from slimp.features.design import Design


@dataclass(frozen=True, kw_only=True)
class LowShotPoint(Record):
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
    """Standard deviation of the balanced accuracy over draws, within a split; NaN of one draw."""
    unreached: Mapping[str, float]
    """Class -> fraction of draws without an image of it; without classes that all draws have."""
    short: tuple[str, ...]
    """Classes with fewer patients than the shots asked for, in some split."""

    @property
    def row(self) -> tuple[object, ...]:
        """For a table: setting, images, patients, balanced accuracy, AUROC, spread."""
        counts = (f"{self.n_images:.1f}", f"{self.n_patients:.1f}")
        return self.setting, *counts, self.balanced_accuracy, self.auroc_macro_ovr, self.spread

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
            names = ", ".join(self.short)
            parts.append(f"fewer patients than shots, so all of them are used: {names}")
        return f"{self.setting}: {'; '.join(parts)}." if parts else ""


@dataclass(frozen=True, kw_only=True, eq=False)
class LowShot(Record):
    """The curve, and which images were drawn for it."""

    points: tuple[LowShotPoint, ...]
    draws: int
    rows: pd.DataFrame
    """`setting seed draw image_id patient_id`, `fold` after `seed` if there are folds; a row per
    image that was learned from."""


def low_shot(design: Design, task: Task, low: ProtocolConfig, whole: ProbeResult) -> LowShot:
    """The probe at each fraction and each number of shots, always on the task's test rows.

    `whole` is the probe that learned from all patients.
    """
    values = [("fraction", value) for value in sorted(set(low.fractions))]
    values += [("shots", float(value)) for value in sorted(set(low.shots))]
    points, frames = [], []
    for kind, value in values:
        everyone = (kind, value) == ("fraction", 1)
        draws = range(1 if everyone else low.draws)  # all patients are the same in every draw
        drawn = [(s, d, draw_rows(task, s, kind, value, d)) for s in task.splits for d in draws]
        found = (
            Predictions.per_split(whole.predictions, task.classes)
            if everyone
            else [answer_of(design, task, s, rows, whole.config) for s, _, rows in drawn]
        )
        point = _point(task, kind, value, [(s, rows) for s, _, rows in drawn], found, whole.config)
        points.append(point)
        for split, draw, rows in drawn:
            columns: dict[str, Any] = {"setting": point.setting, "seed": split.seed}
            columns |= {} if split.fold is None else {"fold": split.fold}
            columns["draw"] = draw
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


def draw_rows(task: Task, split: Split, kind: str, value: float, draw: int) -> Int[Array, " m"]:
    """Rows of the task's ids; they do not depend on the order of the ids."""
    rows = split.train[np.argsort(task.ids["image_id"].to_numpy(dtype=str)[split.train])]
    labels, groups, seed = task.y[rows], task.groups[rows], [split.seed, draw]
    if kind == "fraction":
        return rows[draw_fraction(labels, groups, value, seed=seed)]
    return rows[draw_shots(labels, groups, int(value), seed=seed)]


def _point(
    task: Task,
    kind: str,
    value: float,
    drawn: Sequence[tuple[Split, Array]],
    found: Sequence[Predictions],
    config: ProbeConfig,
) -> LowShotPoint:
    """The point of the curve; `drawn` and `found` go draw by draw, split by split."""

    def statistic(i: int, weights: Array) -> dict[str, Array]:
        return {"score": found[i].balanced_accuracy(weights)}

    groups = [one.patients for one in found]
    score = bootstrap(groups, statistic, replicates=config.replicates, seed=config.seed)["score"]
    per_draw = np.reshape(score.per_seed, (len(task.splits), -1))  # (splits, draws)
    per_split = per_draw.mean(axis=1)
    score = replace(
        score,
        per_seed=tuple(per_split.reshape(-1, task.folds).mean(axis=1).tolist()),
        per_fold=tuple(per_split.tolist()) if task.folds > 1 else (),
    )
    once = [(one.y, one.probabilities, np.ones((1, len(one.y)))) for one in found]
    missed, short = {}, []
    for c, name in enumerate(task.classes):
        missed[name] = float(np.mean([(task.y[rows] != c).all() for _, rows in drawn]))
        own = [split.train[task.y[split.train] == c] for split in task.splits]
        if kind == "shots" and min(len(set(task.groups[rows])) for rows in own) < value:
            short.append(name)
    return LowShotPoint(
        setting=f"{kind} {value:g}",
        value=float(value),
        n_images=float(np.mean([len(rows) for _, rows in drawn])),
        n_patients=float(np.mean([len(set(task.groups[rows])) for _, rows in drawn])),
        balanced_accuracy=score,
        auroc_macro_ovr=float(np.mean([ranking_metrics(*o)["auroc_macro_ovr"] for o in once])),
        spread=float(per_draw.std(axis=1).mean()) if per_draw.shape[1] > 1 else np.nan,
        unreached={name: fraction for name, fraction in missed.items() if fraction > 0},
        short=tuple(sorted(short)),
    )


def answer_of(
    design: Design, task: Task, split: Split, rows: Array, config: ProbeConfig
) -> Predictions:
    """The probe that learned from these rows alone, on the split's test rows."""
    present = np.unique(task.y[rows])
    if len(present) == 1:  # nothing to distinguish
        return task.answer(split, np.tile(np.eye(len(task.classes))[present], (len(split.test), 1)))
    fitted = fit(design, task, rows, config, seed=split.seed)
    return answer(task, split, fitted, design[split.test], config)
