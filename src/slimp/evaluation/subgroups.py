"""The probe's score per group of patients, lesions or images: sex, age band, skin type, site.

An average hides whom it fails. Groups come from the cohort's own columns, of any level; that a
column is no input of the model does not matter here.

Axis names: n = test rows of one split, k = classes, g = groups, r = replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from slimp.data.cohort import Cohort
from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.evaluation.groups import group_values
from slimp.evaluation.metrics import ECE_BINS, ranking_metrics
from slimp.evaluation.result import ECES, ProbeResult, codes_of

Array = np.ndarray[Any, np.dtype[Any]]
FEWEST_PATIENTS = 10
"""Of a group with an interval; with fewer, percentiles of a bootstrap mean little."""
FEWEST_OF_CLASS = 5
"""Patients of a class in a group, for that class to enter the gap between groups."""
UNKNOWN = "unknown"
"""Group of the rows whose value is missing."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The score of one group."""

    column: str
    group: str
    """The value, or the band of values."""
    n_images: int
    """Tested, in any seed."""
    n_patients: int
    classes: tuple[str, ...]
    """That its test images have; averages run over these."""
    metrics: Mapping[str, Estimate]

    @property
    def caution(self) -> bool:
        """Too few patients for an interval."""
        return self.n_patients < FEWEST_PATIENTS

    def text(self, name: str) -> str:
        """A metric as people read it, without interval where there are too few patients."""
        found = self.metrics.get(name)
        if found is None or np.isnan(found.mean):
            return "-"
        return f"{found.mean:.3f}" if self.caution else str(found)

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`; no interval where there are too few patients for one."""
        content: dict[str, Any] = {name: e.to_dict() for name, e in self.metrics.items()}
        if self.caution:
            for entry in content.values():
                entry["ci95"] = None
        return {
            "column": self.column,
            "group": self.group,
            "n_images": self.n_images,
            "n_patients": self.n_patients,
            "classes": list(self.classes),
            "caution": self.caution,
            **content,
        }


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The largest difference of balanced accuracy between two groups of one column."""

    column: str
    better: str
    worse: str
    classes: tuple[str, ...]
    """Those of which both groups have 5 patients; the balanced accuracies compared are of these."""
    difference: Estimate
    """Its interval takes the pair as given, although it was picked for being the largest."""

    @property
    def sentence(self) -> str:
        """The gap in words."""
        return (
            f"largest gap by {self.column}: '{self.better}' is {self.difference} above "
            f"'{self.worse}' in balanced accuracy over {', '.join(self.classes)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`."""
        return {
            "column": self.column,
            "better": self.better,
            "worse": self.worse,
            "classes": list(self.classes),
            "difference": self.difference.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Subgroups:
    """All groups, and per column the largest gap between two known ones with enough patients."""

    groups: tuple[Group, ...]
    gaps: tuple[Gap, ...]

    def to_dict(self) -> dict[str, Any]:
        """The entry `subgroups` of `metrics.json`."""
        return {
            "groups": [group.to_dict() for group in self.groups],
            "gaps": [gap.to_dict() for gap in self.gaps],
        }


def subgroups(result: ProbeResult, cohort: Cohort, columns: Sequence[str] = ("auto",)) -> Subgroups:
    """The metrics of a probe per group of each column, intervals over patients.

    Args:
        result: of a probe on this cohort.
        cohort: its tables hold the columns.
        columns: see `groups.group_values`.

    Raises:
        UserError: a column does not exist or makes no groups.
    """
    groups: list[Group] = []
    gaps: list[Gap] = []
    for name, values in group_values(cohort, columns).items():
        by_image = dict(zip(cohort.images["image_id"], values, strict=True))
        tested = result.predictions["image_id"].map(by_image)
        names = [value for value in values.cat.categories if (tested == value).any()]
        if tested.isna().any():
            names.append(UNKNOWN)
        found = _Column(name, names, result, tested.astype("object").fillna(UNKNOWN))
        scores = found.scores()
        groups.extend(scores)
        if (gap := found.gap([score.caution for score in scores])) is not None:
            gaps.append(gap)
    return Subgroups(groups=tuple(groups), gaps=tuple(gaps))


class _Column:
    """The probe's answers with the group of each row, seed by seed."""

    def __init__(self, name: str, names: list[str], result: ProbeResult, tested: pd.Series) -> None:
        self.name, self.names, self.result = name, names, result
        frame = result.predictions.assign(**{"group ": codes_of(tested, names)})
        self.parts = [part for _, part in frame.groupby("seed", sort=True)]
        classes = result.classes
        self.y = [codes_of(part["label"], classes) for part in self.parts]
        self.code = [part["group "].to_numpy() for part in self.parts]
        self.right = [(part["predicted"] == part["label"]).to_numpy() for part in self.parts]
        self.p = [_shares(part, "p_", classes) for part in self.parts]
        calibrated = f"q_{classes[0]}" in frame
        self.q = [_shares(part, "q_", classes) for part in self.parts] if calibrated else None
        self.patients = [part["patient_id"].to_numpy(dtype=str) for part in self.parts]

    def scores(self) -> list[Group]:
        """A row per group."""
        config = self.result.config
        found = bootstrap(
            self.patients,
            self._statistic,
            replicates=config.replicates,
            seed=config.seed,
            reflect=[f"{name} {g}" for name in ECES for g in range(len(self.names))],
        )
        everyone = pd.concat(self.parts)
        rows = []
        for g, name in enumerate(self.names):
            own = everyone[everyone["group "] == g]
            mine = {key.rpartition(" ")[0]: e for key, e in found.items() if key.endswith(f" {g}")}
            labels = set(own["label"])
            rows.append(
                Group(
                    column=self.name,
                    group=name,
                    n_images=own["image_id"].nunique(),
                    n_patients=own["patient_id"].nunique(),
                    classes=tuple(c for c in self.result.classes if c in labels),
                    metrics=mine,
                )
            )
        return rows

    def gap(self, cautions: Sequence[bool]) -> Gap | None:
        """Of known groups with enough patients, also of a class; None if there are no two."""
        ones = [np.ones((1, len(y))) for y in self.y]
        recall = np.stack([self._recall(s, w)[0] for s, w in enumerate(ones)])  # (seeds, k, g)
        mean, enough_of = _mean(recall, axis=0), self._patients() >= FEWEST_OF_CLASS  # (k, g)
        found: tuple[float, int, int, Array] | None = None
        enough = [g for g, few in enumerate(cautions) if not few and self.names[g] != UNKNOWN]
        for a, b in combinations(enough, 2):
            shared = enough_of[:, a] & enough_of[:, b]  # (k,)
            if not shared.any():
                continue
            difference = float((mean[shared, a] - mean[shared, b]).mean())
            if found is None or abs(difference) > abs(found[0]):
                better, worse = (a, b) if difference >= 0 else (b, a)
                found = (difference, better, worse, shared)
        if found is None:
            return None
        _, better, worse, shared = found

        def statistic(split: int, weights: Array) -> dict[str, Array]:
            recalls = self._recall(split, weights)[:, shared]  # (r, shared, g)
            return {"gap": _mean(recalls[..., better] - recalls[..., worse], axis=1)}

        config = self.result.config
        estimate = bootstrap(
            self.patients, statistic, replicates=config.replicates, seed=config.seed
        )["gap"]
        return Gap(
            column=self.name,
            better=self.names[better],
            worse=self.names[worse],
            classes=tuple(c for c, s in zip(self.result.classes, shared, strict=True) if s),
            difference=estimate,
        )

    def _patients(self) -> Int[Array, "k g"]:
        """How many of each class and group are tested in any seed."""
        rows = pd.concat(self.parts).drop_duplicates(["label", "group ", "patient_id"])
        counts = np.zeros((len(self.result.classes), len(self.names)), dtype=np.int64)
        np.add.at(counts, (codes_of(rows["label"], self.result.classes), rows["group "]), 1)
        return counts

    def _statistic(self, split: int, weights: Array) -> dict[str, Array]:
        k = len(self.result.classes)
        recall = self._recall(split, weights)
        out: dict[str, Array] = {}
        for g, accuracy in enumerate(_mean(recall, axis=1).T):
            out[f"balanced_accuracy {g}"] = accuracy
            out[f"auroc_macro_ovr {g}"] = self._auroc(split, weights, g)
            if k == 2:
                out[f"sensitivity {g}"] = recall[:, 1, g]
                out[f"specificity {g}"] = recall[:, 0, g]
        for name, shares in (("ece", self.p), ("ece_scaled", self.q)):
            if shares is not None:
                errors = self._ece(split, shares[split], weights)
                out |= {f"{name} {g}": error for g, error in enumerate(errors.T)}
        return out

    def _recall(self, split: int, weights: Array) -> Float[Array, "r k g"]:
        """NaN where a group has no row of a class."""
        k, groups = len(self.result.classes), len(self.names)
        cell = np.eye(k * groups)[self.y[split] * groups + self.code[split]]  # (n, k g)
        hits = weights @ (cell * self.right[split][:, None])
        return _ratio(hits, weights @ cell).reshape(-1, k, groups)

    def _auroc(self, split: int, weights: Array, g: int) -> Float[Array, " r"]:
        """NaN where the group has rows of one class only."""
        rows = np.flatnonzero(self.code[split] == g)
        y = self.y[split][rows]
        if len(np.unique(y)) < 2:
            return np.full(len(weights), np.nan)
        own = weights[:, rows]
        present = np.stack([own[:, y == c].sum(axis=1) > 0 for c in np.unique(y)])
        auroc = ranking_metrics(y, self.p[split][rows], own)["auroc_macro_ovr"]
        return np.where(present.sum(axis=0) > 1, auroc, np.nan)

    def _ece(self, split: int, shares: Array, weights: Array) -> Float[Array, "r g"]:
        """As `metrics.ece`, of each group."""
        groups = len(self.names)
        confidence = shares.max(axis=1)
        gap = (shares.argmax(axis=1) == self.y[split]) - confidence
        bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
        cell = np.eye(ECE_BINS * groups)[bins * groups + self.code[split]]
        per_bin = (weights @ (cell * gap[:, None])).reshape(len(weights), ECE_BINS, groups)
        own = weights @ np.eye(groups)[self.code[split]]  # (r, g)
        return _ratio(np.abs(per_bin).sum(axis=1), own)


def _shares(part: pd.DataFrame, prefix: str, classes: Sequence[str]) -> Float[Array, "n k"]:
    return part[[f"{prefix}{name}" for name in classes]].to_numpy(dtype=np.float64)


def _ratio(top: Array, bottom: Array) -> Array:
    out: Array = np.full(top.shape, np.nan)
    return np.divide(top, bottom, out=out, where=bottom > 0)


def _mean(values: Array, *, axis: int) -> Array:
    """Mean of what is not NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=axis), known.sum(axis=axis).astype(float))
