"""What each further column of a table is proposed to be: a feature, a refused one, or none."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from slimp.data.schema import LEVELS, RESERVED_COLUMNS, LevelName
from slimp.sources.association import as_categories, measure_association
from slimp.sources.personal_data import personal_kind
from slimp.sources.sketch.columns import Column
from slimp.sources.sketch.roles import Roles, is_row_counter, ticks
from slimp.sources.sketch.schema_text import Line
from slimp.sources.words import (
    hints_at,
    is_called_id,
    names_diagnosis,
    plain,
    spaced,
    words,
)

EVIDENCE = 3
"""Patients with two lesions that it takes to tell the two levels apart."""
LEAST_ID = 10_000
"""Whole numbers that are all as large are refused."""
VARYING = 0.05
"""Share of the groups whose values may differ in a column of their level."""
Groups = Mapping[LevelName, pd.Series]
"""Level -> (rows,) ids."""


def propose(
    columns: Sequence[Column], roles: Roles, used: Collection[str | None]
) -> dict[str, list[Line]]:
    """The lines of each section for the columns that are not `used` already."""
    names = ("table", *(f"{name}_metadata" for name in LEVELS), "refused", "unused", "drop")
    sections = {name: list[Line]() for name in names}
    labels, groups = _labels(columns, roles), _groups(columns, roles)
    taken, evident = set(RESERVED_COLUMNS), False
    if "patient" in groups:
        lesions = groups.get("lesion", pd.Series(range(len(groups["patient"]))))
        several = int((lesions.groupby(groups["patient"]).nunique() > 1).sum())
        evident = several >= EVIDENCE
    if (age := _age([c for c in columns if c.name not in used], groups.get("patient"))) is not None:
        sections["patient_metadata" if "patient" in groups else "lesion_metadata"].append(age)
        used, taken = {*used, age.value["from"], age.value["to"]}, {*taken, age.key}
    comma = any(c.settings.get("decimal") == "," and not c.unclear for c in columns)
    if comma:
        sections["table"].append(Line(key="decimal", value=","))
    for column in (c for c in columns if c.name not in used):
        section, why = _not_a_feature(column, labels, groups.get("patient"))
        if section:
            sections[section].append(Line(key=column.name, value=why))
            continue
        level, doubts = _level(column, groups, evident=evident)
        slug = re.sub(r"[^a-z0-9]+", "_", plain(column.name)).strip("_") or "column"
        name = next(n for n in (slug, *(f"{slug}_{k}" for k in range(2, 9999))) if n not in taken)
        taken.add(name)
        kind = {"number": "continuous", "checkbox": "checkbox"}.get(column.kind, "categorical")
        entry: dict[str, Any] = dict.fromkeys(("kind", "unit", "units", "thousands", "decimal"))
        entry |= {"kind": kind, "missing": list(column.missing), **column.settings}
        if not entry.get("thousands") and entry.get("decimal") == ("," if comma else "."):
            del entry["decimal"]  # as the whole table has it
        entry["column"] = column.name if column.name != name else None
        entry = {key: value for key, value in entry.items() if value}
        sections[f"{level}_metadata"].append(
            Line(key=name, value=entry, doubts=(*doubts, *column.doubts))
        )
    if drop := sections.pop("drop"):
        said = ("personal data, never copied:", *(f"{line.key}: {line.value}." for line in drop))
        sections["table"].append(Line(key="drop", value=[line.key for line in drop], doubts=said))
    return sections


def _groups(columns: Sequence[Column], roles: Roles) -> dict[LevelName, pd.Series]:
    """Ids of patients, and of lesions over all patients; a missing one is its own."""
    cells = {c.name: c.cells for c in columns}
    own = pd.Series([f"\0{row}" for row in range(len(columns[0].cells))])
    groups = dict[LevelName, pd.Series]()
    if roles.patient is not None:
        groups["patient"] = cells[roles.patient].where(cells[roles.patient] != "", own)
    if roles.lesion is not None:
        lesions = cells[roles.lesion].where(cells[roles.lesion] != "", own)
        groups["lesion"] = groups["patient"] + "/" + lesions if "patient" in groups else lesions
    return groups


def with_doubts(columns: Sequence[Column], roles: Roles) -> Roles:
    """The roles without lesions that are numbers if the labels differ within most of them."""
    labels, lesions = _labels(columns, roles), _groups(columns, roles).get("lesion")
    if labels is None or lesions is None:
        return roles
    count, varying = variation(labels, lesions)
    if not varying:
        return roles
    numbered = next(c for c in columns if c.name == roles.lesion).is_whole
    said = f"the labels of one {roles.lesion} differ in {varying} of {count} cases"
    if numbered and varying > count / 2:  # 1, 2, ... of each patient, side or hospital
        said, roles = f"{said}, so each image is taken for a lesion", replace(roles, lesion=None)
    said = f"{roles.doubts.get('lesion', '')} {said}.".strip()
    return replace(roles, doubts={**roles.doubts, "lesion": said})


def _labels(columns: Sequence[Column], roles: Roles) -> pd.Series | None:
    """(rows,) the class, missing as NA; None without a label."""
    own = [c for c in columns if c.name in roles.label]
    if len(own) < 2:
        return own[0].cells.where(own[0].cells != "") if own else None
    marks = pd.DataFrame({c.name: ticks(c) for c in own})
    return marks.idxmax(axis=1).where(marks.any(axis=1))


def _not_a_feature(
    column: Column, labels: pd.Series | None, patients: pd.Series | None
) -> tuple[str, str]:
    """The section for a column that must not or cannot be a feature, and why; '' if it can."""
    name, of_person = column.name, hints_at(column.name, "person_level")
    if column.kind == "empty":
        return "unused", "empty in every row"
    if column.kind == "date":
        why = "a date: with others, it may say who somebody is"
        if patients is not None and hints_at(name, "birth"):
            count, varying = variation(column.values, patients)
            why += f"; it differs within {varying} of {count} patients" if varying else ""
        return "drop", why
    if hints_at(name, "person") and not hints_at(name, "code"):
        return "drop", "its name says that it may name a person"
    if hints_at(name, "text"):
        return "drop", "free text, as its name says"
    if names_diagnosis(name) or spaced(name) in words()["cells"]["label"]:
        return "refused", "a diagnosis, as its name says"
    if hints_at(name, "after"):
        return "refused", "of the work-up or its result, as its name says"
    if column.kind in ("code", "text"):
        if found := personal_kind(column.cells):
            return "drop", f"{found[0]}, as it seems"
        if column.kind == "code":
            return "drop", "an identifier, as it seems"
    recurs = column.kind in ("category", "text") and 3 * column.distinct <= column.filled
    if recurs and not of_person and (said := _named_class(column, labels)):
        return "refused", f"text that names the diagnosis, as in '{said}'"
    if column.kind == "text":
        return "drop", "free text, which may say anything"
    if is_row_counter(column):
        first = ", ".join(column.cells[:3])
        return "refused", f"a counter of rows ({first}, ...): it says nothing of a lesion"
    if labels is not None and (why := _leak(column, labels, patients)):
        return "refused", why
    numbered = column.is_whole or all(re.search(r"\d", cell) for cell in column.counts)
    if column.kind != "checkbox" and numbered and is_called_id(name):
        return "refused", "an id, as its name says, and no measurement"
    if column.numbers is not None and column.is_whole and column.numbers.min() >= LEAST_ID:
        return "refused", f"whole numbers from {LEAST_ID:,} on, as ids have and measurements do not"
    if name in RESERVED_COLUMNS:
        return "unused", "a cohort has a column of this name; rename it to use it"
    if column.distinct < 2 and column.kind != "checkbox":
        return "unused", f"it says '{next(iter(column.counts))}' in every row that is filled"
    return "", ""


def _leak(column: Column, labels: pd.Series, patients: pd.Series | None) -> str:
    people = pd.Series(map(str, range(len(labels)))) if patients is None else patients
    values = as_categories(column.values).rename(column.name)
    found = measure_association(values, labels, people)
    if found is None and (classes := labels[values.notna()].dropna().unique()).size == 1:
        gaps = measure_association(values.notna().astype(str), labels, people)
        return f"filled in where the label is {classes[0]} alone" * bool(gaps and gaps.is_leak)
    if found is None or not found.is_leak:
        return ""
    how = found.rule or "predicts it too well"
    return "the label in other words" if found.one_to_one else f"follows the label: {how}"


def _named_class(column: Column, labels: pd.Series | None) -> str:
    """A cell of text that names a class, if a third of them do."""
    own = set() if labels is None else set(map(spaced, labels.dropna().unique()))
    classes = {*words()["cells"]["label"], *own.difference(words()["cells"]["yes"])}
    known = [f" {word} " for word in classes if len(word) > 2]
    naming = [c for c in column.counts if any(word in f" {spaced(c)} " for word in known)]
    enough = sum(column.counts[cell] for cell in naming) > column.filled / 3
    return naming[0][:60] if enough else ""


def _level(column: Column, groups: Groups, *, evident: bool) -> tuple[LevelName, list[str]]:
    """The coarsest level within whose groups the column does not vary, and what is in doubt.

    Without ids of persons, each image would be one: nothing is of a patient.
    """
    doubts = list[str]()
    of_person = hints_at(column.name, "person_level")
    of_picture = hints_at(column.name, "picture_level")
    for level, ids in groups.items() if not of_picture else ():
        count, varying = variation(column.values, ids)
        personal = of_person and level == "patient"
        tolerated = 0.5 if personal else VARYING
        fits = varying <= tolerated * max(count, 1) and (evident or of_person or level == "lesion")
        spelled = personal and column.numbers is None
        if varying and (fits or spelled):
            doubts.append(_differs(count, varying, level, ": spellings?" if spelled else "."))
        if fits:
            return level, doubts
    return ("image" if of_picture or "lesion" in groups else "lesion"), doubts


def _differs(count: int, varying: int, level: LevelName, end: str) -> str:
    asked = " Is each of these ids one person's?" if varying > VARYING * count else ""
    return f"differs within {varying} of {count} {level}s{end}{asked}"


def variation(cells: pd.Series, groups: pd.Series) -> tuple[int, int]:
    """Groups with two known cells or more, and those of them in which the cells differ."""
    known = cells.notna().to_numpy()
    values = cells[known].groupby(groups[known].to_numpy())
    several = (values.size() > 1).to_numpy()
    return int(several.sum()), int((values.nunique()[several] > 1).sum())


def _age(columns: Sequence[Column], patients: pd.Series | None) -> Line | None:
    """The age at examination, where a table has two dates instead."""
    dates = [c for c in columns if c.kind == "date"]
    births = [c for c in dates if hints_at(c.name, "birth")]
    visits = [c for c in dates if c not in births and hints_at(c.name, "visit")]
    has_age = any(c.kind == "number" and c.settings["unit"] == "years" for c in columns)
    if not births or not visits or has_age:
        return None
    birth, visit = births[0], visits[0]
    common = [s for s in birth.settings["formats"] if s in visit.settings["formats"]]
    if not common:
        return None
    entry: dict[str, Any] = {"kind": "continuous", "unit": "years"}
    entry |= {"from": birth.name, "to": visit.name}
    entry |= {"format": common[0]} if common[0] != "%Y-%m-%d" else {}
    doubts = ["the dates themselves do not enter the cohort."]
    if len(common) > 1:
        doubts.append(f"dates can be read in several ways: {', '.join(common)}.")
    if patients is not None and (born := variation(birth.values, patients))[1]:
        doubts.append(f"{birth.name} {_differs(*born, 'patient', ': spellings?')}")
    if patients is not None and (visited := variation(visit.values, patients)[1]):
        doubts.append(
            f"{visited} patients were seen on several days: the import takes the median of their "
            "ages. Move the line to [lesion_metadata] to keep each."
        )
    if missing := list(dict.fromkeys([*birth.missing, *visit.missing])):
        entry["missing"] = missing
    return Line(key="age", value=entry, doubts=(*doubts, *birth.doubts, *visit.doubts))
