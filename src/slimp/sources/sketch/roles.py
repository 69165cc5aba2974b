"""Which columns are the ids, the label and the split, and at which level the others stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from slimp.data.schema import RESERVED_COLUMNS, LevelName
from slimp.sources.sketch.facts import Facts, is_coded, is_whole
from slimp.sources.sketch.words import has_part, header_unit, hints_at, parts_of, plain, words

CLASSES = 50
"""A label with more classes is none."""
EVIDENCE = 3
"""Patients with two lesions that it takes to tell the two levels apart."""
VARYING = 0.05
"""Share of the groups whose values may differ in a column of their level."""
GROUPS = 5
"""Values that recur, at least, before a column without a telling name is one of ids."""
NO_IDS = ("person_level", "age", "birth")
"""Topics of headers that name something about a person, and not the person."""
NO_PEOPLE = (*NO_IDS, "image", "lesion", "label", "code", "picture_level", "person", "visit")
"""Topics of headers with a number that is not that of a person."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Columns with a part in the hierarchy; None where there is none."""

    patient: str | None = None
    lesion: str | None = None
    label: str | None = None
    split: str | None = None
    doubts: tuple[tuple[str, str], ...] = ()
    """(role, what is in doubt)."""
    also_labels: tuple[str, ...] = ()
    """Columns that look like a diagnosis too."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The level of a column."""

    level: LevelName
    doubt: str = ""


def find_roles(facts: Sequence[Facts], taken: Sequence[str]) -> Roles:
    """The ids, label and split among the columns that are not `taken`."""
    free = [fact for fact in facts if fact.name not in taken]
    doubts: list[tuple[str, str]] = []
    split = next((fact.name for fact in free if _is_split(fact)), None)
    free = [fact for fact in free if fact.name != split]
    label, also = _label(free, doubts)
    free = [fact for fact in free if fact.name != label]
    patient, lesion = _ids(free, doubts)
    return Roles(
        patient=patient,
        lesion=lesion,
        label=label,
        split=split,
        doubts=tuple(doubts),
        also_labels=tuple(also),
    )


def _is_split(fact: Facts) -> bool:
    parts = {plain(cell) for cell in fact.counts}
    return len(parts) > 1 and parts <= set(words()["cells"]["split"])


def _label(free: Sequence[Facts], doubts: list[tuple[str, str]]) -> tuple[str | None, list[str]]:
    diagnoses = set(words()["cells"]["label"])
    best: tuple[float, str] | None = None
    others = []
    for fact in free:
        if fact.look not in ("category", "checkbox") or not 2 <= fact.distinct <= CLASSES:
            continue
        said = sum(n for cell, n in fact.counts.items() if plain(cell) in diagnoses)
        score = said / fact.filled
        if hints_at(fact.name, "label") and not hints_at(fact.name, "after"):
            score += 0.6
        if score > 0.3:
            others.append(fact.name)
            best = max(best or (0.0, ""), (score, fact.name), key=lambda pair: pair[0])
    if best is None:
        doubts.append(("label", "no column looks like a diagnosis; name it here if there is one."))
        return None, []
    others.remove(best[1])
    if others:
        doubts.append(("label", f"'{', '.join(others)}' looks like a diagnosis too."))
    return best[1], others


def _ids(free: Sequence[Facts], doubts: list[tuple[str, str]]) -> tuple[str | None, str | None]:
    """The columns of the patient and of the lesion."""
    candidates = [fact for fact in free if _may_be_id(fact)]
    found: dict[str, str | None] = {}
    for role, other in (("patient", "lesion"), ("lesion", "patient")):
        hinted = [f for f in candidates if hints_at(f.name, role) and f.name not in found.values()]
        hinted = [f for f in hinted if is_called_id(f.name) or not _measures(f.name)]
        # "patient_lesion" names the lesion of a patient
        hinted = [f for f in hinted if role == "lesion" or not hints_at(f.name, other)] or hinted
        hinted.sort(key=lambda f: (hints_at(f.name, "public"), not is_called_id(f.name)))
        found[role] = hinted[0].name if hinted else None
    if found["patient"] is None:
        public = [f for f in free if hints_at(f.name, "public") and f.distinct > 1]
        found["patient"] = max(public, key=lambda f: f.distinct).name if public else None
    if found["patient"] is not None and hints_at(found["patient"], "public"):
        doubts.append(
            (
                "patient",
                "a number by which others can find the person, and it would enter the cohort: "
                "pseudonymise it before the import.",
            )
        )
    case = found["lesion"]
    if found["patient"] is None and case is not None and _is_case_number(case):
        found = {"patient": case, "lesion": None}
        doubts.append(("patient", "is it the number of a person, or of a lesion?"))
    if found["patient"] is None:
        _find_numbered(free, found, doubts)
    unnamed = [f for f in candidates if f.name not in found.values() and _recurs(f)]
    if found["patient"] is None and unnamed:
        coarsest = min(unnamed, key=lambda f: f.distinct)
        found["patient"] = coarsest.name
        doubts.append(("patient", "taken for it because its ids recur; its name does not say so."))
        unnamed.remove(coarsest)
    if found["lesion"] is None and unnamed and found["patient"] is not None:
        owner = next(f for f in candidates if f.name == found["patient"])
        inner = [f for f in unnamed if _nests(f, owner) and f.distinct > owner.distinct]
        if inner:
            finest = max(inner, key=lambda f: f.distinct)
            found["lesion"] = finest.name
            doubts.append(("lesion", "taken for it because each of its ids is of one patient."))
    if found["patient"] is None:
        doubts.append(
            (
                "patient",
                "no column looks like a patient id. Without one, two images of a person may land "
                "in two parts of a split, and results look better than they are.",
            )
        )
    return found["patient"], found["lesion"]


