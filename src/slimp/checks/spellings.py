"""Names that are two spellings of one: categories, labels, ids of patients and lesions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from slimp.checks.finding import Finding, count_of, name_list
from slimp.data.cohort import Cohort

MANY_CATEGORIES = 300
"""Above this the pairwise search for similar spellings is left out."""


def twin_spellings(known: pd.Series, name: str) -> Iterator[Finding]:
    """Categories that differ by case, spaces or punctuation, or rare ones a letter off."""
    counts = known.astype(str).value_counts().sort_index()
    if len(counts) > MANY_CATEGORIES:
        return
    twins, spelled = [], counts.index.tolist()
    for i, first in enumerate(spelled):
        for second in spelled[i + 1 :]:
            rare, common = sorted((int(counts[first]), int(counts[second])))
            same = plain(first) == plain(second) != ""
            if same or (rare * 5 <= common and is_typo(first, second)):
                twins.append(
                    f"'{first}' ({counts[first]} rows) and '{second}' ({counts[second]} rows)"
                )
    if twins:
        yield Finding(
            "warning",
            "twin-spellings",
            f"column '{name}': {count_of(len(twins), 'pair')} of similar categories.",
            example=name_list(twins, most=3),
            remedy="Join them with 'aliases' (for labels, 'label_names') if they mean the same.",
            count=len(twins),
        )


def twin_ids(cohort: Cohort) -> Iterator[Finding]:
    """Patients, and lesions of one patient, whose ids look like two spellings of one."""
    patients, lesions = cohort.patients["patient_id"], cohort.lesions
    owners = lesions["patient_id"] if cohort.schema.patient is not None else [""] * len(lesions)
    for noun, column, ids, owner in (
        ("patient", cohort.schema.patient, patients, [""] * len(patients)),
        ("lesion", cohort.schema.lesion, lesions["lesion_id"], owners),
    ):
        twins = [] if column is None else _spelled_alike(list(ids), list(owner))
        if twins:
            yield Finding(
                "warning",
                "twin-ids",
                f"{count_of(len(twins), noun)} whose id seems to be spelled in several ways: each "
                "spelling counts apart, and may be in training while the other is tested.",
                example=name_list((" and ".join(map(repr, names)) for names in twins), most=3),
                remedy=f"If they mean the same {noun}, write them alike in '{column}'.",
                count=len(twins),
            )


def _spelled_alike(ids: Sequence[str], owners: Sequence[str]) -> list[list[str]]:
    """The ids of one owner that differ by case, blanks or punctuation only, in groups."""
    groups: dict[tuple[str, str], set[str]] = {}
    for name, owner in zip(ids, owners, strict=True):
        # Marks between digits keep numbers apart: 1-12 is no 11-2.
        spaced = re.sub(r"[\W_]+", " ", name.casefold())
        if key := re.sub(r"(?<![0-9]) | (?![0-9])", "", spaced):
            groups.setdefault((owner, key), set()).add(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def plain(text: str) -> str:
    """Without case, blanks and punctuation."""
    return re.sub(r"[\W_]+", "", text.casefold())


def is_typo(first: str, second: str) -> bool:
    """One letter off in words of five or more, two in ten or more; numbers must agree."""
    first, second = plain(first), plain(second)
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
