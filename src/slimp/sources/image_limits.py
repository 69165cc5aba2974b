"""Which image files are read: formats, the number of pixels, and what is raised for the others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
MAX_PIXELS = 128_000_000
"""Images with more pixels are refused before they are decoded: 384 MB each, or a bomb."""


class CorruptImageError(Exception):
    """The image cannot be used; the message is the reason, in a few words."""


def check_size(width: int, height: int) -> None:
    """Raises `CorruptImageError` for an image of more than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise CorruptImageError(
            f"too large: {width} x {height} pixels, allowed are {MAX_PIXELS:,} in all"
        )


@contextmanager
def own_limits() -> Iterator[None]:
    """While images are decoded: our limit on pixels instead of Pillow's, and none of its warnings.

    Both are global to Pillow, so one thread enters this around the work of all.
    """
    Image.init()
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\b")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
