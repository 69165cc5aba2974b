"""Pixels: decoded, centred and augmented as stated, and damaged images named."""

from __future__ import annotations

import io
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import grid_cohort, png
from torchvision.transforms.v2 import functional as F

from slimp.data.cohort import Cohort
from slimp.data.config import BatchConfig
from slimp.data.decode import decode
from slimp.data.files import ImagesInMemory
from slimp.data.images import Pictures, augment, centre, decoding_processes, image_batches
from slimp.errors import CohortError


def tensor_of(image: Image.Image) -> torch.Tensor:
    return F.pil_to_tensor(image)


def one_at_a_time(
    image: Image.Image, size: int, config: BatchConfig, rng: np.random.Generator
) -> torch.Tensor:
    """Augmentation as torchvision composes it, in fp32: the order of draws and steps is ours."""
    area, where, turns = rng.uniform(config.crop_scale, 1.0), rng.random(2), int(rng.integers(4))
    mirrored = rng.random() < 0.5
    factors = rng.uniform(1 - config.colour, 1 + config.colour, size=3)
    width, height = image.size
    side = round(min(width, height) * area**0.5)
    top, left = int(where[0] * (height - side + 1)), int(where[1] * (width - side + 1))
    out = tensor_of(image).float() / 255
    out = F.resized_crop(out, top, left, side, side, [size, size], antialias=True)
    if config.flip and mirrored:
        out = F.horizontal_flip(out)
    if config.rotate == "quarter":
        out = torch.rot90(out, turns, (1, 2))
    if config.colour:
        out = F.adjust_brightness(out, float(factors[0]))
        out = F.adjust_contrast(out, float(factors[1]))
        out = F.adjust_saturation(out, float(factors[2]))
    return out * 255


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.sampled_from([12, 16, 25, 40]),
    crop_scale=st.sampled_from([0.3, 0.6, 1.0]),
    flip=st.booleans(),
    rotate=st.sampled_from(["none", "quarter"]),
    colour=st.sampled_from([0.0, 0.2]),
)
def test_augmentation_is_what_torchvision_composes(
    seed: int, size: int, crop_scale: float, flip: bool, rotate: Any, colour: float
) -> None:
    config = BatchConfig(crop_scale=crop_scale, flip=flip, rotate=rotate, colour=colour)
    middling = np.random.default_rng(seed).integers(60, 150, size=(24, 31, 3), dtype=np.uint8)
    image = Image.fromarray(middling)  # no factor clips these
    ours = augment(image, size, config, np.random.default_rng((seed, 1)))
    theirs = one_at_a_time(image, size, config, np.random.default_rng((seed, 1)))
    # Levels are whole after each pass of the resize (2) and after the colours, which stretch them.
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=2.0)
    assert (ours.float() - theirs).abs().mean() < 0.6


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), crop_scale=st.sampled_from([0.3, 1.0]))
def test_rotation_by_any_angle_turns_the_crop_about_its_centre(
    seed: int, crop_scale: float
) -> None:
    config = BatchConfig(crop_scale=crop_scale, flip=False, rotate="any", colour=0.0)
    ramp = np.linspace(60, 180, 90)[:, None] + np.linspace(-40, 40, 120)[None]
    image = Image.fromarray(np.repeat(ramp[:, :, None], 3, axis=2).astype(np.uint8))
    rng = np.random.default_rng((seed, 1))
    area, where = rng.uniform(crop_scale, 1.0), rng.random(2)
    rng.integers(4), rng.random(), rng.uniform(size=3)
    angle = rng.uniform(0.0, 360.0)
    side = round(min(image.size) * area**0.5)
    top, left = int(where[0] * (90 - side + 1)), int(where[1] * (120 - side + 1))
    centre_of_crop = [left + side / 2, top + side / 2]

    def composed(pixels: torch.Tensor) -> torch.Tensor:
        bilinear = F.InterpolationMode.BILINEAR
        turned = F.rotate(pixels, angle, interpolation=bilinear, center=centre_of_crop)
        return F.resized_crop(turned, top, left, side, side, [32, 32], antialias=True)

    def ours(picture: Image.Image) -> torch.Tensor:
        return augment(picture, 32, config, np.random.default_rng((seed, 1))).float()

    white = Image.new("RGB", image.size, "white")
    inside = (ours(white) > 254) & (composed(tensor_of(white).float()) > 254)
    assert inside.float().mean() > 0.5  # the rim of the image fades into black, each in its way
    difference = ours(image) - composed(tensor_of(image).float())
    assert difference[inside].abs().max() < 4


