"""Pictures that are one picture: resized, compressed again, brightened, cropped, turned, mirrored.

A picture is hashed to the signs of the 255 lowest cosine coefficients of its 32 x 32 grey
thumbnail (a perceptual hash, wider than the usual 64 bits: dermoscopic pictures are all a dark
blob in the middle, and differ in the finer coefficients). Mirroring a picture only changes signs
of odd coefficients, and a quarter turn also exchanges rows and columns, so that one transform
gives the hashes of all 8 positions.

`near_pairs` compares everything with everything in cache-sized tiles: n^2 exclusive-ors of one
64-bit word, the others for the few pairs that are left. It finds every pair within both radii, save
among pictures that are near a crowd of others: plain skin is near all plain skin, and ten thousand
such pictures are fifty million pairs. These are told, not paired.
Pairs are candidates; `likeness` decides. Radii and thresholds are chosen on PAD-UFES-20 and
HAM10000; see `docs/check.md`.

Axis names: n = pictures, k = pairs, c = crowded pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt64
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
"""Of a thumbnail, px."""
WORDS = 4
"""64 bits each: coefficients of even and odd row by even and odd column frequency."""
RADIUS = 72
"""Candidates differ in at most so many of 255 bits."""
EVEN_RADIUS = 20
"""And in at most so many of the 63 that no mirroring changes."""
CROWD = 100
"""A picture with more candidates than this is not paired: of 6,035 pictures of HAM10000 none has
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
TILE = (16, 4096)
"""Rows and columns compared at once: half a MiB of words."""
BLOCK = 1024
"""Rows that one thread takes at a time."""

Thumbnails = UInt8[np.ndarray, "n 32 32"]
Hashes = UInt64[np.ndarray, "n 2 4"]
"""Upright and with axes exchanged, four words each."""
Pairs = Int[np.ndarray, "4 _"]
"""First, second, turn, distance."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class NearPairs:
    """Pairs of pictures, `first < second`, sorted; each in the position in which it is nearest."""

    first: Int[np.ndarray, " k"]
    second: Int[np.ndarray, " k"]
    turn: Int[np.ndarray, " k"]
    """What to do to the second so that it lies as the first; see `TURNS`."""
    distance: Int[np.ndarray, " k"]
    """Bits that differ."""
    crowded: Int[np.ndarray, " c"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Pictures near so many others that they are in none of the pairs."""

    def __len__(self) -> int:
        return len(self.first)


def shrink(image: Image.Image) -> UInt8[np.ndarray, "32 32"]:
    """The grey thumbnail of a decoded picture, stretched to a square."""
    grey = image if image.mode == "L" else image.convert("L")
    small = grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(small, dtype=np.uint8)


def perceptual_hashes(thumbnails: Thumbnails) -> Hashes:
    """The hashes of pictures from their thumbnails.

    Example:
        >>> grey = np.random.default_rng(0).integers(0, 256, (1, 32, 32), dtype=np.uint8)
        >>> near_pairs(perceptual_hashes(np.concatenate([grey, grey[:, :, ::-1]]))).turn
        array([1])
    """
    hashes = np.empty((len(thumbnails), 2, WORDS), dtype=np.uint64)
    for start in range(0, len(thumbnails), 4096):
        some = slice(start, start + 4096)
        spectrum = COSINES @ thumbnails[some].astype(np.float32) @ COSINES.T  # (n, 16, 16)
        hashes[some, 0] = _words(spectrum)
        hashes[some, 1] = _words(spectrum.transpose(0, 2, 1))
    return hashes


def _cosines(count: int) -> Float[np.ndarray, "count 32"]:
    """The first rows of the discrete cosine transform of 32 samples."""
    frequency, sample = np.mgrid[:count, :SIDE]
    angle = np.pi * frequency * (2 * sample + 1) / (2 * SIDE)
    return np.asarray(np.cos(angle), dtype=np.float32)


COSINES = _cosines(16)


def _words(spectrum: Float[np.ndarray, "n 16 16"]) -> UInt64[np.ndarray, "n 4"]:
    positive = spectrum > 0
    positive[:, 0, 0] = False  # the mean says nothing
    parts = [positive[:, u::2, v::2].reshape(-1, 64) for u in (0, 1) for v in (0, 1)]
    return np.packbits(np.stack(parts, axis=1), axis=2).view(np.uint64)[..., 0]


def turned(pictures: NDArray[np.generic], turn: int) -> NDArray[np.generic]:
    """Pictures, whose last two axes are rows and columns, in one of the 8 positions."""
    if turn & 1:
        pictures = pictures[..., ::-1]
    if turn & 2:
        pictures = pictures[..., ::-1, :]
    return pictures.swapaxes(-1, -2) if turn & 4 else pictures


