"""How tightly a column and the label hang together, measured across patients.

Axis names: n = rows (images), v = values of the column, c = classes, f = folds of patients,
e = entries: what one patient has of one value and class.

A patient weighs 1 for each of its labels, spread over the values it has there, so that a hundred
images of one patient say no more than one image. All measures come from tables of such counts, so
that the order of rows is moot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.stats import chi2

MIN_PATIENTS = 5
"""Values seen in fewer patients are pooled: they cannot show a rule, only repeat themselves."""
POOLED = "(rare values)"
BINS = 10
"""Quantile bins of a column of numbers."""
FOLDS = 5
IMAGINED = 2.0
"""Patients added to each class in the interval of the balanced accuracy."""
SIGNIFICANT = 1e-6
"""Bound on the probability that a rule holds by chance."""
RULE_SHARE, COLUMN_SHARE, LABEL_SHARE = 0.20, 0.45, 0.60
"""Bounds of a leak, well above what clinical columns reach and below what known leaks reach
(PAD-UFES-20, 1,843 rows, and HAM10000, 10,015 rows):

| measure | bound | clinical, at most | `biopsed` | `dx_type` |
| --- | --- | --- | --- | --- |
| `rule_share` | 0.20 | 0.02 (bleed) | 0.46 | 0.40 |
| `column_share` | 0.45 | 0.25 (bleed) | 0.60 | 0.31 |
| `label_share` | 0.60 | 0.12 (localization) | 0.27 | 0.29 |
"""

Counts = Float[np.ndarray, "v c"]
Names = Shaped[np.ndarray, " _"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What holds without exception: classes that always have a value, or the reverse."""

    classes: tuple[str, ...]
    values: tuple[str, ...]
    from_label: bool
    """True: rows of `classes` all have the one value. False: rows of `values` are all one class."""
    rows: int
    """Rows that obey."""
    others: float
    """Share of the other rows that have the same value (or class)."""

    def describe(self, column: str, *, verb: str = " = ") -> str:
        """The rule as a clause; `verb` stands between the column and its value."""
        classes, values = ", ".join(self.classes), ", ".join(self.values)
        if self.from_label:
            claim = f"all {self.rows} images of {classes} have {column}{verb}{values}"
        else:
            claim = f"all {self.rows} images with {column}{verb}{values} are {classes}"
        return f"{claim}, against {self.others:.0%} of the others"


@dataclass(frozen=True, kw_only=True)
class Link:
    """The association of one column with the label."""

    column_share: float
    """U(column | label): share of the column's entropy that the label explains, less its bias."""
    label_share: float
    """U(label | column): share of the label's entropy that the column wins on held-out patients."""
    rule_share: float
    """Information in rules without exception, as a share of the label's entropy, at most 1."""
    balanced_accuracy: float
    """Of the class guessed from this column alone, on held-out patients."""
    accuracy_ci95: tuple[float, float]
    """Of the balanced accuracy, over patients."""
    chance: float
    """Balanced accuracy of a guess without the column."""
    information: float
    """Mutual information of column and label, less its bias, bits."""
    information_ci95: tuple[float, float]
    """Over patients, bits."""
    p_value: float
    """Of the G-test of independence."""
    one_to_one: bool
    """Each value means one class, and each class has one value."""
    rule: Rule | None
    """The rule that carries most information, where one is significant."""


def is_leak(link: Link) -> bool:
    """Whether the column follows the label more closely than a clinical finding would."""
    return link.p_value < SIGNIFICANT and (
        link.rule_share >= RULE_SHARE
        or link.column_share >= COLUMN_SHARE
        or link.label_share >= LABEL_SHARE
    )


def measure_link(column: pd.Series, labels: pd.Series, patients: pd.Series) -> Link | None:
    """The association over rows where both are known; None if either has but one value there.

    Args:
        column: (n,) values as strings, missing as NA; see `as_categories`.
        labels: (n,) classes, missing as NA.
        patients: (n,) patient ids.
    """
    known = (column.notna() & labels.notna()).to_numpy()
    patient, _ = pd.factorize(patients[known].to_numpy(), sort=True)
    label, classes = pd.factorize(labels[known].to_numpy(dtype=object), sort=True)
    value, values = _pool_rare(column[known].to_numpy(dtype=object), patient)
    if len(values) < 2 or len(classes) < 2:
        return None
    entries = _entries(patient, value, label, len(values), len(classes))
    folds = entries.fold_counts(len(values), len(classes))
    rows = np.zeros(folds.shape[1:])
    np.add.at(rows, (value, label), 1)
    table = folds.sum(axis=0)  # (v, c)
    column_share, p_value = uncertainty(table)
    label_share, guess = _held_out(folds)
    balanced_accuracy, accuracy_ci95 = entries.accuracy(guess, len(classes))
    information, information_error = entries.information(table)
    rule_share, rule = _rule(table, rows, values, classes)
    some = rows > 0
    return Link(
        column_share=column_share,
        label_share=label_share,
        rule_share=rule_share,
        balanced_accuracy=balanced_accuracy,
        accuracy_ci95=accuracy_ci95,
        chance=1 / len(classes),
        information=information,
        information_ci95=_interval(information, information_error),
        p_value=p_value,
        one_to_one=all(bool((some.sum(axis=k) == 1).all()) for k in (0, 1)),
        rule=rule,
    )


