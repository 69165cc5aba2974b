"""How tightly a column and the label hang together, measured across patients.

Axis names: n = rows (images), v = values of the column, c = classes, f = folds of patients,
e = entries: what one patient has of one value and class.

A patient weighs 1 for each of its labels, spread over the values it has there, so that a hundred
images of one patient say no more than one image. All measures come from tables of such counts, so
that the order of rows makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from scipy.special import chdtrc, entr, rel_entr

MIN_PATIENTS = 5
"""Values seen in fewer patients are pooled: they cannot show a rule, only repeat themselves."""
POOLED = "(rare values)"
BINS = 10
"""Quantile bins of a column of numbers."""
FOLDS = 5
IMAGINED = 2.0
"""Patients added to each class in the interval of the balanced accuracy."""
SIGNIFICANT, COPY = 1e-6, 1e-4
"""Bounds on the probability that a rule holds by chance, and that a copy of the label does: of two
even classes, 16 patients and 12."""
RULE_SHARE, COLUMN_SHARE, LABEL_SHARE = 0.20, 0.45, 0.60
"""Bounds of a leak, well above what clinical columns reach and below what known leaks reach
(PAD-UFES-20, 1,843 rows, and HAM10000, 10,015 rows):

| measure | bound | clinical, at most | `biopsed` | `dx_type` |
| --- | --- | --- | --- | --- |
| `rule_share` | 0.20 | 0.02 (bleed) | 0.46 | 0.40 |
| `column_share` | 0.45 | 0.25 (bleed) | 0.60 | 0.31 |
| `label_share` | 0.60 | 0.12 (localization) | 0.27 | 0.29 |
"""

Names = Shaped[np.ndarray, " _"]
Codes = Int[np.ndarray, " _"]


@dataclass(frozen=True, kw_only=True)
class Association:
    """What one column tells about the label."""

    column_share: float
    """U(column | label): share of the column's entropy that the label explains, less its bias."""
    label_share: float
    """U(label | column): share of the label's entropy that the column wins on held-out patients."""
    rule_share: float
    """Information in rules without exception, as a share of the label's entropy, at most 1."""
    balanced_accuracy: float
    """Of the class guessed from this column alone, on held-out patients."""
    accuracy_ci95: tuple[float, float]
    chance: float
    """Balanced accuracy of a guess without the column."""
    information: float
    """Mutual information of column and label, less its bias, bits."""
    p_value: float
    """Of the G-test of independence."""
    one_to_one: bool
    """Each value means one class, and each class has one value."""
    rule: str
    """Of those without exception the one of most information, as 'all 40 images of MEL have
    biopsed = True, against 12% of the others'; empty if none is significant."""

    @property
    def is_leak(self) -> bool:
        """Whether the column follows the label more closely than a clinical finding would."""
        copies = self.one_to_one and self.p_value < COPY
        return copies or (
            self.p_value < SIGNIFICANT
            and (
                self.rule_share >= RULE_SHARE
                or self.column_share >= COLUMN_SHARE
                or self.label_share >= LABEL_SHARE
            )
        )


