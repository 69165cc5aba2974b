"""What single columns show: nothing, ids, impossible numbers, personal data, two spellings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from slimp.checks.finding import Finding, finding, name_list
from slimp.checks.published import Published
from slimp.data.cohort import Cohort
from slimp.sources import NAMES
from slimp.sources.association import as_numbers
from slimp.sources.personal_data import personal_kind
from slimp.sources.words import hints_at, names_diagnosis, plain, words

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
MANY_CATEGORIES = 300
"""Above this the pairwise search for similar spellings is left out."""
FAR = 8.0
"""Robust standard deviations, on a scale that is linear near the median and logarithmic far out."""


def column_findings(cohort: Cohort, columns: Sequence[Published]) -> Iterator[Finding]:
    """What single columns show without the label."""
    for column in columns:
        if (personal := personal_kind(column.own)) is not None:
            yield _personal(column, *personal)  # and no other, which would show its values
        elif column.role == "feature":
            yield from _value_findings(cohort, column)
    yield from twin_spellings(cohort.images["label"].dropna(), "label")


def input_findings(cohort: Cohort, columns: Sequence[Published]) -> Iterator[Finding]:
    """Features that should be no inputs, by what they hold or how they are called."""
    features = [column for column in columns if column.role == "feature"]
    for column in features:
        name, known = column.name, column.own.dropna()
        if counts_rows(known):
            low, high = (float(known.astype(float).agg(end)) for end in ("min", "max"))
            yield finding("row-counter", name=name, rows=len(known), low=low, high=high)
        elif column.kind == "categorical" and (named := class_named_in(known, cohort.classes)):
            yield finding("text-names-class", name=name, example=f"'{named}'")
    if cohort.info.source in {*NAMES} - {"csv", "webdataset"}:
        return  # a public dataset, whose columns were looked at one by one
    diagnoses = set(words()["cells"]["label"])
    names = [column.name for column in features]
    for code, found in (
        ("named-as-class", [n for n in names if plain(n) in diagnoses or names_diagnosis(n)]),
        ("known-after-diagnosis", [n for n in names if hints_at(n, "after")]),
    ):
        if found:
            yield finding(code, count=len(found), names=name_list(found))


def _value_findings(cohort: Cohort, column: Published) -> Iterator[Finding]:
    name, known = column.name, column.own.dropna()
    of: dict[str, Any] = {"name": name, "level": column.level, "rows": len(known)}
    if known.empty:
        yield finding("empty-column", **of)
    elif known.nunique() < 2:
        yield finding("constant-column", value=known.iloc[0], **of)
    elif column.kind == "continuous":
        yield from _number_findings(cohort, column)
    elif column.kind == "categorical" and not names_rows(known):
        yield from twin_spellings(known, name)
    elif column.kind == "categorical" and class_named_in(known, cohort.classes) is None:
        example = str(known.min())
        yield finding("identifier-feature", distinct=known.nunique(), example=example, **of)


def names_rows(known: pd.Series) -> bool:
    """Whether the values are ids of rows: nearly all differ, and they are no measurements."""
    if len(known) < IDENTIFIER_ROWS or known.nunique() <= IDENTIFIER_SHARE * len(known):
        return False
    numbers = as_numbers(known)
    return numbers is None or bool((numbers % 1 == 0).all())


def counts_rows(known: pd.Series) -> bool:
    """Whether the values are whole numbers that all differ and lie close together."""
    numbers = as_numbers(known) if names_rows(known) else None
    if numbers is None or numbers.nunique() < len(known):
        return False
    return bool(numbers.max() - numbers.min() < COUNTER_RANGE * len(numbers))


def class_named_in(known: pd.Series, classes: Sequence[str]) -> str | None:
    """The diagnosis that free text names most, if much of it names one; None for categories."""
    distinct = known.astype(str).drop_duplicates()
    if len(distinct) < IDENTIFIER_ROWS or distinct.str.count(r"\s").mean() < 1:
        return None
    names = {plain(name) for name in (*classes, *words()["cells"]["label"]) if len(name) > 2}
    spelled = "|".join(map(re.escape, sorted(names - {""}, key=len, reverse=True)))
    named = distinct.map(plain).str.extract(rf"\b({spelled})\b")[0].dropna()
    return str(named.mode()[0]) if len(named) >= NAMING * len(distinct) else None


def _personal(column: Published, kind: str, example: str) -> Finding:
    is_feature = column.role == "feature"
    # Only the value's shape, so that the report does not spread what it warns of.
    shape = re.sub(r"\d", "9", re.sub(r"[^\W\d_]", "x", example[:40]))
    return finding(
        "personal-data",
        severity="note" if kind == "dates" and not is_feature else "warning",
        name=column.name,
        kind=kind,
        role=", and is a feature" * is_feature,
        example=f"like '{shape}{' ...' if len(example) > 40 else ''}'",
    )


def _number_findings(cohort: Cohort, column: Published) -> Iterator[Finding]:
    numbers = column.own.astype("float64")
    ids = cohort.tables.of_level(column.level)[f"{column.level}_id"]
    wrong, why = _impossible(numbers, column)
    far = far_values(numbers.where(~wrong))
    rest = numbers[~far & ~wrong]
    for code, found, what in (
        ("impossible-value", wrong, why),
        ("outlier", far, f"{rest.min():g} to {rest.max():g}"),
    ):
        if found.any():
            row = int(found.to_numpy().argmax())
            example = f"{column.level} {ids.iloc[row]}: {numbers.iloc[row]:g}"
            rows = ids[found.to_numpy()]
            of: dict[str, Any] = {"name": column.name, "why": what, "ids": rows}
            yield finding(code, count=len(rows), example=example, **of)


def _impossible(numbers: pd.Series, column: Published) -> tuple[pd.Series, str]:
    if column.in_years:
        return (numbers < 0) | (numbers > OLDEST), f"outside 0 to {OLDEST} years"
    negative = numbers <= 0
    # Where many values are negative the column is a position, which may be.
    if column.unit in LENGTHS and negative.sum() <= 0.02 * numbers.notna().sum():
        return negative, f"not above 0 {column.unit}"
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


def twin_spellings(known: pd.Series, name: str) -> Iterator[Finding]:
    """Categories that differ by case, spaces or punctuation, or rare ones a letter off."""
    found = known.astype(str).value_counts().sort_index()
    counts = {str(spelling): int(rows) for spelling, rows in found.items()}
    if len(counts) > MANY_CATEGORIES:
        return
    twins = [
        f"'{first}' ({counts[first]} rows) and '{second}' ({counts[second]} rows)"
        for first, second in combinations(counts, 2)
        if bare(first) == bare(second) != ""
        or (
            5 * min(counts[first], counts[second]) <= max(counts[first], counts[second])
            and is_typo(first, second)
        )
    ]
    if twins:
        yield finding(
            "twin-spellings", name=name, count=len(twins), example=name_list(twins, most=3)
        )


def twin_ids(cohort: Cohort) -> Iterator[Finding]:
    """Patients, and lesions of one patient, whose ids look like two spellings of one."""
    schema = cohort.schema
    for level, name, table in (
        ("patient", schema.patient, cohort.patients),
        ("lesion", schema.lesion, cohort.lesions),
    ):
        if name is None:
            continue
        within = level == "lesion" and schema.patient is not None
        table = table.assign(
            spelling=table[f"{level}_id"].map(_plain_id),
            owner=table["patient_id"] if within else "",
        )
        twins = table.duplicated(["owner", "spelling"], keep=False) & (table["spelling"] != "")
        groups = table[twins].groupby(["owner", "spelling"])[f"{level}_id"].agg(sorted)
        if len(groups):
            examples = (" and ".join(map(repr, names)) for names in sorted(groups))
            yield finding(
                "twin-ids",
                name=name,
                level=level,
                count=len(groups),
                example=name_list(examples, most=3),
            )


def _plain_id(name: str) -> str:
    """Without case, blanks and punctuation, save marks between digits: 1-12 is no 11-2."""
    spaced = re.sub(r"[\W_]+", " ", name.casefold())
    return re.sub(r"(?<![0-9]) | (?![0-9])", "", spaced)


def bare(text: str) -> str:
    """Without case, blanks and punctuation."""
    return re.sub(r"[\W_]+", "", text.casefold())


def is_typo(first: str, second: str) -> bool:
    """One letter off in words of five or more, two in ten or more; numbers must agree."""
    first, second = bare(first), bare(second)
    shorter = min(len(first), len(second))
    if shorter < 5 or re.findall(r"\d+", first) != re.findall(r"\d+", second):
        return False
    edits = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    letters = sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in edits if tag != "equal")
    return letters <= (2 if shorter >= 10 else 1)
