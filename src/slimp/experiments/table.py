"""The table of an experiment, a pure function of its cells: means, paired differences, verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from slimp.data.files import read_json
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, Record, bootstrap
from slimp.evaluation.metrics import Array, mean_over_present
from slimp.evaluation.paired_bootstrap import Difference, compare
from slimp.evaluation.result import Predictions
from slimp.experiments.cells import DONE
from slimp.experiments.plan import EXPERIMENT
from slimp.experiments.recipe import Claim, Recipe, get_recipe
from slimp.experiments.stages import PREDICTIONS

HEADLINE = "balanced_accuracy"
REPLICATES = 2000
"""Of the bootstrap."""
LEVEL = 0.05
"""Of the corrected p-values, below which a difference is told."""
DRAWS = 1000
"""More than there are draws of a setting; each draw counts as a seed of its own."""
Kind = tuple[str, str, str]
"""Features, labels and setting of a row."""
Verdict = Literal["agrees", "disagrees", "undecided"]


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
        names = ("arm", "features", "labels", "setting", "done", "planned", "paper")
        kept = {name: getattr(self, name) for name in names}
        return {**kept, **own, "minus": minus}


@dataclass(frozen=True, kw_only=True)
class Judged(Record):
    """A claim of the paper beside what was found."""

    claim: Claim
    row: Row | None
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The claim, what was found, and whether they agree."""
        words = {
            "agrees": "agrees",
            "disagrees": "disagrees",
            "undecided": "cannot be told at this scale",
        }
        found = None if self.row is None else self.row.against
        if found is None or self.row is None:
            return f"{self.claim.words}: not yet run."
        width = 100 * (found.ci95[1] - found.ci95[0])
        return (
            f"{self.claim.words}. Here {self.claim.arm} minus {self.claim.control}, "
            f"{self.row.features} features: {found}: {words[self.verdict]} "
            f"(the interval is {width:.1f} points wide)."
        )

    def to_dict(self) -> dict[str, Any]:
        """An entry of `verdict` in `table.json`."""
        claim = self.claim
        found = None if self.row is None else self.row.against
        return {
            **{"claim": claim.words, "arm": claim.arm, "control": claim.control},
            **{"features": claim.features, "labels": claim.labels},
            "paper": [claim.least, claim.most],
            "difference": None if found is None else found.difference,
            "ci95": None if found is None else list(found.ci95),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, kw_only=True)
class Table:
    """All that an experiment found so far."""

    recipe: Recipe
    plan: Mapping[str, Any]
    """The content of `experiment.json`."""
    rows: tuple[Row, ...]
    verdicts: tuple[Judged, ...]
    predictions: pd.DataFrame
    done: int
    """Chains whose cells are all there."""
    failed: tuple[str, ...] = ()
    """Cells that could not be made just now, with the reasons."""

    @property
    def scale(self) -> str:
        """Its name, with the user's own settings if there are any."""
        changes = ", ".join(f"{k}={v}" for k, v in self.plan["changes"].items())
        return str(self.plan["scale"]["name"]) + (f" with {changes}" if changes else "")

    @property
    def seeds(self) -> int:
        """Number of seeds planned."""
        return len({chain["seed"] for chain in self.plan["chains"]})

    @property
    def gone(self) -> list[str]:
        """Arms that were planned and that the recipe no longer has."""
        planned = dict.fromkeys(chain["arm"] for chain in self.plan["chains"])
        return [name for name in planned if name not in {arm.name for arm in self.recipe.arms}]

    @property
    def holes(self) -> tuple[int, int]:
        """Chains that are done, and all."""
        return self.done, len(self.plan["chains"])

    def to_dict(self) -> dict[str, Any]:
        """The content of `table.json`."""
        return {
            "name": self.recipe.name,
            "question": self.recipe.question,
            "paper": self.recipe.paper,
            "scale": self.scale,
            "cohort": self.plan["cohort"],
            "malignant": self.plan["malignant"],
            "metric": self.recipe.metric,
            "seeds": self.seeds,
            "rows": [row.to_dict() for row in self.rows],
            "verdict": [judged.to_dict() for judged in self.verdicts],
        }


