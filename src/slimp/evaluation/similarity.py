"""Do images and metadata of the same lesion or patient meet? Cosine similarities and recall.

Axis names: i = images, e = width of the image encoder, n = rows of a level, m = non-matching
pairs, d = width of the space in which similarities are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from numpy.typing import NDArray
from sklearn.metrics import auc, roc_curve
from torch import Tensor
from torch.nn import functional as F

from slimp.data.cohort import Cohort
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
from slimp.features.feature_table import FeatureTable
from slimp.features.knn import group_numbers, recall_at_k, recall_by_chance
from slimp.models.nested import Slimp
from slimp.training.adapt import unrelated


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """How far matching pairs of image and metadata stand from non-matching ones.

    Reference (SLIMP, arXiv 2505.23709, Table 4 and Fig. 3): medians 0.836 and -0.006.
    """

    matching: NDArray[np.float32]
    """(n,) cosine of each row with its own metadata, in [-1, 1]."""
    nonmatching: NDArray[np.float32]
    """(m,) cosines of rows with the metadata of others: all such pairs, or a sample of them."""
    median_matching: float
    median_nonmatching: float
    overlap: float
    """Smallest sum of the two error rates that one threshold reaches: 0 separates, 1 is no help.
    Where the two densities cross once that is their overlapping coefficient."""
    auroc: float
    """Probability that a matching pair is more similar than a non-matching one."""
    image_to_metadata: dict[int, float]
    """k -> recall@k, retrieving metadata by image; see `recall_at_k`."""
    metadata_to_image: dict[int, float]
    """k -> recall@k, retrieving images by metadata."""
    by_chance: dict[int, float]
    """k -> both of these where the order of what is retrieved is random."""

    def to_dict(self) -> dict[str, Any]:
        """The figures without the arrays, for `metrics.json`."""
        names = ("median_matching", "median_nonmatching", "overlap", "auroc")
        found = {"n": len(self.matching), **{name: getattr(self, name) for name in names}}
        for way in ("image_to_metadata", "metadata_to_image", "by_chance"):
            found |= {f"{way}_recall_at_{k}": share for k, share in getattr(self, way).items()}
        return found


def similarity_by_level(
    model: Slimp,
    cohort: Cohort,
    images: Float32[Array, "i e"],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[LevelName, Similarity]:
    """Per aligned level, from fine to coarse, the similarity of images and metadata of a cohort.

    Rows of equal metadata count as matching. From the second level on the image side holds the
    finer metadata as well, as in the objective. Rows without known metadata are left out, and so
    is a level whose metadata are the same for all. `cohort` should hold patients that training
    never saw, `images` the model's embeddings of its images.
    """
    found: dict[LevelName, Similarity] = {}
    for name, _, groups, anchor, target in known_pairs(model, cohort, images, device=device):
        if name in model.aligned:
            found[name] = similarity(anchor, target, groups, seed=seed)
    return found


def known_pairs(
    model: Slimp,
    cohort: Cohort,
    images: Float32[Array, "i e"],
    *,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[LevelName, Int[Array, " n"], Tensor, Tensor, Tensor]]:
    """Per level of the model, from fine to coarse: the rows of a cohort whose metadata are known.

    Yields the level, these rows of its table, their groups of equal metadata (n,), and the
    projections (n, d) of what lies below them and of their metadata, on the CPU. A level whose
    known metadata are the same in all rows is left out.
    """
    device = torch.device(device)
    with evaluating(model, device), inference(device, "32"):
        levels = {x.name: x for x in cohort_levels(model, as_model_reads(model, cohort), device)}
        h = torch.from_numpy(images).to(device)
        walk = model.climb(h, [*levels.values()], lambda level, _: encode_level(model, level))
        pairs = {cast("LevelName", pair.name): pair for pair in walk}
    for name, pair in pairs.items():
        known = np.flatnonzero(known_rows(levels[name]))
        sides = (cast("Tensor", levels[name].groups), pair.anchor, pair.target)
        groups, anchor, target = (x.cpu()[torch.from_numpy(known)] for x in sides)
        if (groups != groups[:1]).any():
            yield name, known, groups, anchor, target


def similarity_of_unseen(
    run: Path,
    cohort: Cohort,
    table: FeatureTable,
    parts: Mapping[str, str] | None,
    *,
    device: torch.device | str = "cpu",
) -> dict[LevelName, Similarity]:
    """`similarity_by_level` on the patients that a run set aside, by its features of the cohort.

    Empty if there are none, if metadata were imputed, and for a run whose projections are
    `unrelated`. `parts` are those of `parts_of_run`.
    """
    unseen = cohort.images["patient_id"].map(parts or {}) == "held_out"
    if table.imputed or not unseen.any() or unrelated(run):
        return {}
    images, some = table.features["image"][unseen.to_numpy()], cohort.select(unseen)
    return similarity_by_level(Slimp.from_pretrained(run), some, images, device=device)


def similarity(
    image: Float[Tensor, "n d"],
    metadata: Float[Tensor, "n d"],
    groups: Int[Tensor, " n"] | None = None,
    *,
    pairs: int = 100_000,
    ks: Sequence[int] = (1, 5, 10),
    seed: int = 0,
) -> Similarity:
    """Cosines of matching and non-matching pairs, how well they separate, and recall@k.

    Args:
        image: projections of the image side of one level, on rows that training never saw.
        metadata: projections of the metadata side; row i belongs to row i of `image`.
        groups: rows of equal groups match each other, such as two images of one lesion or
            equal metadata; None: each row only matches itself.
        pairs: non-matching pairs that are drawn, at most.
        ks: ranks of recall@k.
        seed: of the draw.

    Raises:
        ValueError: all rows belong to one group, so that no pair is non-matching.
    """
    groups = group_numbers(image, groups)
    recall = recall_at_k(image, metadata, ks, groups), recall_at_k(metadata, image, ks, groups)
    a, b = (F.normalize(x.detach().float().cpu(), dim=-1) for x in (image, metadata))
    i, j = _nonmatching_pairs(groups.cpu(), pairs, seed)
    matching = (a * b).sum(dim=-1).numpy()  # (n,)
    nonmatching = (a[i] * b[j]).sum(dim=-1).numpy()  # (m,)
    truth = np.repeat([1, 0], [len(matching), len(nonmatching)])
    false_rate, true_rate, _ = roc_curve(truth, np.concatenate([matching, nonmatching]))
    return Similarity(
        matching=matching,
        nonmatching=nonmatching,
        median_matching=float(np.median(matching)),
        median_nonmatching=float(np.median(nonmatching)),
        overlap=float(1 - (true_rate - false_rate).max()),
        auroc=float(auc(false_rate, true_rate)),
        image_to_metadata=recall[0],
        metadata_to_image=recall[1],
        by_chance=recall_by_chance(groups, ks),
    )


def _nonmatching_pairs(groups: Tensor, limit: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows (i, j) of different groups: all of them if they are few, else about `limit` drawn."""
    n = len(groups)
    if (groups == groups[0]).all():
        raise ValueError("similarity needs rows of at least 2 groups: no pair is non-matching")
    if n * n <= limit:
        i, j = (groups[:, None] != groups).nonzero(as_tuple=True)
        return i, j
    generator = torch.Generator().manual_seed(seed)
    # Drawn with a margin for the pairs within a group, which are dropped.
    counts = np.unique(groups.numpy(), return_counts=True)[1]
    different = 1 - ((counts / n) ** 2).sum()  # share of pairs across groups
    i, j = torch.randint(n, (2, round(limit / different)), generator=generator)
    keep = groups[i] != groups[j]
    return i[keep][:limit], j[keep][:limit]
