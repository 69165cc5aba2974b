"""Retrieved metadata as a table: the neighbours of each image, and values combined from theirs.

Axis names: i = images of the target, k = neighbours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from slimp.data.cohort import Cohort
from slimp.data.files import new_file
from slimp.data.schema import LEVELS, Kind, LevelName
from slimp.evaluation.metrics import Array
from slimp.features.pseudo_metadata import FILE, MODEL_KEY, PseudoMetadata, fingerprint, to_lists
from slimp.models.nested import Slimp
from slimp.retrieval.index import Index
from slimp.retrieval.routes import Retrieved


def pseudo_table(
    retrieved: Retrieved, index: Index, target: Cohort, abstained: Bool[Array, " i"]
) -> pd.DataFrame:
    """A row per image and rank: the neighbour, how near it is, and its values as published.

    Columns `image_id route rank reference_image_id reference_lesion_id reference_patient_id`, then
    `<level>_similarity` and `<level>_weight`, `abstained`, and the values as `<level>.<column>`.
    The lesion is the one with the lesion metadata, the image is one of it (or the one with the
    image metadata), and the patient is the one with the patient metadata; where only one of the
    levels is retrieved, the others are those of its neighbour. Rank r pairs the r-th lesion with
    the r-th patient; ranks above the first are left out where there are not as many neighbours.
    """
    images, levels = target.images["image_id"].to_numpy(), retrieved.levels
    k = next(iter(levels.values())).row.shape[1]
    columns: dict[str, Any] = {
        "image_id": np.repeat(images, k),
        "route": retrieved.route,
        "rank": np.tile(np.arange(1, k + 1), len(images)),
    }
    columns |= _reference_ids(retrieved, index.cohort)
    for name, level in levels.items():
        columns[f"{name}_similarity"] = level.similarity.ravel()
        columns[f"{name}_weight"] = level.weight.ravel()
    columns["abstained"] = np.repeat(abstained, k)
    for name, level in levels.items():
        values = _rows_of(index.cohort, name, level.row)[[*_kinds(index, name)]]
        columns |= {f"{name}.{column}": values[column].array for column in values}
    table = pd.DataFrame(columns)
    some = np.any([level.weight.ravel() > 0 for level in levels.values()], axis=0)
    kept: pd.DataFrame = table[(table["rank"] == 1) | some].reset_index(drop=True)
    return kept


def pseudo_metadata(
    retrieved: Retrieved, target: Cohort, abstained: Bool[Array, " i"], model: Slimp
) -> PseudoMetadata:
    """What `embed` takes as `pseudo`."""
    return PseudoMetadata(
        image_ids=target.images["image_id"].to_numpy(),
        embeddings={name: level.embedding for name, level in retrieved.levels.items()},
        imputed={name: level.imputed for name, level in retrieved.levels.items()},
        abstained=abstained,
        model=fingerprint(model),
    )


def save_pseudo(folder: Path, table: pd.DataFrame, features: PseudoMetadata) -> None:
    """Writes `pseudo.parquet`: the table, and in rank 1 the retrieved embedding of each level."""
    content = pa.Table.from_pandas(table, preserve_index=False)
    first = np.flatnonzero(table["rank"] == 1)
    for name, values in features.embeddings.items():
        wide = np.zeros((len(table), values.shape[1]), dtype=np.float32)
        known = np.zeros(len(table), dtype=bool)
        wide[first], known[first] = values, features.imputed[name]
        content = content.append_column(f"{name}_embedding", to_lists(wide, known))
    notes = {**(content.schema.metadata or {}), MODEL_KEY: features.model.encode()}
    with new_file(folder / FILE) as partial:
        pq.write_table(content.replace_schema_metadata(notes), partial)


def retrieved_values(retrieved: Retrieved, index: Index) -> dict[LevelName, pd.DataFrame]:
    """Per level a row per image: the values of its neighbours, combined by their weights.

    Continuous: the weighted mean. Categorical: the category of the greatest weight, the first in
    alphabetical order of equal ones. Checkbox: ticked if half of the weight or more is. Neighbours
    whose cell is missing do not count.
    """
    out: dict[LevelName, pd.DataFrame] = {}
    for name, level in retrieved.levels.items():
        cells, weight = _rows_of(index.cohort, name, level.row), level.weight.astype(np.float64)
        kinds = _kinds(index, name)
        out[name] = pd.DataFrame({c: _combine(cells[c], weight, kinds[c]) for c in kinds})
    return out


def _combine(cells: pd.Series, weight: Float[Array, "i k"], kind: Kind) -> pd.Series:
    known = cells.notna().to_numpy().reshape(weight.shape) & (weight > 0)
    weight = np.where(known, weight, 0.0)  # (i, k)
    total = weight.sum(axis=1)
    none = total == 0
    if kind == "categorical":
        codes, categories = pd.factorize(cells, sort=True)
        votes = np.zeros((len(weight), len(categories) + 1))  # the last of missing cells: 0
        np.add.at(votes, (np.arange(len(weight))[:, None], codes.reshape(weight.shape)), weight)
        names = np.array([*categories, None], dtype=object)
        return pd.Series(names[np.where(none, -1, votes.argmax(axis=1))], dtype="str")
    numbers = cells.astype("Float64" if kind == "checkbox" else "float64")
    values = numbers.to_numpy(dtype=np.float64, na_value=0.0).reshape(weight.shape)
    sums = (weight * np.where(known, values, 0.0)).sum(axis=1)
    mean = np.divide(sums, total, out=np.full(len(total), np.nan), where=~none)
    if kind == "continuous":
        return pd.Series(mean)
    return pd.Series(mean >= 0.5 - 1e-9, dtype="boolean").mask(none)


def _kinds(index: Index, level: LevelName) -> dict[str, Kind]:
    """The columns of a level, and what they hold."""
    return {c: f.kind for f in index.cohort.schema.level(level).features for c in f.columns}


def _rows_of(cohort: Cohort, level: LevelName, rows: Array) -> pd.DataFrame:
    """Rows of a level's table, one after the other; missing cells for -1."""
    return cohort.tables.of_level(level).reset_index(drop=True).reindex(rows.ravel())


def _reference_ids(retrieved: Retrieved, reference: Cohort) -> dict[str, Any]:
    """The ids of image, lesion and patient of each neighbour; missing where there is none."""
    row: dict[LevelName, Array] = {}
    for name, level in retrieved.levels.items():  # from fine to coarse: the finer decides
        lesion = np.append(reference.lesion_of_image, -1)[level.image]
        own: dict[LevelName, Array] = {
            "image": level.image,
            "lesion": level.row if name == "lesion" else lesion,
        }
        patient = np.append(reference.patient_of_lesion, -1)[own["lesion"]]
        own["patient"] = level.row if name == "patient" else patient
        for key, rows in own.items():
            before = row.get(key, np.full(rows.shape, -1))
            decides = key == name
            row[key] = np.where((before < 0) | (decides & (rows >= 0)), rows, before)
    return {
        f"reference_{name}_id": _rows_of(reference, name, row[name])[f"{name}_id"].array
        for name in LEVELS
    }
