"""What the code computes at once, written out one pair at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Rows = Sequence[Tensor] | Tensor
Weights = Sequence[Sequence[float]]
"""`weights[i][j]`: how much row j is a positive of row i."""


def slow_info_nce(a: Rows, b: Rows, temperature: float | Tensor, weights: Weights) -> Tensor:
    """The mean of both directions."""
    return (one_way(a, b, temperature, weights) + one_way(b, a, temperature, weights)) / 2


def one_way(a: Rows, b: Rows, temperature: float | Tensor, weights: Weights) -> Tensor:
    losses = []
    for x, own in zip(a, weights, strict=True):
        scores = [(x @ y / (x.norm() * y.norm()) / temperature).exp() for y in b]
        logs = [-w * (s / sum(scores)).log() for w, s in zip(own, scores, strict=True)]
        losses.append(torch.stack(logs).sum() / sum(own))
    return torch.stack(losses).mean()


def equal(groups: Sequence[object]) -> list[list[float]]:
    """Weights of rows whose groups are equal."""
    return [[float(p == q) for q in groups] for p in groups]
