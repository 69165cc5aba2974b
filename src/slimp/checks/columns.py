"""Columns that carry nothing, ids among the features, impossible numbers, twin spellings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from slimp.checks.finding import Finding, count_of, name_list
from slimp.checks.published import Published
from slimp.data.cohort import Cohort
from slimp.sources.association import as_numbers
from slimp.sources.personal_data import personal_kind

IDENTIFIER_SHARE = 0.9
"""Columns whose values are distinct in more than this share of the rows name rows."""
IDENTIFIER_ROWS = 20
OLDEST = 120
"""Years."""
LENGTHS = frozenset({"mm", "cm", "um", "µm", "mm2", "mm²", "cm2", "cm²"})
FAR = 8.0
"""Robust standard deviations, on a scale that is linear near the median and logarithmic far out."""
MANY_CATEGORIES = 300
"""Above this the pairwise search for twin spellings is left out."""


def column_findings(cohort: Cohort, columns: Sequence[Published]) -> Iterator[Finding]:
    """What single columns show without the label."""
    for column in columns:
        known = column.own.dropna()
        if column.feature is None:
            if _is_identifier(known) and personal_kind(known) is None:  # told elsewhere, masked
                yield Finding(
                    severity="note",
                    code="identifier",
                    message=f"column '{column.name}' names single rows.",
                    example=str(known.min()),
                    remedy="Nothing to do: it is no input.",
                )
            continue
        if known.nunique() < 2:
            yield _barren(column, known)
            continue
        if column.feature.kind == "continuous":
            yield from _numbers(cohort, column)
        elif column.feature.kind == "categorical":
            yield from _categories(column, known)
    yield from twin_spellings(cohort.images["label"].dropna(), "label")


def _barren(column: Published, known: pd.Series) -> Finding:
    if known.empty:
        return Finding(
            severity="warning",
            code="empty-column",
            message=f"column '{column.name}' of the {column.level} level holds no value at all.",
            remedy="Remove the feature from the schema, or check how missing cells are declared.",
        )
    return Finding(
        severity="warning",
        code="constant-column",
        message=(
            f"column '{column.name}' of the {column.level} level has the one value "
            f"'{known.iloc[0]}' in all {len(known)} rows where it is known."
        ),
        remedy="Remove the feature from the schema: it can teach nothing.",
    )


def _is_identifier(known: pd.Series) -> bool:
    if len(known) < IDENTIFIER_ROWS or known.nunique() <= IDENTIFIER_SHARE * len(known):
        return False
    numbers = as_numbers(known)
    return numbers is None or bool((numbers % 1 == 0).all())  # fractions are measurements


def _categories(column: Published, known: pd.Series) -> Iterator[Finding]:
    if _is_identifier(known):
        yield Finding(
            severity="warning",
            code="identifier-feature",
            message=(
                f"categorical column '{column.name}' has {known.nunique()} different values in "
                f"{len(known)} rows: it names rows and cannot generalise."
            ),
            example=str(known.min()),
            remedy=f"Remove '{column.name}' from the features.",
        )
        return
    yield from twin_spellings(known, column.name)


def _numbers(cohort: Cohort, column: Published) -> Iterator[Finding]:
    numbers = column.own.astype("float64")
    ids = cohort.tables.of_level(column.level)[f"{column.level}_id"]
    unit = column.feature.unit if column.feature is not None else None
    wrong, why = _impossible(numbers, unit)
    if wrong.any():
        yield Finding(
            severity="warning",
            code="impossible-value",
            message=f"column '{column.name}': {count_of(int(wrong.sum()), 'value')} {why}.",
            example=_first(ids, numbers, wrong, column.level),
            remedy="If they stand for missing, declare them under 'missing'; else correct them.",
            count=int(wrong.sum()),
        )
    far = far_values(numbers.where(~wrong)) & ~wrong
    if far.any():
        rest = numbers[~far & ~wrong]
        yield Finding(
            severity="warning",
            code="outlier",
            message=(
                f"column '{column.name}': {count_of(int(far.sum()), 'value')} "
                f"far outside the others ({rest.min():g} to {rest.max():g})."
            ),
            example=_first(ids, numbers, far, column.level),
            remedy="Check the unit, and whether a number such as 999 stands for missing.",
            count=int(far.sum()),
        )


def _impossible(numbers: pd.Series, unit: str | None) -> tuple[pd.Series, str]:
    if unit in ("year", "years"):
        return (numbers < 0) | (numbers > OLDEST), f"outside 0 to {OLDEST} years"
    negative = numbers <= 0
    # Where many values are negative the column is a position, which may be.
    if unit in LENGTHS and negative.sum() <= 0.02 * numbers.notna().sum():
        return negative, f"not above 0 {unit}"
    return pd.Series(False, index=numbers.index), ""


def far_values(numbers: pd.Series) -> pd.Series:
    """Which values are both far from the median and set apart from the rest by a wide gap.

    A long tail is neither: distances count on an asinh scale, and the gap to the ordinary
    values must exceed their whole range.
    """
    scale = _robust_deviation(numbers)
    nothing = pd.Series(False, index=numbers.index)
    if not scale > 0:
        return nothing
    bent = np.arcsinh(numbers / scale)
    spread = _robust_deviation(bent)
    if not spread > 0:
        return nothing
    ordinary = numbers[(bent - bent.median()).abs() <= FAR * spread]
    low, high = ordinary.min(), ordinary.max()
    width = high - low
    far: pd.Series = (numbers > high + width) | (numbers < low - width)
    return far


def _robust_deviation(numbers: pd.Series) -> float:
    return 1.4826 * float((numbers - numbers.median()).abs().median())


def _first(ids: pd.Series, numbers: pd.Series, where: pd.Series, level: str) -> str:
    row = int(np.flatnonzero(where)[0])
    return f"{level} {ids.iloc[row]}: {numbers.iloc[row]:g}"


def twin_spellings(known: pd.Series, name: str) -> Iterator[Finding]:
    """Categories that differ by case, spaces or punctuation, or rare ones a letter off."""
    counts = known.astype(str).value_counts()
    counts = counts[sorted(counts.index)]
    if len(counts) > MANY_CATEGORIES:
        return
    twins = []
    spelled = counts.index.tolist()
    for i, first in enumerate(spelled):
        for second in spelled[i + 1 :]:
            rare, common = sorted((int(counts[first]), int(counts[second])))
            if _same_but_for_case(first, second) or (rare * 5 <= common and _typo(first, second)):
                twins.append(
                    f"'{first}' ({counts[first]} rows) and '{second}' ({counts[second]} rows)"
                )
    if twins:
        yield Finding(
            severity="warning",
            code="twin-spellings",
            message=f"column '{name}': {count_of(len(twins), 'pair')} of similar categories.",
            example=name_list(twins, most=3),
            remedy="Join them with 'aliases' (for labels, 'label_names') if they mean the same.",
            count=len(twins),
        )


def _same_but_for_case(first: str, second: str) -> bool:
    return _plain(first) == _plain(second) != ""


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def _typo(first: str, second: str) -> bool:
    """One letter off in words of five or more, two in ten or more; numbers must agree."""
    first, second = _plain(first), _plain(second)
    shorter = min(len(first), len(second))
    if shorter < 5 or re.findall(r"\d+", first) != re.findall(r"\d+", second):
        return False
    return edit_distance(first, second) <= (2 if shorter >= 10 else 1)


def edit_distance(first: str, second: str) -> int:
    """Insertions, deletions and replacements of letters that turn one word into the other."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        previous, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
