"""Scores by nearest neighbours in cosine similarity: a vote, and recall. Nothing is fitted.

Axis names: n = rows (of training), m = rows to classify, d = width, k = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from scipy.stats import hypergeom
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
CELLS_AT_ONCE = 1 << 24
"""Cells of the similarity matrix that are held at once (64 MiB in 32 bit)."""


def knn_predict(
    train_x: Float[Tensor, "n d"],
    train_y: Int[Tensor, " n"],
    test_x: Float[Tensor, "m d"],
    *,
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
    balanced: bool = True,
) -> Float[Tensor, "m k"]:
    """Class probabilities: the share of votes of the nearest training rows.

    A neighbour of cosine similarity s has the vote exp(s / temperature), as in DINO.

    Features may be of any length; classes are 0 to `classes` - 1. If `balanced`, votes are divided
    by the size of their class, so that a rare class is not outvoted for being rare. Differs: DINO
    does not.
    """
    train, test = F.normalize(train_x, dim=-1), F.normalize(test_x, dim=-1)
    weight = torch.ones(classes, dtype=train.dtype, device=train.device)
    if balanced:
        weight = 1 / torch.bincount(train_y, minlength=classes).clamp(min=1).to(train.dtype)
    out = []
    for rows in torch.split(test, max(1, CELLS_AT_ONCE // len(train))):
        similarity, index = (rows @ train.T).topk(min(neighbours, len(train)), dim=-1)
        # Relative to the nearest one, which changes no share and keeps exp in range.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        voters = train_y[index]  # (m, neighbours)
        sums = votes.new_zeros(len(rows), classes)
        sums.scatter_add_(1, voters, votes * weight[voters])
        out.append(sums / sums.sum(dim=-1, keepdim=True))
    return torch.cat(out)


def knn_balanced_accuracy(
    train_x: Float[Tensor, "n d"],
    train_labels: Shaped[Array, " n"],
    test_x: Float[Tensor, "m d"],
    test_labels: Shaped[Array, " m"],
) -> float:
    """Mean recall, over the classes of the test rows, of a class-balanced vote of neighbours.

    A test class that training lacks counts as never found.
    """
    names, codes = np.unique(train_labels.astype(str), return_inverse=True)
    train_y = torch.from_numpy(codes.astype(np.int64)).to(train_x.device)
    votes = knn_predict(train_x, train_y, test_x, classes=len(names))
    predicted = names[votes.argmax(dim=-1).cpu().numpy()]
    truth = test_labels.astype(str)
    return float(np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]))


@torch.no_grad()
def recall_at_k(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n d"],
    ks: Sequence[int] = (1, 5, 10),
    groups: Int[Tensor, " n"] | None = None,
) -> dict[int, float]:
    """Per k, the share of rows of `a` that find a row of their own group among the k nearest of b.

    Nearest by cosine. A tie counts against the row, so that a model that maps everything to one
    point scores 0 and not 1. Without groups row i of `a` only matches row i of `b`.

    Raises:
        ValueError: there are no rows, or a k is not positive.

    Example:
        >>> eye = torch.eye(3)
        >>> recall_at_k(eye, eye[[1, 0, 2]], ks=(1, 3))
        {1: 0.3333333432674408, 3: 1.0}
    """
    if len(a) == 0 or min(ks, default=0) < 1:
        raise ValueError(f"recall_at_k needs rows and ks >= 1, got {len(a)} rows and ks={ks}")
    groups = group_numbers(a, groups)
    a, b = F.normalize(a.float(), dim=-1), F.normalize(b.float(), dim=-1)
    ranks, block = [], max(1, CELLS_AT_ONCE // len(b))
    for rows, own in zip(torch.split(a, block), torch.split(groups, block), strict=True):
        cosine = rows @ b.T  # (rows, n)
        match = own[:, None] == groups  # (rows, n)
        best = cosine.masked_fill(~match, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((cosine >= best) & ~match).sum(dim=1))  # (rows,) others that are as near
    rank = torch.cat(ranks)
    return {k: (rank < k).float().mean().item() for k in ks}


def recall_by_chance(groups: Int[Tensor, " n"], ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Per k, what `recall_at_k` is on average where the order of the rows of b is random.

    k / n where each row is its own group, and more where groups are large.

    Example:
        >>> recall_by_chance(torch.tensor([0, 0, 1, 1]), ks=(1, 2))
        {1: 0.5, 2: 0.8333333333333334}
    """
    numbers = groups.cpu().numpy()
    own, n = np.unique(numbers, return_inverse=True, return_counts=True), len(numbers)
    sizes = own[2][own[1]]  # (n,) rows of each one's group
    return {k: 1 - float(hypergeom.pmf(0, n, sizes, min(k, n)).mean()) for k in ks}


def group_numbers(rows: Tensor, groups: Tensor | None) -> Tensor:
    """The groups, each row its own where none are given."""
    return torch.arange(len(rows), device=rows.device) if groups is None else groups.to(rows.device)
