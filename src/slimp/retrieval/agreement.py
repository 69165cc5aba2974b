"""Do retrieved metadata agree with the true ones, and more than by chance?

Axis names: i = images that are compared, r = bootstrap replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped
from scipy.stats import rankdata

from slimp.data.cohort import Cohort, level_of_images
from slimp.data.schema import Kind, LevelName
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.evaluation.metrics import Array, ratio

Statistic = Callable[[Float[Array, "r i"]], dict[str, Array]]
TOLERANCE = 0.5
"""A continuous value agrees if it is within this many standard deviations of the reference."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of one cohort."""

    level: LevelName
    name: str
    kind: Kind
    unit: str | None = None

    def differs(self, other: Column) -> str:
        """Why the two cannot be compared, in words; units count where both are stated."""
        if self.kind != other.kind:
            return f"{self.kind} and {other.kind}"
        if self.unit and other.unit and self.unit != other.unit:
            return f"in {self.unit} and in {other.unit}"
        return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """One retrieved column beside the truth, a row per image of the target."""

    imputed: Column
    true: Column
    given: pd.Series
    """Retrieved values; missing where there are none."""
    truth: pd.Series
    """Own values; missing where not known."""
    agrees: Float[Array, " i"]
    """1 or 0 per image; NaN where one of the two is missing."""
    known_to_reference: Bool[Array, " i"]
    """Whether the reference has the true category at all; true for other kinds."""
    typical: float
    """Median of the reference, of a continuous column; otherwise NaN."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far one retrieved column agrees with the truth."""

    column: str
    """Of the reference."""
    target_column: str
    level: LevelName
    kind: Kind
    n: int
    """Images where both are known."""
    n_patients: int
    unknown_to_reference: float
    """Fraction of these images whose true category the reference does not have."""
    figures: Mapping[str, Estimate]
    """Categorical and checkbox: `agreement` (fraction), `chance` (expected from both marginals) and
    `kappa` (0 chance, 1 perfect). Continuous, in its unit: `error` (mean absolute), `chance` (that
    of the reference's median for everyone), `skill` (1 - error / chance) and
    `rank_correlation`."""

    @property
    def name(self) -> str:
        """Both names, if they differ."""
        own = "" if self.target_column == self.column else f" = {self.target_column}"
        return f"{self.level}.{self.column}{own}"

    @property
    def measure(self) -> str:
        """`agreement`, or `error` of a continuous column."""
        return "error" if "error" in self.figures else "agreement"

    @property
    def headline(self) -> Estimate:
        """The agreement, or the error of a continuous column."""
        return self.figures[self.measure]

    @property
    def beyond_chance(self) -> Estimate:
        """Kappa, or the skill of a continuous column: 0 is chance, 1 perfect."""
        return self.figures["skill" if "skill" in self.figures else "kappa"]

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`, but for the estimates."""
        content = {**vars(self), **self.figures}
        return {name: value for name, value in content.items() if name != "figures"}


def matched_columns(
    reference: Cohort, target: Cohort, rename: Mapping[str, str]
) -> list[tuple[Column, Column]]:
    """(of the reference, of the target): columns of equal kind, unit and name.

    `rename` is name in the target -> name in the reference, where these differ.

    Raises:
        UserError: `rename` names what is not there, or columns of different kinds or units.
    """
    theirs, ours = _by_name(reference), _by_name(target)
    for name, other in rename.items():
        for wanted, known, cohort in ((name, ours, target), (other, theirs, reference)):
            if wanted not in known:
                raise UserError(
                    f"rename: cohort '{cohort.info.name}' has no feature '{wanted}'; it has: "
                    f"{', '.join(known) or 'none'}. Write it as NAME_IN_TARGET=NAME_IN_REFERENCE."
                )
        if why := ours[name].differs(theirs[other]):
            raise UserError(
                f"rename: '{name}' of the target and '{other}' of the reference are {why}, so "
                "they cannot be compared. Import one cohort in the kinds and units of the other."
            )
    pairs: dict[str, tuple[Column, Column]] = {}
    for name, true in ours.items():
        imputed = theirs.get(rename.get(name, name))
        if imputed and not imputed.differs(true):
            pairs.setdefault(true.name, (imputed, true))
    return list(pairs.values())


def _by_name(cohort: Cohort) -> dict[str, Column]:
    """Columns by their names, and features of one column by theirs."""
    found = {}
    for level in cohort.schema.levels:
        for feature in level.features:
            for name in feature.columns:
                column = Column(level=level.name, name=name, kind=feature.kind, unit=feature.unit)
                found[name] = column
                if len(feature.columns) == 1:
                    found[feature.name] = column
    return found


def compare_columns(
    reference: Cohort,
    target: Cohort,
    given: Mapping[LevelName, pd.DataFrame],
    rename: Mapping[str, str],
) -> list[Compared]:
    """Every retrieved column of which the target has the truth; text is compared without case.

    `given` are the retrieved values per level, a row per image of the target.
    """
    out, of_image = [], level_of_images(target)
    for imputed, true in matched_columns(reference, target, rename):
        if imputed.level in given:
            table = target.tables.of_level(true.level)
            truth = table[true.name].iloc[of_image[true.level]].reset_index(drop=True)
            theirs = reference.tables.of_level(imputed.level)[imputed.name]
            out.append(_compare(imputed, true, given[imputed.level][imputed.name], truth, theirs))
    return out


def _compare(
    imputed: Column, true: Column, given: pd.Series, truth: pd.Series, theirs: pd.Series
) -> Compared:
    in_reference, typical = np.ones(len(given), dtype=bool), np.nan
    a, b, known = (_cells(x, imputed.kind) for x in (given, truth, theirs))
    if imputed.kind == "continuous":
        typical = float(np.nanmedian(known))
        hit = np.abs(a - b) <= TOLERANCE * float(np.nanstd(known))
    else:
        hit = a == b
    if imputed.kind == "categorical":
        in_reference = np.isin(b, np.unique(known))
    return Compared(
        imputed=imputed,
        true=true,
        given=given,
        truth=truth,
        agrees=np.where(given.notna() & truth.notna(), hit, np.nan).astype(np.float64),
        known_to_reference=in_reference,
        typical=typical,
    )


def _cells(cells: pd.Series, kind: Kind) -> Shaped[Array, " i"]:
    """Numbers, or text that can be compared; missing ones as NaN or ''."""
    if kind == "continuous":
        return cells.to_numpy(dtype=np.float64, na_value=np.nan)
    return cells.astype("str").str.strip().str.casefold().fillna("").to_numpy(dtype="U")


def agreement(
    compared: Compared,
    patients: Shaped[Array, " i"],
    rows: Bool[Array, " i"],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Agreement | None:
    """The figures over some rows, with intervals over patients; None if none can be compared."""
    use = np.flatnonzero(rows & ~np.isnan(compared.agrees))
    if not len(use):
        return None
    kind, groups = compared.imputed.kind, patients[use]
    given, truth = (_cells(x.iloc[use], kind) for x in (compared.given, compared.truth))
    if kind == "continuous":
        statistic = _continuous(given, truth, compared.typical)
    else:
        statistic = _nominal(given, truth)
    found = bootstrap([groups], lambda _, w: statistic(w), replicates=replicates, seed=seed)
    return Agreement(
        column=compared.imputed.name,
        target_column=compared.true.name,
        level=compared.imputed.level,
        kind=kind,
        n=len(use),
        n_patients=len(np.unique(groups)),
        unknown_to_reference=float(1 - compared.known_to_reference[use].mean()),
        figures={name: one.of_patients(groups) for name, one in found.items()},
    )


def _nominal(given: Array, truth: Array) -> Statistic:
    categories, codes = np.unique(np.concatenate([given, truth]), return_inverse=True)
    one_hot = np.eye(len(categories))[codes]  # (2 i, categories)
    a, b = one_hot[: len(given)], one_hot[len(given) :]
    hit = (given == truth).astype(np.float64)

    def statistic(w: Float[Array, "r i"]) -> dict[str, Array]:
        total = w.sum(axis=1)
        agreed = w @ hit / total
        chance = ((w @ a) * (w @ b)).sum(axis=1) / total**2
        return {
            "agreement": agreed,
            "chance": chance,
            "kappa": ratio(agreed - chance, np.where(1 - chance > 1e-12, 1 - chance, 0)),
        }

    return statistic


def _continuous(given: Array, truth: Array, typical: float) -> Statistic:
    error, by_chance = np.abs(given - truth), np.abs(truth - typical)
    ranks = np.stack([rankdata(given), rankdata(truth)])

    def statistic(w: Float[Array, "r i"]) -> dict[str, Array]:
        total = w.sum(axis=1)
        ours, chance = w @ error / total, w @ by_chance / total
        return {
            "error": ours,
            "chance": chance,
            "skill": 1 - ratio(ours, np.where(chance > 1e-12, chance, 0)),
            "rank_correlation": weighted_correlation(w, *ranks),
        }

    return statistic


def weighted_correlation(
    w: Float[Array, "r i"], a: Float[Array, " i"], b: Float[Array, " i"]
) -> Float[Array, " r"]:
    """Pearson's correlation under each row of weights; NaN where one side is constant."""
    w = w / w.sum(axis=1, keepdims=True)
    a, b = a - a.mean(), b - b.mean()  # so that less cancels below
    mean_a, mean_b, square_a, square_b = w @ a, w @ b, w @ a**2, w @ b**2
    var_a, var_b = square_a - mean_a**2, square_b - mean_b**2
    varied = (var_a > 1e-12 * square_a) & (var_b > 1e-12 * square_b)
    scale = np.sqrt(np.where(varied, var_a * var_b, 1.0))
    return np.where(varied, (w @ (a * b) - mean_a * mean_b) / scale, np.nan)
