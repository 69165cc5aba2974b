"""The hierarchy of a whole cohort, and its metadata as a model reads them.

Axis names: i = images, n = rows of a level, h = width of a tabular encoder.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from slimp.data.batches import LevelBatch
from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS, LevelName
from slimp.features.encode import metadata_embeddings
from slimp.models.nested import Slimp

Array = np.ndarray[Any, np.dtype[Any]]


def as_model_reads(model: Slimp, cohort: Cohort) -> Cohort:
    """The cohort, with all metadata joined at the lesion level where the model is a flat one."""
    return cohort.flatten() if model.config.hierarchy == "flat" else cohort


def level_of_images(cohort: Cohort) -> dict[LevelName, Int64[Array, " i"]]:
    """Per level, the row of its table to which each image belongs."""
    lesions = cohort.lesion_of_image
    return {
        "image": np.arange(len(cohort), dtype=np.int64),
        "lesion": lesions,
        "patient": cohort.patient_of_lesion[lesions],
    }


def cohort_levels(
    model: Slimp,
    cohort: Cohort,
    device: torch.device,
    *,
    hide: Collection[LevelName] = (),
) -> tuple[LevelBatch, ...]:
    """The whole cohort as one batch: its levels from fine to coarse, for `Slimp.climb`.

    Columns that the cohort lacks are missing cells.

    Args:
        model: its encodings; a level without one only groups.
        cohort: as `as_model_reads` gives it.
        device: where to put the rows.
        hide: levels that are read as if no cell were known.
    """
    parents = (np.arange(len(cohort)), cohort.lesion_of_image, cohort.patient_of_lesion)
    levels = []
    for name, parent in zip(LEVELS, parents, strict=True):
        table, rows = cohort.tables.of_level(name), None
        if name in model.encodings:
            encoding = model.encodings[name]
            known = table[[]] if name in hide else table
            rows = encoding.encode(known.reindex(columns=[*encoding.columns_in(known)]))
        level = LevelBatch(
            name=name,
            rows=rows,
            groups=None if rows is None else rows.equal_groups(),
            parent=torch.from_numpy(np.asarray(parent, dtype=np.int64)),
            count=len(table),
        )
        levels.append(level.to(device))
    return tuple(levels)


def known_rows(level: LevelBatch) -> Bool[Array, " n"]:
    """Of each row, whether any of its cells is known."""
    assert level.rows is not None
    return np.asarray(level.rows.present.any(dim=1).cpu())


def encode_level(model: Slimp, level: LevelBatch) -> Float[Tensor, "n h"]:
    """Metadata embeddings of a level's rows; equal ones are encoded once.

    Args:
        model: in evaluation mode, on the device of the rows.
        level: one that the model has an encoder for.
    """
    assert level.rows is not None
    assert level.groups is not None
    device = level.groups.device
    distinct, group = torch.unique(level.groups, return_inverse=True)
    example = torch.empty_like(distinct)
    example[group] = torch.arange(len(group), device=device)  # any row of each: they are equal
    embeddings = metadata_embeddings(model, level.name, level.rows[example], device)
    return torch.from_numpy(embeddings).to(device)[group]
