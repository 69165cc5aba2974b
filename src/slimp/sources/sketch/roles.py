"""Which columns are the ids, the label and the split, and at which level the others stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from slimp.data.schema import RESERVED_COLUMNS, LevelName
from slimp.sources.sketch.columns import Column
from slimp.sources.sketch.words import has_part, header_unit, hints_at, parts_of, plain, words

CLASSES = 50
"""A label with more classes is none."""
EVIDENCE = 3
"""Patients with two lesions that it takes to tell the two levels apart."""
VARYING = 0.05
"""Share of the groups whose values may differ in a column of their level."""
FOLDS = 20
"""A column of more parts is no split."""
NO_PEOPLE = ("image", "lesion", "label", "code", "picture_level", "person", "visit")
"""Topics of headers with a number that is not that of a person."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Columns with a part in the hierarchy; None where there is none."""

    patient: str | None = None
    lesion: str | None = None
    label: str | tuple[str, ...] | None = None
    """Several: columns of 0 and 1, one per class."""
    split: str | None = None
    doubts: Mapping[str, str] = field(default_factory=dict)
    """Role -> what is in doubt."""

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that the label is made of."""
        return (self.label,) if isinstance(self.label, str) else self.label or ()


def find_roles(columns: Sequence[Column], taken: Sequence[str]) -> Roles:
    """The ids, label and split among the columns that are not `taken`."""
    doubts: dict[str, str] = {}
    counters = [c for c in columns if is_row_counter(c)]
    free = [c for c in columns if c.name not in taken and c not in counters]
    split = next((c.name for c in free if _is_split(c, doubts)), None)
    free = [c for c in free if c.name != split]
    label = _label(free, doubts)
    roles = Roles(label=label)
    free = [c for c in free if c.name not in roles.label_columns]
    patient = _patient(free, doubts)
    if patient is None and (people := [c.name for c in counters if _names_people(c)]):
        patient = people[0]
        doubts["patient"] = "it counts the rows, so each row would be another person: is that so?"
    lesions = [c for c in _called(free, "lesion") if c.name != patient and c.share_filled >= 0.5]
    lesion = lesions[0].name if lesions else None
    if patient is None and lesion is not None and _is_case_number(lesion):
        patient, lesion = lesion, None
        doubts["patient"] = "is it the number of a person, or of a lesion?"
    return Roles(patient=patient, lesion=lesion, label=label, split=split, doubts=doubts)


def is_row_counter(column: Column) -> bool:
    """Whether the column counts rows: by its values, or by a name such as index or '#'."""
    if column.is_counter:
        return True
    numbers = column.is_whole and column.distinct == len(column.cells) > 1
    bare = column.name.strip(" #.")
    unnamed = not bare or re.fullmatch(r"(?i)unnamed[:_ ]*\d+", bare)
    parts = set(parts_of(column.name))
    return numbers and bool(unnamed or (parts and parts <= set(words()["headers"]["counter"])))


def _names_people(column: Column) -> bool:
    return hints_at(column.name, "patient") and is_called_id(column.name)


def names_diagnosis(header: str) -> bool:
    """Whether the header calls its column a diagnosis; 'skin type class' and histories do not."""
    return hints_at(header, "label") and not hints_at(header, "person_level")


def _is_split(column: Column, doubts: dict[str, str]) -> bool:
    parts = {plain(cell) for cell in column.counts}
    if len(parts) < 2:
        return False
    if parts <= set(words()["cells"]["split"]):
        return True
    folds = all(re.fullmatch(r"[a-z _-]*\d{1,2}(\.0)?", part) for part in parts)
    if folds and hints_at(column.name, "split") and len(parts) <= FOLDS:
        doubts["split"] = f"folds ({', '.join(sorted(column.counts))}), taken as they are called."
        return True
    return False


def _label(free: Sequence[Column], doubts: dict[str, str]) -> str | tuple[str, ...] | None:
    """The fullest column of diagnoses, or the columns of 0 and 1 that are one per class."""
    diagnoses = set(words()["cells"]["label"])
    scores: dict[str, float] = {}
    for column in free:
        if column.look in ("category", "checkbox") and 2 <= column.distinct <= CLASSES:
            said = sum(n for cell, n in column.counts.items() if spaced(cell) in diagnoses)
            named = names_diagnosis(column.name) and not hints_at(column.name, "after")
            score = said / column.filled + 0.6 * named
            if score > 0.3:
                scores[column.name] = score * column.share_filled
    group = one_hot_group(free)
    best = max(scores, key=lambda name: scores[name], default=None)
    rivals = [name for name in scores if name != best and name not in group]
    label: str | tuple[str, ...] | None = best
    if group and (best is None or best in group or scores[best] < 1):
        label = group
        rivals = [name for name in scores if name not in group]
    if label is None:
        doubts["label"] = "no column looks like a diagnosis; name it here if there is one."
    filled = {column.name: column.share_filled for column in free}
    said_filled = [f"'{name}' ({filled[name]:.0%} filled)" for name in rivals]
    if rivals:
        doubts["label"] = f"also like a diagnosis: {', '.join(said_filled)}."
    if isinstance(label, str) and filled[label] < 0.5:
        doubts["label"] = " ".join(
            ["only", f"{filled[label]:.0%} of its cells are filled.", doubts.get("label", "")]
        ).strip()
    return label


def one_hot_group(columns: Sequence[Column]) -> tuple[str, ...]:
    """Neighbouring columns of 0 and 1, named after classes, of which each row has one 1.

    At most one 1 is enough where every name is that of a class.
    """
    ticks = [_ticks(column) for column in columns]
    best: tuple[str, ...] = ()
    for start in range(len(columns)):
        total: Any = 0
        for end in range(start, len(columns)):
            tick = ticks[end]
            if tick is None:
                break
            total = total + tick
            names = tuple(column.name for column in columns[start : end + 1])
            named = sum(map(_names_class, names))
            one = (total == 1).all() and 2 * named >= len(names)
            one = one or (total.max() == 1 and named == len(names))
            if one and len(names) > max(1, len(best)):
                best = names
    return best


def has_unmarked(columns: Sequence[Column], group: Sequence[str]) -> bool:
    """Whether some row has no 1 in any column of the group."""
    ticks = [_ticks(column) for column in columns if column.name in group]
    return not np.sum([tick for tick in ticks if tick is not None], axis=0).all()


def _ticks(column: Column) -> pd.Series | None:
    """(rows,) 1 where the column is ticked, if it holds nothing but ticks, 0 and blanks."""
    if not 0 < column.distinct <= 6:
        return None
    cells = column.cells.str.lower()
    yes = cells.isin(["1", "1.0", "x", "true", "yes"])
    rest = cells.isin(["", "0", "0.0", "false", "no"])
    return yes.astype("int64") if bool((yes | rest).all()) else None


def spaced(cell: str) -> str:
    """The cell as `plain`, with blanks for marks.

    Example:
        >>> spaced("Basal_cell-carcinoma")
        'basal cell carcinoma'
    """
    return " ".join(re.split(r"[\s_-]+", plain(cell))).strip()


def _names_class(header: str) -> bool:
    diagnoses = words()["cells"]["label"]
    return spaced(header) in diagnoses or not set(diagnoses).isdisjoint(parts_of(header))


def _called(free: Sequence[Column], topic: str) -> list[Column]:
    """Ids whose names are of the topic, and measure nothing."""
    found = [c for c in free if _may_be_id(c) and hints_at(c.name, topic)]
    found = [c for c in found if is_called_id(c.name) or not _measures(c.name)]
    return sorted(found, key=lambda c: (hints_at(c.name, "public"), not is_called_id(c.name)))


def _patient(free: Sequence[Column], doubts: dict[str, str]) -> str | None:
    hinted = _called(free, "patient")
    # "patient_lesion" names the lesion of a patient
    hinted = [c for c in hinted if not hints_at(c.name, "lesion")] or hinted
    hinted += [c for c in free if hints_at(c.name, "public") and c.distinct > 1]
    if hinted:
        if hints_at(hinted[0].name, "public"):
            doubts["patient"] = (
                "a number by which others can find the person, and it would enter the cohort: "
                "pseudonymise it before the import."
            )
        return hinted[0].name
    recurring = [c for c in free if _may_be_id(c) and not _measures(c.name)]
    recurring = [c for c in recurring if max(5, c.filled / 20) <= c.distinct < 0.95 * c.filled]
    called = [c for c in recurring if is_called_id(c.name)]
    called = [c for c in called if not any(hints_at(c.name, topic) for topic in NO_PEOPLE)]
    if called:
        doubts["patient"] = "taken for it because its values recur, and its name calls them ids."
        return min(called, key=lambda c: c.distinct).name
    doubts["patient"] = (
        "no column looks like a patient id. Without one, two images of a person may land in two "
        "parts of a split, and results look better than they are."
    )
    recurring = [c for c in recurring if c.look != "number" or 5 * c.distinct > c.filled]
    if codes := [c.name for c in recurring if not hints_at(c.name, "lesion")]:
        doubts["patient"] += f" Columns whose values recur, as such ids do: {', '.join(codes)}."
    return None


def is_called_id(header: str) -> bool:
    """Whether the header calls its column an id, or a number of something."""
    # "number of moles" is a count, "case number" is none
    last = " ".join(parts_of(header)[-1:])
    return has_part(header, "id") or has_part(last, "number") or hints_at(header, "record")


def _is_case_number(header: str) -> bool:
    """Whether the header is one of case numbers, which clinics give to persons."""
    return has_part(header, "case") and is_called_id(header) and "id" not in parts_of(header)


def _measures(header: str) -> bool:
    """Whether the header names something about a person, such as the age of a patient."""
    about = any(hints_at(header, topic) for topic in ("person_level", "age", "birth"))
    return about or header_unit(header) is not None


def _may_be_id(column: Column) -> bool:
    if column.name in RESERVED_COLUMNS - {"lesion_id", "patient_id"} or column.distinct < 2:
        return False
    words_alone = column.look in ("code", "category", "text")
    coded = words_alone and not any(" " in cell for cell in column.counts)
    return coded or (column.look == "number" and column.is_whole)


def find_level(
    column: Column, lesions: pd.Series | None, patients: pd.Series | None
) -> tuple[LevelName, str]:
    """The coarsest level within whose groups the column does not vary, and what is in doubt.

    Args:
        column: any.
        lesions: (rows,) lesion ids, unique over patients; None if there are none.
        patients: (rows,) patient ids, likewise.
    """
    person, picture = (hints_at(column.name, f"{topic}_level") for topic in ("person", "picture"))
    if patients is not None:
        groups, varying = variation(column.cells, patients)
        of_lesions = lesions if lesions is not None else pd.Series(range(len(patients)))
        pairs = pd.DataFrame({"patient": patients, "lesion": of_lesions})
        pairs = pairs[(column.cells != "").to_numpy()].drop_duplicates()
        several = int((pairs["patient"].value_counts() > 1).sum())
        if (person or several >= EVIDENCE) and varying <= (0.5 if person else VARYING) * max(
            groups, 1
        ):
            doubt = f"differs within {varying} of {groups} patients." if varying else ""
            if not several:
                doubt = "no patient has two lesions, so its level follows from its name."
            return "patient", doubt
    if lesions is not None and not picture:
        groups, varying = variation(column.cells, lesions)
        if varying > VARYING * max(groups, 1):
            return "image", ""
        return "lesion", f"differs within {varying} of {groups} lesions." if varying else ""
    # without ids of persons, each image would be one: nothing is of a patient
    return ("image" if picture else "lesion"), ""


def variation(cells: pd.Series, groups: pd.Series) -> tuple[int, int]:
    """Groups with two known cells or more, and those of them in which the cells differ."""
    known = (cells != "").to_numpy()
    values = cells[known].reset_index(drop=True).groupby(groups[known].to_numpy())
    counts, distinct = values.size(), values.nunique()
    several = (counts > 1).to_numpy()
    return int(several.sum()), int((distinct[several] > 1).sum())
