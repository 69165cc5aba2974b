"""The probe's score per group of patients, lesions or images: sex, age band, skin type, site.

An average hides the groups it fails. Groups come from the cohort's own columns, of any level,
whether or not the model reads them.

Axis names: n = test rows of one split, k = classes, g = groups, r = replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from slimp.data.cohort import Cohort
from slimp.evaluation.bootstrap import Array, Estimate, Statistic, bootstrap
from slimp.evaluation.groups import group_values
from slimp.evaluation.metrics import ece, mean_over_present, ranking_metrics, recall_per_class
from slimp.evaluation.result import ECES, Predictions, ProbeResult, codes_of

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
        """A metric for the terminal, without interval where there are too few patients."""
        found = self.metrics.get(name)
        if found is None or np.isnan(found.mean):
            return "-"
        return f"{found.mean:.3f}" if self.caution else str(found)

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`; no interval where there are too few patients for one."""
        dropped: dict[str, Any] = {"ci95": None} if self.caution else {}
        scores = {name: {**e.to_dict(), **dropped} for name, e in self.metrics.items()}
        content = {name: value for name, value in vars(self).items() if name != "metrics"}
        return {**content, "caution": self.caution, **scores}


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


@dataclass(frozen=True, kw_only=True)
class Subgroups:
    """All groups, and per column the largest gap between two known ones with enough patients."""

    groups: tuple[Group, ...]
    gaps: tuple[Gap, ...]

    def to_dict(self) -> dict[str, Any]:
        """The entry `subgroups` of `metrics.json`."""
        return {
            "groups": [group.to_dict() for group in self.groups],
            "gaps": [{**vars(gap), "difference": gap.difference.to_dict()} for gap in self.gaps],
        }


def subgroups(result: ProbeResult, cohort: Cohort, columns: Sequence[str] = ("auto",)) -> Subgroups:
    """The metrics of a probe per group of each column, intervals over patients.

    Raises:
        UserError: a column of `columns` (see `group_values`) does not exist or makes no groups.
    """
    groups: list[Group] = []
    gaps: list[Gap] = []
    for column, values in group_values(cohort, columns).items():
        by_image = dict(zip(cohort.images["image_id"], values, strict=True))
        tested = result.predictions["image_id"].map(by_image)
        names = [value for value in values.cat.categories if (tested == value).any()]
        names += [UNKNOWN] * int(tested.isna().any())
        rows = result.predictions.assign(group=tested.astype("object").fillna(UNKNOWN))
        members = {name: _Members(rows, name, result) for name in names}
        found = [member.score(column) for member in members.values()]
        groups.extend(found)
        enough = [g.group for g in found if not g.caution and g.group != UNKNOWN]
        if (gap := _largest_gap(column, {name: members[name] for name in enough})) is not None:
            gaps.append(gap)
    return Subgroups(groups=tuple(groups), gaps=tuple(gaps))


class _Members:
    """The predictions of one group, seed by seed; weights are of all rows, as in `bootstrap`."""

    def __init__(self, rows: pd.DataFrame, name: str, result: ProbeResult) -> None:
        self.name, self.classes, self.config = name, result.classes, result.config
        parts = [part for _, part in rows.groupby("seed", sort=True)]
        self.patients = [part["patient_id"].to_numpy(dtype=str) for part in parts]
        self.index = [np.flatnonzero(part["group"] == name) for part in parts]
        own = [part.iloc[index] for part, index in zip(parts, self.index, strict=True)]
        self.y = [codes_of(part["label"], self.classes) for part in own]
        self.found = [Predictions.of_rows(part, self.classes) for part in own]
        self.rows = pd.concat(own)

    def score(self, column: str) -> Group:
        """The group's metrics with their intervals."""
        labels = set(self.rows["label"])
        return Group(
            column=column,
            group=self.name,
            n_images=self.rows["image_id"].nunique(),
            n_patients=self.rows["patient_id"].nunique(),
            classes=tuple(c for c in self.classes if c in labels),
            metrics=self.bootstrap(self._metrics, reflect=ECES),
        )

    def bootstrap(self, statistic: Statistic, reflect: Sequence[str] = ()) -> dict[str, Estimate]:
        """As the probe's own intervals: the same patients are drawn."""
        times, seed = self.config.replicates, self.config.seed
        return bootstrap(self.patients, statistic, replicates=times, seed=seed, reflect=reflect)

    def recall(self, split: int, weights: Array) -> Float[Array, "r k"]:
        """NaN where the group has no row of a class."""
        own, predicted = weights[:, self.index[split]], self.found[split].predicted
        return recall_per_class(self.y[split], predicted, own, len(self.classes))

    def mean_recall(self) -> Float[Array, " k"]:
        """Over seeds."""
        ones = [np.ones((1, len(patients))) for patients in self.patients]
        return mean_over_present(np.array([self.recall(s, w)[0] for s, w in enumerate(ones)]).T)

    def common_classes(self) -> Bool[Array, " k"]:
        """Those of enough patients."""
        counts = self.rows.groupby("label")["patient_id"].nunique()
        return np.array([counts.get(c, 0) >= FEWEST_OF_CLASS for c in self.classes])

    def _metrics(self, split: int, weights: Array) -> dict[str, Array]:
        """NaN where a replicate has no row of the group."""
        y, one, own = self.y[split], self.found[split], weights[:, self.index[split]]
        recall = self.recall(split, weights)
        several = (~np.isnan(recall)).sum(axis=1) > 1
        auroc = np.full(len(weights), np.nan)
        if several.any():
            auroc = ranking_metrics(y, one.probabilities, own)["auroc_macro_ovr"]
        found = {
            "balanced_accuracy": mean_over_present(recall),
            "auroc_macro_ovr": np.where(several, auroc, np.nan),
        }
        if len(self.classes) == 2:
            found |= {"sensitivity": recall[:, 1], "specificity": recall[:, 0]}
        found["ece"] = ece(y, one.probabilities, own)
        if one.calibrated is not None:
            found["ece_scaled"] = ece(y, one.calibrated, own)
        return found


def _largest_gap(column: str, members: Mapping[str, _Members]) -> Gap | None:
    """Between groups with enough patients of a class; None if there are no two."""
    found: tuple[float, _Members, _Members, Bool[Array, " k"]] | None = None
    for a, b in combinations(members.values(), 2):
        shared = a.common_classes() & b.common_classes()
        if shared.any():
            difference = float((a.mean_recall() - b.mean_recall())[shared].mean())
            if found is None or abs(difference) > abs(found[0]):
                found = (difference, *((a, b) if difference >= 0 else (b, a)), shared)
    if found is None:
        return None
    _, better, worse, shared = found

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        gap = better.recall(split, weights) - worse.recall(split, weights)
        return {"gap": mean_over_present(gap[:, shared])}

    return Gap(
        column=column,
        better=better.name,
        worse=worse.name,
        classes=tuple(c for c, s in zip(better.classes, shared, strict=True) if s),
        difference=better.bootstrap(statistic)["gap"],
    )
