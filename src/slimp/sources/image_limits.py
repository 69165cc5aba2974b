"""What every way to an image refuses: too many pixels, and what is no image."""

from __future__ import annotations

MAX_PIXELS = 128_000_000
"""Images with more pixels are refused before they are decoded: 384 MB each, or a bomb."""


class CorruptImageError(Exception):
    """The image cannot be used; the message is the reason, in a few words."""


def check_size(width: int, height: int) -> None:
    """Raises `CorruptImageError` for an image of more than `MAX_PIXELS`.

    Example:
        >>> check_size(4000, 3000)
        >>> check_size(40_000, 30_000)
        Traceback (most recent call last):
        ...
        slimp.sources.image_limits.CorruptImageError: too large: 40000 x 30000 pixels, ...
    """
    if width * height > MAX_PIXELS:
        raise CorruptImageError(
            f"too large: {width} x {height} pixels, allowed are {MAX_PIXELS:,} in all"
        )
