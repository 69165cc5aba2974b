"""What single columns show: nothing, ids, impossible numbers, personal data, suspicious names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from slimp.checks.finding import Finding, count_of, name_list
from slimp.checks.published import Published
from slimp.checks.spellings import twin_spellings
from slimp.data.cohort import Cohort
from slimp.sources import NAMES
from slimp.sources.association import as_numbers
from slimp.sources.personal_data import personal_kind
from slimp.sources.sketch.roles import names_diagnosis
from slimp.sources.sketch.words import hints_at, plain, words

IDENTIFIER_SHARE = 0.9
"""Columns whose values are distinct in more than this share of the rows name rows."""
IDENTIFIER_ROWS = 20
COUNTER_RANGE = 1.5
"""Distinct whole numbers that span less than so many times their number count rows."""
NAMING = 0.2
"""Share of the cells of a text that name a class, at least, for the text to be reported."""
OLDEST = 120
"""Years."""
LENGTHS = frozenset({"mm", "cm", "um", "µm", "mm2", "mm²", "cm2", "cm²"})
FAR = 8.0
"""Robust standard deviations, on a scale that is linear near the median and logarithmic far out."""


def column_findings(cohort: Cohort, columns: Sequence[Published]) -> Iterator[Finding]:
    """What single columns show without the label."""
    for column in columns:
        known = column.own.dropna()
        personal = personal_kind(column.own)
        if personal is not None:
            yield _personal(column, *personal)
        if column.role == "feature":
            yield from _value_findings(cohort, column, known)
        elif personal is None and is_identifier(known):
            yield Finding(
                "note",
                "identifier",
                f"column '{column.name}' names single rows.",
                example=str(known.min()),
                remedy="Nothing to do: it is no input.",
            )
    yield from twin_spellings(cohort.images["label"].dropna(), "label")


def input_findings(cohort: Cohort, columns: Sequence[Published]) -> Iterator[Finding]:
    """Features that should be no inputs, by what they hold or how they are called."""
    features = [column for column in columns if column.role == "feature"]
    for column in features:
        name, known = column.name, column.own.dropna()
        if is_row_counter(known):
            numbers = known.astype(float)
            yield Finding(
                "warning",
                "row-counter",
                f"column '{name}' counts rows: {len(known)} different whole numbers from "
                f"{numbers.min():.0f} to {numbers.max():.0f}.",
                remedy=f"Remove '{name}' from the features: it says nothing of a lesion.",
            )
        elif column.kind == "categorical" and (cell := class_named_in(known, cohort.classes)):
            yield Finding(
                "warning",
                "text-names-class",
                f"column '{name}' is text that names diagnoses: the label as an input.",
                example=f"'{cell}'",
                remedy=f"Move '{name}' to [refused].",
            )
    if cohort.info.source in {*NAMES} - {"csv", "webdataset"}:
        return  # a public dataset, whose columns were looked at one by one
    diagnoses = set(words()["cells"]["label"])
    for code, what, names in (
        (
            "named-as-class",
            "named like diagnoses, as impressions and one-hot ground truth are",
            [
                column.name
                for column in features
                if plain(column.name) in diagnoses or names_diagnosis(column.name)
            ],
        ),
        (
            "known-after-diagnosis",
            "named like what is known only after the diagnosis",
            [column.name for column in features if hints_at(column.name, "after")],
        ),
    ):
        if names:
            yield Finding(
                "warning",
                code,
                f"{count_of(len(names), 'feature')} {what}: {name_list(names)}.",
                remedy="Unless they are known before the diagnosis, move them to [refused].",
                count=len(names),
            )


def _value_findings(cohort: Cohort, column: Published, known: pd.Series) -> Iterator[Finding]:
    name = column.name
    if known.empty:
        yield Finding(
            "warning",
            "empty-column",
            f"column '{name}' of the {column.level} level has no value at all.",
            remedy="Remove the feature from the schema, or check how missing cells are declared.",
        )
    elif known.nunique() < 2:
        yield Finding(
            "warning",
            "constant-column",
            f"column '{name}' of the {column.level} level has the one value '{known.iloc[0]}' in "
            f"all {len(known)} rows where it is known.",
            remedy="Remove the feature from the schema: it can teach nothing.",
        )
    elif column.kind == "continuous":
        yield from _number_findings(cohort, column)
    elif column.kind == "categorical":
        if not is_identifier(known):
            yield from twin_spellings(known, name)
        elif class_named_in(known, cohort.classes) is None:  # reported as such
            yield Finding(
                "warning",
                "identifier-feature",
                f"categorical column '{name}' has {known.nunique()} different values in "
                f"{len(known)} rows: it names rows and cannot generalise.",
                example=str(known.min()),
                remedy=f"Remove '{name}' from the features.",
            )


def is_identifier(known: pd.Series) -> bool:
    """Whether the values name rows: nearly all differ, and they are no measurements."""
    if len(known) < IDENTIFIER_ROWS or known.nunique() <= IDENTIFIER_SHARE * len(known):
        return False
    numbers = as_numbers(known)
    return numbers is None or bool((numbers % 1 == 0).all())


def is_row_counter(known: pd.Series) -> bool:
    """Whether the values are whole numbers that all differ and lie close together."""
    if len(known) < IDENTIFIER_ROWS or known.nunique() < len(known):
        return False
    numbers = as_numbers(known)
    if numbers is None or (numbers % 1 != 0).any():
        return False
    return bool(numbers.max() - numbers.min() < COUNTER_RANGE * len(numbers))


def class_named_in(known: pd.Series, classes: Sequence[str]) -> str | None:
    """A cell of free text that names a class, if many do; None for short categories."""
    distinct = known.astype(str).drop_duplicates()
    if len(distinct) < IDENTIFIER_ROWS or distinct.str.count(r"\s").mean() < 1:
        return None
    names = {plain(name) for name in (*classes, *words()["cells"]["label"]) if len(name) > 2}
    pattern = r"\b(?:" + "|".join(map(re.escape, sorted(names))) + r")\b"
    naming = distinct[distinct.map(plain).str.contains(pattern)]
    return str(naming.min()) if len(naming) >= NAMING * len(distinct) else None


def _personal(column: Published, kind: str, example: str) -> Finding:
    is_feature = column.role == "feature"
    # Only the value's shape, so that the report does not spread what it warns of.
    shape = re.sub(r"\d", "9", re.sub(r"[^\W\d_]", "x", example[:40]))
    return Finding(
        "note" if kind == "dates" and not is_feature else "warning",
        "personal-data",
        f"column '{column.name}' seems to hold {kind}"
        + (", and is a feature." if is_feature else "."),
        example=f"like '{shape}{' ...' if len(example) > 40 else ''}'",
        remedy="A cohort keeps all published columns and is passed on with them: drop the column "
        "from the table, or replace it by what is needed (an age, a pseudonym), and import again.",
    )


def _number_findings(cohort: Cohort, column: Published) -> Iterator[Finding]:
    numbers = column.own.astype("float64")
    ids = cohort.tables.of_level(column.level)[f"{column.level}_id"]
    wrong, why = _impossible(numbers, column.unit)
    far = far_values(numbers.where(~wrong)) & ~wrong
    rest = numbers[~far & ~wrong]
    for code, found, what, remedy in (
        (
            "impossible-value",
            wrong,
            why,
            "If they stand for missing, declare them under 'missing'; else correct them.",
        ),
        (
            "outlier",
            far,
            f"far outside the others ({rest.min():g} to {rest.max():g})",
            "Check the unit, and whether a number such as 999 stands for missing.",
        ),
    ):
        if found.any():
            row = int(np.flatnonzero(found)[0])
            yield Finding(
                "warning",
                code,
                f"column '{column.name}': {count_of(int(found.sum()), 'value')} {what}.",
                example=f"{column.level} {ids.iloc[row]}: {numbers.iloc[row]:g}",
                remedy=remedy,
                count=int(found.sum()),
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
    bent = np.arcsinh(numbers / scale) if scale > 0 else numbers * 0
    spread = _robust_deviation(bent)
    if not spread > 0:
        return pd.Series(False, index=numbers.index)
    ordinary = numbers[(bent - bent.median()).abs() <= FAR * spread]
    low, high = ordinary.min(), ordinary.max()
    far: pd.Series = (numbers > 2 * high - low) | (numbers < 2 * low - high)
    return far


def _robust_deviation(numbers: pd.Series) -> float:
    return 1.4826 * float((numbers - numbers.median()).abs().median())
