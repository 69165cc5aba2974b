"""Opens every image once; all checks of images read what is kept of it.

Memory: about 1.5 KiB per image, most of it the thumbnail, whatever the size of the pictures.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pandas as pd

from slimp.checks.image_statistics import BadPictureError, PictureFacts, picture_facts
from slimp.checks.near_duplicates import SIDE, Progress, Thumbnails
from slimp.data.cohort import Cohort
from slimp.data.in_order import in_order
from slimp.sources.image_limits import own_limits

AHEAD = 64
"""Pictures in work: an interrupted scan ends after these."""
WHOLE = ("width", "height", "dark_corners")
MEASURED = (
    "bytes_per_pixel",
    "spread",
    "brightness",
    "colour",
    "sharpness",
    "overexposed",
    "underexposed",
    "frame",
)
"""Fields of `PictureFacts` that become columns of numbers."""


@dataclass(frozen=True, kw_only=True)
class ImageScan:
    """What is kept of the images, in the order of the cohort's rows."""

    facts: pd.DataFrame
    """Ids, label and part of each image, the fields of `PictureFacts`, and `problem`: why it
    cannot be decoded, empty otherwise; then the facts are 0."""
    thumbnails: Thumbnails
    """Black where the image cannot be decoded."""

    @property
    def good(self) -> pd.DataFrame:
        """The facts of images that can be decoded."""
        return self.facts[self.facts["problem"] == ""]


def scan_images(cohort: Cohort, progress: Progress | None = None) -> ImageScan:
    """The facts of every image; `progress` is called with (images done, images in all)."""
    total = len(cohort)
    columns = {name: np.zeros(total, dtype=np.int32) for name in WHOLE}
    columns |= {name: np.zeros(total, dtype=np.float32) for name in MEASURED}
    thumbnails = np.zeros((total, SIDE, SIDE), dtype=np.uint8)
    pixels, problems = [""] * total, [""] * total

    def open_image(row: int) -> PictureFacts | str:
        try:
            return picture_facts(cohort.read_image(row))
        except BadPictureError as error:
            return str(error)

    # Threads read ahead; decoding itself gains next to nothing by them.
    threads = min(8, os.cpu_count() or 1)
    with (
        own_limits(),
        closing(in_order(open_image, range(total), threads=threads, ahead=AHEAD)) as scanned,
    ):
        for row, seen in enumerate(scanned):
            if isinstance(seen, str):
                problems[row] = seen
            else:
                pixels[row], thumbnails[row] = seen.pixels, seen.thumbnail
                for name, values in columns.items():
                    values[row] = getattr(seen, name)
            if progress is not None:
                progress(row + 1, total)
    known = ["image_id", "lesion_id", "patient_id", "label", "split"]
    ids = cohort.images[[column for column in known if column in cohort.images]]
    more = pd.DataFrame({**columns, "pixels": pixels, "problem": problems})
    facts = pd.concat([ids.reset_index(drop=True), more], axis=1)
    return ImageScan(facts=facts, thumbnails=thumbnails)
