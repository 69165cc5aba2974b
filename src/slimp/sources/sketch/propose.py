"""What each column of a table is proposed to be: a feature, a refused one, or none at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from slimp.data.schema import LEVELS, RESERVED_COLUMNS, Feature, LevelName
from slimp.errors import TableError
from slimp.sources.association import as_categories, is_leak, measure_link
from slimp.sources.parse_cells import read_feature
from slimp.sources.personal_data import personal_kind
from slimp.sources.sketch.facts import Facts, is_whole
from slimp.sources.sketch.roles import Roles, find_standing, is_called_id, variation
from slimp.sources.sketch.words import hints_at, slug


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the schema file, and what is in doubt about it."""

    key: str
    """'': none, there is only something to say."""
    value: Any
    doubts: tuple[str, ...] = ()
    unclear: bool = False
    """Whether its `decimal` may be a mark between thousands, so that it says nothing of others."""


@dataclass(kw_only=True)
class Proposal:
    """Where the columns of a table go."""

    features: dict[LevelName, list[Line]] = field(
        default_factory=lambda: {level: [] for level in LEVELS}
    )
    refused: list[Line] = field(default_factory=list)
    drop: list[Line] = field(default_factory=list)
    """Personal data; `value` is what they seem to be."""
    left: list[Line] = field(default_factory=list)
    """Columns that are no use, with the reason as `value`."""


def propose(facts: Sequence[Facts], roles: Roles, taken: Sequence[str]) -> Proposal:
    """Where the columns without a role go.

    Args:
        facts: of all columns.
        roles: of ids, label and split.
        taken: the columns of images.
    """
    proposal = Proposal()
    by_name = {fact.name: fact for fact in facts}
    used = {roles.patient, roles.lesion, roles.label, roles.split, *taken}
    patients, lesions = _groups(by_name, roles, len(facts[0].cells))
    labels = None if roles.label is None else _known(by_name[roles.label].cells)
    names = set[str](RESERVED_COLUMNS)
    for line in _ages(facts, used, names, patients):
        proposal.features["lesion" if patients is None else "patient"].append(line)
        used |= {line.value["from"], line.value["to"]}
    for fact in facts:
        if fact.name in used:
            continue
        reason = _why_personal(fact)
        if reason is not None:
            proposal.drop.append(Line(key=fact.name, value=reason))
        elif fact.look == "empty":
            proposal.left.append(Line(key=fact.name, value="it is empty in every row"))
        elif fact.name in RESERVED_COLUMNS:
            proposal.left.append(
                Line(key=fact.name, value="a cohort has a column of this name; rename it to use it")
            )
        elif fact.distinct < 2 and fact.look != "checkbox":
            only = next(iter(fact.counts))
            proposal.left.append(Line(key=fact.name, value=f"it says '{only}' in every row"))
        elif fact.look in ("number", "category") and is_called_id(fact.name) and is_whole(fact):
            proposal.left.append(
                Line(
                    key=fact.name,
                    value="its name says that it is an id, which tells nothing of a lesion; if it "
                    "is that of the person, set patient to it above",
                )
            )
        elif (why := _why_refused(fact, roles, labels, patients)) is not None:
            proposal.refused.append(Line(key=fact.name, value=why))
        else:
            level = find_standing(fact, lesions, patients)
            doubts = (f"{level.doubt}",) if level.doubt else ()
            proposal.features[level.level].append(_feature(fact, names, doubts))
    return proposal


def _groups(
    by_name: dict[str, Facts], roles: Roles, rows: int
) -> tuple[pd.Series | None, pd.Series | None]:
    """(rows,) ids of patients, and of lesions over all patients; an empty one is its own."""
    own = pd.Series([f"\0{row}" for row in range(rows)])

    def ids(name: str) -> pd.Series:
        cells = by_name[name].cells.reset_index(drop=True)
        return cells.where(cells != "", own)

    patients = None if roles.patient is None else ids(roles.patient)
    lesions = None if roles.lesion is None else ids(roles.lesion)
    if patients is not None and lesions is not None:
        lesions = patients + "/" + lesions
    return patients, lesions


def _known(cells: pd.Series) -> pd.Series:
    return cells.where(cells != "").reset_index(drop=True)


def _why_personal(fact: Facts) -> str | None:
    """Why the column should not enter a cohort; None if nothing speaks against it."""
    if fact.look == "date":
        return "a date: with others, it may say who somebody is"
    if fact.look == "empty":
        return None
    person = hints_at(fact.name, "person") or hints_at(fact.name, "public")
    if person and not hints_at(fact.name, "code"):
        return "its name says that it may name a person"
    if fact.look in ("category", "checkbox", "number"):
        return "free text, as its name says" if hints_at(fact.name, "text") else None
    kind = personal_kind(fact.cells)
    if kind is not None:
        return f"{kind[0]}, as it seems"
    if fact.look == "code":
        return "an identifier, as it seems"
    return "free text, which may say anything"


def _why_refused(
    fact: Facts, roles: Roles, labels: pd.Series | None, patients: pd.Series | None
) -> str | None:
    """Why the column must not be an input; None if nothing speaks against it."""
    if fact.name in roles.also_labels:
        return "looks like a diagnosis too"
    if labels is not None:
        column = as_categories(_known(fact.cells))
        people = patients if patients is not None else pd.Series(np.arange(len(column)).astype(str))
        link = measure_link(column, labels, people)
        if link is not None and is_leak(link):
            if link.one_to_one:
                return "is the label in other words"
            says = (
                link.rule.describe(fact.name) if link.rule is not None else "predicts it too well"
            )
            return f"follows the label: {says}"
    if hints_at(fact.name, "after"):
        return "known only after the diagnosis, as its name suggests"
    return None


