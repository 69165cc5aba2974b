"""The two routes of metadata extrapolation: I -> L -> P (Ret-SLIMP) and I -> I.

I -> L -> P is the recursion of the model itself (`Recursion.climb`); where a level's metadata are
not known, those nearest to the query take their place (SLIMP, arXiv 2505.23709, section on metadata
extrapolation). I -> I: the nearest image of the reference gives the rows of its lesion and patient.

Axis names: i = images of the target, q = rows without metadata, k = neighbours, n = rows of a
level, h = width of a tabular encoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from slimp.data.batches import LevelBatch
from slimp.data.cohort import level_of_images
from slimp.data.schema import LevelName
from slimp.evaluation.metrics import Array
from slimp.features.backends import inference
from slimp.features.encode import (
    as_model_reads,
    cohort_levels,
    encode_level,
    evaluating,
    known_rows,
)
from slimp.models.nested import Slimp
from slimp.retrieval.config import RetrievalConfig, Route
from slimp.retrieval.index import EmbeddedCohort, Index, LevelIndex, Vectors


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

    @property
    def nearest(self) -> dict[LevelName, Float32[Array, " i"]]:
        """Similarity of each image's nearest neighbour, per level; NaN: none."""
        return {name: level.similarity[:, 0] for name, level in self.levels.items()}


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

    Known metadata are used as they are, but for levels to `hide`; with `config.impute == "all"`
    all count as not known.
    """
    device = torch.device(device)
    hide = tuple(index.levels) if config.impute == "all" else hide
    with evaluating(model, device), inference(device, "32"):
        walk = _Walk(model, index, target, config, hide, device)
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
            found = self.find(index, queries, patients)
            position = np.full(level.count, -1)
            position[rows] = np.arange(len(rows))
            image = np.append(index.first_image, -1)[found.at]
            own = position[self.of_image[level.name]]
            levels[level.name] = _by_image(index, found, image, own)
            some = found.weight.any(axis=1)
            retrieved = found.mean_of(index.embeddings)[some]
            into, values = (torch.from_numpy(x).to(self.device) for x in (rows[some], retrieved))
            return m.index_copy(0, into, values)

        h = torch.from_numpy(self.images).to(self.device)
        for _ in self.model.climb(h, self.levels, metadata):
            pass  # the pairs are what training compares; here the walk itself is wanted
        return levels

    def sideways(self) -> dict[LevelName, RetrievedLevel]:
        """I -> I: every level has the similarity of the images."""
        missing = {
            level.name: images
            for level in self.levels
            if level.name in self.index.levels
            and (images := ~known_rows(level)[self.of_image[level.name]]).any()
        }
        if not missing:
            return {}
        rows = np.flatnonzero(np.any(list(missing.values()), axis=0))
        complete, of_reference = self.index.complete_images(), level_of_images(self.index.cohort)
        patients = self.target.images["patient_id"].to_numpy()[rows]
        found = self.find(complete, self.images[rows], patients)
        image = np.append(complete.row, -1)[found.at]
        position = np.full(len(self.images), -1)
        position[rows] = np.arange(len(rows))
        levels = {}
        for name, images in missing.items():
            index = self.index.levels[name]
            at = np.searchsorted(index.row, of_reference[name])[image]  # of complete images
            there = _Found(np.where(image >= 0, at, -1), found.similarity, found.weight)
            levels[name] = _by_image(index, there, image, np.where(images, position, -1))
        return levels

    def find(self, index: Vectors, queries: Array, patients: Array) -> _Found:
        """The neighbours of some queries, none of their own patients."""
        at, similarity, excluded = index.nearest(
            queries, patients, self.config.k, device=self.device
        )
        self.excluded += excluded
        return _Found(at, similarity, _weights(similarity, self.config.temperature))


@dataclass(frozen=True, eq=False)
class _Found:
    """Neighbours per query and rank; -1, NaN and 0: none."""

    at: Int64[Array, "q k"]
    """Position in the index."""
    similarity: Float32[Array, "q k"]
    weight: Float32[Array, "q k"]

    def mean_of(self, embeddings: Float32[Array, "n h"]) -> Float32[Array, "q h"]:
        return np.asarray(np.einsum("qk,qkh->qh", self.weight, embeddings[self.at]))  # -1 weighs 0


def _weights(similarity: Float32[Array, "q k"], temperature: float) -> Float32[Array, "q k"]:
    """Softmax of similarity / temperature over the neighbours that there are."""
    known = ~np.isnan(similarity)
    score = np.where(known, similarity, -2.0).astype(np.float64) / temperature
    weight = np.exp(score - score.max(axis=1, keepdims=True)) * known
    total = weight.sum(axis=1, keepdims=True)
    out = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    return np.asarray(out, dtype=np.float32)


def _by_image(index: LevelIndex, found: _Found, image: Array, position: Array) -> RetrievedLevel:
    """A row per image from a row per query; `position` -1: the image has its own metadata."""
    imputed = position >= 0

    def spread(values: Array, nothing: int | float) -> Array:
        empty = np.asarray(nothing, dtype=values.dtype)
        return np.where(imputed[:, None], values[position.clip(min=0)], empty)

    return RetrievedLevel(
        imputed=imputed,
        row=spread(np.append(index.row, -1)[found.at], -1),
        image=spread(image, -1),
        similarity=spread(found.similarity, np.nan),
        weight=spread(found.weight, 0),
        embedding=spread(found.mean_of(index.embeddings), 0),
    )
