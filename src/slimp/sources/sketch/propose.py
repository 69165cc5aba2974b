"""What each column of a table is proposed to be: a feature, a refused one, or none at all."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slimp.data.schema import LEVELS, RESERVED_COLUMNS
from slimp.sources.association import as_categories, measure_association
from slimp.sources.personal_data import personal_kind
from slimp.sources.sketch.columns import Column
from slimp.sources.sketch.image_columns import ImageColumns
from slimp.sources.sketch.roles import (
    Roles,
    find_level,
    is_called_id,
    is_row_counter,
    names_diagnosis,
    spaced,
    variation,
)
from slimp.sources.sketch.words import hints_at, slug, words


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the schema file, and what is in doubt about it."""

    key: str
    """'': none, there is only something to say."""
    value: Any = None
    doubts: tuple[str, ...] = ()
    unclear: bool = False
    """Whether its `decimal` may be a mark between thousands, so that it says nothing of others."""


def propose(columns: Sequence[Column], roles: Roles, images: ImageColumns) -> dict[str, list[Line]]:
    """The lines of each section for the columns that are no id, label, split or image.

    Besides sections of the schema: `drop`, personal data, and `unused`, with the reason as value.
    """
    sections: dict[str, list[Line]] = {f"{level}_metadata": [] for level in LEVELS}
    sections |= {"refused": [], "drop": [], "unused": []}
    used = {roles.patient, roles.lesion, roles.split, *roles.label_columns, *images.columns}
    used |= set(re.findall(r"\{([^{}:]+)", images.names or ""))
    patients, lesions = _groups(columns, roles)
    labels = _labels(columns, roles)
    names = set[str](RESERVED_COLUMNS)
    for line in _ages(columns, used, names, patients):
        sections["lesion_metadata" if patients is None else "patient_metadata"].append(line)
        used |= {line.value["from"], line.value["to"]}
    for column in columns:
        if column.name in used:
            continue
        reasons = (
            ("drop", _named_personal(column)),
            ("refused", _named_after_diagnosis(column)),
            ("drop", _seems_personal(column, labels)),
            ("refused", _gives_label_away(column, labels, patients)),
            ("unused", _why_unused(column)),
        )
        section, why = next(((name, why) for name, why in reasons if why), (None, None))
        if section is not None:
            sections[section].append(Line(key=column.name, value=why))
        else:
            level, doubt = find_level(column, lesions, patients)
            line = _feature(column, names, [doubt] if doubt else [])
            sections[f"{level}_metadata"].append(line)
    return sections


def _groups(columns: Sequence[Column], roles: Roles) -> tuple[pd.Series | None, pd.Series | None]:
    """(rows,) ids of patients, and of lesions over all patients; an empty one is its own."""
    own = pd.Series([f"\0{row}" for row in range(len(columns[0].cells))])

    def ids(name: str | None) -> pd.Series | None:
        cells = next((c.cells.reset_index(drop=True) for c in columns if c.name == name), None)
        return None if cells is None else cells.where(cells != "", own)

    patients, lesions = ids(roles.patient), ids(roles.lesion)
    if patients is not None and lesions is not None:
        lesions = patients + "/" + lesions
    return patients, lesions


def _labels(columns: Sequence[Column], roles: Roles) -> pd.Series | None:
    """(rows,) the class, missing as NA; None without a label."""
    own = {c.name: _known(c.cells) for c in columns if c.name in roles.label_columns}
    if not isinstance(roles.label, tuple):
        return own.get(str(roles.label))
    marked = pd.DataFrame(own).replace(["0", "0.0", "false", "False", "no", "No"], float("nan"))
    return marked.notna().idxmax(axis=1).where(marked.notna().any(axis=1))


def _known(cells: pd.Series) -> pd.Series:
    return cells.where(cells != "").reset_index(drop=True)


