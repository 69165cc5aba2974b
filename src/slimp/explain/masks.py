"""Lesion masks: a folder of images, named as the cohort's images are."""

from __future__ import annotations

from collections import defaultdict
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

    Where both an id and a mask have folders, these must be the same as far as both go.

    Raises:
        UserError: no such folder, two masks of one image, one of two, or none of any.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of masks.")
    called: dict[str, set[tuple[str, str]]] = defaultdict(set)  # last part -> (path, image id)
    for name in image_ids:
        for path in (Path(name), Path(name).with_suffix("")):
            called[path.name].add((f"/{path.as_posix()}", name))
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = f"/{path.relative_to(folder).with_suffix('').as_posix()}"
        images: list[str] = []
        for own in (place.removesuffix(ending) for ending in ENDINGS):
            known = called.get(own.rpartition("/")[2], ())
            same = {name for other, name in known if other == own}
            ends = {name for x, name in known if x.endswith(own) or own.endswith(x)}
            images = images or sorted(same or ends)
        if len(images) > 1:
            raise UserError(
                f"{path}: a mask of image '{images[0]}' or of '{images[1]}'? Put each mask where "
                f"the id says, as {images[0]}.png."
            )
        if not images:
            continue
        name = images[0]
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
