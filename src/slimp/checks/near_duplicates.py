"""Images that are one image: resized, compressed again, brightened, cropped, turned, mirrored.

An image is hashed to the signs of the 255 lowest cosine coefficients of its 32 x 32 grey thumbnail
(wider than the usual 64 bits: dermoscopic images are all a dark blob in the middle, and differ in
the finer coefficients). Mirroring changes signs of odd coefficients only, and a quarter turn also
exchanges rows and columns, so that one transform gives the hashes of all 8 positions. `near_pairs`
compares all with all; `likeness` decides. How radii and thresholds were chosen: `docs/check.md`.

Axis names: n = images, k = pairs.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped, UInt8, UInt64
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter1d

from slimp.data.in_order import Progress, in_order

SIDE = 32
"""Of a thumbnail, px."""
RADIUS, EVEN_RADIUS = 72, 20
"""Candidates differ in at most so many of 255 bits, and of the 63 that no mirroring changes."""
CROWD = 100
"""An image with more candidates than this is not paired: of 6,035 images of HAM10000 none has
more than 58, of 1,039 of PAD-UFES-20 none more than 6."""
TURNS = (
    "upright",
    "mirrored left to right",
    "mirrored top to bottom",
    "turned by 180 degrees",
    "mirrored on the diagonal",
    "turned by 90 degrees to the left",
    "turned by 90 degrees to the right",
    "mirrored on the other diagonal",
)
"""What `turned` does, by number: 1 left to right, 2 top to bottom, then 4 exchanges the axes."""
FLIPPED = np.array([[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0]], dtype=bool)
"""Which of a hash's four words each mirroring inverts."""
TILE = (16, 4096)
"""Rows and columns compared at once; the words fit a cache."""
BLOCK = 1024
"""Rows, or pairs, that one thread takes at a time."""

ALIKE = 0.80
"""Correlation of details, aligned, from which a pair counts as one image."""
LOOSE = 0.45
"""Correlation of details below which a pair is not even aligned."""
FINE, COARSE, LOCAL, NOISE = 0.7, 1.5, 2.0, 1.0
"""Scales of noise and of what is coarse, of local strength, px of the thumbnail; grey levels."""
STEPS = 4
MOST_SHIFT = 3.0
"""Of the edges, px of the thumbnail: about a tenth."""
INNER, PIXELS = slice(2, SIDE - 2), (SIDE - 4) ** 2
"""Without the pixels that alignment brings in from outside."""
PLACE = ((np.arange(SIDE) - (SIDE - 1) / 2) / (SIDE / 2)).astype(np.float32)
"""From -1 at the first pixel to 1 at the last."""

Thumbnails = UInt8[np.ndarray, "n 32 32"]
Small = Float[np.ndarray, "k 32 32"]
Hashes = UInt64[np.ndarray, "n 2 4"]
"""Upright and with axes exchanged; 64 coefficients of even and odd row by even and odd column."""
Pairs = Int[np.ndarray, "4 _"]
"""First image, second image, turn, distance."""


def shrink(image: Image.Image) -> UInt8[np.ndarray, "32 32"]:
    """The grey thumbnail of a decoded image, stretched to a square."""
    size = (SIDE, SIDE)
    small = image.convert("L").resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(small, dtype=np.uint8)


def turned(images: NDArray[np.generic], turn: int) -> NDArray[np.generic]:
    """Images, whose last two axes are rows and columns, in one of the 8 positions."""
    if turn & 1:
        images = images[..., ::-1]
    if turn & 2:
        images = images[..., ::-1, :]
    return images.swapaxes(-1, -2) if turn & 4 else images


def perceptual_hashes(thumbnails: Thumbnails) -> Hashes:
    """The hashes of images from their thumbnails.

    Example:
        >>> grey = np.random.default_rng(0).integers(0, 256, (1, 32, 32), dtype=np.uint8)
        >>> pairs, _ = near_pairs(perceptual_hashes(np.concatenate([grey, grey[:, :, ::-1]])))
        >>> pairs["turn"].tolist()
        [1]
    """
    hashes = np.empty((len(thumbnails), 2, 4), dtype=np.uint64)
    for start in range(0, len(thumbnails), BLOCK):
        some = slice(start, start + BLOCK)
        spectrum = dctn(thumbnails[some].astype(np.float32), axes=(1, 2))[:, :16, :16]
        positive = spectrum > 0
        positive[:, 0, 0] = False  # the mean says nothing
        for axes, bits in enumerate((positive, positive.swapaxes(1, 2))):
            words = [bits[:, u::2, v::2].reshape(-1, 64) for u in (0, 1) for v in (0, 1)]
            hashes[some, axes] = np.packbits(np.stack(words, 1), axis=2).view(np.uint64)[..., 0]
    return hashes


