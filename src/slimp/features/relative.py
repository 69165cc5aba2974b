"""A lesion beside the other lesions of its patient: is it an ugly duckling?

Embeddings are pooled from lesions to patients, and nothing of the patient comes back to the lesion;
here it does. Of each image: how it differs from the mean of the patient's other lesions, and how
far out it is. A row depends on the images and metadata of its own patient only, never on
labels; the space in which lesions are compared and its units (`PatientContext`) are fitted without
labels on the lesions of a whole table, and are kept with it.

Axis names: n = images, l = lesions, d = width of the joined embeddings, k = components.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int
from safetensors.numpy import load, save
from scipy.spatial.distance import cdist

Array = np.ndarray[Any, np.dtype[Any]]
SOURCES = ("image", "lesion")
"""Features in which lesions are compared; within patients all have the same total variance."""
COMPONENTS = 32
"""Principal components of the differences within patients, at most."""
MOST_IMAGES = 20_000
"""From which the space is learned, about; whole patients are taken evenly."""
PRIOR = 4.0
"""Lesions that the cohort's spread counts for in the spread of a patient."""
OUTLIER = ("distance", "nearest", "log_others", "alone")
"""First columns of `outlier`. `distance` to the mean of the patient's other lesions and to the
`nearest` of them: logarithms, in spreads of the patient, 0 where it is the usual one.
`log_others`: log(1 + their number). `alone`: 1 where there are none; then everything else is 0, in
`relative` too."""
AT_ONCE = 4_000_000
"""Distances computed at once, about."""
CLOSEST = 1e-3
"""Least distance, of the usual one: lesions that are embedded alike have a finite logarithm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PatientContext:
    """The space in which lesions of a patient are compared, with its units."""

    axes: Float32[Array, "d k"]
    """Principal components of the differences within patients. They keep their variances: equal
    ones would let noise outweigh what is plain to see."""
    usual: Float32[Array, " 2"]
    """Median distance of a lesion to the mean of its patient's others, and to the nearest one."""

    @classmethod
    def fit(cls, features: Mapping[str, Array], ids: pd.DataFrame) -> PatientContext:
        """From the patients of a table that have several lesions; if none has, from all images."""
        patient = ids.groupby("patient_id", dropna=False).ngroup().to_numpy()
        some = np.flatnonzero(patient % -(-len(ids) // MOST_IMAGES) == 0)
        groups = [(some[rows], own) for rows, own in _patients(ids.iloc[some]) if own.any()]
        groups = groups or [(some, np.arange(len(some)))]
        blocks, scales = [], []
        for name in (name for name in SOURCES if name in features):
            lesions = [_means(features[name][rows], own) for rows, own in groups]
            off = np.concatenate([_from_others(x) for x in lesions])  # (l, d)
            scale = 1 / (np.sqrt((off**2).sum(axis=1).mean()) or 1.0)
            blocks.append(scale * off)
            scales.append(np.full(off.shape[1], scale))
        x = np.hstack(blocks)
        axes = np.linalg.eigh(x.T @ x / len(x))[1][:, ::-1][:, :COMPONENTS]
        axes = np.concatenate(scales)[:, None] * axes
        largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
        axes = (np.sign(largest) * axes).astype(np.float32)  # the same sign on every machine
        space = cls(axes=axes, usual=np.ones(2, dtype=np.float32))
        lesions = [_means(space.coordinates(features, rows), own) for rows, own in groups]
        distances = np.concatenate([_distances(z, z, np.arange(len(z))) for z in lesions])
        usual = np.maximum(np.median(distances, axis=0), 1e-12)
        return cls(axes=axes, usual=usual.astype(np.float32))

    def coordinates(
        self, features: Mapping[str, Array], rows: Int[Array, " n"]
    ) -> Float[Array, "n k"]:
        """Some images of a table in this space."""
        joined = np.hstack([features[name][rows] for name in SOURCES if name in features])
        return np.asarray(joined.astype(np.float64) @ self.axes)

    def relative(self, features: Mapping[str, Array], ids: pd.DataFrame) -> dict[str, Array]:
        """The blocks `relative` and `outlier` of each image, float32.

        `relative` (n, k): difference to the mean of the patient's other lesions, in spreads of the
        patient. `outlier` (n, 4 + k): see `OUTLIER`, then the absolute values of `relative`: an
        ugly duckling may be too dark or too pale. Several images of a lesion never count as each
        other's others, nor as several lesions.
        """
        relative = np.zeros((len(ids), self.axes.shape[1]))
        outlier = np.tile([0.0, 0.0, 0.0, 1.0], (len(ids), 1))
        for rows, own in _patients(ids):
            if not own.any():
                continue
            z = self.coordinates(features, rows)
            lesions, count = _means(z, own), own.max()
            far = np.linalg.norm(_from_others(lesions), axis=1)  # (l,)
            spread = self._spreads(far)[own, None]  # (n, 1)
            relative[rows] = _from_others(lesions, z, own) / spread
            distances = _distances(lesions, z, own)  # (n, 2)
            ratio = np.maximum(distances / (self.usual * spread), CLOSEST)
            outlier[rows, :2] = np.log(ratio)
            outlier[rows, 2:] = np.log1p(count), 0.0
        blocks = {"relative": relative, "outlier": np.hstack([outlier, np.abs(relative)])}
        return {name: x.astype(np.float32) for name, x in blocks.items()}

    def _spreads(self, far: Float[Array, " l"]) -> Float[Array, " l"]:
        """Spread of the patient around each lesion, itself left out; 1 is the cohort's.

        Median of how far out the other lesions are, shrunken to the cohort's where they are few:
        of two lesions, neither says how much they usually differ.
        """
        count, place = len(far) - 1, np.argsort(np.argsort(far))
        low, high = (count - 1) // 2, count // 2  # around the median of the others
        ranked = np.sort(far)
        median = (ranked[low + (low >= place)] + ranked[high + (high >= place)]) / 2
        ratio = median / self.usual[0]
        return np.asarray(np.sqrt((PRIOR + (count - 1) * ratio**2) / (PRIOR + count - 1)))

    def to_text(self) -> str:
        """For the metadata of a file."""
        tensors = {name: np.ascontiguousarray(value) for name, value in vars(self).items()}
        return base64.b64encode(save(tensors)).decode()

    @classmethod
    def from_text(cls, text: str | bytes) -> PatientContext:
        """The inverse of `to_text`."""
        return cls(**load(base64.b64decode(text)))


def from_others(cells: Float[Array, "n c"], ids: pd.DataFrame) -> Float32[Array, "n c"]:
    """Numbers of each image minus the mean of the patient's other lesions.

    Several images of a lesion count as one, by their mean. 0 where the image's own number is NaN,
    or those of all the others.
    """
    found = np.zeros(cells.shape, dtype=np.float32)
    for rows, own in _patients(ids):
        known = np.isfinite(cells[rows])
        sums, counts = (np.zeros((own.max() + 1, cells.shape[1])) for _ in range(2))
        np.add.at(sums, own, np.where(known, cells[rows], 0.0))
        np.add.at(counts, own, known)
        there = counts > 0
        lesions = np.divide(sums, counts, out=np.zeros_like(sums), where=there)  # (l, c)
        others = (there.sum(axis=0) - there)[own]  # (n, c)
        mean = (lesions.sum(axis=0) - lesions)[own] / np.maximum(others, 1)
        found[rows] = np.where(known & (others > 0), cells[rows] - mean, 0.0)
    return found


def _patients(ids: pd.DataFrame) -> Iterator[tuple[Int[Array, " n"], Int[Array, " n"]]]:
    """Per patient its rows, and the number of each one's lesion within the patient."""
    patient = ids.groupby("patient_id", dropna=False).ngroup().to_numpy()
    lesion = ids.groupby(["patient_id", "lesion_id"], dropna=False).ngroup().to_numpy()
    order = np.argsort(patient, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(patient))[:-1]):
        yield rows, lesion[rows] - lesion[rows].min()


def _means(x: Float[Array, "n d"], own: Int[Array, " n"]) -> Float[Array, "l d"]:
    """Mean image of each lesion."""
    sums = np.zeros((own.max() + 1, x.shape[1]))
    np.add.at(sums, own, x)
    return sums / np.bincount(own)[:, None]


def _from_others(
    lesions: Float[Array, "l d"],
    x: Float[Array, "n d"] | None = None,
    own: Int[Array, " n"] | None = None,
) -> Float[Array, "n d"]:
    """Difference of images of these lesions to the mean of the other lesions; None: of lesions.

    The fewer the others, the more their mean varies: differences are scaled to the same variance.
    """
    x, own = lesions if x is None else x, np.arange(len(lesions)) if own is None else own
    count = max(len(lesions) - 1, 1)
    others = (lesions.sum(axis=0) - lesions[own]) / count
    return np.asarray((x - others) * np.sqrt(count / (count + 1)))


def _distances(
    lesions: Float[Array, "l k"], z: Float[Array, "n k"], own: Int[Array, " n"]
) -> Float[Array, "n 2"]:
    """Of images of these lesions: to the mean of the other lesions, and to the nearest of them."""
    to_mean = np.linalg.norm(_from_others(lesions, z, own), axis=1)
    nearest = np.empty(len(z))
    for rows in np.array_split(np.arange(len(z)), 1 + len(z) * len(lesions) // AT_ONCE):
        distance = cdist(z[rows], lesions)
        if len(lesions) > 1:
            distance[np.arange(len(rows)), own[rows]] = np.inf
        nearest[rows] = distance.min(axis=1)
    return np.stack([to_mean, nearest], axis=1)