def as_categories(column: pd.Series) -> pd.Series:
    """The column as strings, numbers of many values cut at their deciles; missing stays NA.

    A number that more than a tenth of the rows have is a value of its own, so that what sets the
    others apart from it (0 for "not done", 100 for "at the end of the scale") is not blurred.
    """
    numbers = as_numbers(column)
    if numbers is None or numbers.nunique() <= BINS + 2:
        return column.astype(object).where(column.notna()).map(str, na_action="ignore")
    known = numbers.dropna()
    edges = np.quantile(known, np.linspace(0, 1, BINS + 1))
    shares = known.value_counts(normalize=True)
    often = shares.index[shares > 1 / BINS].to_numpy(dtype=float)
    edges = np.unique(np.concatenate([edges, often, np.nextafter(often, np.inf)]))
    place = np.searchsorted(edges[1:-1], numbers, side="right")
    return pd.Series(_bin_names(edges, often)[place], index=column.index).where(numbers.notna())


def _bin_names(edges: Float[np.ndarray, " _"], often: Float[np.ndarray, " _"]) -> Names:
    """'2 to 5', or '2' where that is all; in as many digits as tell the bins apart."""
    for digits in (4, 8, 17):
        names = [
            f"{low:.{digits}g}" if low in often else f"{low:.{digits}g} to {high:.{digits}g}"
            for low, high in pairwise(edges)
        ]
        if len(set(names)) == len(names):
            break
    return np.array(names, dtype=object)


def as_numbers(column: pd.Series) -> pd.Series | None:
    """The column as float64, if it is one of numbers or of text that reads as numbers."""
    if pd.api.types.is_bool_dtype(column.dtype):
        return None
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    numbers = numbers.where(np.isfinite(numbers))
    unread = int(column.notna().sum() - numbers.notna().sum())
    return None if unread or numbers.isna().all() else numbers


def uncertainty(table: Counts) -> tuple[float, float]:
    """U(row | column) of a table of counts with the Miller-Madow correction, and the G-test's p."""
    n = table.sum()
    by_value = _entropy(table.sum(axis=1))
    information = by_value + _entropy(table.sum(axis=0)) - _entropy(table.ravel())  # nats
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    corrected = max(0.0, information - freedom / (2 * n))
    return float(min(1.0, corrected / by_value)), float(chi2.sf(2 * n * information, freedom))


