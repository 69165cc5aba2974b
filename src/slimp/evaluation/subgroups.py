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
from slimp.evaluation.bootstrap import Array, Estimate, bootstrap
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
    for name, values in group_values(cohort, columns).items():
        by_image = dict(zip(cohort.images["image_id"], values, strict=True))
        tested = result.predictions["image_id"].map(by_image)
        names = [value for value in values.cat.categories if (tested == value).any()]
        if tested.isna().any():
            names.append(UNKNOWN)
        rows = result.predictions.assign(group=tested.astype("object").fillna(UNKNOWN))
        column = _Column(name, names, result, rows)
        groups.extend(found := column.groups())
        if (gap := column.gap([group for group in found if not group.caution])) is not None:
            gaps.append(gap)
    return Subgroups(groups=tuple(groups), gaps=tuple(gaps))


class _Column:
    """The probe's predictions with the group of each row, seed by seed."""

    def __init__(
        self, name: str, names: list[str], result: ProbeResult, rows: pd.DataFrame
    ) -> None:
        self.name, self.names, self.rows, self.config = name, names, rows, result.config
        self.classes = result.classes
        parts = [part for _, part in rows.groupby("seed", sort=True)]
        self.y = [codes_of(part["label"], self.classes) for part in parts]
        self.found = [Predictions.of_rows(part, self.classes) for part in parts]
        self.patients = [part["patient_id"].to_numpy(dtype=str) for part in parts]
        self.members = [
            {group: np.flatnonzero(part["group"] == group) for group in names} for part in parts
        ]

    def groups(self) -> list[Group]:
        """A row per group."""
        found = bootstrap(
            self.patients,
            self._statistic,
            replicates=self.config.replicates,
            seed=self.config.seed,
            reflect=[f"{metric} {name}" for metric in ECES for name in self.names],
        )
        made = []
        for name in self.names:
            own = self.rows[self.rows["group"] == name]
            labels = set(own["label"])
            metrics = {
                key.removesuffix(f" {name}"): estimate
                for key, estimate in found.items()
                if key.partition(" ")[2] == name
            }
            made.append(
                Group(
                    column=self.name,
                    group=name,
                    n_images=own["image_id"].nunique(),
                    n_patients=own["patient_id"].nunique(),
                    classes=tuple(c for c in self.classes if c in labels),
                    metrics=metrics,
                )
            )
        return made

    def gap(self, groups: Sequence[Group]) -> Gap | None:
        """The largest one between known groups; None if no two have enough patients of a class."""
        people = self.rows.drop_duplicates(["label", "group", "patient_id"])
        counts = pd.crosstab(people["group"], people["label"]).reindex(
            index=self.names, columns=list(self.classes), fill_value=0
        )
        recall: dict[str, Array] = {}
        for name in self.names:
            seeds = [self._recall(s, np.ones((1, len(y))), name)[0] for s, y in enumerate(self.y)]
            recall[name] = mean_over_present(np.array(seeds).T)  # (k,)
        found: tuple[float, str, str, Bool[Array, " k"]] | None = None
        for a, b in combinations([g.group for g in groups if g.group != UNKNOWN], 2):
            shared = (counts.loc[[a, b]] >= FEWEST_OF_CLASS).all().to_numpy()  # (k,)
            if not shared.any():
                continue
            difference = float((recall[a][shared] - recall[b][shared]).mean())
            if found is None or abs(difference) > abs(found[0]):
                found = (difference, *((a, b) if difference >= 0 else (b, a)), shared)
        if found is None:
            return None
        _, better, worse, shared = found

        def statistic(split: int, weights: Array) -> dict[str, Array]:
            ours, theirs = (self._recall(split, weights, name) for name in (better, worse))
            return {"gap": mean_over_present(ours[:, shared] - theirs[:, shared])}

        estimate = bootstrap(
            self.patients, statistic, replicates=self.config.replicates, seed=self.config.seed
        )["gap"]
        return Gap(
            column=self.name,
            better=better,
            worse=worse,
            classes=tuple(c for c, s in zip(self.classes, shared, strict=True) if s),
            difference=estimate,
        )

    def _recall(self, split: int, weights: Array, group: str) -> Float[Array, "r k"]:
        """NaN where the group has no row of a class."""
        rows = self.members[split][group]
        y, predicted = self.y[split][rows], self.found[split].predicted[rows]
        return recall_per_class(y, predicted, weights[:, rows], len(self.classes))

    def _statistic(self, split: int, weights: Array) -> dict[str, Array]:
        """Metrics named `<metric> <group>`; NaN where a replicate has no row of the group."""
        out: dict[str, Array] = {}
        for name in self.names:
            rows, one = self.members[split][name], self.found[split]
            y, own, p = self.y[split][rows], weights[:, rows], one.probabilities[rows]
            recall = self._recall(split, weights, name)
            found = {"balanced_accuracy": mean_over_present(recall)}
            classes = (~np.isnan(recall)).sum(axis=1)
            auroc = ranking_metrics(y, p, own)["auroc_macro_ovr"] if len(rows) else np.nan * classes
            found["auroc_macro_ovr"] = np.where(classes > 1, auroc, np.nan)
            if len(self.classes) == 2:
                found |= {"sensitivity": recall[:, 1], "specificity": recall[:, 0]}
            found["ece"] = ece(y, p, own)
            if one.calibrated is not None:
                found["ece_scaled"] = ece(y, one.calibrated[rows], own)
            out |= {f"{metric} {name}": values for metric, values in found.items()}
        return out