def test_switched_off_augmentation_is_the_central_square() -> None:
    image = decode(png(0), 16)
    plain = BatchConfig(crop_scale=1.0, flip=False, rotate="none", colour=0.0)
    square = tensor_of(image)[:, :, 2:26]  # 24 x 28: only the place along the longer side is random
    rng = np.random.default_rng(0)
    crops = [augment(image, 24, plain, rng) for _ in range(30)]
    assert any(torch.equal(crop, square) for crop in crops)
    assert torch.equal(centre(image, 24), square)


def test_the_centre_is_what_torchvision_resizes_it_to() -> None:
    image = decode(png(0, side=40), 40)
    expected = F.resize(F.center_crop(tensor_of(image), [40, 40]), [16, 16], antialias=True)
    torch.testing.assert_close(centre(image, 16).float(), expected.float(), rtol=0, atol=1.0)


def test_image_batches_keep_the_order_of_the_cohort() -> None:
    cohort = grid_cohort([1] * 6)
    rows, pixels = [], []
    for part, index in image_batches(cohort, 16, batch_size=4):
        rows += index.tolist()
        pixels.append(part)
    assert rows == list(range(len(cohort)))
    expected = [centre(decode(cohort.read_image(i), 16), 16) for i in rows]
    assert torch.equal(torch.cat(pixels), torch.stack(expected))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_whatever_the_colours_are_stored_as_they_become_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 40, 60)).convert(mode).save(buffer, "TIFF")
    image = decode(buffer.getvalue(), 4)
    assert (image.mode, image.size) == ("RGB", (9, 7))


def test_what_travels_to_a_decoding_process_is_neither_tables_nor_images(tmp_path: Path) -> None:
    grid_cohort([1] * 20).save(tmp_path / "cohort")
    cohort = Cohort.load(tmp_path / "cohort")
    before = len(pickle.dumps(Pictures(cohort)))
    for i in range(40):
        cohort.images[f"more{i}"] = "metadata"
        cohort.lesions[f"more{i}"] = 1.5
    assert len(pickle.dumps(Pictures(cohort))) < before + 100
    assert before < 2500


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_one_line_whoever_decodes_it(workers: int) -> None:
    store = ImagesInMemory([png(0), png(1), png(2)[:60]])
    cohort = replace(grid_cohort([1] * 3), store=store)
    before = set(multiprocessing.active_children())
    message = r"^image 'p2l0i0': cannot be decoded .* slimp data check\.$"
    with pytest.raises(CohortError, match=message) as held:
        list(image_batches(cohort, 16, batch_size=1, workers=workers))
    assert "\n" not in str(held.value)
    assert not set(multiprocessing.active_children()) - before
    del held  # the error: alive until here, and the processes gone all the same


# ------------------------------------------------------------------ processes


@pytest.mark.parametrize(
    ("gpus", "cores", "processes", "wanted"),
    [(0, 64, 1, 1), (1, 64, 1, 8), (1, 4, 1, 4), (4, 16, 4, 4), (4, 16, 1, 8), (8, 2, 8, 1)],
)
def test_decoding_processes_are_for_gpus(
    gpus: int, cores: int, processes: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("slimp.data.images.process_and_count", lambda: (0, processes))
    assert decoding_processes("auto") == wanted
    assert decoding_processes(3) == 3
