"""One published table, a row per image, becomes the typed tables of a cohort.

The table is text throughout, as `sources.reading.read_table` gives it; its index holds the file
and the row that a person sees there (the header is row 1), so that a message can name them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from slimp.data.cohort import Tables
from slimp.data.schema import RESERVED_COLUMNS, Schema
from slimp.errors import TableError
from slimp.sources.parse_cells import (
    as_whole,
    image_key,
    missing_spellings,
    points_outside,
    read_feature,
)
from slimp.sources.resolve import Disagreement, level_table

ASSUMED = "assumed"
"""Key in `DataFrame.attrs` of what a reader assumed about a file, one sentence each."""
JOINED = "joined"
"""Key in `DataFrame.attrs` of column -> (file it was joined from, column of the ids there)."""

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """What was met in a table and how it was settled."""

    assumed: tuple[str, ...] = ()
    """What had to be assumed about the file, such as its encoding."""
    rows: int = 0
    """Of the published table, duplicates included."""
    duplicate_rows: int = 0
    """Rows that repeat another row to the letter; they were collapsed."""
    lesion_ids: str = ""
    """Where the lesion ids come from."""
    patient_ids: str = ""
    empty_lesion_ids: int = 0
    empty_patient_ids: int = 0
    renamed_columns: tuple[str, ...] = ()
    """'old -> new' for unused columns that bear the name of one of ours."""
    unlabelled: int = 0
    """Images without a label."""
    conflicting_labels: int = 0
    """Lesions whose images have different labels."""
    conflicting_labels_example: str = ""
    disagreements: tuple[Disagreement, ...] = ()
    missing_spellings: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Feature column -> what stands for missing ('' is the empty cell) -> cells; gaps only."""
    warnings: tuple[str, ...] = ()


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
    report: TableReport

    def __len__(self) -> int:
        return len(self.frame)

    def keep(self, mask: Mask) -> TypedRows:
        """The rows where `mask` is true; ids stay what they are."""
        cells = self.image_cells[mask].reset_index(drop=True)
        return replace(self, frame=self.frame[mask].reset_index(drop=True), image_cells=cells)


def build_tables(table: pd.DataFrame, schema: Schema) -> tuple[Tables, TableReport]:
    """Typed tables per level, and what was met on the way.

    Raises:
        TableError: as `type_rows`.
    """
    return split_levels(type_rows(table, schema), schema)


def type_rows(table: pd.DataFrame, schema: Schema) -> TypedRows:
    """Typed cells and ids; rows that repeat another to the letter are collapsed.

    Raises:
        TableError: no rows, a column is missing, a cell does not fit its kind, an image id is
            empty, points outside the image folder, or stands in two rows that differ.
    """
    if not isinstance(table.index, pd.MultiIndex):
        rows = pd.MultiIndex.from_product([["table"], range(2, len(table) + 2)])
        table = table.set_axis(rows, axis="index")
    _require_columns(table, schema)
    image_ids = _image_ids(table, schema)
    first = ~_repeats(table, image_ids, schema)
    report = TableReport(
        assumed=tuple(table.attrs.get(ASSUMED, ())),
        rows=len(table),
        duplicate_rows=int((~first).sum()),
    )
    table, image_ids = table[first], image_ids[first]
    lesions, patients, report = _lesions_and_patients(table, image_ids, schema, report)
    columns = {"image_id": image_ids, "lesion_id": lesions, "patient_id": patients}
    columns["label"] = _labels(table, schema)
    if schema.split is not None:
        columns["split"] = _known(table[schema.split])
    spellings = dict[str, dict[str, int]]()
    for feature in schema.features:
        for column in feature.reads:
            if gaps := missing_spellings(table[column], feature):
                spellings[column] = gaps
        columns |= read_feature(table, feature, _namer(table, schema, feature.reads[0]))
    names = _unused_columns(table, schema)
    columns |= {new: table[old] for old, new in names.items()}
    renamed = tuple(f"{old} -> {new}" for old, new in names.items() if old != new)
    return TypedRows(
        frame=pd.DataFrame(columns).reset_index(drop=True),
        image_cells=table[schema.image].reset_index(drop=True),
        unused=tuple(names.values()),
        report=replace(report, renamed_columns=renamed, missing_spellings=spellings),
    )


def split_levels(rows: TypedRows, schema: Schema) -> tuple[Tables, TableReport]:
    """A table per level, values resolved as in `slimp.sources.resolve`, and what was met."""
    frame = rows.frame
    lesions, of_lesions = level_table(frame, schema.level("lesion"))
    lesions.insert(1, "patient_id", frame.drop_duplicates("lesion_id")["patient_id"].to_numpy())
    patients, of_patients = level_table(frame, schema.level("patient"))
    ids = ["image_id", "lesion_id", "patient_id", "label"] + ["split"] * (schema.split is not None)
    images = frame[[*ids, *schema.level("image").columns, *rows.unused]]
    conflicts, example = _conflicting_labels(frame)
    report = replace(
        rows.report,
        unlabelled=int(frame["label"].isna().sum()),
        conflicting_labels=conflicts,
        conflicting_labels_example=example,
        disagreements=(*of_lesions, *of_patients),
        warnings=(
            *_copies_of_the_label(frame, schema),
            *_unnamed_labels(frame, schema),
            *_doubts(frame, schema),
        ),
    )
    return Tables(images=images, lesions=lesions, patients=patients), report


