"""What each metadata feature contributes to the match of images with metadata, and to their maps.

Axis names: n = images, d = width of the image embeddings, t = features of the level.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from torch import Tensor

from slimp.explain.targets import Match

Array = np.ndarray[Any, np.dtype[Any]]


def feature_names(match: Match) -> list[str]:
    """The features of the level that is matched, in the order of its tokens."""
    return [feature.name for feature in match.model.level(match.level).encoding.features]


@torch.no_grad()
def left_out(match: Match, embeddings: Float[Tensor, "n d"]) -> Float[Array, "n t"]:
    """How much the cosine of each image falls when one feature of its row is hidden.

    NaN where it is missing already.
    """
    whole, rows = match(embeddings), match.rows[match.level]
    falls = []
    for token in range(rows.present.shape[1]):
        present = rows.present.clone()
        present[:, token] = False
        fall = whole - match.with_rows(replace(rows, present=present))(embeddings)
        falls.append(torch.where(rows.present[:, token], fall, torch.nan))
    return torch.stack(falls, dim=1).cpu().numpy()


def counterfactuals(match: Match, seed: int) -> list[tuple[Match, Bool[Array, " n"]]]:
    """Per feature: the same images with another image's value of it, and where that differs."""
    encoding, rows = match.model.level(match.level).encoding, match.rows[match.level]
    rng, found = np.random.default_rng(seed), []
    for token, (feature, columns) in enumerate(encoding.cells()):
        values = getattr(rows, feature.kind)
        other = _other_rows(values[:, columns], rows.present[:, token], rng)
        moved = values.clone()
        moved[:, columns] = values[other, columns]
        parts: dict[str, Any] = {feature.kind: moved}
        changed = other.numpy() != np.arange(len(other))
        found.append((match.with_rows(replace(rows, **parts)), changed))
    return found


def _other_rows(values: Tensor, present: Tensor, rng: np.random.Generator) -> Int[Tensor, " n"]:
    """For each row a random one with another known value; itself where there is none."""
    cells = values.numpy()
    known = np.flatnonzero(present.numpy())
    out = np.arange(len(cells))
    for row in known:
        different = known[(cells[known] != cells[row]).any(axis=1)]
        out[row] = rng.choice(different) if len(different) else row
    return torch.from_numpy(out)


def rank_correlation(a: Float[Tensor, "n y x"], b: Float[Tensor, "n y x"]) -> Float[Array, " n"]:
    """Spearman's correlation of the two maps of each image; NaN where one is constant."""
    ranks = (rankdata(maps.flatten(1).cpu().numpy(), axis=1) for maps in (a, b))
    x, y = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1)))
