"""Opens every image once, measures what it shows apart from the lesion, and says what is odd.

What depends on scale is measured where the shorter side has `SCALE` pixels. Memory: about 1.5 KiB
per image, most of it the thumbnail, whatever the size of the images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from PIL import Image

from slimp.checks.finding import Finding, finding
from slimp.checks.near_duplicates import SIDE, Thumbnails, shrink
from slimp.data.cohort import Cohort
from slimp.data.in_order import Progress, in_order
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
TINY_SIDE = 32
"""Images with a side below this many pixels are reported: two patches of a ViT/16."""
BLUR = 4.0
"""Robust standard deviations below the median of the logarithm of sharpness."""
BLUR_FACTOR = 4.0
"""And so many times less sharp than the median."""
EXPOSED = 0.3
"""Share of all but white, or all but black, pixels."""
FRAMED = 0.05
"""Share of the area in a frame."""
CORNERS = 3
"""Dark corners of a round field of view; one may be hidden by a ruler or a label."""
GREY = 2.0
"""Mean distance of the channels of a grey image, at most."""


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
    work = in_order(open_image, range(len(cohort)), ahead=AHEAD)
    with own_limits(), closing(work) as scanned:
        for row in scanned:
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(cohort))
    known = ["image_id", "lesion_id", "patient_id", "label", "split"]
    ids = cohort.images[[column for column in known if column in cohort.images]]
    facts = pd.concat([ids, pd.DataFrame(rows)], axis=1)
    return ImageScan(facts=facts, thumbnails=thumbnails)


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


def image_findings(scan: ImageScan) -> Iterator[Finding]:
    """Corrupt, tiny and blank images, and images of skin that are unlike the others."""
    facts, good = scan.facts, scan.good
    blank = good["spread"] < FLAT_SPREAD
    skin = good[~blank]
    framed, grey = skin["frame"] > FRAMED, skin["colour"] < GREY
    exposed = (skin[["overexposed", "underexposed"]] > EXPOSED).any(axis=1)
    usual = f"{skin['sharpness'].median():.3g}"
    for code, rows, example in (
        ("corrupt-image", facts[facts["problem"] != ""], "{problem}"),
        (
            "tiny-image",
            good[good[["width", "height"]].min(axis=1) < TINY_SIDE],
            "{width} x {height} px",
        ),
        ("blank-image", good[blank], "grey levels deviate by {spread:.1f} of 255"),
        (
            "blurred-image",
            skin[blurred(skin["sharpness"])],
            "sharpness {sharpness:.3g}, median {usual}",
        ),
        ("exposure", skin[exposed & ~framed], "{overexposed:.0%} white, {underexposed:.0%} black"),
        ("framed-image", skin[framed], "{frame:.0%} of the area"),
        ("dark-corners", skin[skin["dark_corners"] >= CORNERS], "{dark_corners} corners"),
        ("grey-image", skin[grey & (not grey.all())], "channels differ by {colour:.1f} of 255"),
    ):
        if len(rows):
            first = {str(name): value for name, value in rows.iloc[0].items()}
            example = f"{first['image_id']}: {example.format(usual=usual, **first)}"
            ids = rows["image_id"]
            yield finding(code, count=len(rows), total=len(facts), example=example, ids=ids)


def blurred(sharpness: pd.Series) -> pd.Series:
    """Which images are far less sharp than the others."""
    level = sharpness.astype(float).clip(lower=1e-3).map(np.log)
    below = level.median() - level
    spread = 1.4826 * float(below.abs().median())
    low: pd.Series = below > max(BLUR * spread, float(np.log(BLUR_FACTOR)))
    return low
