"""The two routes of metadata extrapolation: I -> L -> P (Ret-SLIMP) and I -> I.

I -> L -> P is the recursion of the model itself (`Slimp.climb`); where a level's metadata are not
known, those nearest to the query take their place (SLIMP, arXiv 2505.23709, section on metadata
extrapolation). I -> I: the nearest image of the reference gives the rows of its lesion and patient.

Axis names: i = images of the target, q = rows without metadata, k = neighbours, n = rows of a
level, h = width of a tabular encoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from slimp.data.batches import LevelBatch
from slimp.data.schema import LevelName
from slimp.features.backends import inference
from slimp.features.encode import (
    as_model_reads,
    cohort_levels,
    encode_level,
    evaluating,
    known_rows,
    level_of_images,
)
from slimp.models.nested import Slimp
from slimp.retrieval.config import RetrievalConfig, Route
from slimp.retrieval.index import EmbeddedCohort, Index, Vectors

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievedLevel:
    """Neighbours of the images at one level; none where an image has metadata of its own."""

    imputed: Bool[Array, " i"]
    """Whether the image has no metadata of its own."""
    row: Int64[Array, "i k"]
    """Row of the level's table in the reference, nearest first; -1: none."""
    image: Int64[Array, "i k"]
    """Row of the neighbour's image in the reference; -1: none."""
    similarity: Float32[Array, "i k"]
    """Cosine of query and neighbour; NaN: none."""
    weight: Float32[Array, "i k"]
    """Of each neighbour; they sum to 1, or to 0 where there is none."""
    embedding: Float32[Array, "i h"]
    """Weighted mean of the neighbours' metadata embeddings; 0 where there is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrieved:
    """Neighbours of a target in a reference, by one route."""

    route: Route
    levels: Mapping[LevelName, RetrievedLevel]
    """Levels at which some image has no metadata, from fine to coarse."""
    shared_patients: int
    """Patients who are in the reference and in the target; their own rows are passed over."""
    excluded: int
    """Rows among the k nearest that were passed over for that reason."""


def retrieve(
    model: Slimp,
    index: Index,
    target: EmbeddedCohort,
    config: RetrievalConfig,
    *,
    hide: Collection[LevelName] = (),
    device: torch.device | str = "cpu",
) -> Retrieved:
    """Neighbours of each image of the target; no levels if nothing is missing.

    Args:
        model: that `index` was built with; left as it was found.
        index: of the reference.
        target: known metadata are used as they are.
        config: route, neighbours, and whether known metadata count.
        hide: levels whose metadata count as not known; with `config.impute == "all"` all do.
        device: where to compute.
    """
    walk = _Walk(model, index, target, config, hide, torch.device(device))
    with evaluating(model, walk.device), inference(walk.device, "32"):
        levels = walk.upwards() if config.route == "ilp" else walk.sideways()
    patients = set(index.cohort.patients["patient_id"])
    return Retrieved(
        route=config.route,
        levels=levels,
        shared_patients=len(patients & set(target.cohort.patients["patient_id"])),
        excluded=walk.excluded,
    )


class _Walk:
    """One retrieval, which counts the matches of patients with themselves."""

    def __init__(
        self,
        model: Slimp,
        index: Index,
        target: EmbeddedCohort,
        config: RetrievalConfig,
        hide: Collection[LevelName],
        device: torch.device,
    ) -> None:
        self.model, self.index, self.config, self.device = model, index, config, device
        self.target, self.images = as_model_reads(model, target.cohort), target.images
        hide = tuple(index.levels) if config.impute == "all" else hide
        self.levels = cohort_levels(model, self.target, device, hide=hide)
        self.of_image = level_of_images(self.target)
        self.excluded = 0

    def upwards(self) -> dict[LevelName, RetrievedLevel]:
        """I -> L -> P: the model's own recursion, with retrieved metadata where none are known."""
        levels: dict[LevelName, RetrievedLevel] = {}

        def metadata(level: LevelBatch, query: Tensor) -> Tensor:
            m, rows = encode_level(self.model, level), np.flatnonzero(~known_rows(level))
            if level.name not in self.index.levels or not len(rows):
                return m
            index = self.index.levels[level.name]
            queries = query[torch.from_numpy(rows).to(self.device)].float().cpu().numpy()  # (q, d)
            patients = self.target.tables.of_level(level.name)["patient_id"].to_numpy()[rows]
            at, similarity, weight = self.find(index, queries, patients)
            retrieved = np.einsum("qk,qkh->qh", weight, index.embeddings[at])  # -1 weighs 0
            position = np.full(level.count, -1)
            position[rows] = np.arange(len(rows))
            levels[level.name] = _by_image(
                position[self.of_image[level.name]],
                row=np.where(at >= 0, index.row[at], -1),
                image=np.where(at >= 0, index.first_image[at], -1),
                similarity=similarity,
                weight=weight,
                embedding=retrieved,
            )
            found = weight.any(axis=1)
            into, values = (
                torch.from_numpy(x).to(self.device) for x in (rows[found], retrieved[found])
            )
            return m.index_copy(0, into, values)

        h = torch.from_numpy(self.images).to(self.device)
        for _ in self.model.climb(h, self.levels, metadata):
            pass  # the pairs are what training compares; here the walk itself is wanted
        return levels

    def sideways(self) -> dict[LevelName, RetrievedLevel]:
        """I -> I: every level has the similarity of the images."""
        of_reference = level_of_images(self.index.cohort)
        missing = {
            level.name: ~known_rows(level)[self.of_image[level.name]]
            for level in self.levels
            if level.name in self.index.levels
        }
        missing = {name: images for name, images in missing.items() if images.any()}
        if not missing:
            return {}
        rows = np.flatnonzero(np.any(list(missing.values()), axis=0))
        complete = self.index.complete_images()
        patients = self.target.images["patient_id"].to_numpy()[rows]
        at, similarity, weight = self.find(complete, self.images[rows], patients)
        image = np.where(at >= 0, complete.row[at], -1)
        levels = {}
        for name, images in missing.items():
            index = self.index.levels[name]
            row = np.where(image >= 0, of_reference[name][image], -1)
            embeddings = index.embeddings[np.searchsorted(index.row, row.clip(min=0))]
            position = np.full(len(images), -1)
            position[rows] = np.arange(len(rows))
            levels[name] = _by_image(
                np.where(images, position, -1),
                row=row,
                image=image,
                similarity=similarity,
                weight=weight,
                embedding=np.einsum("qk,qkh->qh", weight, embeddings),
            )
        return levels

    def find(
        self, index: Vectors, queries: Array, patients: Array
    ) -> tuple[Int64[Array, "q k"], Float32[Array, "q k"], Float32[Array, "q k"]]:
        """(position in the index, cosine, weight) per query and rank; -1, NaN and 0: none."""
        at, similarity, excluded = index.nearest(
            queries, patients, self.config.k, device=self.device
        )
        self.excluded += excluded
        return at, similarity, _weights(similarity, self.config.temperature)


def _weights(similarity: Float32[Array, "q k"], temperature: float) -> Float32[Array, "q k"]:
    """Softmax of similarity / temperature over the neighbours that there are."""
    known = ~np.isnan(similarity)
    score = np.where(known, similarity, -2.0).astype(np.float64) / temperature
    weight = np.exp(score - score.max(axis=1, keepdims=True)) * known
    total = weight.sum(axis=1, keepdims=True)
    out = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    return np.asarray(out, dtype=np.float32)


def _by_image(
    position: Array,
    *,
    row: Array,
    image: Array,
    similarity: Array,
    weight: Array,
    embedding: Array,
) -> RetrievedLevel:
    """A row per image from a row per query; `position` -1: the image has its own metadata."""
    imputed = position >= 0

    def spread(values: Array, nothing: int | float) -> Array:
        empty = np.asarray(nothing, dtype=values.dtype)
        return np.where(imputed[:, None], values[position.clip(min=0)], empty)

    return RetrievedLevel(
        imputed=imputed,
        row=spread(row.astype(np.int64), -1),
        image=spread(image.astype(np.int64), -1),
        similarity=spread(similarity, np.nan),
        weight=spread(weight, 0),
        embedding=spread(embedding.astype(np.float32), 0),
    )
