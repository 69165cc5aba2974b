"""What one picture shows apart from the lesion: size, sharpness, exposure, frames, dark corners.

All of it is measured on one decoded picture, so that a cohort is decoded once. What depends on
scale is measured where the shorter side has `SCALE` pixels.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError

from slimp.checks.near_duplicates import shrink
from slimp.sources.image_limits import MAX_PIXELS

SCALE = 128
"""Shorter side at which sharpness, frames and corners are measured, px."""
BLACK, WHITE = 25, 230
"""Grey levels up to which, and from which, an even row or column at an edge is a frame."""
EVEN = 3.0
"""Standard deviation of the grey levels of such a row or column, at most."""
CORNER = 0.1
"""Side of the squares in the corners, as a share of the picture's."""
DARK_CORNER = 40
"""Mean grey level below which a corner is dark, if it is also under half of the middle's."""


class BadPictureError(Exception):
    """The picture cannot be decoded; the message says why, in a few words."""


@dataclass(frozen=True, kw_only=True)
class PictureFacts:
    """What is measured; grey levels and colours run from 0 to 255."""

    width: int
    height: int
    pixels: str
    """Hash of size and decoded RGB pixels: equal for equal pictures in different encodings."""
    bytes_per_pixel: float
    spread: float
    """Standard deviation of the grey levels."""
    brightness: float
    """Mean grey level."""
    colour: float
    """Mean distance of a pixel's largest and smallest channel; 0 in a grey picture."""
    sharpness: float
    """Variance of the Laplacian of the grey levels."""
    overexposed: float
    """Share of the pixels that are all but white."""
    underexposed: float
    """Share of the pixels that are all but black."""
    frame: float
    """Share of the area in even black or white bands along the edges."""
    dark_corners: int
    """0 to 4: a round field of view, as of a dermatoscope."""
    thumbnail: UInt8[np.ndarray, "32 32"]


def picture_facts(encoded: bytes) -> PictureFacts:
    """The facts of one encoded picture.

    Raises:
        BadPictureError: it cannot be decoded to its last row, or has more than `MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:  # refused before it is decoded
                raise BadPictureError(f"too large: {width} x {height} px")
            picture = image.convert("RGB")
    except UnidentifiedImageError:
        raise BadPictureError(f"no known image format; it starts with {encoded[:8]!r}") from None
    except BadPictureError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise BadPictureError(str(error) or type(error).__name__) from None
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(picture.tobytes())
    scale = SCALE / min(width, height)
    size = (max(SCALE, round(width * scale)), max(SCALE, round(height * scale)))
    small = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    red, green, blue = (np.asarray(channel) for channel in small.split())
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    grey = np.asarray(small.convert("L"), dtype=np.float32)  # (rows, columns)
    return PictureFacts(
        width=width,
        height=height,
        pixels=digest.hexdigest(),
        bytes_per_pixel=len(encoded) / (width * height),
        spread=float(grey.std()),
        brightness=float(grey.mean()),
        colour=float((highest - lowest).mean()),
        sharpness=sharpness(grey),
        overexposed=float((lowest >= 250).mean()),
        underexposed=float((highest <= 10).mean()),
        frame=frame(grey),
        dark_corners=dark_corners(grey),
        thumbnail=shrink(picture),
    )


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
    middle = grey[grey.shape[0] // 3 : -(grey.shape[0] // 3) or None]
    middle = middle[:, grey.shape[1] // 3 : -(grey.shape[1] // 3) or None]
    corners = [
        float(grey[down, along].mean())
        for down in (slice(rows), slice(-rows, None))
        for along in (slice(columns), slice(-columns, None))
    ]
    limit = min(DARK_CORNER, float(middle.mean()) / 2)
    return sum(level < limit for level in corners)
