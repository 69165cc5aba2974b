"""The rows of an experiment's table: means over splits, differences from the control, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from slimp.evaluation.bootstrap import Estimate, Record, bootstrap
from slimp.evaluation.metrics import Array
from slimp.evaluation.paired_bootstrap import Difference, compare
from slimp.evaluation.result import Predictions
from slimp.experiments.recipe import Recipe

HEADLINE = "balanced_accuracy"
REPLICATES = 2000
"""Of the bootstrap."""
LEVEL = 0.05
"""Of the corrected p-values, below which a difference is told."""
DRAWS = 1000
"""More than there are draws of a setting; each draw counts as a seed of its own."""
Kind = tuple[str, str, str]
"""Features, labels and setting of a row."""


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    """One arm in one feature set, one set of classes and one setting."""

    arm: str
    features: str
    labels: str
    setting: str
    done: int
    """Parts (splits of the patients) whose cells are done."""
    planned: int
    estimate: Estimate | None
    """None: no part is done."""
    control: str | None = None
    control_features: str | None = None
    """Feature set in which the control is compared."""
    against: Difference | None = None
    """Minus the control on the same test images of the parts that both have."""
    holm: float | None = None
    """The p-value, corrected by Holm's method for the arms that are compared with one control."""
    paper: float | None = None
    """The paper's figure, at the paper's scale."""
    columns: Mapping[str, float] = field(default_factory=dict)
    """Further figures by name, mean over the parts."""

    @property
    def kind(self) -> Kind:
        """What it may be compared within."""
        return self.features, self.labels, self.setting

    @property
    def reading(self) -> str:
        """Against the control, in words."""
        if self.against is None:
            return "" if self.control is None else "not yet"
        if self.holm is not None and self.holm < LEVEL:
            return "ahead" if self.against.difference > 0 else "behind"
        return "cannot be told"

    def to_dict(self) -> dict[str, Any]:
        """An entry of `rows` in `table.json`."""
        own = self.estimate.to_dict() if self.estimate else {"mean": None, "ci95": None}
        minus = {}
        if self.against is not None:
            found = self.against.to_dict()
            minus[self.control] = {
                **{name: found[name] for name in ("difference", "ci95")},
                **{"p": found["p_value"], "p_holm": self.holm, "reading": self.reading},
            }
        names = ("arm", "features", "labels", "setting", "done", "planned", "paper", "columns")
        kept = {name: getattr(self, name) for name in names}
        return {**kept, **own, "minus": minus}


def rows_of(recipe: Recipe, planned: pd.DataFrame, said: pd.DataFrame) -> tuple[Row, ...]:
    """Labels by labels, features by features, setting by setting, arm by arm."""
    counts = planned["arm"].value_counts()
    kinds = _kinds(recipe, said)
    found: list[Row] = []
    for features, labels, setting in kinds:
        for arm in recipe.arms:
            if features not in recipe.features_of(arm) or arm.name not in counts:
                continue  # the recipe has gained it since
            own = select(said, arm.name, (features, labels, setting))
            if len(own) == 0 and setting and len(said) and (said["arm"] == arm.name).any():
                continue  # an arm that is not asked in this setting
            compared = recipe.compared_in(arm, features)
            row = Row(
                arm=arm.name,
                features=features,
                labels=labels,
                setting=setting,
                done=0 if own.empty else _parts(own).nunique(),
                planned=int(counts[arm.name]),
                estimate=_estimate(own, recipe.metric) if len(own) else None,
                paper=recipe.figures.get((arm.name, features, labels)),
                control=recipe.control_of(arm) if compared else None,
                control_features=compared,
                columns=_columns(own, recipe.columns),
            )
            found.append(replace(row, against=against(row, own, recipe.metric, said)))
    return corrected(found)


