"""The routes by which metadata are lent: I -> L -> P (Ret-SLIMP) and I -> I.

I -> L -> P is the recursion of the model itself, upwards from the image embeddings; where a
level's metadata are not known, those of the nearest rows of the reference stand for them (SLIMP,
arXiv 2505.23709, section on metadata extrapolation):

    h = image embeddings
    for each level, from fine to coarse:
        h = pool(h) by parent
        m = tabular(level), or lent: the metadata nearest to project(h)
        h = concat(h, m)

I -> I: the nearest image of the reference lends its rows.

Axis names: i = images of the target, q = rows that borrow, k = lenders, n = rows of the index,
d = width of the space in which similarities are taken, h = width of a tabular encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from slimp.data.batches import LevelBatch
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
from slimp.features.nearest import Neighbours
from slimp.models.nested import Slimp
from slimp.retrieval.config import RetrievalConfig, Route
from slimp.retrieval.index import Reference

Array = np.ndarray[Any, np.dtype[Any]]
Search = Callable[[Array, Array, int, tuple[Array, Array] | None], Neighbours]
"""(queries (q, d), index (n, d), k, groups of both that must differ) -> neighbours by cosine."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Loan:
    """What the images borrow at one level. Where an image borrows nothing, the rest is empty."""

    borrows: Bool[Array, " i"]
    lender: Int64[Array, "i k"]
    """Row of the level's table in the reference, nearest first; -1: none."""
    image: Int64[Array, "i k"]
    """Row of the lender's image in the reference; -1: none."""
    similarity: Float32[Array, "i k"]
    """Cosine of query and lender; NaN: none."""
    weight: Float32[Array, "i k"]
    """Of each lender; they sum to 1, or to 0 where there is none."""
    embedding: Float32[Array, "i h"]
    """Weighted mean of the lenders' metadata embeddings; 0 where there is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Loans:
    """What a target borrows from a reference, by one route."""

    route: Route
    levels: Mapping[LevelName, Loan]
    """Levels at which some image borrows, from fine to coarse."""
    shared_patients: int
    """Patients who are in the reference and in the target; nobody borrows from himself."""
    excluded: int
    """Matches among the k nearest that were passed over for that reason."""


def lend(
    model: Slimp,
    reference: Reference,
    target: Cohort,
    images: Float32[Array, "i e"],
    config: RetrievalConfig,
    *,
    search: Search,
    hide: tuple[LevelName, ...] = (),
    device: torch.device | str = "cpu",
) -> Loans:
    """What each image of the target borrows; empty levels if nothing is missing.

    Args:
        model: left as it was found; the one that `reference` was built with.
        reference: the lender.
        target: whose metadata are wanting. Real ones are used as they are.
        images: embeddings of its images by the model, in its order.
        config: route, lenders, and whether known metadata count.
        search: what finds nearest rows.
        hide: levels whose metadata count as not known; with `config.lend == "all"` all do.
        device: where to compute.
    """
    target, device = as_model_reads(model, target), torch.device(device)
    hide = tuple(reference.levels) if config.lend == "all" else hide
    broker = _Broker(reference, target, config, search)
    with evaluating(model, device), inference(device, "32"):
        found = (_upwards if config.route == "ilp" else _sideways)(
            model, target, images, broker, hide, device
        )
    return Loans(
        route=config.route,
        levels=found,
        shared_patients=broker.shared,
        excluded=broker.excluded,
    )


class _Broker:
    """Finds lenders of another patient, and counts those that were the same one."""

    def __init__(
        self, reference: Reference, target: Cohort, config: RetrievalConfig, search: Search
    ) -> None:
        self.reference, self.config, self._search = reference, config, search
        own = set(target.patients["patient_id"])
        self.shared = len(own & set(reference.cohort.patients["patient_id"]))
        self.excluded = 0

    def find(
        self, queries: Array, patients: Array, index: Array, of_index: Array
    ) -> tuple[Int64[Array, "q k"], Float32[Array, "q k"], Float32[Array, "q k"]]:
        """(position in the index, cosine, weight) per query and rank; -1, NaN and 0: none."""
        found = self._search(queries, index, self.config.k, None)
        row, similarity = found.row.copy(), found.similarity.copy()
        if self.shared:
            codes = np.unique(np.concatenate([patients, of_index]), return_inverse=True)[1]
            ours, theirs = codes[: len(patients)], codes[len(patients) :]
            same = (row >= 0) & (theirs[row.clip(min=0)] == ours[:, None])  # (q, k)
            self.excluded += int(same.sum())
            met = np.flatnonzero(same.any(axis=1))  # the others would find the same again
            if len(met):
                again = self._search(queries[met], index, self.config.k, (ours[met], theirs))
                row[met], similarity[met] = again.row, again.similarity
        similarity = np.where(row < 0, np.nan, similarity).astype(np.float32)
        return row, similarity, _weights(similarity, self.config.temperature)


def _weights(similarity: Float32[Array, "q k"], temperature: float) -> Float32[Array, "q k"]:
    """Softmax of similarity / temperature over the lenders that there are."""
    known = ~np.isnan(similarity)
    score = np.where(known, similarity, -2.0).astype(np.float64) / temperature
    share = np.exp(score - score.max(axis=1, keepdims=True)) * known
    total = share.sum(axis=1, keepdims=True)
    out = np.divide(share, total, out=np.zeros_like(share), where=total > 0)
    return np.asarray(out, dtype=np.float32)


def _upwards(
    model: Slimp,
    target: Cohort,
    images: Array,
    broker: _Broker,
    hide: tuple[LevelName, ...],
    device: torch.device,
) -> dict[LevelName, Loan]:
    """I -> L -> P: the model's own recursion, with retrieved metadata where none are known."""
    loans: dict[LevelName, Loan] = {}
    of_image = level_of_images(target)

    def metadata(level: LevelBatch, query: Tensor) -> Tensor:
        m, rows = encode_level(model, level), np.flatnonzero(~known_rows(level))
        if level.name not in broker.reference.levels or not len(rows):
            return m
        index = broker.reference.levels[level.name]
        queries = query[torch.from_numpy(rows).to(device)].float().cpu().numpy()  # (q, d)
        patients = target.tables.of_level(level.name)["patient_id"].to_numpy()[rows]
        at, similarity, weight = broker.find(queries, patients, index.projections, index.patients)
        retrieved = np.einsum("qk,qkh->qh", weight, index.embeddings[at])  # (q, h); -1 weighs 0
        position = np.full(level.count, -1)
        position[rows] = np.arange(len(rows))
        loans[level.name] = _gather(
            position[of_image[level.name]],
            lender=np.where(at >= 0, index.row[at], -1),
            image=np.where(at >= 0, index.first_image[at], -1),
            similarity=similarity,
            weight=weight,
            embedding=retrieved,
        )
        found = weight.any(axis=1)
        into, values = (torch.from_numpy(x).to(device) for x in (rows[found], retrieved[found]))
        return m.index_copy(0, into, values)

    h = torch.from_numpy(images).to(device)
    for _ in model.climb(h, cohort_levels(model, target, device, hide=hide), metadata):
        pass  # the pairs are what training compares; here the walk itself is wanted
    return loans


