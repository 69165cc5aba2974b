"""Which columns are the ids, the label and the split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from slimp.data.schema import RESERVED_COLUMNS
from slimp.sources.parse_ids import SPLIT_WORDS, read_marks
from slimp.sources.sketch.columns import Column
from slimp.sources.words import (
    hints_at,
    is_called_id,
    names_diagnosis,
    parts_of,
    plain,
    spaced,
    words,
)

CLASSES = 50
"""A label with more classes is none."""
MOST_ROWS = 10
"""Times as many rows as any other, from which on an id may stand for unknown persons."""
FOLDS = 20
"""A column of more parts is no split."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Columns with a part in the hierarchy; None where there is none."""

    patient: str | None
    lesion: str | None
    label: tuple[str, ...]
    """Several: columns of 0 and 1, one per class. None: there is no label."""
    unmarked: bool
    """Whether a row has no 1 in any of several columns."""
    split: str | None
    doubts: Mapping[str, str] = field(default_factory=dict)
    """Role -> what is in doubt."""


def find_roles(columns: Sequence[Column], taken: Collection[str]) -> Roles:
    """The ids, label and split among the columns that are not `taken`."""
    doubts: dict[str, list[str]] = defaultdict(list)
    free = [c for c in columns if c.name not in taken]
    free = [c for c in free if not is_row_counter(c) or _numbers_people(c.name)]
    split = next((c.name for c in free if _is_split(c, doubts["split"])), None)
    free = [c for c in free if c.name != split]
    label = _label(free, doubts["label"])
    marks = [tick for c in free if c.name in label and (tick := ticks(c)) is not None]
    unmarked = len(label) > 1 and not np.sum(marks, axis=0).all()
    if unmarked:
        doubts["label"].append("rows without a 1 are taken for a class of their own, 'other'.")
    free = [c for c in free if c.name not in label]
    patient = _patient(free, doubts["patient"])
    lesions = [c for c in _called(free, "lesion") if c.name != patient]
    lesion = next((c.name for c in lesions if c.filled >= len(c.cells) / 2), None)
    if patient is None and lesion is not None and "case" in parts_of(lesion):
        doubts["lesion"].append("is it the number of a lesion, or of a person?")
    said = {role: " ".join(sentences) for role, sentences in doubts.items() if sentences}
    return Roles(
        patient=patient, lesion=lesion, label=label, unmarked=unmarked, split=split, doubts=said
    )


def is_row_counter(column: Column) -> bool:
    """Whether the column counts rows: by its values, or by a name such as index or '#'."""
    if not column.distinct == len(column.cells) > 1 or not column.is_whole:
        return False
    numbers = {int(float(cell)) for cell in column.counts}
    if max(numbers) - min(numbers) == len(numbers) - 1 > 1 and 0 <= min(numbers) <= 1:
        return True
    bare, parts = column.name.strip(" #."), set(parts_of(column.name))
    unnamed = not bare or re.fullmatch(r"(?i)unnamed[:_ ]*\d+", bare) is not None
    return unnamed or (bool(parts) and parts <= set(words()["headers"]["counter"]))


def _numbers_people(header: str) -> bool:
    of_lesion = hints_at(header, "lesion")
    return hints_at(header, "patient") and not of_lesion and is_called_id(header)


def _is_split(column: Column, doubts: list[str]) -> bool:
    parts = {plain(cell) for cell in column.counts}
    if len(parts) < 2 or parts <= {*SPLIT_WORDS}:
        return len(parts) > 1
    folds = all(re.fullmatch(r"(?:[a-z][a-z _-]*)?\d{1,2}(\.0)?", part) for part in parts)
    if folds and hints_at(column.name, "split") and len(parts) <= FOLDS:
        doubts.append(f"folds ({', '.join(sorted(column.counts))}), taken as they are called.")
        return True
    return False


