"""Pixels: decoded, centred and augmented as stated, and damaged images named."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from slimp.cohort import Cohort
from slimp.config import BatchConfig
from slimp.errors import CohortError
from slimp.pixels import augment, centre, decode, image_batches
from slimp.schema import Schema
from slimp.storage import ImagesInMemory


def encoded(seed: int, side: int = 24, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(side, side + 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def make_cohort(images: list[bytes]) -> Cohort:
    """One lesion per image, one patient per lesion."""
    schema = Schema.from_dict({"image": "image_id", "label": "label"})
    ids = {"patient_id": [f"p{i}" for i in range(len(images))]}
    lesions = pd.DataFrame({"lesion_id": [f"l{i}" for i in range(len(images))], **ids})
    table = lesions.assign(image_id=[f"i{i}" for i in range(len(images))], label="usual")
    return Cohort.from_tables(
        table, lesions, pd.DataFrame(ids), schema=schema, store=ImagesInMemory(images)
    )


def test_switched_off_augmentation_is_the_central_square() -> None:
    image = decode(encoded(0), 16)
    plain = BatchConfig(crop_scale=1.0, flip=False, rotate=False, colour=0.0)
    square = image[:, :, 2:26]  # 24 x 28: only the position along the longer side is random
    rng = np.random.default_rng(0)
    crops = [augment(image, 24, plain, rng) for _ in range(30)]
    assert any(torch.equal(crop, square) for crop in crops)
    assert torch.equal(centre(image, 24), square)


@pytest.mark.parametrize("field", ["flip", "rotate", "colour", "crop_scale"])
def test_each_augmentation_can_be_switched_on_alone(field: str) -> None:
    image = decode(encoded(0), 16)[:, :, :24]
    off = {"crop_scale": 1.0, "flip": False, "rotate": False, "colour": 0.0}
    on = {"crop_scale": 0.5, "flip": True, "rotate": True, "colour": 0.3}
    config = BatchConfig(**{**off, field: on[field]})  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    changed = [not torch.equal(augment(image, 24, config, rng), image) for _ in range(8)]
    assert any(changed)
    if field in ("flip", "rotate"):  # pixels move, but none is lost
        moved = augment(image, 24, config, rng)
        assert torch.equal(moved.flatten(1).sort().values, image.flatten(1).sort().values)


def test_image_batches_keep_the_order_of_the_cohort() -> None:
    cohort = make_cohort([encoded(i) for i in range(6)])
    rows, pixels = [], []
    for part, index in image_batches(cohort, 16, batch_size=4):
        rows += index.tolist()
        pixels.append(part)
    assert rows == list(range(len(cohort)))
    expected = [centre(decode(cohort.read_image(i), 16), 16) for i in rows]
    assert torch.equal(torch.cat(pixels), torch.stack(expected))


def test_a_jpeg_is_decoded_no_larger_than_needed() -> None:
    image = decode(encoded(0, side=400, kind="JPEG"), 64)
    assert 64 <= min(image.shape[-2:]) < 128


def test_damaged_bytes_are_named_as_such() -> None:
    with pytest.raises(CohortError, match="cannot be decoded"):
        decode(encoded(0, kind="JPEG")[:40], 16)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_in_one_line_whoever_decodes_it(workers: int) -> None:
    cohort = make_cohort([encoded(0), encoded(1), encoded(2)[:60]])
    message = r"^image 'i2': cannot be decoded \(.*\)\. Find all .* slimp data check\.$"
    with pytest.raises(CohortError, match=message):
        list(image_batches(cohort, 16, workers=workers))
