"""Do retrieved metadata agree with the true ones, and more than by chance?

Axis names: i = images that are compared, r = bootstrap replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped
from scipy.stats import rankdata

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS, Kind, LevelName
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.features.encode import level_of_images

Array = np.ndarray[Any, np.dtype[Any]]
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

    def in_other_unit(self, other: Column) -> bool:
        """Whether both state a unit, and not the same one."""
        return None not in (self.unit, other.unit) and self.unit != other.unit


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

    imputed: Column
    true: Column
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
        own = "" if self.true.name == self.imputed.name else f" = {self.true.name}"
        return f"{self.imputed.level}.{self.imputed.name}{own}"

    @property
    def measure(self) -> str:
        """`agreement`, or `error` of a continuous column."""
        return "error" if self.imputed.kind == "continuous" else "agreement"

    @property
    def headline(self) -> Estimate:
        """The agreement, or the error of a continuous column."""
        return self.figures[self.measure]

    @property
    def beyond_chance(self) -> Estimate:
        """Kappa, or the skill of a continuous column: 0 is chance, 1 perfect."""
        return self.figures["skill" if self.imputed.kind == "continuous" else "kappa"]

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`."""
        return {
            "column": self.imputed.name,
            "target_column": self.true.name,
            "level": self.imputed.level,
            "kind": self.imputed.kind,
            "n": self.n,
            "n_patients": self.n_patients,
            "unknown_to_reference": self.unknown_to_reference,
            **{key: found.to_dict(per_seed=False) for key, found in self.figures.items()},
        }


def matched_columns(
    reference: Cohort, target: Cohort, rename: Mapping[str, str]
) -> list[tuple[Column, Column]]:
    """(of the reference, of the target): columns of equal kind, unit and name.

    Args:
        reference: its schema names what can be retrieved.
        target: its schema names what is true.
        rename: name in the target -> name in the reference, where these differ.

    Raises:
        UserError: `rename` names what is not there, or columns of different kinds or units.
    """
    theirs, ours = dict(_named(reference)), dict(_named(target))
    for name, other in rename.items():
        for wanted, known, cohort in ((name, ours, target), (other, theirs, reference)):
            if wanted not in known:
                raise UserError(
                    f"rename: cohort '{cohort.info.name}' has no feature '{wanted}'; it has: "
                    f"{', '.join(known) or 'none'}. Write it as NAME_IN_TARGET=NAME_IN_REFERENCE."
                )
        if ours[name].kind != theirs[other].kind:
            raise UserError(
                f"rename: '{name}' of the target is {ours[name].kind}, '{other}' of the reference "
                f"is {theirs[other].kind}; only features of one kind can be compared."
            )
        if ours[name].in_other_unit(theirs[other]):
            raise UserError(
                f"rename: '{name}' of the target is in {ours[name].unit}, '{other}' of the "
                f"reference in {theirs[other].unit}; import one of them in the unit of the other."
            )
    pairs: dict[str, tuple[Column, Column]] = {}
    for name, true in ours.items():
        imputed = theirs.get(rename.get(name, name))
        if imputed and imputed.kind == true.kind and not imputed.in_other_unit(true):
            pairs.setdefault(true.name, (imputed, true))
    return list(pairs.values())


