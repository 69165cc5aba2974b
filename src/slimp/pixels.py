"""Encoded images -> uint8 pixels: decoding, resizing and augmentation, off the main thread.

Axis names: n = images. The parameters of an augmentation are drawn from a generator that the
caller seeds, so a picture is the same in whichever process it is made.
"""

from __future__ import annotations

import io
import signal
from collections.abc import Generator, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from slimp.cohort import Cohort
from slimp.config import BatchConfig
from slimp.errors import CohortError

IntArray = NDArray[np.int64]
GRACE_SECONDS = 20
"""For which a decoding process goes on after SIGTERM."""


def image_batches(
    cohort: Cohort, image_size: int, *, batch_size: int = 256, workers: int = 0
) -> Iterator[tuple[UInt8[Tensor, "n 3 height width"], IntArray]]:
    """All images in the cohort's order, without augmentation, with their rows."""
    dataset = _PlainImages(cohort, image_size)
    rows = np.arange(len(cohort))
    chunks = np.array_split(rows, max(1, -(-len(rows) // batch_size)))
    for chunk, pixels in zip(chunks, load_ahead(dataset, chunks, workers), strict=True):
        yield pixels, chunk


class _PlainImages(Dataset[Tensor]):
    def __init__(self, cohort: Cohort, image_size: int) -> None:
        self.cohort, self.image_size = cohort, image_size

    def __getitem__(self, rows: IntArray) -> UInt8[Tensor, "n 3 height width"]:
        size = self.image_size
        return torch.stack(
            [centre(read_pixels(self.cohort, row, size), size) for row in rows.tolist()]
        )


def load_ahead(
    dataset: Dataset[Any], order: Sequence[Any], workers: int, **options: Any
) -> Generator[Any, None, None]:
    """`dataset[item]` for each item of `order`, made ahead by `workers` processes."""
    # batch_size=None: an item is a whole batch already. Workers decode in one thread each.
    workers = min(workers, len(order))
    loader = DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        generator=torch.Generator(),  # so that making an iterator leaves the global state alone
        worker_init_fn=_outlive_signals,
        **options,
    )
    try:
        yield from loader
    except CohortError as error:  # a worker's comes with the worker's traceback before it
        raise CohortError(str(error).rpartition("CohortError: ")[2]) from None


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and schedulers signal these processes too, but the loop is to finish its step.

    Not forever: a worker that nobody stops ends by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))


def read_pixels(cohort: Cohort, row: int, side: int) -> UInt8[Tensor, "3 height width"]:
    """Image `row` of the cohort, decoded for a side of at least `side` px.

    Raises:
        CohortError: names the image that cannot be decoded.
    """
    try:
        return decode(cohort.read_image(row), side)
    except CohortError as error:
        raise CohortError(f"image '{cohort.images['image_id'].iloc[row]}': {error}") from None


def decode(encoded: bytes, side: int) -> UInt8[Tensor, "3 height width"]:
    """The image in RGB; a JPEG is decoded at the smallest scale whose sides are >= `side` px.

    Raises:
        CohortError: the bytes are no readable image.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.draft("RGB", (side, side))
            array = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise CohortError(
            f"cannot be decoded ({error}). Find all such images with: slimp data check."
        ) from None
    return torch.from_numpy(array).permute(2, 0, 1)


def centre(image: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 size size"]:
    """The central square, resized to `size` px."""
    side = min(image.shape[-2:])
    square = F.center_crop(image, [side, side])
    return cast("Tensor", F.resize(square, [size, size], antialias=True))


def augment(
    image: UInt8[Tensor, "3 h w"], size: int, config: BatchConfig, rng: np.random.Generator
) -> UInt8[Tensor, "3 size size"]:
    """A random square crop at `size` px, mirrored, turned and recoloured as `config` allows.

    Every parameter is drawn before it is used and in a fixed order, so a view is replayable.
    """
    height, width = image.shape[-2:]
    scale, where, turns = rng.uniform(config.crop_scale, 1.0), rng.random(2), rng.integers(4)
    mirrored = rng.random() < 0.5
    colours = rng.uniform(1 - config.colour, 1 + config.colour, size=3)
    side = max(1, round(min(height, width) * scale**0.5))
    top, left = (int(w * (full - side + 1)) for w, full in zip(where, (height, width), strict=True))
    out = F.resized_crop(image, top, left, side, side, [size, size], antialias=True)
    if config.flip and mirrored:
        out = F.horizontal_flip(out)
    if config.rotate:
        out = torch.rot90(out, int(turns), (1, 2))
    if config.colour:
        out = F.adjust_brightness(out, float(colours[0]))
        out = F.adjust_contrast(out, float(colours[1]))
        out = F.adjust_saturation(out, float(colours[2]))
    return cast("Tensor", out.contiguous())