def _label(free: Sequence[Column], doubts: list[str]) -> tuple[str, ...]:
    """The fullest column of diagnoses, or the columns of 0 and 1 that are one per class."""
    diagnoses = set(words()["cells"]["label"])
    scores, filled = dict[str, float](), {c.name: c.filled / len(c.cells) for c in free}
    for column in free:
        if column.kind in ("category", "checkbox") and 2 <= column.distinct <= CLASSES:
            said = sum(n for cell, n in column.counts.items() if spaced(cell) in diagnoses)
            named = names_diagnosis(column.name) and not hints_at(column.name, "after")
            if (score := said / column.filled + 0.6 * named) > 0.3:
                scores[column.name] = score * filled[column.name]
    best, group = max(scores, key=lambda name: scores[name], default=None), _one_hot(free)
    rivals = [name for name in scores if name not in (best, *group)]
    if group and (best is None or best in group or scores[best] < 1):
        rivals += [best] if best is not None and best not in group else []
        label: tuple[str, ...] = group
    elif best is None:
        label = ()
        doubts.append(
            "no column looks like a diagnosis; name it here if there is one, and look for columns "
            "below that give it away."
        )
    else:
        label = (best,)
        if filled[best] < 0.5:
            doubts.append(f"only {filled[best]:.0%} of its cells are filled.")
    if rivals:
        named_so = ", ".join(f"'{name}' ({filled[name]:.0%} filled)" for name in rivals)
        doubts.append(f"also like a diagnosis: {named_so}.")
    return label


def _one_hot(columns: Sequence[Column]) -> tuple[str, ...]:
    """Neighbouring columns of 0 and 1, named after classes, of which each row has one 1.

    At most one 1 is enough where every name is that of a class.
    """
    marked, best = [ticks(column) for column in columns], tuple[str, ...]()
    for start in range(len(columns)):
        total = pd.Series(0, index=range(len(columns[0].cells)))
        for end in range(start, len(columns)):
            if (tick := marked[end]) is None or (total := total + tick).max() > 1:
                break
            names = tuple(column.name for column in columns[start : end + 1])
            named = sum(map(_names_class, names))
            one = (total == 1).all() and 2 * named >= len(names)
            one = one or (total.max() == 1 and named == len(names))
            if one and len(names) > max(1, len(best)):
                best = names
    return best


def ticks(column: Column) -> np.ndarray | None:
    """(rows,) 1 where the column is ticked, if it holds nothing but ticks, 0 and blanks."""
    marks = read_marks(column.cells) if 0 < column.distinct <= 6 else None
    return None if marks is None or marks.isna().any() else marks.to_numpy(dtype=np.int64)


def _names_class(header: str) -> bool:
    diagnoses = words()["cells"]["label"]
    return spaced(header) in diagnoses or not set(diagnoses).isdisjoint(parts_of(header))


def _patient(free: Sequence[Column], doubts: list[str]) -> str | None:
    found = _called(free, "patient")
    # "patient_lesion" names the lesion of a patient
    if found := [c for c in found if not hints_at(c.name, "lesion")] or found:
        if hints_at(found[0].name, "public"):
            doubts.append(
                "a number by which others can find the person, and it would enter the cohort: "
                "pseudonymise it before the import."
            )
        if is_row_counter(found[0]):
            doubts.append("it counts the rows, so each row would be another person: is that so?")
        (most, count), (_, next_most) = list(found[0].counts.items())[:2]
        if count > MOST_ROWS * next_most:
            doubts.append(
                f"'{most}' has {count} rows, any other {next_most} at most: if it means unknown, "
                "empty these cells."
            )
        if not any(map(str.isdigit, "".join(found[0].counts))):
            doubts.append("no digit in them: if they are names, pseudonymise before the import.")
        return found[0].name
    doubts.append(
        "no column looks like a patient id. Without one, two images of a person may land in two "
        "parts of a split, and results look better than they are."
    )
    ids = [c for c in free if _may_be_id(c) and not hints_at(c.name, "lesion", "person_level")]
    ids = [c for c in ids if max(5, c.filled / 20) <= c.distinct < 0.95 * c.filled]
    ids = [
        c
        for c in ids
        if c.kind != "number" or (5 * c.distinct > c.filled and not c.settings["unit"])
    ]
    if ids:
        names = ", ".join(c.name for c in ids)
        doubts.append(f"Columns whose values recur, as such ids do: {names}.")
    return None


def _called(free: Sequence[Column], topic: str) -> list[Column]:
    """Ids of the topic: 'patient', 'patient_id' and codes, but not 'patient_weight'."""
    found = [c for c in free if _may_be_id(c) and hints_at(c.name, topic)]
    found = [
        c for c in found if c.kind == "code" or is_called_id(c.name) or len(parts_of(c.name)) == 1
    ]
    return sorted(
        found,
        key=lambda c: (is_row_counter(c), hints_at(c.name, "public"), not is_called_id(c.name)),
    )


def _may_be_id(column: Column) -> bool:
    if column.name in RESERVED_COLUMNS - {"lesion_id", "patient_id"} or column.distinct < 2:
        return False
    in_words = column.kind in ("code", "category", "text")
    coded = in_words and not any(" " in cell for cell in column.counts)
    return coded or (column.kind == "number" and column.is_whole)
