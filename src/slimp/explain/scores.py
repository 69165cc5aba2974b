"""Maps against lesion masks, beside two baselines: the lesion's area, and a spot in the middle.

Lesions are centred in most photographs, so a map that only looks at the middle scores well: what
counts is the difference from `centre`.

Axis names: n = images, s = side of maps and masks, px, c = steps of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt8
from sklearn.metrics import roc_auc_score
from torch import Tensor

from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.explain.maps import Score, blur
from slimp.models.image_encoder import ImageEncoder

Array = np.ndarray[Any, np.dtype[Any]]
MEASURES = ("mass_ratio", "rank_accuracy", "pointing_game", "auroc")
SPREAD = 0.25
"""Standard deviation of the Gaussian of `centre`, in sides."""
STEPS = 20
"""Of deletion and insertion."""


def mask_scores(maps: Float[Array, "n s s"], masks: Bool[Array, "n s s"]) -> pd.DataFrame:
    """Four measures per image; NaN where a mask is empty or everything.

    - `mass_ratio`: share of the map's mass inside the mask, divided by the mask's share of the
      area ("energy-based pointing game"); 1 is chance.
    - `rank_accuracy`: share inside among as many of the largest values as the mask has pixels.
    - `pointing_game`: whether the largest value is inside.
    - `auroc`: of the map's values for inside against outside.

    Values that tie count as drawn at random; a map without any relevance is a uniform one.
    """
    rows = [_scores_of(m.ravel(), inside.ravel()) for m, inside in zip(maps, masks, strict=True)]
    return pd.DataFrame(rows, columns=[*MEASURES], dtype=float)


def _scores_of(values: Array, inside: Array) -> list[float]:
    size, area = int(inside.sum()), float(inside.mean())
    if size in (0, len(inside)):
        return [math.nan] * len(MEASURES)
    values = values if values.sum() > 0 else np.ones_like(values)
    limit = np.partition(values, len(values) - size)[len(values) - size]
    above, tied = values > limit, values == limit
    share = inside[tied].mean() * (size - above.sum())
    return [
        float(values[inside].sum() / values.sum() / area),
        float((inside[above].sum() + share) / size),
        float(inside[values == values.max()].mean()),
        float(roc_auc_score(inside, values)),
    ]


def area_scores(masks: Bool[Array, "n s s"]) -> pd.DataFrame:
    """What a map that knows nothing scores."""
    area = np.array([inside.mean() for inside in masks], dtype=float)
    area[(area == 0) | (area == 1)] = np.nan
    chance = np.where(np.isnan(area), np.nan, 1.0)
    found = {"mass_ratio": chance, "rank_accuracy": area, "pointing_game": area}
    return pd.DataFrame({**found, "auroc": chance / 2})


def centre_map(size: int) -> Float[Array, "s s"]:
    """A Gaussian spot in the middle."""
    x = (np.arange(size) + 0.5) / size - 0.5
    return np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * SPREAD**2))


@torch.no_grad()
def deletion_and_insertion(
    encoder: ImageEncoder,
    pixels: UInt8[Tensor, "n 3 s s"],
    score: Score,
    maps: Float[Tensor, "n s s"],
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Mean score while the most relevant pixels are blurred, and while they come back.

    RISE, Petsiuk et al. 2018, with a blurred image for black. A faithful map has a low first and
    a high second figure.
    """
    n, size = len(pixels), pixels.shape[-1]
    rank = maps.reshape(n, -1).argsort(dim=1, descending=True).argsort(dim=1).view(n, 1, size, size)
    blurred = blur(pixels)
    curves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for step in range(STEPS + 1):
        first = rank < step * size * size // STEPS
        curves[0].append(score(encoder(torch.where(first, blurred, pixels))))
        curves[1].append(score(encoder(torch.where(first, pixels, blurred))))
    deletion, insertion = (torch.stack(curve).mean(dim=0).cpu().numpy() for curve in curves)
    return deletion, insertion


def known(figures: Mapping[str, Array]) -> dict[str, Array]:
    """The figures that any image has."""
    return {name: values for name, values in figures.items() if not np.isnan(values).all()}


def estimates(
    by_image: Mapping[str, Array], patients: Array, *, replicates: int = 1000
) -> dict[str, Estimate]:
    """The mean of each figure over images, NaN left out, with its interval over patients.

    None where fewer than `FEWEST_PATIENTS` have the figure: its ends are NaN.
    """
    has = {name: ~np.isnan(values) for name, values in by_image.items()}

    def means(_: int, weights: Array) -> dict[str, Array]:
        with np.errstate(invalid="ignore"):
            return {
                name: (weights[:, has[name]] @ values[has[name]])
                / weights[:, has[name]].sum(axis=1)
                for name, values in by_image.items()
            }

    found = bootstrap([patients], means, replicates=replicates)
    return {name: one.of_patients(patients[has[name]]) for name, one in found.items()}