def near_pairs(
    hashes: Hashes,
    *,
    radii: tuple[int, int] = (RADIUS, EVEN_RADIUS),
    crowd: int = CROWD,
    progress: Progress | None = None,
) -> tuple[pd.DataFrame, Int[np.ndarray, " c"]]:
    """All pairs within both radii, and the images with too many of them to be paired.

    Plain skin is near all plain skin, and ten thousand such images are fifty million pairs; so
    images with more than `crowd` candidates are returned apart. Time grows with the square of the
    images, memory with the pairs: at most `crowd` times the images.

    Returns:
        Sorted rows `first second turn distance`, with `first < second`: in the nearest position
        (what to do to the second so that it lies as the first, see `TURNS`) so many bits differ.
    """
    n = len(hashes)
    found, counts = [np.empty((4, 0), dtype=np.int64)], np.zeros(n, dtype=np.int64)

    def search(start: int) -> tuple[Pairs, Int[np.ndarray, " n"]]:
        return _near_block(hashes, start, radii, crowd)

    starts = range(0, n, BLOCK)
    with closing(in_order(search, starts)) as blocks:
        for start, (pairs, near) in zip(starts, blocks, strict=True):
            found.append(pairs)
            counts += near
            if progress is not None:
                progress(min(start + BLOCK, n), n)
    pairs = _uncrowded(np.concatenate(found, axis=1), counts, crowd)
    table = pd.DataFrame(pairs.T, columns=["first", "second", "turn", "distance"])
    return table.sort_values(["first", "second"], ignore_index=True), np.flatnonzero(counts > crowd)


def _near_block(
    hashes: Hashes, start: int, radii: tuple[int, int], crowd: int
) -> tuple[Pairs, Int[np.ndarray, " n"]]:
    """Pairs whose first is in one block, and of each image the number of them.

    Pairs go as soon as one of the two has a crowd, so that no image is first in more than that.
    """
    found, counts = [np.empty((4, 0), dtype=np.int64)], np.zeros(len(hashes), dtype=np.int32)
    high, wide = TILE
    stop = min(start + BLOCK, len(hashes))
    for top in range(start, stop, high):
        rows = hashes[top : min(top + high, stop), :, 0].T[:, :, None]  # (2, high, 1)
        for left in range(top, len(hashes), wide):
            near = np.bitwise_count(rows ^ hashes[left : left + wide, 0, 0]) <= radii[1]
            if near.any():
                pairs = _nearest(hashes, near, (top, left), radii[0])
                np.add.at(counts, pairs[:2].ravel(), 1)
                found.append(_uncrowded(pairs, counts, crowd))
    return np.concatenate(found, axis=1), counts


def _nearest(
    hashes: Hashes, near: Shaped[np.ndarray, "2 _ _"], corner: tuple[int, int], radius: int
) -> Pairs:
    """The candidates of a tile in the position in which they are nearest."""
    row, column = np.nonzero(near.any(axis=0))
    later = column + corner[1] > row + corner[0]
    row, column = row[later], column[later]
    first, second = row + corner[0], column + corner[1]
    bits = np.bitwise_count(hashes[first] ^ hashes[second, :1]).astype(np.int64)  # (k, 2, 4)
    bits = bits[:, :, None]
    distances = np.where(FLIPPED, 64 - bits, bits).sum(axis=3)  # (k, 2, 4): axes, mirrorings
    distances[~near[:, row, column].T] = 256
    turn, distance = distances.reshape(-1, 8).argmin(axis=1), distances.min(axis=(1, 2))
    return np.stack([first, second, turn, distance])[:, distance <= radius]


def _uncrowded(pairs: Pairs, counts: Int[np.ndarray, " n"], crowd: int) -> Pairs:
    return pairs[:, (counts[pairs[:2]] <= crowd).all(axis=0)]


