"""What a reference can lend: its images, and the metadata of its lesions and patients.

Axis names: i = images, n = rows that lend, d = width of the space in which similarities are
taken, h = width of a tabular encoder, e = width of the image encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64

from slimp.data.cohort import Cohort
from slimp.data.schema import LevelName
from slimp.errors import UserError
from slimp.features.backends import inference
from slimp.features.embed import evaluating
from slimp.features.levels import (
    as_model_reads,
    cohort_levels,
    encode_level,
    known_rows,
    level_of_images,
)
from slimp.models.nested import Slimp

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelIndex:
    """The rows of one level that have known metadata, in the order of the level's table."""

    level: LevelName
    row: Int64[Array, " n"]
    """Of the level's table."""
    projections: Float32[Array, "n d"]
    """What queries are compared with."""
    embeddings: Float32[Array, "n h"]
    """What is lent."""
    patients: Array
    """(n,) ids."""
    first_image: Int64[Array, " n"]
    """Row of the first image of each, in the images' table."""

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """A cohort that lends, in memory; nothing of it is saved."""

    cohort: Cohort
    """As the model reads it."""
    images: Float32[Array, "i e"]
    """Image embeddings."""
    levels: Mapping[LevelName, LevelIndex]
    """Levels that can lend, from fine to coarse."""
    lends: Bool[Array, " i"]
    """Images whose rows are known at all these levels."""

    def __repr__(self) -> str:
        rows = ", ".join(f"{len(index)} {name} rows" for name, index in self.levels.items())
        return f"Reference({self.cohort.info.name!r}: {len(self.images)} images, {rows})"

    @classmethod
    def build(
        cls,
        model: Slimp,
        cohort: Cohort,
        images: Float32[Array, "i e"],
        *,
        device: torch.device | str = "cpu",
    ) -> Reference:
        """The index of a cohort.

        Args:
            model: left as it was found.
            cohort: has the columns that the model reads, at one level at least.
            images: embeddings of its images by the model, in its order.
            device: where to compute.

        Raises:
            UserError: the model relates images to no metadata, the cohort lacks columns, or no
                metadata of it are known.
        """
        wanted, device = retrievable_levels(model), torch.device(device)
        cohort = as_model_reads(model, cohort)
        levels, of_image = {}, level_of_images(cohort)
        lends = np.ones(len(cohort), dtype=bool)
        with evaluating(model, device), inference(device, "32"):
            for level in cohort_levels(model, cohort, device):
                name = level.name
                if name not in wanted or not _has_columns(model, cohort, name):
                    continue
                every = known_rows(level)
                known = np.flatnonzero(every)
                if not len(known):
                    continue
                embeddings = encode_level(model, level)[torch.from_numpy(known).to(device)]
                _, first = np.unique(of_image[name], return_index=True)  # rows are 0..count - 1
                levels[name] = LevelIndex(
                    level=name,
                    row=known,
                    projections=model.level(name).project_metadata(embeddings).cpu().numpy(),
                    embeddings=embeddings.cpu().numpy(),
                    patients=cohort.tables.of_level(name)["patient_id"].to_numpy()[known],
                    first_image=first[known],
                )
                lends &= every[of_image[name]]
        if not levels:
            raise UserError(
                f"reference '{cohort.info.name}': none of its metadata at the level(s) "
                f"{', '.join(wanted)} are known, so it can lend nothing. Choose another reference."
            )
        return cls(cohort=cohort, images=images, levels=levels, lends=lends)


def _has_columns(model: Slimp, cohort: Cohort, level: LevelName) -> bool:
    """Whether the cohort has the columns of a level: all, or none."""
    table = cohort.tables.of_level(level)
    needed = model.encodings[level].columns_in(table)
    lacking = [column for column in needed if column not in table]
    if lacking and len(lacking) < len(needed):
        raise UserError(
            f"reference '{cohort.info.name}' has no {level}-level column '{lacking[0]}' "
            f"({len(lacking)} of the {len(needed)} that the model reads are missing). A reference "
            "has the metadata that the model was trained on: choose the cohort of the run, or "
            "adapt the model to this one first."
        )
    return not lacking


def retrievable_levels(model: Slimp) -> tuple[LevelName, ...]:
    """Levels whose projections were trained, from fine to coarse: queries can be compared there.

    Raises:
        UserError: there are none.
    """
    levels = tuple(name for name in model.encodings if model.config.weights[name] > 0)
    if not levels:
        raise UserError(
            "the model relates images to no metadata (it has no metadata level with a weight), so "
            "none can be retrieved. Pre-train on a cohort with metadata, with --lesion-weight or "
            "--patient-weight above 0."
        )
    return levels
