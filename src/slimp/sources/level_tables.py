"""One published table, a row per image, becomes the typed tables of a cohort.

The table is text throughout, as `read_table` gives it; its index holds the file and the row that a
person sees there (the header is row 1), so that a message can name them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from slimp.data.cohort import Tables
from slimp.data.schema import RESERVED_COLUMNS, Level, Schema
from slimp.errors import TableError
from slimp.sources.find_ids import Mask, image_ids, lesions_and_patients, namer, repeats
from slimp.sources.parse_cells import missing_spellings, read_feature, require_columns
from slimp.sources.parse_ids import (
    is_missing,
    missing_words,
    one_hot_labels,
    parse_labels,
    parse_splits,
)

ASSUMED = "assumed"
"""Key in `DataFrame.attrs` of what a reader assumed about a file, one sentence each."""


@dataclass(frozen=True, kw_only=True)
class TypedRows:
    """The published table with typed cells and cohort-wide ids, a row per image.

    `frame` holds `image_id lesion_id patient_id label [split]`, every feature column, and the
    columns that the schema does not use, as text.
    """

    frame: pd.DataFrame
    image_cells: pd.Series
    """What the table calls each image file, for finding it."""
    unused: tuple[str, ...]
    report: dict[str, Any]
    """What was met: what had to be `assumed`; `rows` of the table and `duplicate_rows` that were
    collapsed; where `lesion_ids` and `patient_ids` come from, and how many are missing;
    `missing_spellings`, column -> what stands for missing -> cells; `warnings`."""

    def keep(self, mask: Mask) -> TypedRows:
        """The rows where `mask` is true; ids stay what they are."""
        cells = self.image_cells[mask].reset_index(drop=True)
        return replace(self, frame=self.frame[mask].reset_index(drop=True), image_cells=cells)


def type_rows(
    table: pd.DataFrame, schema: Schema, *, refuse_missing_patients: bool = False
) -> TypedRows:
    """Typed cells and ids; rows that repeat another to the letter are collapsed.

    Raises:
        TableError: a column is missing, a cell does not fit its kind, an image id is
            empty, points outside the image folder, or stands in two rows that differ; an id is
            damaged or could be another; or a patient id is missing and that is refused.
    """
    if not isinstance(table.index, pd.MultiIndex):
        places = pd.MultiIndex.from_product([["table"], range(2, len(table) + 2)])
        table = table.set_axis(places, axis="index")
    _require_columns(table, schema)
    said = list(table.attrs.get(ASSUMED, ()))
    ids, image_cells = image_ids(table, schema, said)
    first = ~repeats(table, ids, schema)
    rows, table, ids, image_cells = len(table), table[first], ids[first], image_cells[first]
    one_each = not refuse_missing_patients
    lesions, patients, facts = lesions_and_patients(table, ids, schema, said, one_each=one_each)
    columns = {"image_id": ids, "lesion_id": lesions, "patient_id": patients}
    columns["label"], warnings = _labels(table, schema)
    if schema.split is not None:
        words, where = schema.split_names, namer(table, schema)
        columns["split"], notes = parse_splits(table[schema.split], words, where, schema.missing)
        said += notes
    for feature in schema.features:
        columns |= read_feature(table, feature, namer(table, schema, feature.reads[0]), said)
    warnings += _doubtful_categories(columns, schema)
    names = _unused_columns(table, schema)
    columns |= {new: table[old] for old, new in names.items()}
    return TypedRows(
        frame=pd.DataFrame(columns).reset_index(drop=True),
        image_cells=image_cells.reset_index(drop=True),
        unused=tuple(names.values()),
        report={
            "assumed": list(dict.fromkeys(said)),
            "rows": rows,
            "duplicate_rows": int((~first).sum()),
            **facts,
            "missing_spellings": _missing_spellings(table, schema),
            "warnings": warnings,
        },
    )


def split_levels(rows: TypedRows, schema: Schema) -> tuple[Tables, dict[str, Any]]:
    """A table per level, and the report with `disagreements`, both as `level_table` has them."""
    frame = rows.frame
    lesions, of_lesions = level_table(frame, schema.level("lesion"))
    lesions.insert(1, "patient_id", frame.drop_duplicates("lesion_id")["patient_id"].to_numpy())
    patients, of_patients = level_table(frame, schema.level("patient"))
    ids = ["image_id", "lesion_id", "patient_id", "label"] + ["split"] * (schema.split is not None)
    images = frame[[*ids, *schema.level("image").columns, *rows.unused]]
    report = {**rows.report, "disagreements": [*of_lesions, *of_patients]}
    return Tables(images=images, lesions=lesions, patients=patients), report


def _require_columns(table: pd.DataFrame, schema: Schema) -> None:
    file = table.index[0][0]
    for feature in schema.features:
        if feature.from_date is not None and feature.name in table.columns:
            raise TableError(
                f"{file}: feature '{feature.name}' is made of two dates, but the table has a "
                f"column '{feature.name}' too. Give the feature another name."
            )
    require_columns(table, file, schema.roles, "in the schema")
    features = {c: f"feature '{f.name}'" for f in schema.features for c in f.reads}
    require_columns(table, file, features, "in the schema")


def _labels(table: pd.DataFrame, schema: Schema) -> tuple[pd.Series, list[str]]:
    cells = pd.Series("", index=table.index, dtype="str", name="label")
    if schema.one_hot:
        cells = one_hot_labels(table, schema.one_hot, schema.unmarked, namer(table, schema))
    elif schema.label is not None:
        cells = table[schema.label]
    return parse_labels(cells, schema.label_names, schema.missing)


def _doubtful_categories(columns: dict[str, pd.Series], schema: Schema) -> list[str]:
    """Warnings of categories that would mean missing as an id, such as nan, unless listed."""
    warnings = list[str]()
    for feature in (f for f in schema.features if f.kind == "categorical" and not f.categories):
        (column,) = feature.columns
        counts = columns[column].value_counts().sort_index()
        doubtful = [word for word in counts.index if is_missing(word, ())]
        for word in (w for w in doubtful if w not in feature.aliases.values()):
            warnings.append(
                f"column '{column}': {counts[word]} cell(s) '{word}' count as a category; if that "
                f'means missing, add: {feature.name}.missing = ["{word}"]'
            )
    return warnings


def _missing_spellings(table: pd.DataFrame, schema: Schema) -> dict[str, dict[str, int]]:
    """See `TypedRows.report`; a column of ids or labels only where a word stands for missing."""
    spellings = dict[str, dict[str, int]]()
    for column in filter(None, (schema.lesion, schema.patient, schema.label)):
        counts = missing_words(table[column], schema.missing)
        if set(counts) - {"", *schema.label_names}:
            spellings[column] = counts
    for feature in schema.features:
        found = {column: missing_spellings(table[column], feature) for column in feature.reads}
        spellings |= {column: gaps for column, gaps in found.items() if gaps}
    return spellings


def _unused_columns(table: pd.DataFrame, schema: Schema) -> dict[str, str]:
    """Columns the schema does not use -> their names here, clear of our own."""
    used = {*schema.roles, *(column for feature in schema.features for column in feature.reads)}
    names: dict[str, str] = {}
    taken = {*RESERVED_COLUMNS, *table.columns}
    for column in table.columns.difference(list(used), sort=False):
        name = column
        while name in RESERVED_COLUMNS or (name != column and name in taken):
            name += "_published"
        names[column] = name
        taken.add(name)
    return names


def level_table(frame: pd.DataFrame, level: Level) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """A row per id of the level, in order of first appearance, and the columns that disagreed.

    A continuous column takes the median of the known values; the others take the most frequent one
    and, of equals, the first in sorted order, or yes. Missing cells have no say. Of each column
    with more than one value within some ids: `level column rule example`, and `count` of these ids.
    """
    key = f"{level.name}_id"
    groups = frame[[key, *level.columns]].groupby(key, sort=False)
    table, found = groups.first(), list[dict[str, Any]]()
    for feature, column in ((f, column) for f in level.features for column in f.columns):
        several = groups[column].nunique() > 1
        if not several.any():
            continue
        rule = "median" if feature.kind == "continuous" else "most frequent"
        differing = frame.loc[frame[key].map(several), [key, column]].groupby(key, sort=False)
        resolved = differing[column].median() if rule == "median" else differing[column].agg(_mode)
        table.loc[several, column] = resolved
        first = several.index[several][0]
        given = sorted(frame.loc[frame[key] == first, column].dropna().unique())
        listed = ", ".join(map(_text, given))
        found.append(
            {
                "level": level.name,
                "column": column,
                "count": int(several.sum()),
                "rule": rule,
                "example": f"{first}: {listed} -> {_text(table.loc[first, column])}",
            }
        )
    return table.reset_index(), found


def _mode(values: pd.Series) -> object:
    """The most frequent known value; of equals the first in sorted order, or yes."""
    equals = values.mode()
    return equals.iloc[-1 if pd.api.types.is_bool_dtype(values.dtype) else 0]


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