def _require_columns(table: pd.DataFrame, schema: Schema) -> None:
    file = table.index[0][0] if len(table) else "the table"
    ids = {"image": schema.image, "lesion": schema.lesion, "patient": schema.patient}
    ids |= {"label": schema.label, "split": schema.split}
    wanted = [(column, role) for role, column in ids.items() if column]
    wanted += [(c, f"feature '{f.name}'") for f in schema.features for c in f.reads]
    names = [str(name) for name in table.columns]
    for feature in schema.features:
        if feature.from_date is not None and feature.name in names:
            raise TableError(
                f"{file}: feature '{feature.name}' is made of two dates, but the table has a "
                f"column '{feature.name}' too. Give the feature another name."
            )
    for column, role in wanted:
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1, cutoff=0.7)
            near += [name for name in names if column.lower() in name.lower()]
            more = f" and {len(names) - 20} more" * (len(names) > 20)
            has = f"The table has: {', '.join(names[:20])}{more}."
            raise TableError(
                f"{file}: there is no column '{column}' (in the schema: {role}). "
                + (f"Did you mean '{near[0]}'?" if near else has)
            )
    if table.empty:
        raise TableError(f"{file}: has no rows, only a header.")


def _namer(table: pd.DataFrame, schema: Schema, column: str | None = None) -> Callable[[int], str]:
    joined_from = table.attrs.get(JOINED, {}).get(column)

    def where(position: int) -> str:
        file, row = table.index[position]
        place = f"{file}, row {row} ({schema.image} {table[schema.image].iloc[position]})"
        if joined_from is not None:
            other, key = joined_from
            place += f", joined from {other} ({key} {table[key].iloc[position]})"
        return place

    return where


def _image_ids(table: pd.DataFrame, schema: Schema) -> pd.Series:
    where = _namer(table, schema)
    ids = []
    for position, cell in enumerate(table[schema.image].tolist()):
        if points_outside(cell):
            advice = "Write the path from that folder on, without '..'."
            if ".." not in cell:
                advice = (
                    "Write the path from that folder on; or name the part of it that stands for "
                    "the folder under [table], as in image_root = 'D:\\photos'."
                )
            raise TableError(
                f"{where(position)}, column '{schema.image}': '{cell}' points outside the image "
                f"folder. {advice}"
            )
        ids.append(image_key(cell))
        if not ids[-1]:
            raise TableError(
                f"{where(position)}, column '{schema.image}': '{cell}' names no image. Every row "
                "stands for one image file; fill the cell or remove the row."
            )
    return pd.Series(ids, index=table.index, dtype="str")


def _repeats(table: pd.DataFrame, image_ids: pd.Series, schema: Schema) -> Mask:
    """(rows,) whether an earlier row is the same to the letter; refuses rows that differ."""
    repeats = image_ids.duplicated().to_numpy()
    twins = np.flatnonzero(image_ids.duplicated(keep=False))
    copies = table.iloc[twins].duplicated().to_numpy()
    differing = twins[repeats[twins] & ~copies]
    if len(differing):
        second = differing[0]
        first = np.flatnonzero(image_ids == image_ids.iloc[second])[0]
        a, b = table.iloc[first], table.iloc[second]
        column = next(name for name in table.columns if a[name] != b[name])
        raise TableError(
            f"{_namer(table, schema)(int(second))}, column '{column}': '{b[column]}', but row "
            f"{table.index[first][1]} has '{a[column]}' for the same image "
            f"'{image_ids.iloc[second]}'. An image has one row; remove the wrong one."
        )
    return repeats


def _lesions_and_patients(
    table: pd.DataFrame, image_ids: pd.Series, schema: Schema, report: TableReport
) -> tuple[pd.Series, pd.Series, TableReport]:
    """Cohort-wide lesion and patient ids; a row without one gets a lesion or patient of its own."""
    own = "image:" + image_ids
    lesions, lesion_rule = image_ids, "each image is a lesion"
    if schema.lesion is not None:
        lesions, lesion_rule = table[schema.lesion].str.strip(), f"column '{schema.lesion}'"
    patients, patient_rule = own.where(own == "", ""), "each lesion is a patient"
    if schema.patient is not None:
        patients, patient_rule = table[schema.patient].str.strip(), f"column '{schema.patient}'"
    no_lesion, no_patient = lesions == "", patients == ""
    owners = pd.DataFrame({"lesion": lesions, "patient": patients})[~no_lesion & ~no_patient]
    owner = owners.drop_duplicates().set_index("lesion")["patient"]
    shared = owner.index[owner.index.duplicated()].nunique()
    lesions = lesions.where(~no_lesion, own)
    if shared:
        patients = patients.where(~no_patient, own)
        lesions = patients + "/" + lesions
        pairs = pd.DataFrame({"lesion": lesions, "patient": patients}).drop_duplicates()
        if (unclear := pairs["lesion"][pairs["lesion"].duplicated()]).any():
            lesion = unclear.iloc[0]
            one, other = pairs.loc[pairs["lesion"] == lesion, "patient"].iloc[:2]
            raise TableError(
                f"{table.index[0][0]}: the lesion '{lesion}' could be of patient '{one}' or "
                f"'{other}'. Give lesions ids that are unique in the table, or ids without '/'."
            )
        lesion_rule = f"patient/lesion, because {shared} lesion id(s) occur in several patients"
    elif schema.patient is None:
        patients = lesions
    else:  # a lesion whose patient is known from another row brings it along
        known = owner.reindex(lesions).set_axis(lesions.index).fillna("lesion:" + lesions)
        patients = patients.where(~no_patient, known)
    report = replace(
        report,
        lesion_ids=lesion_rule,
        patient_ids=patient_rule,
        empty_lesion_ids=int(no_lesion.sum()),
        empty_patient_ids=0 if schema.patient is None else int(no_patient.sum()),
    )
    return lesions, patients, report