def _named_personal(column: Column) -> str | None:
    if column.look == "empty":
        return None
    if column.look == "date":
        return "a date: with others, it may say who somebody is"
    person = hints_at(column.name, "person") or hints_at(column.name, "public")
    if person and not hints_at(column.name, "code"):
        return "its name says that it may name a person"
    return "free text, as its name says" if hints_at(column.name, "text") else None


def _named_after_diagnosis(column: Column) -> str | None:
    if column.look == "empty":
        return None
    if names_diagnosis(column.name):
        return "a diagnosis, as its name says"
    return (
        "of the work-up or its result, as its name says" if hints_at(column.name, "after") else None
    )


def _seems_personal(column: Column, labels: pd.Series | None) -> str | None:
    """Why the values should not enter a cohort; None if nothing speaks against it."""
    if column.look not in ("code", "text"):
        return None
    if kind := personal_kind(column.cells):
        return f"{kind[0]}, as it seems"
    if column.look == "code":
        return "an identifier, as it seems"
    repeated = 3 * column.distinct <= column.filled
    return (
        None if repeated and _named_class(column, labels) else "free text, which may say anything"
    )


def _gives_label_away(
    column: Column, labels: pd.Series | None, patients: pd.Series | None
) -> str | None:
    """Why the column must not be an input, by its values; None if nothing speaks against it."""
    if is_row_counter(column):
        return (
            f"a counter of rows ({', '.join(column.cells[:3])}, ...): it says nothing of a lesion"
        )
    if column.look == "text" and (said := _named_class(column, labels)):
        return f"text that names the diagnosis, as in '{said}'"
    if labels is not None and column.look in ("number", "category", "checkbox"):
        values = as_categories(_known(column.cells))
        people = patients if patients is not None else pd.Series(map(str, range(len(values))))
        found = measure_association(values.rename(column.name), labels, people)
        if found is not None and found.is_leak:
            if found.one_to_one:
                return "the label in other words"
            return f"follows the label: {found.rule or 'predicts it too well'}"
    whole = column.look in ("number", "category") and column.is_whole
    if whole and is_called_id(column.name):
        return "an id, as its name says, and no measurement"
    return None


def _named_class(column: Column, labels: pd.Series | None) -> str | None:
    """A cell of text that names a class, if a third of them do."""
    known = {word for word in words()["cells"]["label"] if len(word) > 3}
    known |= {spaced(label) for label in labels.dropna().unique()} if labels is not None else set()
    known = {word for word in known if len(word) > 2}
    naming = [c for c in column.counts if any(f" {w} " in f" {spaced(c)} " for w in known)]
    enough = sum(column.counts[cell] for cell in naming) > column.filled / 3
    return naming[0][:60] if enough else None


def _why_unused(column: Column) -> str | None:
    if column.look == "empty":
        return "empty in every row"
    if column.name in RESERVED_COLUMNS:
        return "a cohort has a column of this name; rename it to use it"
    if column.distinct < 2 and column.look != "checkbox":
        return f"it says '{next(iter(column.counts))}' in every row that is filled"
    return None


def _feature(column: Column, names: set[str], doubts: list[str]) -> Line:
    """The line of an ordinary feature."""
    name = _free_name(column.name, names)
    entry: dict[str, Any] = {"kind": "categorical"}
    if column.look == "number":
        entry = _number(column, doubts)
    elif column.look == "checkbox":
        entry = {"kind": "checkbox"}
    if column.name != name:
        entry["column"] = column.name
    if column.missing:
        entry["missing"] = list(column.missing)
    if column.aliases:
        entry["aliases"] = dict(column.aliases)
    if column.look == "checkbox" and column.distinct < 2:
        word, blank = next(iter(column.counts)), 1 - column.share_filled
        aliases = {**column.aliases, "": "no"}
        doubts.append(
            f"'{word}' or nothing: {blank:.0%} of the cells are blank. As it stands, blank means "
            f"not known. If blank means no, add to the line: aliases = {_toml_words(aliases)}"
        )
    doubts += _missing_doubts(column)
    if column.look == "category" and all(cell.isdigit() for cell in column.counts):
        doubts.append("whole numbers with few values: they could be continuous as well.")
    unclear = column.look == "number" and column.unclear is not None
    return Line(key=name, value=entry, doubts=tuple(doubts), unclear=unclear)