def _find_numbered(
    free: Sequence[Facts], found: dict[str, str | None], doubts: list[tuple[str, str]]
) -> None:
    """Takes ids that recur and are called so for those of patients, if there are such.

    Without a column of codes that recur, numbers will do whose name says nothing, as long as other
    columns are the same wherever the number is.
    """
    numbers = [
        f for f in free if _may_be_id(f) and f.name not in found.values() and not _measures(f.name)
    ]
    numbers = [f for f in numbers if f.distinct < 0.95 * f.filled]
    called = [f for f in numbers if is_called_id(f.name)]
    people = [f for f in called if not any(hints_at(f.name, topic) for topic in NO_PEOPLE)]
    people = [f for f in people if f.distinct >= max(GROUPS, f.filled / 20)]
    why = "taken for it because its numbers recur, and its name says that they are ids."
    if not people and not any(_recurs(f) for f in free if f.name not in found.values()):
        whole = [f for f in numbers if f.look == "number" and header_unit(f.name) is None]
        people = [f for f in whole if _holds_together(f, free)]
        why = (
            "taken for it because other columns are the same wherever the number is; its name "
            "does not say so."
        )
    if people:
        found["patient"] = min(people, key=lambda f: f.distinct).name
        doubts.append(("patient", why))


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
    return any(hints_at(header, topic) for topic in NO_IDS) or header_unit(header) is not None


def _holds_together(ids: Facts, free: Sequence[Facts]) -> bool:
    """Whether two other columns, too varied for chance, never differ within an id."""
    if ids.distinct < max(GROUPS, ids.filled / 20):
        return False
    constant = 0
    for fact in free:
        if fact is ids or fact.look not in ("number", "category", "checkbox") or fact.distinct < 2:
            continue
        if max(fact.counts.values()) <= 0.8 * fact.filled:
            groups, varying = variation(fact.cells, ids.cells)
            constant += groups >= GROUPS and not varying
    return constant >= 2


def _may_be_id(fact: Facts) -> bool:
    if fact.name in RESERVED_COLUMNS - {"lesion_id", "patient_id"}:
        return False
    coded = fact.look in ("code", "category", "text") and not any(" " in c for c in fact.counts)
    return (coded or (fact.look == "number" and is_whole(fact))) and fact.distinct > 1


def _recurs(fact: Facts) -> bool:
    """Whether ids stand in the column, and in several rows each."""
    many = fact.look == "code" or fact.distinct >= max(5, fact.filled / 20)
    coded = fact.look in ("code", "category") and is_coded(fact)
    return coded and many and fact.distinct < 0.95 * fact.filled


def _nests(inner: Facts, outer: Facts) -> bool:
    """Whether each id of one column has a single id of the other."""
    both = pd.DataFrame({"inner": inner.cells, "outer": outer.cells})
    both = both[(both != "").all(axis=1)].drop_duplicates()
    return not both["inner"].duplicated().any()


def find_standing(fact: Facts, lesions: pd.Series | None, patients: pd.Series | None) -> Standing:
    """The coarsest level within whose groups the column does not vary.

    Args:
        fact: of the column.
        lesions: (rows,) lesion ids, unique over patients; None if there are none.
        patients: (rows,) patient ids, likewise.
    """
    person = hints_at(fact.name, "person_level")
    if patients is not None:
        groups, varying = variation(fact.cells, patients)
        of_lesions = lesions if lesions is not None else pd.Series(range(len(patients)))
        several = _groups_of_several(fact.cells, patients, of_lesions)
        if person or several >= EVIDENCE:
            limit = VARYING if not person else 0.5
            if varying <= limit * max(groups, 1):
                doubt = f"differs within {varying} of {groups} patients." if varying else ""
                if not several:
                    doubt = "no patient has two lesions, so its level follows from its name."
                return Standing(level="patient", doubt=doubt)
    if lesions is not None and not hints_at(fact.name, "picture_level"):
        groups, varying = variation(fact.cells, lesions)
        if varying <= VARYING * max(groups, 1):
            doubt = f"differs within {varying} of {groups} lesions." if varying else ""
            return Standing(level="lesion", doubt=doubt)
        return Standing(level="image")
    if hints_at(fact.name, "picture_level"):
        return Standing(level="image")
    # without ids of persons, each image would be one: nothing is of a patient
    return Standing(level="lesion")


def variation(cells: pd.Series, groups: pd.Series) -> tuple[int, int]:
    """Groups with two known cells or more, and those of them in which the cells differ."""
    known = (cells != "").to_numpy()
    values = cells[known].reset_index(drop=True).groupby(groups[known].to_numpy())
    counts, distinct = values.size(), values.nunique()
    several = (counts > 1).to_numpy()
    return int(several.sum()), int((distinct[several] > 1).sum())


def _groups_of_several(cells: pd.Series, patients: pd.Series, lesions: pd.Series) -> int:
    """Patients of whom several lesions have a known cell."""
    known = (cells != "").to_numpy()
    pairs = pd.DataFrame({"p": patients.to_numpy()[known], "l": lesions.to_numpy()[known]})
    counts = np.asarray(pairs.drop_duplicates().groupby("p").size())
    return int((counts > 1).sum())