def corrected(found: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with p-values corrected for the arms that one control is compared with."""
    families: dict[tuple[str | None, ...], list[int]] = {}
    for i, row in enumerate(found):
        if row.against is not None:
            families.setdefault((row.control, row.control_features, *row.kind[1:]), []).append(i)
    holm: dict[int, float] = {}
    for family in families.values():
        raw = [one.p_value for i in family if (one := found[i].against) is not None]
        holm |= dict(zip(family, holm_adjusted(raw), strict=True))
    return tuple(replace(row, holm=holm.get(i)) for i, row in enumerate(found))


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): none falls below that of a smaller one.

    >>> holm_adjusted([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1) if len(order) else scaled
    return [float(value) for value in adjusted]


def _kinds(recipe: Recipe, said: pd.DataFrame) -> list[Kind]:
    """Those that were found, in the order of the recipe; without any, those to expect."""
    names = list(dict.fromkeys(name for arm in recipe.arms for name in recipe.features_of(arm)))
    if said.empty:
        return [(features, labels, "") for labels in recipe.labels for features in names]
    columns = ["features", "labels", "setting"]
    found = list(said[columns].drop_duplicates().itertuples(index=False, name=None))
    settings = list(dict.fromkeys(setting for _, _, setting in found))
    order = [(f, b, s) for b in recipe.labels for f in names for s in settings]
    return [kind for kind in order if kind in found]


def select(said: pd.DataFrame, arm: str, kind: Kind) -> pd.DataFrame:
    """The predictions of a row, with the probabilities of its own classes."""
    if said.empty:
        return said
    features, labels, setting = kind
    own = said[
        (said["arm"] == arm)
        & (said["features"] == features)
        & (said["labels"] == labels)
        & (said["setting"] == setting)
    ]
    return own.dropna(axis="columns", how="all").reset_index(drop=True)


def _parts(rows: pd.DataFrame) -> pd.Series:
    seed = rows["seed"] // DRAWS
    return seed.astype(str) + "-" + rows["fold"].astype(str) if "fold" in rows else seed.astype(str)


def _columns(rows: pd.DataFrame, names: Iterable[str]) -> dict[str, float]:
    """Those that the measure filled."""
    found = [name for name in names if name in rows]
    means = rows.groupby(_parts(rows))[found].first().mean() if found else pd.Series()
    return {str(name): float(value) for name, value in means.items()}


def _estimate(rows: pd.DataFrame, metric: str) -> Estimate:
    """Mean over parts and draws, with the interval over patients."""
    said = Predictions.per_split(rows, [c[2:] for c in rows.columns if c.startswith("p_")])

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        if metric == HEADLINE:
            return {metric: said[split].balanced_accuracy(weights)}
        return said[split].metrics(weights)

    groups = [one.patients for one in said]
    return bootstrap(groups, statistic, replicates=REPLICATES)[metric]


def against(row: Row, own: pd.DataFrame, metric: str, said: pd.DataFrame) -> Difference | None:
    """Minus the control, on what both were tested on."""
    if row.control is None or row.control_features is None or own.empty:
        return None
    theirs = select(said, row.control, (row.control_features, row.labels, row.setting))
    keys = ["image_id", "seed"]
    if theirs.empty or own[keys].merge(theirs[keys], on=keys).empty:
        return None
    found = compare(own, theirs, replicates=REPLICATES, headline_only=metric == HEADLINE)
    return found.differences[metric]


def reading(rows: Sequence[Row]) -> str:
    """What is told apart from its control, in the first classes of a table.

    Differences are means over the settings in which they are told.
    """
    compared = [row for row in rows if row.labels == rows[0].labels and row.against is not None]
    kinds = dict.fromkeys((row.features, row.control, row.control_features) for row in compared)
    return " ".join(
        _sentence([r for r in compared if (r.features, r.control, r.control_features) == kind])
        for kind in kinds
    )


def _sentence(rows: Sequence[Row]) -> str:
    """Of arms in one feature set beside one control."""
    told: dict[str, list[str]] = {"ahead": [], "behind": [], "cannot be told": []}
    for arm in dict.fromkeys(row.arm for row in rows):
        own = [row for row in rows if row.arm == arm]
        for word, names in told.items():
            some = [r.against.difference for r in own if r.against and r.reading == word]
            if not some or (word == "cannot be told" and len(some) < len(own)):
                continue
            where = f" in {len(some)} of {len(own)} settings" if len(own) > 1 else ""
            mean = f" ({sum(some) / len(some):+.3f}{where})"
            names.append(arm + ("" if word == "cannot be told" else mean))
    features, control, theirs = rows[0].features, rows[0].control, rows[0].control_features
    beside = control if theirs in (features, control) else f"{control} ({theirs})"
    words = {"ahead": "ahead of", "behind": "behind", "cannot be told": "not told from"}
    parts = [f"{', '.join(arms)} {words[key]} {beside}" for key, arms in told.items() if arms]
    return f"{features[:1].upper()}{features[1:]} features: {'; '.join(parts)}."
