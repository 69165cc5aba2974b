"""The hierarchy of a cohort as arrays, and its metadata as a model reads them.

Axis names: c = rows of the level below, i = images, n = rows of a level, h = width of a tabular
encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64

from slimp.data.cohort import Cohort
from slimp.data.encoding import Rows
from slimp.data.schema import LevelName
from slimp.errors import UserError
from slimp.features.embed import metadata_embeddings
from slimp.models.nested import Slimp

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Storey:
    """One level, and how the level below belongs to it."""

    name: LevelName
    parent: Int64[Array, " c"]
    """Row of this level for each row of the level below (for the first level: each image)."""
    count: int
    of_image: Int64[Array, " i"]
    """Row of this level for each image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedRows:
    """The rows of one level as a model reads them."""

    rows: Rows
    known: Bool[Array, " n"]
    """Whether a row has any known cell."""
    embeddings: Float32[Array, "n h"]


def storeys(cohort: Cohort) -> tuple[Storey, Storey, Storey]:
    """Images, lesions and patients."""
    images = np.arange(len(cohort), dtype=np.int64)
    lesions, patients = cohort.lesion_of_image, cohort.patient_of_lesion
    return (
        Storey(name="image", parent=images, count=len(cohort), of_image=images),
        Storey(name="lesion", parent=lesions, count=len(cohort.lesions), of_image=lesions),
        Storey(
            name="patient",
            parent=patients,
            count=len(cohort.patients),
            of_image=patients[lesions],
        ),
    )


def as_the_model_reads(model: Slimp, cohort: Cohort) -> Cohort:
    """The cohort, its metadata joined at the lesion level for a model of the hierarchy flat."""
    return cohort.flatten() if model.config.hierarchy == "flat" else cohort


def lending_levels(model: Slimp) -> tuple[LevelName, ...]:
    """Levels that can lend: those whose projections were trained, from fine to coarse.

    Raises:
        UserError: there are none.
    """
    levels = tuple(name for name in model.encodings if model.config.weights[name] > 0)
    if not levels:
        raise UserError(
            "the model relates images to no metadata (it has no metadata level with a weight), so "
            "nothing can be lent. Pre-train on a cohort with metadata, with --lesion-weight or "
            "--patient-weight above 0."
        )
    return levels


def read_metadata(
    model: Slimp, cohort: Cohort, level: LevelName, *, device: torch.device, hide: bool = False
) -> EmbeddedRows:
    """The rows of a level; equal ones are embedded once. Columns that lack are missing cells.

    Args:
        model: on `device`, in evaluation mode.
        cohort: whose rows.
        level: one that the model has.
        device: where to compute.
        hide: as if no cell were known.
    """
    encoding, table = model.encodings[level], cohort.tables.of_level(level)
    if hide:
        table = table[[]]
    rows = encoding.encode(table.reindex(columns=[*dict.fromkeys(encoding.columns_in(table))]))
    distinct, first = torch.unique(rows.equal_groups(), return_inverse=True)
    example = torch.empty(len(distinct), dtype=torch.int64)
    example[first] = torch.arange(len(first))  # any row of each group: they are equal
    embedded = metadata_embeddings(model, level, rows[example], device)
    return EmbeddedRows(
        rows=rows, known=rows.present.any(dim=1).numpy(), embeddings=embedded[first.numpy()]
    )
