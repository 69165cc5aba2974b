"""What no photograph is: a sheet of one colour, or noise; told from the pixels alone."""

from __future__ import annotations

import numpy as np
from PIL import Image

EVEN = 2.0
"""Standard deviation of the lightness, of 255, up to which a picture counts as of one colour."""
ROUGH = 0.4
"""Correlation of neighbouring pixels below which a picture counts as noise; white noise has 0."""
SIDE = 256
"""Of the middle of the picture that is looked at, at most, px."""


def fault_of(image: Image.Image) -> str | None:
    """Why a picture cannot be a photograph, in words; None if nothing speaks against it.

    An encoder that averages over patches can put either amid its photographs, so that the
    distance of its features is no help. The limits are far from what photographs of lesions have.
    """
    spread, smoothness = texture(image)
    if spread < EVEN:
        return "the picture is of one colour throughout"
    if smoothness < ROUGH:
        return "the picture is noise: neighbouring pixels have little to do with each other"
    return None


def texture(image: Image.Image) -> tuple[float, float]:
    """Standard deviation of the lightness, and correlation of neighbouring pixels."""
    side = min(SIDE, *image.size)
    left, top = ((full - side) // 2 for full in image.size)
    middle = image.crop((left, top, left + side, top + side)).convert("L")
    x = np.asarray(middle, dtype=np.float64)
    x -= x.mean()
    variance = float((x**2).mean())
    if side < 2 or variance == 0:
        return variance**0.5, 1.0
    products = ((x[1:] * x[:-1]).mean() + (x[:, 1:] * x[:, :-1]).mean()) / 2
    return variance**0.5, float(products) / variance
