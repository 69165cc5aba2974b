"""What gets no prediction: pictures that are no photograph, and images far from the reference.

The reference are the cases that a probe learned from; they are kept beside it.
Axis names: n = reference images, q = new images, d = width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Float64, Int, Shaped
from PIL import Image
from sklearn.covariance import ledoit_wolf

from slimp.errors import CheckpointError, UserError
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.metrics import Array
from slimp.features.feature_table import FeatureTable
from slimp.features.nearest import Neighbours, nearest
from slimp.prediction.result import Case

NAME = "reference.parquet"
FOLDS = 5
"""Parts of the reference patients; each is compared with the others."""
MOST_ROWS = 20_000
"""Reference images from which distances are learned, at most; drawn evenly."""
EVEN = 2.0
"""Standard deviation of the lightness, of 255, up to which a picture counts as of one colour."""
ROUGH = 0.4
"""Correlation of neighbouring pixels below which a picture counts as noise; white noise has 0."""
SIDE = 256
"""Of the middle of the picture that is looked at, at most, px."""


def fault_of(image: Image.Image) -> str | None:
    """Why a picture cannot be a photograph, in words; None if nothing speaks against it.

    An encoder that averages over patches can put a sheet of one colour, or noise, amid its
    photographs, so that the distance of its features is no help. The limits are far from what
    photographs of lesions have.
    """
    spread, smoothness = texture(image)
    if spread < EVEN:
        return "the picture is of one colour throughout"
    if smoothness < ROUGH:
        return "the picture is noise: neighbouring pixels have little to do with each other"
    return None


def texture(image: Image.Image) -> tuple[float, float]:
    """Standard deviation of the lightness, and correlation of neighbouring pixels."""
    side = min(SIDE, *image.size)
    left, top = ((full - side) // 2 for full in image.size)
    middle = image.crop((left, top, left + side, top + side)).convert("L")
    x = np.asarray(middle, dtype=np.float64)
    x -= x.mean()
    variance = float((x**2).mean())
    if side < 2 or variance == 0:
        return variance**0.5, 1.0
    products = ((x[1:] * x[:-1]).mean() + (x[:, 1:] * x[:, :-1]).mean()) / 2
    return variance**0.5, float(products) / variance


def save_reference(
    folder: str | Path, table: FeatureTable, rows: Int[Array, " m"] | Bool[Array, " n"]
) -> None:
    """Writes `reference.parquet`: the rows of a table that trained the probe of the first seed."""
    keep = np.zeros(len(table), dtype=bool)
    keep[rows] = True
    table.select(keep).save(Path(folder) / NAME)


def load_reference(folder: str | Path) -> FeatureTable:
    """The inverse of `save_reference`.

    Raises:
        CheckpointError: it is not there, or is damaged.
    """
    try:
        return FeatureTable.load(Path(folder) / NAME)
    except UserError as error:
        raise CheckpointError(
            f"the cases that the probe learned from: {error} Make the probe again."
        ) from None


@dataclass(frozen=True, kw_only=True, eq=False)
class Surroundings:
    """Where the reference's image features lie.

    How far an image is from them is the Mahalanobis distance to their mean, under a shrunken
    covariance (Ledoit and Wolf). In trials it refused noise, text and recoloured images that
    distances to nearest neighbours let pass: an encoder that averages over patches puts noise
    amid its features, but in a direction in which real images hardly vary.
    """

    rows: Float32[Array, "n d"]
    """Standardised: mean 0 and deviation 1 over the reference."""
    mean: Float64[Array, " d"]
    scale: Float64[Array, " d"]
    precision: Float64[Array, "d d"]
    """Inverse covariance of the standardised features."""
    usual: Float64[Array, " m"]
    """Sorted distances of reference images from what was learned without their own patient."""

    @classmethod
    def of(cls, features: Float32[Array, "n d"], patients: Shaped[Array, " n"]) -> Surroundings:
        """Learned from image features of the reference.

        Raises:
            UserError: fewer than 2 patients.
        """
        if len(np.unique(patients)) < 2:
            raise UserError("the reference has a single patient, so nothing is known to be far.")
        x = features.astype(np.float64)
        mean, scale = x.mean(axis=0), x.std(axis=0)
        scale[scale < 1e-12 * np.maximum(np.abs(mean), 1)] = 1.0
        z = (x - mean) / scale
        some = np.unique(np.linspace(0, len(z) - 1, min(len(z), MOST_ROWS)).astype(int))
        few, owners = z[some], patients[some]
        folds = grouped_folds(np.zeros(len(few)), owners, FOLDS, seed=0)
        usual = np.empty(len(few))
        for fold in np.unique(folds):
            own = folds == fold
            usual[own] = _distance(few[own], few[~own].mean(axis=0), _precision(few[~own]))
        return cls(
            rows=z.astype(np.float32),
            mean=mean,
            scale=scale,
            precision=_precision(few),
            usual=np.sort(usual),
        )

    def standardised(self, features: Float32[Array, "q d"]) -> Float64[Array, "q d"]:
        """New features on the scale of the reference's."""
        return (features.astype(np.float64) - self.mean) / self.scale

    def p_values(self, features: Float32[Array, "q d"]) -> Float64[Array, " q"]:
        """Share of reference images, each unseen itself, that are as far or farther; 1 counts on.

        So an image that resembles them has a value of at most p with probability about p.
        """
        distance = _distance(self.standardised(features), np.float64(0), self.precision)
        farther = len(self.usual) - np.searchsorted(self.usual, distance, side="left")
        return np.asarray((1 + farther) / (1 + len(self.usual)))

    def cases(
        self, features: Float32[Array, "q d"], ids: pd.DataFrame, most: int
    ) -> list[tuple[Case, ...]]:
        """The nearest reference images of each, whose rows in `ids` are those of the reference."""
        if not most:
            return [()] * len(features)
        found = self.nearest(features, most)
        ids = ids[["image_id", "patient_id", "label"]].astype(str)
        return [
            tuple(
                Case(**ids.iloc[row].to_dict(), similarity=float(similarity))
                for similarity, row in zip(similarities, rows, strict=True)
            )
            for similarities, rows in zip(found.similarity, found.row, strict=True)
        ]

    def nearest(self, features: Float32[Array, "q d"], k: int) -> Neighbours:
        """The k reference images of highest cosine, all features standardised."""
        return nearest(self.standardised(features).astype(np.float32), self.rows, k)


def _precision(z: Float[Array, "n d"]) -> Float64[Array, "d d"]:
    """Inverse of the shrunken covariance."""
    covariance, _ = ledoit_wolf(z)
    width = len(covariance)
    floor = 1e-6 * np.trace(covariance) / width  # where rows are fewer than columns, or alike
    return np.linalg.inv(covariance + max(floor, 1e-12) * np.eye(width))


def _distance(z: Array, centre: Any, precision: Array) -> Float64[Array, " q"]:
    off = z - centre
    squares = ((off @ precision) * off).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squares, 0)))
