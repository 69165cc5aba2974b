"""Example lesions: per class some that the probe got right and some that it got wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from slimp.report.inputs import ProbeFacts

PER_CLASS = 4
"""Right ones, and wrong ones, per class."""
SIDE = 112
"""Of a thumbnail, px."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One test image with what the probe said about it."""

    image_id: str
    true: str
    predicted: str
    probability: float
    """Of the predicted class; NaN where unknown."""
    thumbnail: str
    """JPEG, as a data URI."""


@dataclass(frozen=True, kw_only=True)
class ClassExamples:
    """The examples of one class."""

    label: str
    right: tuple[Example, ...]
    wrong: tuple[Example, ...]


def draw_examples(
    probe: ProbeFacts, read_image: Callable[[str], bytes], seed: int
) -> list[ClassExamples]:
    """Per class, test images drawn at random from the first seed: at most one per patient."""
    if probe.predictions is None or probe.predictions.empty:
        return []
    table = probe.predictions
    table = table[table["seed"] == table["seed"].min()]
    # Shuffled under the report's seed from a fixed order, whatever order the file has.
    table = table.sort_values("image_id").sample(frac=1, random_state=seed)
    table = table.drop_duplicates("patient_id")
    rows = []
    for label in probe.classes:
        own = table[table["label"] == label]
        is_right = (own["predicted"] == own["label"]).to_numpy(dtype=bool)
        right, wrong = own[is_right].head(PER_CLASS), own[~is_right].head(PER_CLASS)
        if len(own):
            rows.append(
                ClassExamples(
                    label=label,
                    right=_examples(right, read_image),
                    wrong=_examples(wrong, read_image),
                )
            )
    return rows


def _examples(rows: pd.DataFrame, read_image: Callable[[str], bytes]) -> tuple[Example, ...]:
    return tuple(
        Example(
            image_id=str(row["image_id"]),
            true=str(row["label"]),
            predicted=str(row["predicted"]),
            probability=float(row.get(f"p_{row['predicted']}", np.nan)),
            thumbnail=thumbnail(read_image(str(row["image_id"]))),
        )
        for _, row in rows.iterrows()
    )


def thumbnail(encoded: bytes, side: int = SIDE) -> str:
    """The central square as a small JPEG without metadata, as a data URI."""
    with Image.open(io.BytesIO(encoded)) as image:
        image.draft("RGB", (2 * side, 2 * side))
        square = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    square.save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
