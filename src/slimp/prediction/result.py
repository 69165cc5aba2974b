"""What a prediction says of an image.

Axis names: q = images, d = width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from slimp.evaluation.metrics import Array

UNCALIBRATED = "no metadata: no conformal set, since thresholds are of images with metadata"
"""Why a prediction has no set: without metadata, the stated coverage would not hold."""
OTHERWISE = "observed metadata: no conformal set, since thresholds are of imputed metadata"
"""The same, where the metadata that calibrated it were imputed by retrieval."""
Status = Literal["predicted", "refused", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An image of the reference."""

    image_id: str
    patient_id: str
    label: str
    similarity: float
    """Cosine of the standardised image features."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The result for one image."""

    image: str
    """The file."""
    status: Status
    reason: str = ""
    """Why nothing was predicted, or why there is no conformal set."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Per class, where classes are as frequent as in training."""
    decision: str | None = None
    """Class by `Predictor.decision_rule`."""
    conformal_set: tuple[str, ...] = ()
    """Classes, the likeliest first."""
    novelty_p: float | None = None
    """Fraction of reference images that are as far from the others, or farther."""
    nearest: tuple[Case, ...] = ()
    metadata_known: int | None = None
    """Metadata features that are known; None: none are used."""
    metadata_features: int | None = None
    compared_with: int | None = None
    """Other lesions of the patient among these images; None: the probe does not compare."""
    unseen: Mapping[str, str] = field(default_factory=dict)
    """Column -> category that the model does not know, or number far outside those learned from;
    they count as missing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images that are answered together."""

    paths: Sequence[Path]
    found: dict[Path, Prediction]
    """Those that get no probabilities."""
    kept: Sequence[Path] = ()
    """The others, in the order of the rows of `images` and `novelty_p`."""
    images: Array = field(default_factory=lambda: np.empty((0, 0)))
    """Their embeddings."""
    novelty_p: Array = field(default_factory=lambda: np.empty(0))

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """All of them as one."""
        filled = [batch for batch in batches if batch.kept] or batches[:1]
        return cls(
            paths=[path for batch in batches for path in batch.paths],
            found={path: one for batch in batches for path, one in batch.found.items()},
            kept=[path for batch in filled for path in batch.kept],
            images=np.concatenate([batch.images for batch in filled]),
            novelty_p=np.concatenate([batch.novelty_p for batch in filled]),
        )


def refused(path: Path, reason: str, *, novelty_p: float | None = None) -> Prediction:
    """The result of an image that gets no prediction."""
    return Prediction(image=str(path), status="refused", reason=reason, novelty_p=novelty_p)


def far_out(p: float, level: float, reference: int) -> str:
    """Why an image of this p-value, below the level, gets no prediction; of so many images."""
    return (
        f"out of distribution: a fraction of {p:.2g} of the {reference} reference images is as far "
        f"out, below {level:g}"
    )
