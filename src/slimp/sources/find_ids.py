"""Which image, lesion and patient each row of a table is about, by ids unique in the cohort."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.parse_cells import JOINED, Where, image_key, points_outside
from slimp.sources.parse_ids import FLOAT, join_similar, parse_ids

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


def namer(table: pd.DataFrame, schema: Schema, column: str | None = None) -> Where:
    """Position -> the words that name its file, row and image, and the table of a joined column."""
    origins = table.attrs.get(JOINED, {}).get(column, ())

    def where(position: int) -> str:
        file, row = table.index[position]
        place = f"{file}, row {row} ({schema.image} {table[schema.image].iloc[position]})"
        for other, key, lost in origins:
            if (file, row) not in lost:
                place += f", joined from {other}"
                place += f" ({key} {table[key].iloc[position]})" if key in table else ""
        return place

    return where


def _cell(table: pd.DataFrame, column: str, schema: Schema, faulty: pd.Series) -> str:
    """The first cell of a column that is at fault, and its place."""
    row = int(faulty.to_numpy().argmax())
    return f"{namer(table, schema)(row)}, column '{column}': '{table[column].iloc[row]}'"


def image_ids(table: pd.DataFrame, schema: Schema, said: list[str]) -> tuple[pd.Series, pd.Series]:
    """The image ids, and the cells that name the files."""
    where, published = namer(table, schema), table[schema.image]
    cells, notes = parse_ids(published, where, missing=schema.missing)
    ids = cells.map(image_key).astype("str")
    outside, fill = published.map(points_outside), "Fill the cell or remove the row."
    write = (
        "Write the path from that folder on, without '..'; or name the part of it that stands for "
        "the folder under [table], as in image_root = 'D:\\photos'."
    )
    for faulty, problem, remedy in (
        (outside, "points outside the image folder", write),
        (ids == "", "names no image", fill),
    ):
        if faulty.any():
            raise TableError(f"{_cell(table, schema.image, schema, faulty)} {problem}. {remedy}")
    ids, alike = join_similar(ids, schema.similar_ids, where, form=str.casefold)
    said += [note for note in (*notes, *alike) if "more than one way" not in note]
    read_as_whole = published.str.strip().str.fullmatch(FLOAT.pattern)
    return ids, cells.where(read_as_whole, published)


def repeats(table: pd.DataFrame, ids: pd.Series, schema: Schema) -> Mask:
    """(rows,) whether an earlier row is the same to the letter; refuses rows that differ."""
    repeats = ids.duplicated().to_numpy()
    twins = np.flatnonzero(ids.duplicated(keep=False))
    differing = twins[repeats[twins] & ~table.iloc[twins].duplicated().to_numpy()]
    if len(differing):
        second = int(differing[0])
        first = int((ids == ids.iloc[second]).argmax())
        a, b = table.iloc[first], table.iloc[second]
        column = next(name for name in table.columns if a[name] != b[name])
        raise TableError(
            f"{namer(table, schema)(second)}, column '{column}': '{b[column]}', but row "
            f"{table.index[first][1]} has '{a[column]}' for the same image "
            f"'{ids.iloc[second]}'. An image has one row; remove the wrong one, or write "
            "the path if they are files in two folders."
        )
    return repeats


def lesions_and_patients(
    table: pd.DataFrame, ids: pd.Series, schema: Schema, said: list[str], *, one_each: bool
) -> tuple[pd.Series, pd.Series, dict[str, Any]]:
    """Cohort-wide lesion and patient ids, and what the report says of them.

    A row without a lesion gets one of its own; so does a lesion without a patient, if that is
    `one_each`.
    """
    own, where = "image:" + ids, namer(table, schema)
    lesions, lesion_rule = ids, "each image is a lesion"
    patients, patient_rule = ids.mask(ids != "", ""), "each lesion is a patient"
    for role, column in (("patient", schema.patient), ("lesion", schema.lesion)):
        if column is None:
            continue
        within = patients if role == "lesion" and schema.patient is not None else None
        found, notes = parse_ids(table[column], where, missing=schema.missing)
        found, alike = join_similar(found, schema.similar_ids, where, within=within)
        said += [*notes, *alike]
        if role == "patient":
            patients, patient_rule = found, f"column '{column}'"
        else:
            lesions, lesion_rule = found, f"column '{column}'"
    no_lesion, lesions = lesions == "", lesions.where(lesions != "", own)
    nobody = pd.Series(False, index=ids.index)
    if schema.patient is None:
        patients, shared = lesions, 0
    else:
        patients, shared = _of_their_lesions(patients, lesions, said)
        nobody = patients == ""
        if nobody.any() and not one_each:  # two of them may be of one patient
            raise TableError(
                f"{_cell(table, schema.patient, schema, nobody)} is no patient id, as in "
                f"{int(nobody.sum())} row(s) in all. Fill it in; or if each lesion without a "
                "patient is a patient of its own, pass --missing-patient-id one-each."
            )
        patients = patients.where(~nobody, "lesion:" + lesions)
    if shared:
        lesions = _within_patients(lesions, patients, nobody, where)
        lesion_rule = f"patient/lesion, because {shared} lesion id(s) occur in several patients"
    return (
        lesions,
        patients,
        {
            "lesion_ids": lesion_rule,
            "patient_ids": patient_rule,
            "missing_lesion_ids": int(no_lesion.sum()),
            "missing_patient_ids": int(nobody.sum()),
        },
    )


def _of_their_lesions(
    patients: pd.Series, lesions: pd.Series, said: list[str]
) -> tuple[pd.Series, int]:
    """The patients, missing ones from another row of the lesion; and how many lesion ids recur.

    Where lesion ids recur among patients, nobody knows whose lesion a row without one shows.
    """
    pairs = pd.DataFrame({"lesion": lesions, "patient": patients})[patients != ""]
    owner = pairs.drop_duplicates().set_index("lesion")["patient"]
    if shared := owner.index[owner.index.duplicated()].nunique():
        return patients, shared
    known = owner.reindex(lesions).set_axis(lesions.index).fillna("")
    if filled := int(((patients == "") & (known != "")).sum()):
        said.append(
            f"column '{patients.name}': {filled} row(s) without an id are of the patient that "
            "another row of the same lesion has"
        )
    return patients.where(patients != "", known), 0


def _within_patients(
    lesions: pd.Series, patients: pd.Series, nobody: pd.Series, where: Where
) -> pd.Series:
    """Ids of lesions that are unique within a patient become ones that are so in the table."""
    if len(several := np.flatnonzero(nobody & lesions.where(nobody).duplicated())):
        lesion = lesions.iloc[several[0]]
        raise TableError(
            f"{where(int(several[0]))}: has no patient, as another row of lesion '{lesion}', and "
            "lesion ids occur in several patients: nobody can tell whether they show one lesion. "
            "Give these rows patient ids, or lesion ids that are unique in the table; or empty "
            "their lesion ids, and each image is a lesion of its own."
        )
    unique = patients + "/" + lesions
    pairs = pd.DataFrame({"lesion": unique, "patient": patients}).drop_duplicates()
    if (unclear := pairs.loc[pairs["lesion"].duplicated(), "lesion"]).any():
        raise TableError(
            f"{lesions.index[0][0]}: lesion '{unclear.iloc[0]}' could be of two patients. Give "
            "lesions ids that are unique in the table, or ids without '/'."
        )
    return unique