def _known(cells: pd.Series) -> pd.Series:
    stripped = cells.str.strip()
    return stripped.where(stripped != "")


def _labels(table: pd.DataFrame, schema: Schema) -> pd.Series:
    if schema.label is None:
        return pd.Series(np.nan, index=table.index, dtype="str")
    labels = _known(table[schema.label])
    names = dict(schema.label_names)
    numbers = {number: name for key, name in names.items() if (number := as_whole(key))}
    for label in labels.dropna().unique():  # 1 and 1.0 are one code
        if label not in names and (number := as_whole(label)) in numbers:
            names[label] = numbers[str(number)]
    labels = labels.replace(names)
    return labels.where(labels != "")  # label_names may map a label to '', that is none


def _unnamed_labels(frame: pd.DataFrame, schema: Schema) -> list[str]:
    """A warning if some labels have a name in the schema and others do not."""
    named = {*schema.label_names, *schema.label_names.values()}
    counts = frame["label"].value_counts()
    unnamed = sorted(f"'{label}' ({n} images)" for label, n in counts.items() if label not in named)
    if not schema.label_names or not unnamed:
        return []
    shown = ", ".join(unnamed[:5]) + (f" and {len(unnamed) - 5} more" if unnamed[5:] else "")
    return [
        f"label_names has no name for {shown}; they stay as they are. If one is meant by a name "
        "there, correct its spelling."
    ]


def _unused_columns(table: pd.DataFrame, schema: Schema) -> dict[str, str]:
    """Columns the schema does not use -> their names here, clear of our own."""
    used = {schema.image, schema.lesion, schema.patient, schema.label, schema.split}
    used |= {column for feature in schema.features for column in feature.reads}
    names: dict[str, str] = {}
    taken = {*RESERVED_COLUMNS, *table.columns}
    for column in table.columns.difference(list(used - {None}), sort=False):
        name = column
        while name in RESERVED_COLUMNS or (name != column and name in taken):
            name += "_published"
        names[column] = name
        taken.add(name)
    return names


def _conflicting_labels(frame: pd.DataFrame) -> tuple[int, str]:
    """How many lesions have images with different labels, and one of them."""
    labelled = frame.dropna(subset="label")
    counts = labelled.groupby("lesion_id", sort=False)["label"].nunique()
    conflicts = counts.index[counts > 1]
    if not len(conflicts):
        return 0, ""
    labels = labelled.loc[labelled["lesion_id"] == conflicts[0], "label"]
    return len(conflicts), f"{conflicts[0]}: {', '.join(sorted(labels.unique()))}"


def _copies_of_the_label(frame: pd.DataFrame, schema: Schema) -> list[str]:
    """A warning per feature column that is the label in other words."""
    labelled = frame.dropna(subset="label")
    labels, classes = pd.factorize(labelled["label"])
    warnings = list[str]()
    if len(classes) < 2:
        return warnings
    for column in (column for feature in schema.features for column in feature.columns):
        if labelled[column].iloc[:1000].nunique() > len(classes):
            continue  # spares most continuous columns the work below
        values, distinct = pd.factorize(labelled[column], use_na_sentinel=False)
        pairs = np.unique(labels.astype(np.int64) * len(distinct) + values)
        if len(distinct) == len(pairs) == len(classes):
            warnings.append(
                f"column '{column}' is the label in other words (one value per class). "
                "List it under [refused] in the schema."
            )
    return warnings


def _doubts(frame: pd.DataFrame, schema: Schema) -> list[str]:
    doubts = [
        f"column '{column}' ({level.name} level) is empty in every row."
        for level in schema.levels
        for column in level.columns
        if frame[column].isna().all()
    ]
    classes = frame["label"].dropna().unique()
    if schema.label is not None and len(classes) == 0:
        doubts.append("no image has a label: a probe cannot be trained.")
    if len(classes) == 1:
        doubts.append(f"every label is '{classes[0]}': a probe cannot be trained.")
    if frame["patient_id"].nunique() == 1:
        doubts.append("there is one patient: no patient-disjoint split exists.")
    return doubts