def _toml_words(aliases: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f'"{a}" = "{b}"' for a, b in aliases.items()) + " }"


def _number(column: Column, doubts: list[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": "continuous"}
    if column.unit is not None:
        entry["unit"] = column.unit
    if column.units:
        entry["units"] = dict(column.units)
        factors = ", ".join(f"1 {unit} as {value:g}" for unit, value in column.units.items())
        doubts.append(f"some cells end in other units, counted in {column.unit}: {factors}.")
    if column.thousands is not None:
        entry["thousands"] = column.thousands
    entry["decimal"] = column.decimal
    if column.unclear is not None:
        one, other = column.decimal, "," if column.decimal == "." else "."
        doubts.append(
            f"{column.unclear} was read as {column.unclear.replace(one, '.')}, but the mark could "
            f"be one between thousands, as in all cells that have it. If it means "
            f'{column.unclear.replace(one, "")}, write: decimal = "{other}", thousands = "{one}"'
        )
    return entry


def _missing_doubts(column: Column) -> Iterator[str]:
    if column.missing:
        yield f"counted as missing: {_listed(column.missing)}."
    if column.odd:
        odd = ", ".join(f"'{cell}'" for cell in column.odd[:6])
        yield (
            f"of these, {odd} are only unlike all other cells. If one means a value, give it with "
            'aliases = { "..." = "..." } instead.'
        )


def _listed(counts: Mapping[str, int], most: int = 6) -> str:
    shown = [f"'{word}' ({times} cells)" for word, times in list(counts.items())[:most]]
    return ", ".join(shown) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _ages(
    columns: Sequence[Column],
    used: Collection[str | None],
    names: set[str],
    patients: pd.Series | None,
) -> Iterator[Line]:
    """The age at examination, where a table has two dates instead."""
    dates = [column for column in columns if column.look == "date" and column.name not in used]
    births = [column for column in dates if hints_at(column.name, "birth")]
    others = [column for column in dates if column not in births]
    named = [column for column in others if hints_at(column.name, "visit")]
    visits = named or (others if len(others) == 1 else [])
    has_age = any(c.look == "number" and hints_at(c.name, "age") for c in columns)
    if not births or not visits or has_age:
        return
    birth, visit = births[0], visits[0]
    common = [style for style in birth.formats if style in visit.formats]
    if not common:
        return
    name = _free_name("age", names | {column.name for column in columns})
    names.add(name)
    entry = {"kind": "continuous", "unit": "years", "from": birth.name, "to": visit.name}
    if common[0] != "%Y-%m-%d":
        entry["format"] = common[0]
    doubts = ["the dates themselves do not enter the cohort."]
    if not named:
        doubts.append(f"'{visit.name}' is taken for the day of the visit, as the only other date.")
    if len(common) > 1:
        doubts.append(f"dates can be read in several ways: {', '.join(common)}.")
    if patients is not None and (visited := variation(visit.cells, patients)[1]):
        doubts.append(
            f"{visited} patients were seen on several days: the import takes the median of their "
            "ages. Move the line to [lesion_metadata] to keep each."
        )
    if odd := {**birth.missing, **visit.missing}:
        entry["missing"] = list(odd)  # type: ignore[assignment]
        doubts.append(f"counted as missing: {_listed(odd)}.")
    yield Line(key=name, value=entry, doubts=tuple(doubts))


def _free_name(header: str, names: set[str]) -> str:
    """A name for the feature that no other has."""
    name = base = slug(header)
    number = 2
    while name in names:
        name, number = f"{base}_{number}", number + 1
    names.add(name)
    return name
