"""Whether two pictures whose hashes are near are one picture: correlation of what is fine in them.

Two nevi, each a dark blob in the middle of plain skin, correlate at 0.95 and more as thumbnails.
So what is coarse is taken away, and what is left is divided by its local strength: hairs, specks
and texture count as much as the blob. A slight crop moves all of these, so the second thumbnail
is first shifted and stretched upon the first (Lucas and Kanade 1981: Gauss-Newton steps on the
squared difference).

Axis names: n = pictures, k = pairs.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from slimp.checks.near_duplicates import SIDE, NearPairs, Thumbnails, turned

LOOSE = 0.45
"""Correlation of details below which a pair is not even aligned."""
ALIKE = 0.80
"""Correlation of details, aligned, from which a pair counts as one picture."""
COARSE, LOCAL, NOISE = 2.0, 3.0, 1.0
"""Scales of what is taken away and of local strength, px of the thumbnail; grey levels."""
STEPS = 4
MOST_SHIFT = 3.0
"""Of the edges, px of the thumbnail: about a tenth."""
RIM = 2
"""Pixels at the edges that alignment brings in from outside."""
BATCH = 512

Small = Float[np.ndarray, "k 32 32"]


def likeness(thumbnails: Thumbnails, pairs: NearPairs) -> Float[np.ndarray, " k"]:
    """Correlation of details of each pair, between -1 and 1; 0 where it is not worth aligning."""
    if not len(pairs):
        return np.zeros(0, dtype=np.float32)
    batches = np.split(np.arange(len(pairs)), range(BATCH, len(pairs), BATCH))
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        return np.concatenate(list(pool.map(lambda some: _batch(thumbnails, pairs, some), batches)))
    finally:  # an interrupted search does not wait for the rest
        pool.shutdown(cancel_futures=True)


def _batch(
    thumbnails: Thumbnails, pairs: NearPairs, some: Int[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    first, second = _facing(thumbnails, pairs, some)
    plain = correlation(details(first), details(second))
    found = np.zeros(len(some), dtype=np.float32)
    worth = plain >= LOOSE
    if worth.any():
        first, second = first[worth], second[worth]
        # Both ways: only the larger one of a picture and its crop can be laid upon the other.
        ways = [
            correlation(details(a), details(align(a, b)))
            for a, b in ((first, second), (second, first))
        ]
        found[worth] = np.maximum.reduce([plain[worth], *ways])
    return found


def _facing(
    thumbnails: Thumbnails, pairs: NearPairs, some: Int[np.ndarray, " k"]
) -> tuple[UInt8[np.ndarray, "k 32 32"], UInt8[np.ndarray, "k 32 32"]]:
    """Both thumbnails of some pairs, the second in the position of the first."""
    second = thumbnails[pairs.second[some]]
    for turn in range(1, 8):
        rows = np.flatnonzero(pairs.turn[some] == turn)
        second[rows] = turned(second[rows], turn)
    return thumbnails[pairs.first[some]], second


def details(thumbnails: Shaped[np.ndarray, "k 32 32"]) -> Small:
    """What is fine in a thumbnail, equally strong everywhere."""
    grey = thumbnails.astype(np.float32)
    fine = grey - blur(grey, COARSE)
    return np.asarray(fine / np.sqrt(blur(fine * fine, LOCAL) + NOISE**2))


def blur(grey: Small, sigma: float) -> Small:
    """Gaussian smoothing; beyond the edges pictures are mirrored."""
    weights = _weights(sigma)
    return np.asarray(weights @ grey @ weights.T)


def _weights(sigma: float) -> Float[np.ndarray, "32 32"]:
    """Rows that average the samples around each, with a mirror at both ends."""
    place = np.arange(SIDE)
    total = np.zeros((SIDE, SIDE))
    for images in (place, -1 - place, 2 * SIDE - 1 - place):
        total += np.exp(-0.5 * ((place[:, None] - images) / sigma) ** 2)
    return np.asarray(total / total.sum(axis=1, keepdims=True), dtype=np.float32)


def correlation(first: Small, second: Small) -> Float[np.ndarray, " k"]:
    """Of the pixels of each pair, the rim left out."""
    inner = slice(RIM, SIDE - RIM)
    a, b = (_centred(x[:, inner, inner].reshape(len(x), -1)) for x in (first, second))
    norms = np.sqrt(np.einsum("kp,kp->k", a, a) * np.einsum("kp,kp->k", b, b))
    return np.asarray(np.einsum("kp,kp->k", a, b) / np.maximum(norms, 1e-6))


def align(first: UInt8[np.ndarray, "k 32 32"], second: UInt8[np.ndarray, "k 32 32"]) -> Small:
    """The second thumbnails, shifted and stretched so that they lie upon the first."""
    target, source = (blur(x.astype(np.float32), 1.0) for x in (first, second))
    target = _standard(target)
    warp = np.zeros((len(first), 4), dtype=np.float32)  # shift and stretch of columns, of rows
    inner = slice(RIM, SIDE - RIM)
    for _ in range(STEPS):
        moved = _standard(_warped(source, warp))
        along = np.gradient(moved, axis=2)
        down = np.gradient(moved, axis=1)
        slopes = np.stack([along, along * PLACE, down, down * PLACE[:, None]], axis=1)
        slopes = slopes[:, :, inner, inner].reshape(len(first), 4, -1)  # (k, 4, pixels)
        gap = (target - moved)[:, inner, inner].reshape(len(first), -1, 1)
        square = slopes @ slopes.swapaxes(1, 2) + 1e-2 * np.eye(4, dtype=np.float32)
        warp += np.linalg.solve(square, slopes @ gap)[..., 0]
        warp = warp.clip(-MOST_SHIFT, MOST_SHIFT)
    return _warped(second.astype(np.float32), warp)


PLACE = ((np.arange(SIDE) - (SIDE - 1) / 2) / (SIDE / 2)).astype(np.float32)
"""From -1 at the first pixel to 1 at the last."""


def _warped(grey: Small, warp: Float[np.ndarray, "k 4"]) -> Small:
    """Linear interpolation along columns, then along rows."""
    for axis, (shift, stretch) in ((2, warp[:, :2].T), (1, warp[:, 2:].T)):
        at = np.arange(SIDE, dtype=np.float32) + shift[:, None] + stretch[:, None] * PLACE
        at = at.clip(0, SIDE - 1)  # (k, 32)
        low = np.minimum(at.astype(np.int64), SIDE - 2)
        weight = np.expand_dims(at - low, 3 - axis)
        low = np.expand_dims(low, 3 - axis)
        grey = (1 - weight) * np.take_along_axis(grey, low, axis) + weight * np.take_along_axis(
            grey, low + 1, axis
        )
    return grey


def _standard(grey: Small) -> Small:
    centred = _centred(grey.reshape(len(grey), -1))
    deviation = np.maximum(centred.std(axis=1, keepdims=True), 1e-3)
    return np.asarray(centred / deviation).reshape(grey.shape)


def _centred(rows: Float[np.ndarray, "k p"]) -> Float[np.ndarray, "k p"]:
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))
