"""Encoded images -> pictures."""

from __future__ import annotations

import io

from PIL import Image

from slimp.errors import CohortError


def decode(encoded: bytes, side: int) -> Image.Image:
    """The image in RGB; a JPEG is decoded at the smallest scale whose sides are >= `side` px.

    Raises:
        CohortError: the bytes are no readable image.
    """
    try:
        jpeg = encoded.startswith(b"\xff\xd8")  # else Pillow asks one format after another
        image = Image.open(io.BytesIO(encoded), formats=["JPEG"] if jpeg else None)
        image.draft("RGB", (side, side))
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise CohortError(
            f"cannot be decoded ({error}). Find all such images with: slimp data check."
        ) from None