def measure_association(
    column: pd.Series, labels: pd.Series, patients: pd.Series
) -> Association | None:
    """The association over rows where both are known; None if either has but one value there.

    Args:
        column: (n,) values as strings, missing as NA, with a name; see `as_categories`.
        labels: (n,) classes, missing as NA. Labels and patients are read fastest as categories.
        patients: (n,) patient ids.
    """
    known = (column.notna() & labels.notna()).to_numpy()
    label, classes = pd.factorize(labels[known].astype("category"), sort=True)
    patient = patients.astype("category").cat.codes.to_numpy(dtype=np.int64)[known]
    value, values = _pool_rare(column[known].to_numpy(dtype=object), patient)
    shape = (len(values), len(classes))
    if min(shape) < 2:
        return None
    keys, rows = np.unique((patient * shape[1] + label) * shape[0] + value, return_counts=True)
    _, pair = np.unique(keys // shape[0], return_inverse=True)  # of patient and label
    weight = rows / np.bincount(pair, rows)[pair]
    value, label, patient = keys % shape[0], keys // shape[0] % shape[1], keys // np.prod(shape)
    folds, images = np.zeros((FOLDS, *shape)), np.zeros(shape)
    np.add.at(folds, (patient % FOLDS, value, label), weight)
    np.add.at(images, (value, label), rows)
    table = folds.sum(axis=0)  # (v, c), patients
    share = table / table.sum()
    freedom = (shape[0] - 1) * (shape[1] - 1)
    information = rel_entr(share, np.outer(share.sum(axis=1), share.sum(axis=0))).sum()  # nats
    p_value = chdtrc(freedom, 2 * table.sum() * information)  # G-test
    information = max(0.0, information - freedom / (2 * table.sum()))  # Miller and Madow
    label_share, guess = _held_out(folds)
    right = guess[patient % FOLDS, value] == label
    accuracy, interval = _balanced_accuracy(right * weight, weight, label, patient)
    rule_share, rule = _rule(table, images, (values, np.asarray(classes)), str(column.name))
    return Association(
        column_share=min(1.0, float(information / entr(share.sum(axis=1)).sum())),
        label_share=label_share,
        rule_share=rule_share,
        balanced_accuracy=accuracy,
        accuracy_ci95=interval,
        chance=1 / shape[1],
        information=float(information / np.log(2)),
        p_value=float(p_value),
        one_to_one=all(bool(((images > 0).sum(axis=k) == 1).all()) for k in (0, 1)),
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
    for digits in (4, 8, 17):  # as many as tell the bins apart
        names = [
            f"{low:.{digits}g}" if low in often else f"{low:.{digits}g} to {high:.{digits}g}"
            for low, high in pairwise(edges)
        ]
        if len(set(names)) == len(names):
            break
    cut = pd.Series(np.array(names, dtype=object)[place], index=column.index, name=column.name)
    return cut.where(numbers.notna())


def as_numbers(column: pd.Series) -> pd.Series | None:
    """The column as float64, if it is one of numbers or of text that reads as numbers."""
    if pd.api.types.is_bool_dtype(column.dtype):
        return None
    if pd.to_numeric(column.dropna().iloc[:1], errors="coerce").isna().any():
        return None  # at once, where the first cell is a word
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    numbers = numbers.where(np.isfinite(numbers))
    unread = int(column.notna().sum() - numbers.notna().sum())
    return None if unread or numbers.isna().all() else numbers


def _pool_rare(column: Names, patient: Codes) -> tuple[Codes, Names]:
    """Codes and names of the values, those of fewer than `MIN_PATIENTS` patients as one."""
    value, names = pd.factorize(column, sort=True)
    pairs = np.unique(patient * max(1, len(names)) + value)
    often = np.bincount(pairs % max(1, len(names)), minlength=len(names)) >= MIN_PATIENTS
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
    won = 1 - (folds * np.log(belief)).sum() / (folds * np.log(prior)).sum()
    return max(0.0, float(won)), (belief / prior).argmax(axis=2)  # what the value favours most


def _balanced_accuracy(
    right: Float[np.ndarray, " e"], weight: Float[np.ndarray, " e"], label: Codes, patient: Codes
) -> tuple[float, tuple[float, float]]:
    """Balanced accuracy, and its 95 % interval over patients by the delta method.

    For the interval each class has `IMAGINED` more patients, right as often as by chance, so that
    a few patients who are all right are not certainty (as in the interval of Agresti and Coull
    1998).
    """
    total, hits = np.bincount(label, weight), np.bincount(label, right)
    chance, more = 1 / len(total), total + IMAGINED
    recall = (hits + IMAGINED * chance) / more
    pull = (right - weight * recall[label]) / more[label]  # of an entry on the mean
    imagined = chance * (1 - recall) ** 2 + (1 - chance) * recall**2
    variance = (np.bincount(patient, pull) ** 2).sum() + (IMAGINED * imagined / more**2).sum()
    value, middle = float((hits / total).mean()), float(recall.mean())
    width = 1.96 * float(np.sqrt(variance)) / len(total)
    return value, (min(value, max(0.0, middle - width)), max(value, min(1.0, middle + width)))


def _rule(
    table: Float[np.ndarray, "v c"],
    images: Float[np.ndarray, "v c"],
    names: tuple[Names, Names],
    column: str,
) -> tuple[float, str]:
    """Information in rules as a share of the label's, and the strongest rule in words.

    Classes that always have one value, or values that always mean one class: whichever says more.
    """
    whole = table.sum() * float(entr(table.sum(axis=0) / table.sum()).sum())
    sides = [list(_pure(table)), list(_pure(table.T))]
    shares = [sum(gain for gain, _, _ in side) / whole for side in sides]
    from_label = shares[0] >= shares[1]
    if not (side := sides[0 if from_label else 1]):
        return 0.0, ""
    _, one, many = max(side, key=lambda rule: rule[0])
    counts = images if from_label else images.T
    obey = int(counts[one, many].sum())
    others = float((counts[one].sum() - obey) / max(1, counts.sum() - obey))
    values, classes = names
    if from_label:
        of = ", ".join(map(str, classes[many]))
        claim = f"all {obey} images of {of} have {column} = {values[one]}"
    else:
        having = ", ".join(map(str, values[many]))
        claim = f"all {obey} images with {column} = {having} are {classes[one]}"
    return float(min(1.0, max(shares))), f"{claim}, against {others:.0%} of the others"


def _pure(table: Float[np.ndarray, "_ _"]) -> Iterator[tuple[float, int, Codes]]:
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
