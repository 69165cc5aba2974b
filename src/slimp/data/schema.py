"""What each column of a dataset means: features per level, ids, the label, and what is refused.

A schema is read from a reviewed TOML file (`sources/*.toml`) or a user's own, so that no code
holds a column name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

from slimp.data.settings import as_table, as_texts, read_settings, read_toml, write_settings
from slimp.errors import TableError

Kind = Literal["continuous", "categorical", "checkbox"]
LevelName = Literal["image", "lesion", "patient"]
LEVELS: tuple[LevelName, ...] = get_args(LevelName)
"""The levels of the hierarchy, from the finest to the coarsest."""
SimilarIds = Literal["refuse", "same", "different"]
RESERVED_COLUMNS = frozenset(
    {"image_id", "lesion_id", "patient_id", "label", "split", "byte_offset", "byte_length"}
)
"""Columns that every cohort has; a feature cannot have their names."""
TABLE_DEFAULTS = frozenset({"decimal", "thousands"})
"""Keys of `[table]` that hold for every continuous feature without a setting of its own."""
THOUSANDS = (".", ",", "'", " ")
AGES = {"years": 365.2425, "months": 365.2425 / 12, "days": 1.0}
"""Units of a time between two dates -> days."""


ISO_DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ].*)?")
"""A date that is always read, whatever `Feature.date_format` says."""


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
    """Published spelling -> canonical spelling, as in BRAZIL -> BRASIL, or '' -> no."""
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
        if problem := self._problem():
            raise TableError(f"feature '{self.name}': {problem}.")

    def _problem(self) -> str:
        """Which rule the settings break, or ''."""
        timed, continuous = self.from_date is not None, self.kind == "continuous"
        if not continuous and (self.to_date or not self.is_plain):
            return "only a continuous feature has decimal, thousands, factor, units, from or to"
        if self.decimal not in (".", ","):
            return f"decimal is '.' or ',', got {self.decimal!r}"
        if self.thousands not in (None, *THOUSANDS):
            return f"thousands is one of {' '.join(map(repr, THOUSANDS))}, got {self.thousands!r}"
        if self.thousands == self.decimal:
            return f"decimal and thousands are both {self.decimal!r}"
        if not all(0 < abs(value) < 1e30 for value in (self.factor, *self.units.values())):
            return "a factor is a number other than 0"
        if timed != (self.to_date is not None):
            return "give both dates, 'from' and 'to'"
        if self.date_format is not None and not timed:
            return "'format' is for a feature made 'from' one date 'to' another"
        if _hides_behind_iso(self.date_format or ""):
            return (
                f"dates as '{self.date_format}' would be read as YYYY-MM-DD, which goes first. "
                "Write them so in the table, and leave 'format' out"
            )
        if timed and self.unit not in AGES:
            return f"a time between dates has a unit: {', '.join(AGES)}; got {self.unit!r}"
        if timed and self.columns != (self.name,):
            return "a feature made of dates has no column of its own"
        if not self.columns or (self.kind != "checkbox" and len(self.columns) != 1):
            return f"a {self.kind} feature has exactly one column, got {list(self.columns)}"
        if self.categories is not None and self.kind != "categorical":
            return "only a categorical feature has categories"
        return ""

    @property
    def is_plain(self) -> bool:
        """Whether the text of a cell is a number in `unit` as it stands."""
        special = self.thousands or self.units or self.from_date or self.factor != 1
        return not special and self.decimal == "."

    @property
    def reads(self) -> tuple[str, ...]:
        """The published columns that the feature is made from: its own, or two dates."""
        if self.from_date is None or self.to_date is None:
            return self.columns
        return self.from_date, self.to_date


def _hides_behind_iso(date_format: str) -> bool:
    """Whether dates of the format look like ISO dates, but are others, as with day and month."""
    day = date(2003, 4, 5)
    try:
        written = day.strftime(date_format)
    except ValueError:  # no format at all: reading says so
        return False
    return not written.startswith(str(day)) and bool(ISO_DATE.fullmatch(written))


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

    Example:
        >>> Schema.from_dict({"image": "file", "lesion_metadata": {"itch": {"kind": "checkbox"}}})
        Schema(image='file', label=None; lesion: itch (checkbox))
    """

    image: str
    """Column that names the image file, with or without its ending."""
    lesion: str | None = None
    """Column of the lesion id (unique within a patient is enough); None: an image is a lesion."""
    patient: str | None = None
    """Column of the patient id; None: each lesion stands for a patient of its own."""
    label: str | None = None
    """Column of the diagnosis."""
    one_hot: tuple[str, ...] = ()
    """Instead of `label`: a column per class, with 1 in the one that an image is of."""
    unmarked: str | None = None
    """Class of a row with 0 in all of `one_hot`, '' for no label; None: such a row is refused."""
    label_names: Mapping[str, str] = field(default_factory=dict)
    """Published label -> the name it goes by here, as in 1 -> malignant."""
    split: str | None = None
    """Column of an official split, if the dataset has one."""
    split_names: Mapping[str, str] = field(default_factory=dict)
    """Published part -> train, validation or test, where it is spelled in no common way."""
    missing: tuple[str, ...] = ()
    """Cells that mean 'missing' in every column, ids and labels included."""
    similar_ids: SimilarIds = "refuse"
    """What ids are that differ only in letter case, leading zeros or spaces, as P1 and p01."""
    levels: tuple[Level, ...]
    """Image, lesion and patient level, in this order."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Columns that must never be inputs, each with the reason."""

    def __post_init__(self) -> None:
        if tuple(level.name for level in self.levels) != LEVELS:
            raise TableError(f"a schema has the levels {LEVELS} in this order.")
        if self.one_hot and (self.label is not None or len(set(self.one_hot)) < 2):
            raise TableError("the label is one column, or one_hot columns of at least two classes.")
        taken = dict.fromkeys(self.label_columns, "is the label; it must not be an input")
        for role in ("patient", "lesion", "image"):
            taken[getattr(self, role)] = f"is the {role} id"
        taken |= dict.fromkeys(
            RESERVED_COLUMNS, "is one that a cohort has of its own. Rename the column in the table"
        )
        taken |= {
            column: f"is refused as an input ({reason}). Remove the feature"
            for column, reason in self.refused.items()
        }
        for feature in self.features:
            claim = f"feature '{feature.name}'"
            for column in dict.fromkeys((*feature.reads, *feature.columns)):
                own = column in feature.columns
                # A date may serve several features, and does not enter the cohort.
                if column in taken and (own or column not in RESERVED_COLUMNS):
                    raise TableError(f"{claim}: column '{column}' {taken[column]}.")
            taken |= dict.fromkeys(feature.columns, f"already belongs to {claim}")

    @property
    def features(self) -> Iterator[Feature]:
        """All features, level by level."""
        return (feature for level in self.levels for feature in level.features)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that say the diagnosis."""
        return self.one_hot if self.label is None else (self.label,)

    @property
    def roles(self) -> dict[str, str]:
        """Column -> what it is, of the columns that are no features: ids, label and split."""
        named = {role: getattr(self, role) for role in ("image", "lesion", "patient", "split")}
        columns = {column: role for role, column in named.items() if column is not None}
        return columns | dict.fromkeys(self.label_columns, "label")

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
        content = read_toml(path)
        try:
            return cls.from_dict(content)
        except TableError as error:
            raise TableError(f"{path}: {error}") from None

    def __repr__(self) -> str:
        levels = [
            f"{level.name}: {', '.join(f'{f.name} ({f.kind})' for f in level.features)}"
            for level in self.levels
            if level.features
        ]
        return f"Schema(image={self.image!r}, label={self.label!r}; {'; '.join(levels)})"

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Schema:
        """Builds a schema from the parsed TOML; the table `[dataset]` in it is left aside.

        Of `[table]` only what features have by default counts here; `TableLayout` reads the rest.
        """
        entry = {k: v for k, v in content.items() if k not in ("table", "dataset")}
        if not isinstance(entry.get("image"), str):
            raise TableError("the key 'image' must name the column of the image file.")
        for key in ("image", "lesion", "patient", "label", "split"):
            if entry.get(key) == "":
                raise TableError(f"'{key}' must name a column. Leave it out if there is none.")
        table = as_table(content.get("table", {}), "'table'")
        defaults = {key: table[key] for key in TABLE_DEFAULTS & set(table)}
        missing = as_texts(entry.get("missing", ()), "'missing'")
        levels = []
        for name in LEVELS:
            key = f"{name}_metadata"
            entries = as_table(entry.pop(key, {}), f"'{key}'")
            features = (_feature(k, value, missing, defaults) for k, value in entries.items())
            levels.append(Level(name=name, features=tuple(features)))
        if isinstance(label := entry.get("label"), Mapping):
            entry = {k: v for k, v in entry.items() if k != "label"} | _one_hot(label)
        return read_settings(cls, entry, "the schema", levels=tuple(levels))

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, for `cohort.json` and `model.json`."""
        content = write_settings(self)
        del content["levels"]
        if one_hot := content.pop("one_hot", None):
            content["label"] = {"one_hot": one_hot, "unmarked": content.pop("unmarked", None)}
        for level in self.levels:
            content[f"{level.name}_metadata"] = {
                feature.name: {
                    k: v for k, v in write_settings(feature, FEATURE_KEYS).items() if k != "name"
                }
                for feature in level.features
            }
        return content


FEATURE_KEYS = {"from": "from_date", "to": "to_date", "format": "date_format"}


def _one_hot(label: Mapping[str, Any]) -> dict[str, Any]:
    """`label = { one_hot = [...], unmarked = "..." }` as fields of `Schema`."""
    if unknown := set(label) - {"one_hot", "unmarked"}:
        raise TableError(f"'label': unknown key '{min(unknown)}'; it has: one_hot, unmarked.")
    return {key: value for key, value in label.items() if value is not None}


def _feature(
    name: str, content: object, missing: tuple[str, ...], defaults: Mapping[str, Any]
) -> Feature:
    where = f"feature '{name}'"
    entry = {"kind": "", **as_table(content, where)}
    if entry["kind"] == "continuous":
        entry = {**defaults, **entry}
    if {"column", "columns"} <= set(entry):
        raise TableError(f"{where}: give 'column' or 'columns', not both.")
    entry.setdefault("columns", [entry.pop("column", name)])
    own = as_texts(entry.get("missing", ()), f"{where}: 'missing'")
    entry["missing"] = list(dict.fromkeys((*missing, *own)))
    return read_settings(Feature, entry, where, keys=FEATURE_KEYS, name=name)
