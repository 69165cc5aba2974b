"""A plane on which neighbours in the embedding space stay neighbours: PCA, then t-SNE."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.manifold import TSNE

MOST_ROWS = 1000
"""Rows that are shown, at most: t-SNE takes seconds for these, and the page stays light."""
FEWEST_ROWS = 10
"""Below, a map says nothing."""
COMPONENTS = 50
PERPLEXITY = 30.0


def draw_rows(count: int, seed: int) -> NDArray[np.intp]:
    """Which of `count` rows are shown, in order: all, or `MOST_ROWS` drawn ones."""
    if count <= MOST_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size=MOST_ROWS, replace=False))


def project(
    embedding: Float[NDArray[np.floating[Any]], "n d"], seed: int
) -> Float[NDArray[np.float32], "n 2"]:
    """Two coordinates per row. Only neighbourhoods mean something, distances and axes do not."""
    x = embedding.astype(np.float64)
    x = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    x = (u * s)[:, :COMPONENTS]  # (n, components)
    if s[0] < 1e-9 * max(1.0, np.abs(embedding).max()):  # one point, as far as numbers can tell
        return np.zeros((len(x), 2), dtype=np.float32)
    x /= x[:, 0].std()
    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(x) - 1) / 3),
        init=(1e-4 * x[:, :2]).astype(np.float32) if x.shape[1] > 1 else "random",
        random_state=seed,
        max_iter=500,
    )
    points: NDArray[np.float32] = tsne.fit_transform(x).astype(np.float32)
    return points
