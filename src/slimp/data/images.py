"""Encoded images -> uint8 pixels: decoding, resizing and augmentation, in worker processes.

Axis names: n = images. The parameters of an augmentation come from a generator that the caller
seeds, so that an image does not depend on the process that makes it.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from traceback import clear_frames
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from slimp.data.cohort import Cohort
from slimp.data.config import BatchConfig
from slimp.data.decode import decode
from slimp.data.processes import process_and_count
from slimp.errors import CohortError

IntArray = NDArray[np.int64]
Workers = int | Literal["auto"]
MOST_WORKERS = 8
"""Decoding processes per GPU under `auto`, at most."""
GRACE_SECONDS = 20
"""Time after SIGTERM at which a decoding process ends."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance (ITU-R BT.601)."""
TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def image_batches(
    cohort: Cohort, image_size: int, *, batch_size: int = 256, workers: Workers = 0
) -> Iterator[tuple[UInt8[Tensor, "n 3 height width"], IntArray]]:
    """All images in the cohort's order, without augmentation, with their rows."""
    dataset = _PlainImages(cohort, image_size)
    rows = np.arange(len(cohort))
    chunks = np.array_split(rows, max(1, -(-len(rows) // batch_size)))
    for chunk, pixels in zip(chunks, load_ahead(dataset, chunks, workers), strict=True):
        yield pixels, chunk


class _PlainImages(Dataset[Tensor]):
    def __init__(self, cohort: Cohort, image_size: int) -> None:
        self.pictures, self.image_size = Pictures(cohort), image_size

    def __getitem__(self, rows: IntArray) -> UInt8[Tensor, "n 3 height width"]:
        size = self.image_size
        return torch.stack([centre(self.pictures.read(row, size), size) for row in rows.tolist()])


def decoding_processes(workers: Workers) -> int:
    """The number asked for; auto: 1 if the model runs on the CPU, all cores per GPU up to 8.

    A core decodes and augments hundreds to thousands of images per second, a GPU takes thousands
    (`benchmarks/reads.py`).
    """
    if workers != "auto":
        return workers
    if not torch.cuda.is_available():
        return 1
    here = min(process_and_count()[1], torch.cuda.device_count())
    return max(1, min(MOST_WORKERS, (os.cpu_count() or 1) // max(1, here)))


def load_ahead(
    dataset: Dataset[Any], order: Sequence[Any], workers: Workers, **options: Any
) -> Generator[Any, None, None]:
    """`dataset[item]` for each item of `order`, made ahead by `workers` processes."""
    # batch_size=None: an item is a whole batch already. Workers decode in one thread each, and
    # one batch ahead: the paper's takes a gigabyte.
    processes = min(decoding_processes(workers), len(order))
    loader = DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=processes,
        prefetch_factor=1 if processes else None,
        generator=torch.Generator(),  # so that making an iterator leaves the global state alone
        worker_init_fn=_outlive_signals,
        **options,
    )
    try:
        yield from loader
    except CohortError as error:  # a worker's comes with the worker's traceback before it
        clear_frames(error.__traceback__)  # they would hold on to the processes
        raise CohortError(str(error).rpartition("CohortError: ")[2].strip()) from None


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and schedulers signal these processes too, but the loop must finish its step.

    A worker that nobody stops ends by itself, some time after SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))


class Pictures:
    """The images of a cohort and their ids, without its tables.

    This is copied to each decoding process where processes do not inherit memory, as on macOS.
    """

    def __init__(self, cohort: Cohort) -> None:
        self._store, self._positions = cohort.store, cohort.positions
        self._ids = cohort.images["image_id"]

    def read(self, row: int, side: int) -> Image.Image:
        """Image `row` of the cohort, decoded for a side of at least `side` px.

        Raises:
            CohortError: names the image that cannot be decoded.
        """
        try:
            return decode(self._store.read(int(self._positions[row])), side)
        except CohortError as error:
            raise CohortError(f"image '{self._ids.iloc[row]}': {error}") from None


def centre(image: Image.Image, size: int) -> UInt8[Tensor, "3 size size"]:
    """The central square, resized to `size` px."""
    return _planes(_crop(image, 1.0, (0.5, 0.5), size))


def augment(
    image: Image.Image, size: int, config: BatchConfig, rng: np.random.Generator
) -> UInt8[Tensor, "3 size size"]:
    """A random square crop at `size` px, mirrored, turned and recoloured as `config` allows.

    Every parameter is drawn before it is used and in a fixed order, so a view is replayable.
    """
    area, where, turns = rng.uniform(config.crop_scale, 1.0), rng.random(2), rng.integers(4)
    mirrored = rng.random() < 0.5
    colours = rng.uniform(1 - config.colour, 1 + config.colour, size=3)
    angle = rng.uniform(0.0, 360.0) if config.rotate == "any" else 0.0
    out = _crop(image, area, where.tolist(), size, angle)
    if config.flip and mirrored:
        out = out.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.rotate == "quarter" and turns:
        out = out.transpose(TURNS[turns - 1])
    if config.colour:
        out = _recolour(out, *colours.tolist())
    return _planes(out)


def _crop(
    image: Image.Image, area: float, where: Sequence[float], size: int, angle: float = 0.0
) -> Image.Image:
    """A square of a fraction `area` of the largest one, at `where` (0 to 1) down and right.

    Turned by `angle` degrees about its own centre, black where it reaches beyond the image.
    """
    side = max(1, round(min(image.size) * area**0.5))
    top, left = (
        int(w * (full - side + 1)) for w, full in zip(where, image.size[::-1], strict=True)
    )
    if not angle:
        square = image.crop((left, top, left + side, top + side))
        return square.resize((size, size), Image.Resampling.BILINEAR)
    # The square around the turned one is resized at the same scale, turned, and cut to it.
    reach = abs(math.cos(math.radians(angle))) + abs(math.sin(math.radians(angle)))
    more = math.ceil(size * (reach - 1) / 2)  # px of the result on each side
    rim = more * side / size  # the same in px of the image
    whole = math.ceil(rim)
    around = image.crop((left - whole, top - whole, left + side + whole, top + side + whole))
    box = (whole - rim, whole - rim, whole + side + rim, whole + side + rim)
    around = around.resize((size + 2 * more,) * 2, Image.Resampling.BILINEAR, box)
    turned = around.rotate(angle, Image.Resampling.BILINEAR)
    return turned.crop((more, more, more + size, more + size))


def _recolour(
    image: Image.Image, brightness: float, contrast: float, saturation: float
) -> Image.Image:
    """Brightness, contrast and saturation times a factor each, in this order.

    All three are linear in the colours, so one matrix does them. Differs: torchvision rounds and
    clips after each, so what became too bright there stays white under a lower contrast.
    """
    mean = np.asarray(image.reduce(image.size), dtype=np.float64).ravel()  # (r, g, b)
    own = brightness * contrast * saturation
    grey = brightness * contrast * (1 - saturation)
    offset = brightness * (1 - contrast) * float(mean @ GREY)
    matrix: list[float] = []
    for channel in range(3):
        matrix += [grey * weight + own * (k == channel) for k, weight in enumerate(GREY)]
        matrix.append(offset)
    return image.convert("RGB", tuple(matrix))


def _planes(image: Image.Image) -> UInt8[Tensor, "3 height width"]:
    """The pixels, colour by colour."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
