"""Loans as a table: who lends what to which image, and the values that come of it.

Axis names: i = images of the target, k = lenders.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from slimp.data.cohort import Cohort
from slimp.data.files import new_file
from slimp.data.schema import Kind, LevelName
from slimp.features.pseudo_metadata import FILE, MODEL_KEY, PseudoMetadata, fingerprint, to_lists
from slimp.models.nested import Slimp
from slimp.retrieval.index import Reference
from slimp.retrieval.routes import Loans

Array = np.ndarray[Any, np.dtype[Any]]


def pseudo_table(
    loans: Loans, reference: Reference, target: Cohort, abstained: Bool[Array, " i"]
) -> pd.DataFrame:
    """A row per image and rank: the lender, how near it is, and its values as published.

    Columns `image_id route rank reference_image_id reference_lesion_id reference_patient_id`, then
    `<level>_similarity` and `<level>_weight`, `abstained`, and the values as `<level>.<column>`.
    The lesion is the one that lends lesion metadata, the image is one of it, and the patient is
    the one that lends patient metadata; where only one of the two levels is lent, the others are
    those of its lender. Rank r pairs the r-th lesion with the r-th patient; ranks above the first
    are left out where there are not as many lenders.
    """
    images = target.images["image_id"].to_numpy()
    k = next(iter(loans.levels.values())).lender.shape[1] if loans.levels else 1
    columns: dict[str, Any] = {
        "image_id": np.repeat(images, k),
        "route": loans.route,
        "rank": np.tile(np.arange(1, k + 1), len(images)),
    }
    columns |= _lenders(loans, reference, len(images), k)
    for name, loan in loans.levels.items():
        columns[f"{name}_similarity"] = loan.similarity.ravel()
        columns[f"{name}_weight"] = loan.weight.ravel()
    columns["abstained"] = np.repeat(abstained, k)
    for name, loan in loans.levels.items():
        values = _published(reference, name).reindex(loan.lender.ravel())
        for column in values:
            columns[f"{name}.{column}"] = values[column].array
    nobody = np.all([loan.weight.ravel() == 0 for loan in loans.levels.values()], axis=0)
    table = pd.DataFrame(columns)
    lent = (table["rank"] == 1).to_numpy(dtype=bool) | ~nobody
    kept: pd.DataFrame = table[lent].reset_index(drop=True)
    return kept


def lent_features(
    loans: Loans, target: Cohort, abstained: Bool[Array, " i"], model: Slimp
) -> PseudoMetadata:
    """What `embed` takes as `pseudo`."""
    return PseudoMetadata(
        image_ids=target.images["image_id"].to_numpy(),
        embeddings={name: loan.embedding for name, loan in loans.levels.items()},
        imputed={name: loan.borrows for name, loan in loans.levels.items()},
        abstained=abstained,
        model=fingerprint(model),
    )


def save_pseudo(folder: Path, table: pd.DataFrame, features: PseudoMetadata) -> None:
    """Writes `pseudo.parquet`: the table, and in rank 1 the lent embedding of each level."""
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


def lent_values(loans: Loans, reference: Reference) -> dict[LevelName, pd.DataFrame]:
    """Per level a row per image: the values that its lenders, each with its weight, make.

    Continuous: the weighted mean. Categorical: the category of the greatest weight, the first in
    alphabetical order of equal ones. Checkbox: ticked if half of the weight or more is. Lenders
    whose cell is missing do not count.
    """
    out: dict[LevelName, pd.DataFrame] = {}
    for name, loan in loans.levels.items():
        published, weight = _published(reference, name), loan.weight.astype(np.float64)
        kinds = {c: f.kind for f in reference.cohort.schema.level(name).features for c in f.columns}
        columns = {}
        for column in published:
            cells = published[column].reindex(loan.lender.ravel())
            columns[str(column)] = _combine(cells, weight, kinds[str(column)])
        out[name] = pd.DataFrame(columns)
    return out


def _combine(cells: pd.Series, weight: Float[Array, "i k"], kind: Kind) -> pd.Series:
    known = cells.notna().to_numpy().reshape(weight.shape) & (weight > 0)
    share = np.where(known, weight, 0.0)  # (i, k)
    total = share.sum(axis=1)
    nobody = total == 0
    if kind == "categorical":
        codes, categories = pd.factorize(cells, sort=True)
        votes = np.zeros((len(weight), len(categories) + 1))
        np.add.at(votes, (np.arange(len(weight))[:, None], codes.reshape(weight.shape)), share)
        best = votes[:, :-1].argmax(axis=1) if len(categories) else np.zeros(len(weight), int)
        names = np.array([*categories, None], dtype=object)
        return pd.Series(names[np.where(nobody, -1, best)], dtype="str")
    numbers = cells.astype("Float64" if kind == "checkbox" else "float64")
    filled = numbers.to_numpy(dtype=np.float64, na_value=0.0).reshape(weight.shape)
    filled = np.where(known, filled, 0.0)
    mean = np.divide((share * filled).sum(axis=1), total, out=np.zeros_like(total), where=~nobody)
    if kind == "continuous":
        return pd.Series(np.where(nobody, np.nan, mean))
    ticked = pd.array(mean >= 0.5 - 1e-9, dtype="boolean")
    ticked[nobody] = pd.NA
    return pd.Series(ticked)


def _published(reference: Reference, level: LevelName) -> pd.DataFrame:
    columns = list(reference.cohort.schema.level(level).columns)
    return reference.cohort.tables.of_level(level)[columns].reset_index(drop=True)


def _lenders(loans: Loans, reference: Reference, n: int, k: int) -> Mapping[str, Any]:
    """The ids of image, lesion and patient of each lender; missing where there is none."""
    cohort = reference.cohort
    row = {name: np.full((n, k), -1) for name in ("image", "lesion", "patient")}
    for name, loan in loans.levels.items():
        own = {"image": loan.image}
        lesion = np.append(cohort.lesion_of_image, -1)[loan.image]
        own["lesion"] = loan.lender if name == "lesion" else lesion
        patient = np.append(cohort.patient_of_lesion, -1)[own["lesion"]]
        own["patient"] = loan.lender if name == "patient" else patient
        for key, rows in own.items():
            coarser = key == "patient" and name == "patient"
            row[key] = np.where((row[key] < 0) | (coarser & (rows >= 0)), rows, row[key])
    ids: dict[str, Any] = {}
    for key, table in (
        ("image", cohort.images),
        ("lesion", cohort.lesions),
        ("patient", cohort.patients),
    ):
        named = table[f"{key}_id"].reset_index(drop=True).reindex(row[key].ravel())
        ids[f"reference_{key}_id"] = named.array
    return ids
