from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, laplace

from slimp.checks.image_statistics import (
    AHEAD,
    MEASURES,
    dark_corners,
    frame,
    measure_image,
    scan_images,
    sharpness,
)
from slimp.sources.image_limits import CorruptImageError


def facts_of(encoded):
    return SimpleNamespace(**measure_image(encoded)[0])


def skin(seed=0, shape=(150, 200), blur=1.0):
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.normal(0, 60, (*shape, 3)), (blur, blur, 0))
    return (np.array([190, 150, 130]) + noise).clip(0, 255).astype(np.uint8)


def test_sharpness_is_the_variance_of_the_laplacian():
    grey = np.random.default_rng(0).uniform(0, 255, (30, 40)).astype(np.float32)
    assert sharpness(grey) == pytest.approx(laplace(grey)[1:-1, 1:-1].var(), rel=1e-4)
    assert sharpness(np.full((8, 9), 5, dtype=np.float32)) == 0


def test_blur_lowers_sharpness_and_size_alone_does_not(encode):
    sharp = facts_of(encode(skin(blur=2, shape=(300, 400))))
    blurred = facts_of(encode(skin(blur=8, shape=(300, 400))))
    assert blurred.sharpness < sharp.sharpness / 5
    twice = Image.fromarray(skin(blur=2, shape=(300, 400))).resize((800, 600))
    assert facts_of(encode(np.asarray(twice))).sharpness == pytest.approx(sharp.sharpness, rel=0.1)


@pytest.mark.parametrize("colour", [0, 255])
def test_a_frame_is_measured_as_its_share_of_the_area(colour):
    grey = skin().mean(axis=2).astype(np.float32)
    assert frame(grey) == 0
    grey[:30] = colour
    grey[:, -20:] = colour
    assert frame(grey) == pytest.approx(1 - (120 / 150) * (180 / 200))
    grey[:] = colour
    assert frame(grey) == 1


def test_a_round_field_of_view_has_four_dark_corners():
    y, x = np.mgrid[-1:1:150j, -1:1:150j]
    inside = np.hypot(x, y) < 1.05
    grey = np.where(inside, 170, 4).astype(np.float32)
    assert dark_corners(grey) == 4
    assert dark_corners(np.full((150, 150), 170, dtype=np.float32)) == 0
    assert dark_corners(np.full((150, 150), 30, dtype=np.float32)) == 0, "dark all over"
    grey[:20, :20] = 200
    assert dark_corners(grey) == 3


def test_facts_are_those_of_the_decoded_picture(encode):
    pixels = skin()
    facts = facts_of(encode(pixels))
    assert (facts.width, facts.height) == (200, 150)
    assert facts.bytes_per_pixel == len(encode(pixels)) / 30_000
    light = (pixels @ [0.299, 0.587, 0.114]).mean()
    assert facts.brightness == pytest.approx(light, abs=1)
    assert facts_of(encode(pixels, "bmp")).pixels == facts.pixels
    assert facts_of(encode(pixels[::-1])).pixels != facts.pixels
    grey = np.repeat(pixels[:, :, :1], 3, axis=2)
    assert facts_of(encode(grey)).colour < 0.5 < facts.colour
    half = pixels.copy()
    half[:75] = 255
    assert facts_of(encode(half)).overexposed == pytest.approx(0.5, abs=0.05)
    assert facts_of(encode(255 - half)).underexposed == pytest.approx(0.5, abs=0.05)


def test_a_reshaped_picture_of_the_same_bytes_is_another():
    facts = []
    for shape in ((40, 60, 3), (60, 40, 3)):
        buffer = io.BytesIO()
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(buffer, "png")
        facts.append(facts_of(buffer.getvalue()))
    assert facts[0].pixels != facts[1].pixels


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (300, 2, 3)])
def test_the_smallest_images_have_facts(encode, shape):
    facts = facts_of(encode(np.full(shape, 90, dtype=np.uint8)))
    assert facts.sharpness == 0


def test_what_is_no_picture_says_why(encode):
    with pytest.raises(CorruptImageError, match="not an image"):
        measure_image(b"<html>")
    whole = encode(skin(), "jpeg")
    with pytest.raises(CorruptImageError, match="truncated"):
        measure_image(whole[: len(whole) // 2])


def test_facts_are_in_the_order_of_the_rows(cohort):
    whole = cohort(encoded={"i003": b"<html>"})
    scan = scan_images(whole)
    assert scan.facts["image_id"].tolist() == whole.images["image_id"].tolist()
    assert scan.facts.loc[3, "problem"].startswith("not an image")
    assert not scan.thumbnails[3].any()
    assert scan.good.index.tolist() == [k for k in range(120) if k != 3]
    for row in (0, 2, 64, 119):
        alone, thumbnail = measure_image(whole.read_image(row))
        np.testing.assert_array_equal(scan.thumbnails[row], thumbnail)
        assert scan.facts.loc[row, [*MEASURES, "pixels"]].to_dict() == alone


def test_each_image_is_read_once_and_an_interrupted_scan_stops(cohort, monkeypatch):
    whole = cohort()
    read = []
    store = whole.store

    class Counting:
        def __len__(self):
            return len(store)

        def read(self, position):
            read.append(position)
            return store.read(position)

    object.__setattr__(whole, "store", Counting())
    scan_images(whole)
    assert sorted(read) == list(range(120))
    read.clear()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_images(whole, stop)
    assert len(read) <= AHEAD
