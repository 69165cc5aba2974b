"""What each column of a dataset means: features per level, ids, the label, and what is refused.

A schema is read from a reviewed TOML file (`sources/*.toml`) or a user's own, so that no code
holds a column name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from slimp.errors import TableError

Kind = Literal["continuous", "categorical", "checkbox"]
LevelName = Literal["image", "lesion", "patient"]
LEVELS: tuple[LevelName, ...] = get_args(LevelName)
"""The levels of the hierarchy, from the finest to the coarsest."""
RESERVED_COLUMNS = frozenset(
    {"image_id", "lesion_id", "patient_id", "label", "split", "byte_offset", "byte_length"}
)
"""Columns of a cohort's own; a feature cannot bear their names."""
TABLE_DEFAULTS = frozenset({"decimal", "thousands"})
"""Keys of `[table]` that hold for every continuous feature without a setting of its own."""
THOUSANDS = (".", ",", "'", " ")
AGES = {"years": 365.2425, "months": 365.2425 / 12, "days": 1.0}
"""Units of a time between two dates -> days."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One metadata feature, which becomes one token of the tabular encoder.

    A checkbox feature may join several yes/no columns (TRACE's checkbox group); the other
    kinds have exactly one column.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    """The published column names, in order."""
    unit: str | None = None
    """Of a continuous feature, as in 'mm' or 'years'."""
    categories: tuple[str, ...] | None = None
    """Of a categorical feature; None: those seen in the training patients."""
    missing: tuple[str, ...] = ()
    """Cells that mean 'missing', besides the empty cell."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Published spelling -> canonical spelling, as in BRAZIL -> BRASIL, or ja -> yes."""
    decimal: str = "."
    """Mark before the decimals; with ',' a point is read too where it can mean nothing else."""
    thousands: str | None = None
    """Mark between groups of three digits; None: there is none."""
    factor: float = 1.0
    """What a number without a unit is multiplied by, to be in `unit`."""
    units: Mapping[str, float] = field(default_factory=dict)
    """Unit written in a cell, as in '1,2 cm' -> what its number is multiplied by."""
    from_date: str | None = None
    """Column of a date; the feature is the time from it to `to_date`, in `unit`."""
    to_date: str | None = None
    date_format: str | None = None
    """As strftime has it, as in '%d.%m.%Y'; None: ISO 8601, which is always read."""

    def __post_init__(self) -> None:
        _check_kind(self.name, self.kind)
        self._check_numbers()
        if not self.columns or (self.kind != "checkbox" and len(self.columns) != 1):
            raise TableError(
                f"feature '{self.name}': a {self.kind} feature has exactly one column, "
                f"got {list(self.columns)}. Only a checkbox feature may join several."
            )
        if self.categories is not None and self.kind != "categorical":
            raise TableError(f"feature '{self.name}': only a categorical feature has categories.")

    @property
    def reads(self) -> tuple[str, ...]:
        """The published columns that the feature is made from: its own, or two dates."""
        if self.from_date is None or self.to_date is None:
            return self.columns
        return self.from_date, self.to_date

    def _check_numbers(self) -> None:
        """Refuses settings of numbers that make no sense."""
        problem = ""
        dates = {self.from_date, self.to_date}
        special = self.thousands or self.units or self.from_date or self.to_date
        if self.kind != "continuous" and (special or self.factor != 1 or self.decimal != "."):
            problem = "only a continuous feature has decimal, thousands, factor, units, from or to"
        elif self.decimal not in (".", ","):
            problem = f"decimal is '.' or ',', got {self.decimal!r}"
        elif self.thousands is not None and self.thousands not in THOUSANDS:
            problem = (
                f"thousands is one of {' '.join(map(repr, THOUSANDS))}, got {self.thousands!r}"
            )
        elif self.thousands == self.decimal:
            problem = f"decimal and thousands are both {self.decimal!r}"
        elif not all(0 < abs(value) < 1e30 for value in (self.factor, *self.units.values())):
            problem = "a factor is a number other than 0"
        elif None in dates and dates != {None}:
            problem = "give both dates, 'from' and 'to'"
        elif self.date_format is not None and self.from_date is None:
            problem = "'format' is for a feature made 'from' one date 'to' another"
        elif self.from_date is not None and self.unit not in AGES:
            problem = f"a time between dates has a unit: {', '.join(AGES)}; got {self.unit!r}"
        elif self.from_date is not None and self.columns != (self.name,):
            problem = "a feature made of dates has no column of its own"
        if problem:
            raise TableError(f"feature '{self.name}': {problem}.")


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level of the hierarchy and its features; a level without features only groups rows."""

    name: LevelName
    features: tuple[Feature, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The published columns that this level reads, in feature order."""
        return tuple(column for feature in self.features for column in feature.columns)


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What each column of one dataset is.

    Raises:
        TableError: a column is claimed twice, or a refused, id or label column is a feature.
    """

    image: str
    """Column that names the image file, with or without its ending."""
    lesion: str | None = None
    """Column of the lesion id (unique within a patient is enough); None: an image is a lesion."""
    patient: str | None = None
    """Column of the patient id; None: each lesion stands for a patient of its own."""
    label: str | None = None
    """Column of the diagnosis."""
    label_names: Mapping[str, str] = field(default_factory=dict)
    """Published label -> the name it goes by here, as in 1 -> malignant."""
    split: str | None = None
    """Column of an official split, if the dataset has one."""
    levels: tuple[Level, ...]
    """Image, lesion and patient level, in this order."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Columns that must never be inputs, each with the reason."""

    def __post_init__(self) -> None:
        if tuple(level.name for level in self.levels) != LEVELS:
            raise TableError(f"a schema has the levels {LEVELS} in this order.")
        ids = {self.image: "image", self.lesion: "lesion", self.patient: "patient"}
        owner: dict[str, str] = {}
        for feature in self.features:
            claim = f"feature '{feature.name}'"
            for column in dict.fromkeys((*feature.reads, *feature.columns)):
                if column in self.refused:
                    reason = self.refused[column]
                    raise TableError(
                        f"{claim}: column '{column}' is refused as an input ({reason}). "
                        "Remove the feature."
                    )
                if column == self.label:
                    raise TableError(
                        f"{claim}: column '{column}' is the label; it must not be an input."
                    )
                if column in ids:
                    raise TableError(f"{claim}: column '{column}' is the {ids[column]} id.")
                if column not in feature.columns:
                    continue  # a date may serve several features, and does not enter the cohort
                if column in RESERVED_COLUMNS:
                    raise TableError(
                        f"{claim}: a cohort has a column '{column}' of its own. Rename the "
                        "column in the table."
                    )
                if column in owner:
                    raise TableError(
                        f"{claim}: column '{column}' already belongs to {owner[column]}."
                    )
                owner[column] = claim

    @property
    def features(self) -> Iterator[Feature]:
        """All features, level by level."""
        return (feature for level in self.levels for feature in level.features)

    def level(self, name: LevelName) -> Level:
        """The level of that name."""
        return self.levels[LEVELS.index(name)]

    def flatten(self) -> Schema:
        """The same features, all at the lesion level: the paper's 'flat' ablation (Table 3)."""
        everything = tuple(self.features)
        levels = tuple(
            Level(name=name, features=everything if name == "lesion" else ()) for name in LEVELS
        )
        return replace(self, levels=levels)

    @classmethod
    def from_toml(cls, path: Path) -> Schema:
        """Reads a schema file (format: `docs/schema.md`)."""
        content = read_schema_file(path)
        try:
            return cls.from_dict(content)
        except TableError as error:
            raise TableError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schema:
        """Builds a schema from the parsed TOML; the table `[dataset]` in it is left aside.

        Of `[table]` only what features have by default counts here; `TableLayout` reads the rest.
        """
        known = {"image", "lesion", "patient", "label", "label_names", "split", "missing"}
        known |= {"refused", "dataset", "table"} | {f"{name}_metadata" for name in LEVELS}
        if unknown := set(content) - known:
            raise TableError(
                f"unknown key '{sorted(unknown)[0]}'; a schema has: {', '.join(sorted(known))}."
            )
        if not isinstance(content.get("image"), str):
            raise TableError("the key 'image' must name the column of the image file.")
        missing = _strings(content.get("missing", []), "missing")
        defaults = _table(content.get("table", {}), "table")
        defaults = {key: defaults[key] for key in TABLE_DEFAULTS & set(defaults)}
        levels = []
        for name in LEVELS:
            table = _table(content.get(f"{name}_metadata", {}), f"{name}_metadata")
            features = (_feature(key, value, missing, defaults) for key, value in table.items())
            levels.append(Level(name=name, features=tuple(features)))
        names = _table(content.get("label_names", {}), "label_names")
        refused = _table(content.get("refused", {}), "refused")
        return cls(
            image=content["image"],
            **{key: _optional_string(content, key) for key in ("lesion", "patient", "label")},
            split=_optional_string(content, "split"),
            label_names={str(key): str(value) for key, value in names.items()},
            levels=tuple(levels),
            refused={str(key): str(value) for key, value in refused.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, for `cohort.json` and `model.json`."""
        content: dict[str, Any] = {"image": self.image}
        for key in ("lesion", "patient", "label", "split"):
            if getattr(self, key) is not None:
                content[key] = getattr(self, key)
        if self.label_names:
            content["label_names"] = dict(self.label_names)
        for level in self.levels:
            content[f"{level.name}_metadata"] = {
                feature.name: _feature_dict(feature) for feature in level.features
            }
        content["refused"] = dict(self.refused)
        return content


def read_schema_file(path: Path) -> dict[str, Any]:
    """The content of a schema file, unchecked.

    Raises:
        TableError: it is missing, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TableError(f"{path}: no such schema file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: not a valid TOML file: {error}.") from None


def _feature(
    name: str, content: object, missing: tuple[str, ...], defaults: Mapping[str, Any]
) -> Feature:
    entry = _table(content, name)
    allowed = {"kind", "column", "columns", "unit", "categories", "missing", "aliases"}
    allowed |= {"decimal", "thousands", "factor", "units", "from", "to", "format"}
    if unknown := set(entry) - allowed:
        raise TableError(
            f"feature '{name}': unknown key '{sorted(unknown)[0]}'; "
            f"a feature has: {', '.join(sorted(allowed))}."
        )
    if "column" in entry and "columns" in entry:
        raise TableError(f"feature '{name}': give 'column' or 'columns', not both.")
    columns = entry.get("columns", [entry.get("column", name)])
    categories = entry.get("categories")
    own_missing = _strings(entry.get("missing", []), f"{name}.missing")
    aliases = _table(entry.get("aliases", {}), f"{name}.aliases")
    units = _table(entry.get("units", {}), f"{name}.units")
    kind = entry.get("kind", "")
    _check_kind(name, kind)
    if kind == "continuous":
        entry = {**defaults, **entry}
    return Feature(
        name=name,
        kind=kind,
        columns=_strings(columns, f"{name}.columns"),
        unit=_optional_string(entry, "unit"),
        categories=None if categories is None else _strings(categories, f"{name}.categories"),
        missing=tuple(dict.fromkeys((*missing, *own_missing))),
        aliases={str(key): str(value) for key, value in aliases.items()},
        decimal=_optional_string(entry, "decimal") or ".",
        thousands=_optional_string(entry, "thousands"),
        factor=_number(entry.get("factor", 1), f"{name}.factor"),
        units={str(key): _number(value, f"{name}.units") for key, value in units.items()},
        from_date=_optional_string(entry, "from"),
        to_date=_optional_string(entry, "to"),
        date_format=_optional_string(entry, "format"),
    )


def _check_kind(name: str, kind: object) -> None:
    if kind not in get_args(Kind):
        allowed = ", ".join(get_args(Kind))
        raise TableError(f"feature '{name}': kind '{kind}' is not one of {allowed}.")


def _feature_dict(feature: Feature) -> dict[str, Any]:
    content: dict[str, Any] = {"kind": feature.kind, "columns": list(feature.columns)}
    if feature.unit is not None:
        content["unit"] = feature.unit
    if feature.categories is not None:
        content["categories"] = list(feature.categories)
    if feature.missing:
        content["missing"] = list(feature.missing)
    if feature.aliases:
        content["aliases"] = dict(feature.aliases)
    if feature.units:
        content["units"] = dict(feature.units)
    numbers = {
        "decimal": (feature.decimal, "."),
        "thousands": (feature.thousands, None),
        "factor": (feature.factor, 1.0),
        "from": (feature.from_date, None),
        "to": (feature.to_date, None),
        "format": (feature.date_format, None),
    }
    return content | {key: value for key, (value, usual) in numbers.items() if value != usual}


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TableError(f"'{where}' must be a table ({{ key = value }}), got {value!r}.")
    return value


def _strings(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str | int) for v in value):
        raise TableError(f"'{where}' must be a list of strings, got {value!r}.")
    return tuple(str(v) for v in value)


def _number(value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TableError(f"'{where}' must be a number, got {value!r}.")
    return float(value)


def _optional_string(content: Mapping[str, Any], key: str) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise TableError(f"'{key}' must be a string, got {value!r}.")
    if value == "" and key in ("lesion", "patient", "label", "split"):
        raise TableError(f"'{key}' must name a column. Leave it out if the table has none.")
    return value
