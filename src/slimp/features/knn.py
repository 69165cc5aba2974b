"""Nearest neighbours by cosine similarity: a probe without anything to fit.

Axis names: n = training rows, m = rows to classify, d = width, k = classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from slimp.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]
ROWS_AT_ONCE = 2048
"""Rows whose similarities to all training rows are held in memory."""


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

    Args:
        train_x: features; normalised to unit length here.
        train_y: classes, 0..classes - 1.
        test_x: features of the rows to classify.
        classes: number of classes.
        neighbours: rows that vote; all of them if there are fewer.
        temperature: the smaller, the more the nearest row decides.
        balanced: divide votes by the size of their class, so that a rare class is not outvoted
            for being rare. Differs: DINO does not.

    Raises:
        UserError: no training row, or neighbours or temperature not positive.
    """
    if not len(train_x):
        raise UserError("nearest neighbours need at least one training row.")
    if neighbours < 1 or temperature <= 0:
        raise UserError(
            f"neighbours and temperature must be positive, got {neighbours} and {temperature}."
        )
    train, test = F.normalize(train_x, dim=-1), F.normalize(test_x, dim=-1)
    weight = torch.ones(classes, dtype=train.dtype, device=train.device)
    if balanced:
        weight = 1 / torch.bincount(train_y, minlength=classes).clamp(min=1).to(train.dtype)
    out = []
    for first in range(0, len(test), ROWS_AT_ONCE):
        rows = test[first : first + ROWS_AT_ONCE]
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
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """Mean recall, over the classes of the test rows, of a class-balanced vote of neighbours.

    A test class that training lacks counts as never found.
    """
    names, codes = np.unique(train_labels.astype(str), return_inverse=True)
    train_y = torch.from_numpy(codes.astype(np.int64)).to(train_x.device)
    votes = knn_predict(
        train_x,
        train_y,
        test_x,
        classes=len(names),
        neighbours=neighbours,
        temperature=temperature,
    )
    predicted = names[votes.argmax(dim=-1).cpu().numpy()]
    truth = test_labels.astype(str)
    return float(np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]))