def read_table(out: Path) -> Table:
    """The table of the cells that are done; no model is read.

    Raises:
        UserError: `out` holds no experiment.
    """
    if not (out / EXPERIMENT).is_file():
        raise UserError(f"{out}: holds no {EXPERIMENT}. Make one with: slimp experiment NAME.")
    plan = read_json(out / EXPERIMENT)
    recipe, cells = get_recipe(plan["name"]), Path(plan["cells"])
    if not cells.is_absolute():
        cells = out / cells
    planned = pd.DataFrame(plan["chains"])
    frames = []
    for chain in plan["chains"]:
        folder = cells / chain["cell"]
        if (folder / DONE).is_file():
            frames.append(pd.read_parquet(folder / PREDICTIONS).assign(arm=chain["arm"]))
    said = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if len(said):
        draw = said["draw"].fillna(0).astype(int) if "draw" in said else 0
        said["seed"] = said["seed"] * DRAWS + draw
    rows = tuple(_rows(recipe, planned, said))
    verdicts = tuple(_judge(claim, rows, said, recipe) for claim in recipe.claims)
    return Table(
        recipe=recipe, plan=plan, rows=rows, verdicts=verdicts, predictions=said, done=len(frames)
    )


def _rows(recipe: Recipe, planned: pd.DataFrame, said: pd.DataFrame) -> Iterator[Row]:
    """Labels by labels, features by features, setting by setting, arm by arm."""
    counts = planned["arm"].value_counts()
    kinds = _kinds(recipe, said)
    found: list[Row] = []
    for features, labels, setting in kinds:
        for arm in recipe.arms:
            if features not in recipe.features_of(arm) or arm.name not in counts:
                continue  # the recipe has gained it since
            own = _select(said, arm.name, (features, labels, setting))
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
            )
            found.append(replace(row, against=_against(row, own, recipe.metric, said)))
    families: dict[tuple[str | None, ...], list[int]] = {}
    for i, row in enumerate(found):
        if row.against is not None:
            families.setdefault((row.control, row.control_features, *row.kind[1:]), []).append(i)
    holm: dict[int, float] = {}
    for family in families.values():
        raw = [against.p_value for i in family if (against := found[i].against) is not None]
        holm |= dict(zip(family, holm_adjusted(raw), strict=True))
    yield from (replace(row, holm=holm.get(i)) for i, row in enumerate(found))


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


def verdict_of(claim: Claim, found: Difference | None, p: float | None) -> Verdict:
    """Whether what was found agrees with a published difference.

    agrees: it is on the same side of 0, also after correction for the number of arms. disagrees:
    the whole interval is short of the smallest difference published, or on the other side.
    """
    if found is None or p is None:
        return "undecided"
    sign = math.copysign(1, claim.least + claim.most)
    low, high = sorted(sign * end for end in found.ci95)
    if p < LEVEL and sign * found.difference > 0 and low > 0:
        return "agrees"
    if high < min(sign * claim.least, sign * claim.most):
        return "disagrees"
    return "undecided"


def _judge(claim: Claim, rows: Sequence[Row], said: pd.DataFrame, recipe: Recipe) -> Judged:
    kind = (claim.features, claim.labels, claim.setting)
    row = next((row for row in rows if row.arm == claim.arm and row.kind == kind), None)
    if row is not None and row.control != claim.control:
        own = replace(row, control=claim.control, control_features=claim.features)
        found = _against(own, _select(said, row.arm, kind), recipe.metric, said)
        row = replace(own, against=found, holm=None if found is None else found.p_value)
    found = None if row is None else row.against
    return Judged(
        claim=claim, row=row, verdict=verdict_of(claim, found, None if row is None else row.holm)
    )


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


def _select(said: pd.DataFrame, arm: str, kind: Kind) -> pd.DataFrame:
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


def _estimate(rows: pd.DataFrame, metric: str) -> Estimate:
    """Mean over parts and draws, with the interval over patients."""
    said = Predictions.per_split(rows, [c[2:] for c in rows.columns if c.startswith("p_")])

    def statistic(split: int, weights: Array) -> dict[str, Array]:
        if metric == HEADLINE:
            return {metric: mean_over_present(said[split].recall(weights))}
        return said[split].metrics(weights)

    groups = [one.patients for one in said]
    return bootstrap(groups, statistic, replicates=REPLICATES)[metric]


def _against(row: Row, own: pd.DataFrame, metric: str, said: pd.DataFrame) -> Difference | None:
    """Minus the control, on what both were tested on."""
    if row.control is None or row.control_features is None or own.empty:
        return None
    theirs = _select(said, row.control, (row.control_features, row.labels, row.setting))
    keys = ["image_id", "seed"]
    if theirs.empty or own[keys].merge(theirs[keys], on=keys).empty:
        return None
    found = compare(own, theirs, replicates=REPLICATES, headline_only=metric == HEADLINE)
    return found.differences[metric]
