"""Example lesions: per class some that the probe got right and some that it got wrong."""

from __future__ import annotations

import base64
import io
from typing import Any

import pandas as pd
from PIL import Image, ImageOps

from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.evaluation.result import ProbeResult

PER_CLASS = 4
"""Right ones, and wrong ones, per class."""
SIDE = 112
"""Of a thumbnail, px."""


def draw_examples(
    probe: ProbeResult, cohort: Cohort, seed: int
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Class -> {"Found", "Missed"}: test images drawn at random, at most one per patient.

    Of each: `image_id`, class `predicted`, its `probability` and the `thumbnail`, as a data URI.

    Raises:
        UserError: the predictions are not those of this cohort.
    """
    row_of = {name: row for row, name in enumerate(cohort.images["image_id"])}
    # Shuffled under the page's seed from a fixed order, whatever order the file has.
    table = probe.predictions[probe.predictions["seed"] == probe.predictions["seed"].min()]
    table = table.sort_values("image_id").sample(frac=1, random_state=seed)
    table = table.drop_duplicates("patient_id")
    if unknown := set(probe.predictions["image_id"]) - set(row_of):
        raise UserError(
            f"the predictions hold image '{min(unknown)}', which cohort '{cohort.info.name}' does "
            "not have. Give the cohort that was probed."
        )

    def examples(rows: pd.DataFrame) -> list[dict[str, Any]]:
        return [
            {
                **{"image_id": row["image_id"], "predicted": row["predicted"]},
                "probability": row[f"p_{row['predicted']}"],
                "thumbnail": thumbnail(cohort.read_image(row_of[row["image_id"]])),
            }
            for row in rows.head(PER_CLASS).to_dict("records")
        ]

    right = table["predicted"] == table["label"]
    return {
        label: {"Found": examples(table[own & right]), "Missed": examples(table[own & ~right])}
        for label in probe.classes
        if (own := table["label"] == label).any()
    }


def thumbnail(encoded: bytes, side: int = SIDE) -> str:
    """The central square as a small JPEG without metadata, as a data URI."""
    with Image.open(io.BytesIO(encoded)) as image:
        image.draft("RGB", (2 * side, 2 * side))
        square = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    return data_uri(square, quality=82, optimize=True)


def data_uri(image: Image.Image, **options: Any) -> str:
    """An image as a JPEG that a page holds; options of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", **options)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
