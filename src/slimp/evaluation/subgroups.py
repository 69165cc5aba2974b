"""The probe's score per group of patients, lesions or images: sex, age band, skin type, site.

An average hides the groups it fails. Groups come from the cohort's own columns, of any level,
whether or not the model reads them.

Axis names: n = test rows of one split, k = classes, r = replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from slimp.data.cohort import Cohort, level_of_images
from slimp.data.schema import LEVELS
from slimp.errors import UserError
from slimp.evaluation.bootstrap import (
    FEWEST_PATIENTS,
    Estimate,
    Record,
    Statistic,
    bootstrap,
)
from slimp.evaluation.metrics import Array, ece, mean_over_present, ranking_metrics
from slimp.evaluation.result import Predictions, ProbeResult

FEWEST_OF_CLASS = 5
"""Patients of a class in a group, for that class to enter the gap between groups."""
UNKNOWN = "unknown"
"""Group of the rows whose value is missing."""

AUTO_GROUPS = (2, 12)
"""Values that a column may have to be grouped by without being named."""
MOST_GROUPS = 40
"""Values of a column that is named."""
IDS = ("image_id", "lesion_id", "patient_id")


@dataclass(frozen=True, kw_only=True)
class Group(Record):
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
    """Without intervals where there are too few patients."""

    @property
    def caution(self) -> bool:
        """Too few patients for an interval."""
        return self.n_patients < FEWEST_PATIENTS


@dataclass(frozen=True, kw_only=True)
class Gap(Record):
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
class Subgroups(Record):
    """All groups, and per column the largest gap between two known ones with enough patients."""

    groups: tuple[Group, ...]
    gaps: tuple[Gap, ...]


def subgroups(result: ProbeResult, cohort: Cohort, columns: Sequence[str] = ("auto",)) -> Subgroups:
    """The metrics of a probe per group of each column, intervals over patients.

    Raises:
        UserError: a column of `columns` (see `group_values`) does not exist or makes no groups.
    """
    groups: list[Group] = []
    gaps: list[Gap] = []
    for column, values in group_values(cohort, columns).items():
        by_image = pd.Series(values.astype("object").to_numpy(), index=cohort.images["image_id"])
        own = by_image.reindex(result.predictions["image_id"]).fillna(UNKNOWN).to_numpy()
        names = dict.fromkeys([*values.cat.categories, UNKNOWN])
        members = [_Members(result, column, str(n), own == n) for n in names if (own == n).any()]
        groups += [member.group for member in members]
        enough = [m for m in members if not m.group.caution and m.group.group != UNKNOWN]
        gaps += _largest_gap(enough)
    return Subgroups(groups=tuple(groups), gaps=tuple(gaps))


class _Members:
    """A group's predictions, seed by seed; weights are of all rows, as in the probe's bootstrap."""

    def __init__(self, result: ProbeResult, column: str, name: str, inside: Array) -> None:
        table, self.classes, self.config = result.predictions, result.classes, result.config
        everyone = Predictions.per_seed(table, self.classes)
        self.patients = [one.patients for one in everyone]
        masks = [part.to_numpy() for _, part in pd.Series(inside).groupby(table["seed"].to_numpy())]
        self.inside = [np.flatnonzero(mask) for mask in masks]
        self.found = [one.select(i) for one, i in zip(everyone, self.inside, strict=True)]
        scores, own = self.bootstrap(self._metrics, reflect=("ece",)), table[inside]
        self.recall_of = np.array([scores.pop(f"recall {c}").mean for c in self.classes])
        counts = own.groupby("label")["patient_id"].nunique()
        self.enough = np.array([counts.get(c, 0) >= FEWEST_OF_CLASS for c in self.classes])
        patients = own["patient_id"].to_numpy()
        scores = {name: score.of_patients(patients) for name, score in scores.items()}
        self.group = Group(
            column=column,
            group=name,
            n_images=own["image_id"].nunique(),
            n_patients=own["patient_id"].nunique(),
            classes=tuple(c for c in self.classes if c in counts),
            metrics=scores,
        )

    def bootstrap(self, statistic: Statistic, reflect: Sequence[str] = ()) -> dict[str, Estimate]:
        """As the probe's own intervals: the same patients are drawn."""
        times, seed = self.config.replicates, self.config.seed
        return bootstrap(self.patients, statistic, replicates=times, seed=seed, reflect=reflect)

    def recall(self, split: int, weights: Array) -> Float[Array, "r k"]:
        """NaN where the group has no row of a class."""
        return self.found[split].recall(weights[:, self.inside[split]])

    def _metrics(self, split: int, weights: Array) -> dict[str, Array]:
        """NaN where a replicate has no row of the group."""
        one, own, recall = (
            self.found[split],
            weights[:, self.inside[split]],
            self.recall(split, weights),
        )
        several = (~np.isnan(recall)).sum(axis=1) > 1
        auroc = np.full(len(weights), np.nan)
        if several.any():
            auroc = ranking_metrics(one.y, one.probabilities, own)["auroc_macro_ovr"]
        found = {
            **{f"recall {c}": recall[:, i] for i, c in enumerate(self.classes)},
            "balanced_accuracy": mean_over_present(recall),
            "auroc_macro_ovr": np.where(several, auroc, np.nan),
        }
        if len(self.classes) == 2:
            found |= {"sensitivity": recall[:, 1], "specificity": recall[:, 0]}
        found["ece"] = ece(one.y, one.probabilities, own)
        return found


