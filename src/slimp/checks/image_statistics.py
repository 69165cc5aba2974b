"""Opens every image once and measures what it shows apart from the lesion.

What depends on scale is measured where the shorter side has `SCALE` pixels. Memory: about 1.5 KiB
per image, most of it the thumbnail, whatever the size of the images.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from PIL import Image

from slimp.checks.near_duplicates import SIDE, Progress, Thumbnails, shrink
from slimp.data.cohort import Cohort
from slimp.data.in_order import in_order
from slimp.sources.decode_image import decode_image
from slimp.sources.image_limits import CorruptImageError, own_limits

MEASURES = {
    "width": "width, px",
    "height": "height, px",
    "aspect": "width by height",
    "bytes_per_pixel": "bytes per pixel of the file",
    "sharpness": "sharpness (variance of the Laplacian at 128 px)",
    "overexposed": "share of white pixels",
    "underexposed": "share of black pixels",
    "frame": "share of the area in even black or white bands along the edges",
    "dark_corners": "dark corners, of 4, as of a round field of view",
    "brightness": "mean brightness (0 to 255)",
    "spread": "contrast (standard deviation of the grey levels)",
    "colour": "colourfulness (mean distance of the channels, 0 in a grey image)",
}
"""Measurements of an image -> what they are."""
CONTENT = frozenset({"brightness", "spread", "colour"})
"""What the lesion itself may decide; the others depend on how an image was taken."""
FLAT_SPREAD = 2.0
"""Images whose grey levels (0 to 255) have a smaller standard deviation are blank."""
SCALE = 128
"""Shorter side at which sharpness, frames and corners are measured, px."""
BLACK, WHITE = 25, 230
"""Grey levels up to which, and from which, an even row or column at an edge is a frame."""
EVEN = 3.0
"""Standard deviation of the grey levels of such a row or column, at most."""
CORNER = 0.1
"""Side of the squares in the corners, as a share of the image's."""
DARK_CORNER = 40
"""Mean grey level below which a corner is dark, if it is also under half of the middle's."""
AHEAD = 64
"""Images in work: an interrupted scan ends after these."""


@dataclass(frozen=True, kw_only=True)
class ImageScan:
    """What is kept of the images, in the order of the cohort's rows."""

    facts: pd.DataFrame
    """Ids, label and part of each image, its `MEASURES`, `pixels`, a hash that is equal for equal
    images in different encodings, and `problem`: why it cannot be decoded, empty otherwise."""
    thumbnails: Thumbnails
    """Black where the image cannot be decoded."""

    @property
    def good(self) -> pd.DataFrame:
        """The facts of images that can be decoded."""
        return self.facts[self.facts["problem"] == ""]


def scan_images(cohort: Cohort, progress: Progress | None = None) -> ImageScan:
    """Measures every image; `progress` is called with (images done, images in all)."""
    thumbnails = np.zeros((len(cohort), SIDE, SIDE), dtype=np.uint8)
    nothing = dict.fromkeys(MEASURES, 0) | {"pixels": ""}
    rows = []

    def open_image(row: int) -> dict[str, Any]:
        try:
            measured, thumbnails[row] = measure_image(cohort.read_image(row))
        except CorruptImageError as error:
            return nothing | {"problem": str(error)}
        return measured | {"problem": ""}

    # Threads read ahead; decoding itself gains next to nothing by them.
    threads = min(8, os.cpu_count() or 1)
    with (
        own_limits(),
        closing(in_order(open_image, range(len(cohort)), threads=threads, ahead=AHEAD)) as scanned,
    ):
        for row in scanned:
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(cohort))
    known = ["image_id", "lesion_id", "patient_id", "label", "split"]
    ids = cohort.images[[column for column in known if column in cohort.images]]
    return ImageScan(
        facts=pd.concat([ids.reset_index(drop=True), pd.DataFrame(rows)], axis=1),
        thumbnails=thumbnails,
    )


def measure_image(encoded: bytes) -> tuple[dict[str, Any], UInt8[np.ndarray, "32 32"]]:
    """The `MEASURES` and the pixel hash of one encoded image, and its thumbnail.

    Raises:
        CorruptImageError: it cannot be decoded to its last row, or has too many pixels.
    """
    picture = decode_image(encoded, shorter_side=0).picture
    width, height = picture.size
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(picture.tobytes())
    scale = SCALE / min(width, height)
    size = (max(SCALE, round(width * scale)), max(SCALE, round(height * scale)))
    small = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    channels = [np.asarray(channel) for channel in small.split()]
    highest, lowest = np.maximum.reduce(channels), np.minimum.reduce(channels)
    grey = np.asarray(small.convert("L"), dtype=np.float32)  # (rows, columns)
    return {
        "width": width,
        "height": height,
        "aspect": width / height,
        "bytes_per_pixel": len(encoded) / (width * height),
        "sharpness": sharpness(grey),
        "overexposed": float((lowest >= 250).mean()),
        "underexposed": float((highest <= 10).mean()),
        "frame": frame(grey),
        "dark_corners": dark_corners(grey),
        "brightness": float(grey.mean()),
        "spread": float(grey.std()),
        "colour": float((highest - lowest).mean()),
        "pixels": digest.hexdigest(),
    }, shrink(picture)


def sharpness(grey: Float[np.ndarray, "rows columns"]) -> float:
    """Variance of the Laplacian: the sum of the four neighbours less four times the pixel."""
    inner = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * inner).var())


def frame(grey: Float[np.ndarray, "rows columns"]) -> float:
    """Share of the area in even black or white bands along the edges."""
    inside = 1.0
    for lines in (grey, grey.T):
        level = lines.mean(axis=1)
        band = (lines.std(axis=1) <= EVEN) & ((level <= BLACK) | (level >= WHITE))
        if band.all():
            return 1.0
        inside *= 1 - (np.argmin(band) + np.argmin(band[::-1])) / len(band)
    return float(1 - inside)


def dark_corners(grey: Float[np.ndarray, "rows columns"]) -> int:
    """How many corners are dark, and far darker than the middle."""
    rows, columns = (max(1, round(CORNER * side)) for side in grey.shape)
    down, along = (slice(side // 3, -(side // 3) or None) for side in grey.shape)
    limit = min(DARK_CORNER, float(grey[down, along].mean()) / 2)
    corners = [
        grey[down, along].mean()
        for down in (slice(rows), slice(-rows, None))
        for along in (slice(columns), slice(-columns, None))
    ]
    return sum(bool(level < limit) for level in corners)