def _feature(fact: Facts, names: set[str], doubts: tuple[str, ...]) -> Line:
    """The line of an ordinary feature."""
    name = _free_name(fact.name, names)
    entry: dict[str, Any] = {"kind": "categorical"}
    said = list(doubts)
    if fact.look == "number":
        entry = {"kind": "continuous"}
        if fact.unit is not None:
            entry["unit"] = fact.unit
        else:
            said.append("in which unit? Say so with unit = ...")
        if fact.units:
            entry["units"] = dict(fact.units)
            factors = ", ".join(f"1 {unit} as {value:g}" for unit, value in fact.units.items())
            said.append(f"some cells end in other units, counted in {fact.unit}: {factors}.")
        if fact.thousands is not None:
            entry["thousands"] = fact.thousands
        entry["decimal"] = fact.decimal
        if fact.unclear is not None:
            one, other = fact.decimal, "," if fact.decimal == "." else "."
            said.append(
                f"{fact.unclear} was read as {fact.unclear.replace(one, '.')}, but the mark could "
                f"be one between thousands, as in all cells that have it. If it means "
                f'{fact.unclear.replace(one, "")}, write: decimal = "{other}", thousands = "{one}"'
            )
    elif fact.look == "checkbox":
        entry = {"kind": "checkbox"}
        if fact.distinct < 2:
            said.append("there is no 'no'; an empty cell counts as not known.")
    if fact.name != name:
        entry["column"] = fact.name
    missing = dict(fact.missing) | dict(fact.strays)
    if missing:
        entry["missing"] = list(missing)
    if fact.aliases:
        entry["aliases"] = dict(fact.aliases)
    said += _missing_doubts(fact)
    if fact.look == "category" and all(cell.isdigit() for cell in fact.counts):
        said.append("whole numbers with few values: they could be continuous as well.")
    unclear = fact.look == "number" and fact.unclear is not None
    return Line(key=name, value=entry, doubts=tuple(said), unclear=unclear)


def _missing_doubts(fact: Facts) -> Iterator[str]:
    words = {word: n for word, n in fact.missing.items() if word not in fact.codes}
    if words:
        yield f"counted as missing: {_listed(words)}."
    if fact.codes:
        codes = {code: fact.missing[code] for code in fact.codes}
        words_beside = fact.look != "number" and not all(map(_is_number, fact.counts))
        unlike = "numbers among words" if words_beside else "far from all other numbers"
        yield f"counted as missing, being {unlike}: {_listed(codes)}."
    if fact.strays:
        yield (
            f"unlike all other cells, so counted as missing: {_listed(fact.strays)}. If they mean "
            'a value, give it with aliases = { "..." = "..." } instead.'
        )


def _is_number(cell: str) -> bool:
    return not any(mark.isalpha() for mark in cell)


def _listed(counts: dict[str, int] | Any, most: int = 6) -> str:
    shown = [f"'{word}' ({times} cells)" for word, times in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _ages(
    facts: Sequence[Facts],
    used: Collection[str | None],
    names: set[str],
    patients: pd.Series | None,
) -> Iterator[Line]:
    """The age at examination, where a table has two dates instead."""
    dates = [fact for fact in facts if fact.look == "date" and fact.name not in used]
    births = [fact for fact in dates if hints_at(fact.name, "birth")]
    others = [fact for fact in dates if fact not in births]
    named = [fact for fact in others if hints_at(fact.name, "visit")]
    visits = named or (others if len(others) == 1 else [])
    has_age = any(fact.look == "number" and hints_at(fact.name, "age") for fact in facts)
    if not births or not visits or has_age:
        return
    birth, visit = births[0], visits[0]
    common = [style for style in birth.formats if style in visit.formats]
    if not common:
        return
    name = _free_name("age", names | {fact.name for fact in facts})
    entry: dict[str, Any] = {
        "kind": "continuous",
        "unit": "years",
        "from": birth.name,
        "to": visit.name,
    }
    if common[0] != "%Y-%m-%d":
        entry["format"] = common[0]
    doubts = ["the dates themselves do not enter the cohort."]
    if not named:
        doubts.append(f"'{visit.name}' is taken for the day of the visit, as the only other date.")
    if len(common) > 1:
        doubts.append(f"dates can be read in several ways: {', '.join(common)}.")
    visited = 0 if patients is None else variation(visit.cells, patients)[1]
    if visited:
        doubts.append(
            f"{visited} patients were seen on several days: the import takes the median of their "
            "ages. Move the line to [lesion_metadata] to keep each."
        )
    odd = {**birth.missing, **birth.strays, **visit.missing, **visit.strays}
    if odd:
        entry["missing"] = list(odd)
        doubts.append(f"counted as missing: {_listed(odd)}.")
    line = Line(key=name, value=entry, doubts=tuple(doubts))
    feature = Feature(
        name=name,
        kind="continuous",
        columns=(name,),
        unit="years",
        from_date=birth.name,
        to_date=visit.name,
        date_format=common[0],
        missing=tuple(odd),
    )
    table = pd.DataFrame({fact.name: fact.cells for fact in (birth, visit)})
    try:
        read_feature(table, feature, lambda row: f"row {row}")
    except TableError:
        return
    names.add(name)
    yield line


def _free_name(header: str, names: set[str]) -> str:
    """A name for the feature that no other has."""
    name = base = slug(header)
    number = 2
    while name in names:
        name, number = f"{base}_{number}", number + 1
    names.add(name)
    return name