def _sideways(
    model: Slimp,
    target: Cohort,
    images: Array,
    broker: _Broker,
    hide: tuple[LevelName, ...],
    device: torch.device,
) -> dict[LevelName, Loan]:
    """I -> I: as similarity, every level has that of the images."""
    reference = broker.reference
    of_image, of_reference = level_of_images(target), level_of_images(reference.cohort)
    wanting = {
        level.name: ~known_rows(level)[of_image[level.name]]
        for level in cohort_levels(model, target, device, hide=hide)
        if level.name in reference.levels
    }
    wanting = {name: wants for name, wants in wanting.items() if wants.any()}
    if not wanting:
        return {}
    if not reference.lends.any():
        raise UserError(
            f"reference '{reference.cohort.info.name}': no image has known metadata at all levels "
            f"({', '.join(reference.levels)}), so route 'ii' finds no lender. Use --route ilp."
        )
    rows = np.flatnonzero(np.any(list(wanting.values()), axis=0))
    lends = np.flatnonzero(reference.lends)
    at, similarity, weight = broker.find(
        images[rows],
        target.images["patient_id"].to_numpy()[rows],
        reference.images[lends],
        reference.cohort.images["patient_id"].to_numpy()[lends],
    )
    image = np.where(at >= 0, lends[at], -1)
    loans = {}
    for name, wants in wanting.items():
        index = reference.levels[name]
        lender = np.where(image >= 0, of_reference[name][image], -1)
        embeddings = index.embeddings[np.searchsorted(index.row, lender.clip(min=0))]
        position = np.full(len(wants), -1)
        position[rows] = np.arange(len(rows))
        loans[name] = _gather(
            np.where(wants, position, -1),
            lender=lender,
            image=image,
            similarity=similarity,
            weight=weight,
            embedding=np.einsum("qk,qkh->qh", weight, embeddings),
        )
    return loans


def _gather(
    position: Array,
    *,
    lender: Array,
    image: Array,
    similarity: Array,
    weight: Array,
    embedding: Array,
) -> Loan:
    """A row per image from a row per query; `position` -1: the image borrows nothing."""
    borrows = position >= 0
    rows = position.clip(min=0)

    def spread(values: Array, nothing: int | float) -> Array:
        wide = borrows[:, None]
        return np.where(wide, values[rows], np.asarray(nothing, dtype=values.dtype))

    return Loan(
        borrows=borrows,
        lender=spread(lender.astype(np.int64), -1),
        image=spread(image.astype(np.int64), -1),
        similarity=spread(similarity, np.nan),
        weight=spread(weight, 0),
        embedding=spread(embedding.astype(np.float32), 0),
    )