def compare_columns(
    reference: Cohort,
    target: Cohort,
    given: Mapping[LevelName, pd.DataFrame],
    rename: Mapping[str, str],
) -> list[Compared]:
    """Every retrieved column of which the target has the truth; text is compared without case.

    Args:
        reference: as the model reads it.
        target: with whatever it has of its own.
        given: per level the retrieved values, a row per image of the target.
        rename: as in `matched_columns`.
    """
    out, of_image = [], level_of_images(target)
    for imputed, true in matched_columns(reference, target, rename):
        if imputed.level not in given:
            continue
        table = target.tables.of_level(true.level)
        truth = table[true.name].iloc[of_image[true.level]].reset_index(drop=True)
        theirs = reference.tables.of_level(imputed.level)[imputed.name]
        out.append(_compare(imputed, true, given[imputed.level][imputed.name], truth, theirs))
    return out


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
    given, truth = compared.given.iloc[use], compared.truth.iloc[use]
    if compared.imputed.kind == "continuous":
        a, b = given.to_numpy(dtype=np.float64), truth.to_numpy(dtype=np.float64)
        statistic = _continuous(a, b, compared.typical)
    else:
        statistic = _nominal(_spelled(given, compared.imputed), _spelled(truth, compared.imputed))
    groups = patients[use]
    return Agreement(
        imputed=compared.imputed,
        true=compared.true,
        n=len(use),
        n_patients=len(np.unique(groups)),
        unknown_to_reference=float(1 - compared.known_to_reference[use].mean()),
        figures=bootstrap([groups], lambda _, w: statistic(w), replicates=replicates, seed=seed),
    )


def _named(cohort: Cohort) -> Iterator[tuple[str, Column]]:
    """Columns by their names, and features of one column by theirs."""
    for level in LEVELS:
        for feature in cohort.schema.level(level).features:
            for column in feature.columns:
                found = Column(level=level, name=column, kind=feature.kind, unit=feature.unit)
                yield column, found
                if len(feature.columns) == 1:
                    yield feature.name, found


def _compare(
    imputed: Column, true: Column, given: pd.Series, truth: pd.Series, theirs: pd.Series
) -> Compared:
    known = (given.notna() & truth.notna()).to_numpy()
    in_reference, typical = np.ones(len(given), dtype=bool), np.nan
    if imputed.kind == "continuous":
        a, b, numbers = (
            x.to_numpy(dtype=np.float64, na_value=np.nan) for x in (given, truth, theirs)
        )
        typical = float(np.nanmedian(numbers))
        hit = np.abs(a - b) <= TOLERANCE * float(np.nanstd(numbers))
    else:
        a, b = _spelled(given, imputed), _spelled(truth, imputed)
        hit = a == b
        if imputed.kind == "categorical":
            in_reference = np.isin(b, np.unique(_spelled(theirs.dropna(), imputed)))
    return Compared(
        imputed=imputed,
        true=true,
        given=given,
        truth=truth,
        agrees=np.where(known, hit, np.nan).astype(np.float64),
        known_to_reference=in_reference,
        typical=typical,
    )


def _spelled(cells: pd.Series, column: Column) -> Shaped[Array, " i"]:
    """Cells as text that can be compared; missing ones as ''."""
    if column.kind == "checkbox":
        return np.where(cells.isna(), "", np.where(cells.fillna(False), "yes", "no"))
    return cells.astype("str").str.strip().str.casefold().fillna("").to_numpy(dtype="U")


def _nominal(given: Array, truth: Array) -> Statistic:
    categories, codes = np.unique(np.concatenate([given, truth]), return_inverse=True)
    one_hot = np.eye(len(categories))[codes]  # (2 i, categories)
    a, b = one_hot[: len(given)], one_hot[len(given) :]
    hit = (given == truth).astype(np.float64)

    def statistic(w: Float[Array, "r i"]) -> dict[str, Array]:
        total = w.sum(axis=1)
        agreed = w @ hit / total
        chance = ((w @ a) * (w @ b)).sum(axis=1) / total**2
        rest = 1 - chance
        kappa = np.divide(agreed - chance, rest, out=np.full(len(w), np.nan), where=rest > 1e-12)
        return {"agreement": agreed, "chance": chance, "kappa": kappa}

    return statistic


def _continuous(given: Array, truth: Array, typical: float) -> Statistic:
    error, by_chance = np.abs(given - truth), np.abs(truth - typical)
    ranks = np.stack([rankdata(given), rankdata(truth)])

    def statistic(w: Float[Array, "r i"]) -> dict[str, Array]:
        total = w.sum(axis=1)
        ours, chance = w @ error / total, w @ by_chance / total
        skill = 1 - np.divide(ours, chance, out=np.full(len(w), np.nan), where=chance > 0)
        return {
            "error": ours,
            "chance": chance,
            "skill": skill,
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