def _entropy(counts: Float[np.ndarray, " k"]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


@dataclass(frozen=True, kw_only=True)
class _Entries:
    """What each patient has of each value and class; several values of one class share a 1."""

    patient: Int[np.ndarray, " e"]
    value: Int[np.ndarray, " e"]
    label: Int[np.ndarray, " e"]
    weight: Float[np.ndarray, " e"]

    def fold_counts(self, values: int, classes: int) -> Float[np.ndarray, "f v c"]:
        """Patients per fold, value and class."""
        folds = np.zeros((FOLDS, values, classes))
        np.add.at(folds, (self.patient % FOLDS, self.value, self.label), self.weight)
        return folds

    def accuracy(
        self, guess: Int[np.ndarray, "f v"], classes: int
    ) -> tuple[float, tuple[float, float]]:
        """Balanced accuracy of a guess per fold and value, and its 95 % interval.

        For the interval each class has `IMAGINED` more patients, right as often as by chance, so
        that a few patients who are all right are not certainty (as in the interval of Agresti and
        Coull 1998).
        """
        right = guess[self.patient % FOLDS, self.value] == self.label
        total = np.bincount(self.label, self.weight, classes)
        hits = np.bincount(self.label, self.weight * right, classes)
        chance, more = 1 / classes, total + IMAGINED
        recall = (hits + IMAGINED * chance) / more
        pull = self.weight * (right - recall[self.label]) / more[self.label]
        imagined = chance * (1 - recall) ** 2 + (1 - chance) * recall**2
        variance = self._error(pull) ** 2 + (IMAGINED * imagined / more**2).sum()
        value, middle = float((hits / total).mean()), float(recall.mean())
        low, high = _interval(middle, float(np.sqrt(variance)) / classes, most=1.0)
        return value, (min(low, value), max(high, value))

    def information(self, table: Counts) -> tuple[float, float]:
        """Mutual information of value and class less its bias, and its standard error, bits."""
        n = table.sum()
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
        with np.errstate(divide="ignore"):
            bits = np.log2(table / expected)[self.value, self.label]
        mean = float((self.weight * bits).sum() / n)
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        bias = freedom / (2 * n * np.log(2))
        # To first order there is no error where the two are independent, nor where one is the
        # other in equal parts; what is left is the spread of the G-test's statistic.
        spread = float(np.sqrt(2 * freedom)) / (2 * n * np.log(2))
        error = np.hypot(self._error(self.weight * (bits - mean) / n), spread)
        return max(0.0, mean - float(bias)), float(error)

    def _error(self, pull: Float[np.ndarray, " e"]) -> float:
        """Standard error of a mean, from how far each patient pulls it (delta method)."""
        return float(np.sqrt((np.bincount(self.patient, pull) ** 2).sum()))


def _entries(
    patient: Int[np.ndarray, " n"],
    value: Int[np.ndarray, " n"],
    label: Int[np.ndarray, " n"],
    values: int,
    classes: int,
) -> _Entries:
    keys, rows = np.unique((patient * classes + label) * values + value, return_counts=True)
    pair = keys // values  # of patient and label
    _, place = np.unique(pair, return_inverse=True)
    weight = rows / np.bincount(place, rows)[place]
    return _Entries(
        patient=pair // classes, value=keys % values, label=pair % classes, weight=weight
    )


def _interval(value: float, error: float, most: float = np.inf) -> tuple[float, float]:
    """The 95 % interval of a value that is at least 0."""
    return max(0.0, value - 1.96 * error), min(most, value + 1.96 * error)


def _pool_rare(
    column: Names, patient: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Names]:
    """Codes and names of the values, those of fewer than `MIN_PATIENTS` patients as one."""
    value, names = pd.factorize(column, sort=True)
    pairs = np.unique(patient * len(names) + value)
    often = np.bincount(pairs % len(names), minlength=len(names)) >= MIN_PATIENTS
    if often.all():
        return value, names
    code = np.where(often, np.cumsum(often) - 1, often.sum())  # the rare ones share the last
    return code[value], np.append(names[often], POOLED)


def _held_out(folds: Float[np.ndarray, "f v c"]) -> tuple[float, Int[np.ndarray, "f v"]]:
    """Share of the label's information won, and the class guessed, each fold by the others."""
    train = folds.sum(axis=0) - folds
    prior = train.sum(axis=1) + 1  # (f, c)
    prior = (prior / prior.sum(axis=1, keepdims=True))[:, None, :]  # (f, 1, c)
    belief = (train + prior) / (train.sum(axis=2, keepdims=True) + 1)  # (f, v, c)
    blind = -(folds * np.log(prior)).sum()
    seeing = -(folds * np.log(belief)).sum()
    guess = (belief / prior).argmax(axis=2)  # (f, v): the class that the value favours most
    return max(0.0, float(1 - seeing / blind)), guess


def _rule(
    table: Counts, rows: Counts, values: Names, classes: np.ndarray[Any, Any]
) -> tuple[float, Rule | None]:
    """Information in rules as a share of the label's, and the strongest rule."""
    whole = table.sum() * _entropy(table.sum(axis=0))
    by_label, by_value = list(_pure(table)), list(_pure(table.T))
    shares = [sum(gain for gain, _, _ in side) / whole for side in (by_label, by_value)]
    from_label = bool(shares[0] >= shares[1])
    side = by_label if from_label else by_value
    if not side:
        return 0.0, None
    _, one, many = max(side, key=lambda rule: rule[0])
    counts = rows if from_label else rows.T
    obey = int(counts[one, many].sum())
    names = (values, classes) if from_label else (classes, values)
    single, several = (str(names[0][one]),), tuple(str(name) for name in names[1][many])
    return float(min(1.0, max(shares))), Rule(
        classes=several if from_label else single,
        values=single if from_label else several,
        from_label=from_label,
        rows=obey,
        others=float((counts[one].sum() - obey) / max(1, counts.sum() - obey)),
    )


def _pure(table: Counts) -> Iterator[tuple[float, int, Int[np.ndarray, " k"]]]:
    """Rules 'these columns have nothing but this row': information in nats, row, columns.

    The information is what obeying rows would save if the rule were known beforehand; a column
    counts if its purity is beyond chance, given how often the others fall in that row.
    """
    totals = table.sum(axis=0)
    for one, row in enumerate(table):
        pure = np.flatnonzero(row == totals)
        if len(pure) in (0, table.shape[1]):
            continue
        obey = row[pure].sum()
        others = (row.sum() - obey + 1) / (table.sum() - obey + 2)
        pure = pure[totals[pure] * np.log(others) < np.log(SIGNIFICANT / table.size)]
        if len(pure):
            obey = row[pure].sum()
            others = (row.sum() - obey + 1) / (table.sum() - obey + 2)
            yield -obey * float(np.log(others)), one, pure