def _largest_gap(members: Sequence[_Members]) -> list[Gap]:
    """Between groups with enough patients of a class; none if there are no two."""
    found: list[tuple[float, _Members, _Members, Bool[Array, " k"]]] = []
    for a, b in combinations(members, 2):
        shared = a.enough & b.enough
        if shared.any():
            gap = float((a.recall_of - b.recall_of)[shared].mean())
            found.append((gap, a, b, shared) if gap >= 0 else (-gap, b, a, shared))
    if not found:
        return []
    _, better, worse, shared = max(found, key=lambda pair: pair[0])

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        gap = better.recall(split, weights) - worse.recall(split, weights)
        return {"gap": mean_over_present(gap[:, shared])}

    return [
        Gap(
            column=better.group.column,
            better=better.group.group,
            worse=worse.group.group,
            classes=tuple(c for c, s in zip(better.classes, shared, strict=True) if s),
            difference=better.bootstrap(statistic)["gap"],
        )
    ]


def group_values(cohort: Cohort, columns: Sequence[str] | None = ("auto",)) -> dict[str, pd.Series]:
    """Column -> the group of each image, ordered categories, missing as such.

    Args:
        cohort: whose tables are searched.
        columns: names of columns of any level. Continuous ones are cut into bands: at the edges
            that follow the name, as in 'age:30:60', or at their quartiles. 'auto' stands for
            every categorical feature of 2 to 12 values, 'none' for nothing. None: the label and
            every text column of as many values, whether a feature or not.

    Raises:
        UserError: a column does not exist, has too many values, or has edges that make no bands.
    """
    known = _columns(cohort)
    features = [feature for level in cohort.schema.levels for feature in level.features]
    if columns is None:
        texts = {n: v for n, v in known.items() if n not in IDS and not is_numeric_dtype(v)}
        return {name: _grouped(v, name, []) for name, v in texts.items() if _few(v)}
    found: dict[str, pd.Series] = {}
    for asked in columns:
        name, *edges = asked.split(":")
        if asked == "auto":
            labelled = cohort.images["label"].notna().to_numpy()
            rows = labelled if labelled.any() else ~labelled
            for feature in features:
                values = known[feature.columns[0]]
                if feature.kind == "categorical" and _few(values[rows]):
                    found[feature.name] = _grouped(values, feature.name, [])
        elif asked != "none":
            if name not in known:
                names = [column for feature in features for column in feature.columns]
                raise UserError(
                    f"cohort '{cohort.info.name}' has no column '{name}' to make subgroups of; "
                    f"its features are: {', '.join(names) or 'none'}."
                )
            found[name] = _grouped(known[name], name, edges)
    return found


def _columns(cohort: Cohort) -> dict[str, pd.Series]:
    """Every column with a value per image; of several levels, the finest one's."""
    rows, found = level_of_images(cohort), dict[str, pd.Series]()
    for level in LEVELS:
        table = cohort.tables.of_level(level).iloc[rows[level]].reset_index(drop=True)
        found |= {str(name): table[name] for name in table if name not in found}
    return found


def _few(values: pd.Series) -> bool:
    return AUTO_GROUPS[0] <= values.nunique() <= AUTO_GROUPS[1]


def _grouped(values: pd.Series, name: str, edges: Sequence[str]) -> pd.Series:
    if is_numeric_dtype(values) and not is_bool_dtype(values):
        return _bands(values.astype(np.float64), name, edges)
    if edges:
        raise UserError(f"column '{name}' holds no numbers, so it has no bands: drop the edges.")
    words = {True: "yes", False: "no"} if is_bool_dtype(values) else str
    texts = values.astype("object").map(words, na_action="ignore")
    seen = sorted(texts.dropna().unique())
    if len(seen) > MOST_GROUPS:
        raise UserError(
            f"column '{name}' has {len(seen)} values; subgroups take {MOST_GROUPS} at most."
        )
    return pd.Series(pd.Categorical(texts, categories=seen, ordered=True))


def _bands(values: pd.Series, name: str, edges: Sequence[str]) -> pd.Series:
    """Bands that include their lower edge."""
    try:
        cuts = [float(edge) for edge in edges]
    except ValueError:
        raise UserError(f"the edges of '{name}' must be numbers, got {':'.join(edges)}.") from None
    if not cuts and values.notna().any():
        cuts = sorted(set(np.nanquantile(values, [0.25, 0.5, 0.75]).tolist()))
    if cuts != sorted(set(cuts)) or not np.isfinite(cuts).all():
        raise UserError(f"the edges of '{name}' must be finite and rise, got {':'.join(edges)}.")
    between = [f"{low:g} to < {high:g}" for low, high in pairwise(cuts)]
    names = [f"< {cuts[0]:g}", *between, f">= {cuts[-1]:g}"] if cuts else ["all"]
    return pd.Series(pd.cut(values, [-np.inf, *cuts, np.inf], right=False, labels=names))
