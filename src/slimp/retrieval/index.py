"""The index of a reference: its images, and the metadata of its lesions and patients.

Axis names: i = images, q = queries, n = rows of an index, k = neighbours, d = width of the space
in which similarities are taken, h = width of a tabular encoder, e = width of the image encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, Shaped

from slimp.data.cohort import Cohort, level_of_images
from slimp.data.schema import LevelName
from slimp.errors import UserError
from slimp.evaluation.metrics import Array
from slimp.features.backends import inference
from slimp.features.encode import (
    as_model_reads,
    cohort_levels,
    encode_level,
    evaluating,
    has_columns,
    known_rows,
)
from slimp.features.nearest import nearest
from slimp.models.nested import Slimp

REMEDY = (
    "A reference has the metadata that the model was trained on: choose the cohort of the run, or "
    "adapt the model to this one first."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedCohort:
    """A cohort, and embeddings of its images by one model."""

    cohort: Cohort
    images: Float32[Array, "i e"]
    """In the cohort's order."""

    @property
    def patients(self) -> Shaped[Array, " i"]:
        """Patient of each image."""
        return self.cohort.images["patient_id"].to_numpy()


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """Rows that can be retrieved, and the patients they belong to."""

    vectors: Float32[Array, "n d"]
    """What queries are compared with."""
    patients: Shaped[Array, " n"]
    row: Int64[Array, " n"]
    """In the table of the level, or of the images."""

    def nearest(
        self,
        queries: Float32[Array, "q d"],
        patients: Shaped[Array, " q"],
        k: int,
        *,
        device: torch.device | str = "cpu",
    ) -> tuple[Int64[Array, "q k"], Float32[Array, "q k"], int]:
        """The k nearest rows of other patients than the query's own.

        Returns:
            Positions in `vectors` (-1: none), cosines (NaN: none), and how many of the k nearest
            rows were passed over because they are of the query's own patient.
        """
        found = nearest(queries, self.vectors, k, device=device)
        row, similarity = found.row.copy(), found.similarity.copy()
        owner = np.array([*self.patients, None], dtype=object)[row]  # None where there is no row
        same = owner == patients.astype(object)[:, None]  # (q, k)
        again = np.flatnonzero(same.any(axis=1))  # the others would find the same rows
        if len(again):
            groups = patients[again], self.patients
            found = nearest(queries[again], self.vectors, k, exclude=groups, device=device)
            row[again], similarity[again] = found.row, found.similarity
        similarity[row < 0] = np.nan
        return row, similarity, int(same.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelIndex(Vectors):
    """The rows of one level that have known metadata, in the order of the level's table."""

    embeddings: Float32[Array, "n h"]
    """Metadata embeddings, before any projection."""
    first_image: Int64[Array, " n"]
    """Row of the first image of each, in the images' table."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """A reference cohort, in memory."""

    cohort: Cohort
    """As the model reads it."""
    images: Vectors
    """All image embeddings."""
    levels: Mapping[LevelName, LevelIndex]
    """Levels with known metadata, from fine to coarse."""
    complete: Bool[Array, " i"]
    """Images whose metadata are known at all these levels."""

    @classmethod
    def build(
        cls, model: Slimp, reference: EmbeddedCohort, *, device: torch.device | str = "cpu"
    ) -> Index:
        """The index of a cohort that has the columns that the model reads, at one level at least.

        Raises:
            UserError: the model relates images to no metadata, the cohort lacks columns, or no
                metadata of it are known.
        """
        trained, device = trained_levels(model), torch.device(device)
        cohort = as_model_reads(model, reference.cohort)
        levels, of_image = {}, level_of_images(cohort)
        complete = np.ones(len(cohort), dtype=bool)
        with evaluating(model, device), inference(device, "32"):
            for level in cohort_levels(model, cohort, device):
                name = level.name
                if name not in trained or not has_columns(model, cohort, name, remedy=REMEDY):
                    continue
                every = known_rows(level)
                known = np.flatnonzero(every)
                if not len(known):
                    continue
                embeddings = encode_level(model, level)[torch.from_numpy(known).to(device)]
                _, first = np.unique(of_image[name], return_index=True)  # rows are 0..count - 1
                levels[name] = LevelIndex(
                    row=known,
                    vectors=model.level(name).project_metadata(embeddings).cpu().numpy(),
                    embeddings=embeddings.cpu().numpy(),
                    patients=cohort.tables.of_level(name)["patient_id"].to_numpy()[known],
                    first_image=first[known],
                )
                complete &= every[of_image[name]]
        if not levels:
            raise UserError(
                f"reference '{cohort.info.name}': none of its metadata at the level(s) "
                f"{', '.join(trained)} are known. Choose another reference."
            )
        rows = np.arange(len(cohort))
        images = Vectors(vectors=reference.images, patients=reference.patients, row=rows)
        return cls(cohort=cohort, images=images, levels=levels, complete=complete)

    def complete_images(self) -> Vectors:
        """The images whose metadata are known at all levels.

        Raises:
            UserError: there are none.
        """
        rows = np.flatnonzero(self.complete)
        if not len(rows):
            raise UserError(
                f"reference '{self.cohort.info.name}': no image has known metadata at all levels "
                f"({', '.join(self.levels)}), so route 'ii' finds none. Use --route ilp."
            )
        vectors, patients = self.images.vectors[rows], self.images.patients[rows]
        return Vectors(vectors=vectors, patients=patients, row=rows)


def trained_levels(model: Slimp) -> tuple[LevelName, ...]:
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
