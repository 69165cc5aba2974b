"""What the page asks of a cohort and a run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from PIL import Image

from slimp.app.columns import Column
from slimp.app.embeddings import Embedded
from slimp.data.cohort import Cohort
from slimp.data.images import decode
from slimp.data.schema import LevelName

Array = np.ndarray[Any, np.dtype[Any]]
NOTICE = "Research software, not for diagnosis."
SIZES = (96, 256, 768)
"""Longer side of a thumbnail, px."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explorer:
    """A cohort in memory, with the embeddings of a run beside it; nothing is ever written to it."""

    cohort: Cohort
    run: str
    """As the user named it."""
    embedded: Embedded
    of_image: Mapping[LevelName, Int64[Array, " n"]]
    """Per level, the row of its table to which each image belongs."""
    columns: Mapping[str, Column]
    projections: tuple[str, ...] = ("pca",)

    def describe(self) -> dict[str, Any]:
        """What the page must know at the start."""
        cohort = self.cohort
        return {
            "name": cohort.info.name,
            "images": len(cohort),
            "lesions": len(cohort.lesions),
            "patients": len(cohort.patients),
            "run": self.run,
            "spaces": list(self.embedded.spaces),
            "projections": list(self.projections),
            "label": "label" if "label" in self.columns else None,
            "columns": [column.describe() for column in self.columns.values()],
            "probe": None,
            "compare": None,
            "findings": 0,
            "notice": NOTICE,
        }

    def points(self, projection: str) -> Float32[Array, "n 2"]:
        """The images in a plane."""
        return self.embedded.projection(projection)

    def ids(self, rows: Sequence[int]) -> list[list[str]]:
        """Image, lesion and patient of some images."""
        names = ["image_id", "lesion_id", "patient_id"]
        found = self.cohort.images[names].iloc[list(rows)].astype(str)
        return found.to_numpy(dtype=object).tolist()

    def thumbnail(self, row: int, size: int) -> bytes:
        """The whole image as a JPEG without metadata, its longer side at most `size` px.

        Raises:
            CohortError: the image cannot be decoded.
        """
        return _jpeg(decode(self.cohort.read_image(row), size), size)


def _jpeg(picture: Image.Image, size: int) -> bytes:
    picture.thumbnail((size, size))
    picture.info.clear()  # Pillow would write comments again
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
