"""Lesion masks: a folder of images, named as the cohort's images are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, UnidentifiedImageError

from slimp.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]
ENDINGS = ("", "_segmentation", "_mask", "_lesion")
"""What a mask's name may have after the image's: as ISIC, HAM10000 and PH2 publish them."""
TOLERANCE = 0.02
"""Relative difference of the aspect of an image and its mask, at most."""


def find_masks(folder: Path, image_ids: Sequence[str]) -> dict[str, Path]:
    """Image id -> file of its mask, for the images that have one.

    Raises:
        UserError: no such folder, two masks of one image, or none of any.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of masks.")
    names = {
        f"{stem}{ending}": name
        for name in image_ids
        for stem in (Path(name).stem, name)
        for ending in ENDINGS
    }
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = names.get(path.stem)
        if name is None or not path.is_file():
            continue
        if name in found:
            raise UserError(f"{folder}: two masks of image '{name}': {found[name]} and {path}.")
        found[name] = path
    if not found:
        raise UserError(
            f"{folder}: no mask of any of the {len(image_ids)} images. A mask is an image named "
            f"as its image, such as {image_ids[0]}.png."
        )
    return found


def read_mask(path: Path, shown: tuple[int, int], size: int) -> Bool[Array, "size size"]:
    """The mask of an image where the encoder sees it: the central square, at `size` px.

    Args:
        path: file of the mask.
        shown: width and height of its image, px, at any scale.
        size: side of the result, px.

    Raises:
        UserError: the file is no image, or of another shape than its image.
    """
    try:
        with Image.open(path) as opened:
            mask = opened.convert("L")
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise UserError(
            f"{path}: the mask cannot be read ({error}). Replace it, or take it out of the folder."
        ) from None
    if abs(shown[0] / shown[1] * mask.height / mask.width - 1) > TOLERANCE:
        raise UserError(
            f"{path}: the mask is {mask.width} x {mask.height} px, its image of another shape, as "
            f"{shown[0]} x {shown[1]} is. Give the mask of the whole image."
        )
    side = min(mask.size)
    left, top = ((full - side) // 2 for full in mask.size)
    square = mask.crop((left, top, left + side, top + side))
    values = np.asarray(square.resize((size, size), Image.Resampling.BILINEAR), dtype=float)
    highest = max(float(np.asarray(mask).max()), 1.0)  # masks of 0 and 1 as well as of 0 and 255
    return values > highest / 2