def near_pairs(
    hashes: Hashes,
    *,
    radius: int = RADIUS,
    even_radius: int = EVEN_RADIUS,
    crowd: int = CROWD,
    progress: Progress | None = None,
) -> NearPairs:
    """Every pair of pictures that is within both radii in some position, the crowded ones left out.

    Time grows with the square of the pictures; memory with the pairs found, at most `crowd` times
    the pictures.

    Args:
        hashes: from `perceptual_hashes`.
        radius: bits, of 255, that may differ.
        even_radius: bits, of the 63 that do not change with mirroring, that may differ.
        crowd: a picture within the radii of more others than this is told, and not paired.
        progress: called with (pictures done, pictures in all).
    """
    n = len(hashes)
    even = np.ascontiguousarray(hashes[:, :, 0].T)  # (2, n)
    found, counts = [np.empty((4, 0), dtype=np.int64)], np.zeros(n, dtype=np.int64)
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        starts = range(0, n, BLOCK)
        blocks = pool.map(
            lambda start: _near_block(hashes, even, start, (radius, even_radius), crowd), starts
        )
        for start, (pairs, near) in zip(starts, blocks, strict=True):
            found.append(pairs)
            counts += near
            if progress is not None:
                progress(min(start + BLOCK, n), n)
    finally:  # an interrupted search does not wait for the rest
        pool.shutdown(cancel_futures=True)
    pairs = _uncrowded(np.concatenate(found, axis=1), counts, crowd)
    pairs = pairs[:, np.lexsort(pairs[1::-1])]
    crowded = np.flatnonzero(counts > crowd)
    return NearPairs(
        first=pairs[0], second=pairs[1], turn=pairs[2], distance=pairs[3], crowded=crowded
    )


def _near_block(
    hashes: Hashes,
    even: UInt64[np.ndarray, "2 n"],
    start: int,
    radii: tuple[int, int],
    crowd: int,
) -> tuple[Pairs, Int[np.ndarray, " n"]]:
    """Pairs whose first is in one block, and of each picture the number of them.

    Pairs go as soon as one of the two has a crowd, so that no picture is first in more than that.
    """
    n, (high, wide) = even.shape[1], TILE
    found = [np.empty((4, 0), dtype=np.int64)]
    counts = np.zeros(n, dtype=np.int32)
    words, bits, near = (np.empty(TILE, dtype=kind) for kind in (np.uint64, np.uint8, np.bool_))
    for top in range(start, min(start + BLOCK, n), high):
        rows = even[:, top : min(top + high, start + BLOCK), None]  # (2, high, 1)
        for left in range(top, n, wide):
            columns = even[0, left : left + wide]
            part = (slice(rows.shape[1]), slice(len(columns)))
            for_tile = []
            for axes in (0, 1):
                np.bitwise_xor(rows[axes], columns, out=words[part])
                np.bitwise_count(words[part], out=bits[part])
                np.less_equal(bits[part], radii[1], out=near[part])
                if near[part].any():
                    first, second = np.nonzero(near[part])
                    first, second = first + top, second + left
                    later = second > first
                    for_tile.append(_nearest(hashes, first[later], second[later], axes, radii[0]))
            if for_tile:
                pairs = _one_per_pair(np.concatenate(for_tile, axis=1))
                np.add.at(counts, pairs[:2].ravel(), 1)
                found.append(_uncrowded(pairs, counts, crowd))
    return np.concatenate(found, axis=1), counts


def _uncrowded(pairs: Pairs, counts: Int[np.ndarray, " n"], crowd: int) -> Pairs:
    return pairs[:, (counts[pairs[:2]] <= crowd).all(axis=0)]


def _one_per_pair(pairs: Pairs) -> Pairs:
    """Of the positions of each pair the nearest, the first in `TURNS` among equals."""
    first, second, turn, distance = pairs
    pairs = pairs[:, np.lexsort((turn, distance, second, first))]
    repeated = (np.diff(pairs[:2], axis=1) == 0).all(axis=0)
    return pairs[:, np.append(True, ~repeated)[: pairs.shape[1]]]


def _nearest(
    hashes: Hashes,
    first: Int[np.ndarray, " k"],
    second: Int[np.ndarray, " k"],
    axes: int,
    radius: int,
) -> Pairs:
    """Pairs in the nearest mirroring: odd coefficients change sign, so their bits swap."""
    bits = np.bitwise_count(hashes[first, axes] ^ hashes[second, 0])  # (k, 4)
    at_best = np.minimum(bits, 64 - bits)
    at_best[:, 0] = bits[:, 0]
    hopeful = at_best.sum(axis=1) <= radius
    first, second, bits = first[hopeful], second[hopeful], bits[hopeful].astype(np.int64)
    distances = np.empty((4, len(first)), dtype=np.int64)
    for mirror in range(4):
        across, along = mirror & 1, mirror >> 1 & 1
        flips = (0, across, along, across ^ along)
        parts = [64 - bits[:, w] if flip else bits[:, w] for w, flip in enumerate(flips)]
        distances[mirror] = np.sum(parts, axis=0)
    mirror, distance = distances.argmin(axis=0), distances.min(axis=0)
    pairs = np.stack([first, second, mirror + 4 * axes, distance])
    return pairs[:, distance <= radius]