def likeness(thumbnails: Thumbnails, pairs: pd.DataFrame) -> Float[np.ndarray, " k"]:
    """Correlation of details of each pair, between -1 and 1.

    Two nevi, each a dark blob in the middle of plain skin, correlate at 0.95 and more as
    thumbnails. So what is coarse is taken away, and what is left is divided by its local strength:
    hairs, specks and texture count as much as the blob. A slight crop moves all of these, so one
    thumbnail is shifted and stretched upon the other if they correlate at all.
    """

    def compare(start: int) -> Float[np.ndarray, " _"]:
        part = pairs.iloc[start : start + BLOCK]
        first, second = thumbnails[part["first"]], thumbnails[part["second"]]
        for turn in range(1, 8):
            rows = np.flatnonzero(part["turn"] == turn)
            second[rows] = turned(second[rows], turn)
        return _likeness(first.astype(np.float32), second.astype(np.float32))

    starts = range(0, len(pairs), BLOCK)
    with closing(in_order(compare, starts)) as parts:
        return np.concatenate([np.zeros(0, dtype=np.float32), *parts])


def _likeness(first: Small, second: Small) -> Float[np.ndarray, " k"]:
    found = correlation(details(first), details(second))
    worth = found >= LOOSE
    # Both ways: only the larger one of an image and its crop can be laid upon the other.
    for one, other in ((first[worth], second[worth]), (second[worth], first[worth])):
        aligned = correlation(details(one), details(align(one, other)))
        found[worth] = np.maximum(found[worth], aligned)
    return found


def details(grey: Small) -> Small:
    """What is fine in a thumbnail, equally strong everywhere."""
    fine = blur(grey, FINE) - blur(grey, COARSE)
    return np.asarray(fine / np.sqrt(blur(fine * fine, LOCAL) + NOISE**2))


def blur(grey: Small, sigma: float) -> Small:
    """Gaussian smoothing; beyond the edges images are mirrored."""
    weights = gaussian_filter1d(np.eye(SIDE, dtype=np.float32), sigma, axis=0)
    return np.asarray(weights @ grey @ weights.T)


def correlation(first: Small, second: Small) -> Float[np.ndarray, " k"]:
    """Of the inner pixels of each pair."""
    a, b = (_standard(x[:, INNER, INNER]).reshape(-1, PIXELS) for x in (first, second))
    return np.asarray(np.einsum("kp,kp->k", a, b) / PIXELS)


def align(first: Small, second: Small) -> Small:
    """The second thumbnails, shifted and stretched so that they lie upon the first.

    Gauss-Newton steps on the squared difference (Lucas and Kanade 1981).
    """
    target, source = _standard(blur(first, 1.0)), blur(second, 1.0)
    warp = np.zeros((len(first), 4), dtype=np.float32)  # shift and stretch of columns, of rows
    for _ in range(STEPS):
        moved = _standard(_warped(source, warp))
        down, along = np.gradient(moved, axis=(1, 2))
        slopes = np.stack([along, along * PLACE, down, down * PLACE[:, None]], axis=1)
        slopes = slopes[:, :, INNER, INNER].reshape(-1, 4, PIXELS)
        gap = (target - moved)[:, INNER, INNER].reshape(-1, PIXELS, 1)
        square = slopes @ slopes.swapaxes(1, 2) + 1e-2 * np.eye(4, dtype=np.float32)
        warp += np.linalg.solve(square, slopes @ gap)[..., 0]
        warp = warp.clip(-MOST_SHIFT, MOST_SHIFT)
    return _warped(second, warp)


def _warped(grey: Small, warp: Float[np.ndarray, "k 4"]) -> Small:
    """Linear interpolation along columns, then along rows."""
    for axis, (shift, stretch) in ((2, warp[:, :2].T), (1, warp[:, 2:].T)):
        at = np.arange(SIDE, dtype=np.float32) + shift[:, None] + stretch[:, None] * PLACE
        at = np.expand_dims(at.clip(0, SIDE - 1), 3 - axis)
        low = np.minimum(at.astype(np.int64), SIDE - 2)
        below, above = (np.take_along_axis(grey, place, axis) for place in (low, low + 1))
        grey = below + (at - low).astype(np.float32) * (above - below)
    return grey


def _standard(grey: Float[np.ndarray, "k _ _"]) -> Float[np.ndarray, "k _ _"]:
    """With mean 0 and deviation 1 per image; an even image stays 0."""
    centred = grey - grey.mean(axis=(1, 2), keepdims=True)
    return np.asarray(centred / np.maximum(centred.std(axis=(1, 2), keepdims=True), 1e-3))
