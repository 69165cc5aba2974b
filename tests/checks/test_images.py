"""What is measured on images, and what is said of those that are unlike the others."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, laplace
from spoilt import cohort, encode

from slimp.checks.images import (
    AHEAD,
    MEASURES,
    dark_corners,
    frame,
    image_findings,
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
    shade = np.linspace(-15, 15, shape[1])[:, None]
    return (np.array([190, 150, 130]) + shade + noise).clip(0, 255).astype(np.uint8)


def vignette(shape):
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    return np.hypot(x, y) < 1.05


def test_sharpness_is_the_variance_of_the_laplacian():
    grey = np.random.default_rng(0).uniform(0, 255, (30, 40)).astype(np.float32)
    assert sharpness(grey) == pytest.approx(laplace(grey)[1:-1, 1:-1].var(), rel=1e-4)
    assert sharpness(np.full((8, 9), 5, dtype=np.float32)) == 0


def test_blur_lowers_sharpness_and_size_alone_does_not():
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
    grey = np.where(vignette((150, 150)), 170, 4).astype(np.float32)
    assert dark_corners(grey) == 4
    assert dark_corners(np.full((150, 150), 170, dtype=np.float32)) == 0
    assert dark_corners(np.full((150, 150), 30, dtype=np.float32)) == 0, "dark all over"
    grey[:20, :20] = 200
    assert dark_corners(grey) == 3


def test_facts_are_those_of_the_decoded_picture():
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


def test_shape_counts_and_the_smallest_images_have_facts():
    upright, flat = (np.zeros(shape, dtype=np.uint8) for shape in ((40, 60, 3), (60, 40, 3)))
    assert facts_of(encode(upright)).pixels != facts_of(encode(flat)).pixels
    for shape in ((1, 1, 3), (1, 300, 3), (300, 2, 3)):
        assert facts_of(encode(np.full(shape, 90, dtype=np.uint8))).sharpness == 0


def test_what_is_no_picture_says_why():
    whole = encode(skin(), "jpeg")
    for encoded, why in ((b"<html>", "not an image"), (whole[: len(whole) // 2], "truncated")):
        with pytest.raises(CorruptImageError, match=why):
            measure_image(encoded)


def test_a_scan_reads_each_image_once_in_order_and_can_be_stopped(monkeypatch):
    whole = cohort(encoded={"i003": b"<html>"})
    read, read_image = [], type(whole).read_image

    def counting(self, row):
        read.append(row)
        return read_image(self, row)

    monkeypatch.setattr(type(whole), "read_image", counting)
    scan = scan_images(whole)
    assert sorted(read) == list(range(120))
    assert scan.facts["image_id"].tolist() == whole.images["image_id"].tolist()
    assert scan.facts.loc[3, "problem"].startswith("not an image")
    assert not scan.thumbnails[3].any()
    assert scan.good.index.tolist() == [k for k in range(120) if k != 3]
    for row in (0, 2, 64, 119):
        alone, thumbnail = measure_image(whole.read_image(row))
        np.testing.assert_array_equal(scan.thumbnails[row], thumbnail)
        assert scan.facts.loc[row, [*MEASURES, "pixels"]].to_dict() == alone
    read.clear()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_images(whole, stop)
    assert len(read) <= AHEAD


# Findings


def framed(pixels):
    pixels[:8] = 0
    return pixels


def burnt(pixels):
    pixels[10:50, 10:60] = 255
    return pixels


def colourless(pixels):
    return np.repeat(pixels[:, :, :1], 3, axis=2)


def small(seed, blur=0.8):
    return skin(seed, (60, 64), blur)


@pytest.fixture(scope="module")
def encoded():
    return {f"i{k:03}": encode(small(k)) for k in range(120)}


@pytest.mark.parametrize(
    ("spoil", "code", "severity", "example"),
    [
        (framed, "framed-image", "warning", "of the area"),
        (
            lambda pixels: np.where(vignette((60, 64))[..., None], pixels, 3).astype(np.uint8),
            *("dark-corners", "note", "4 corners"),
        ),
        (burnt, "exposure", "warning", "% white, 0% black"),
        (colourless, "grey-image", "warning", "channels differ by 0.0"),
        (lambda _: small(7, blur=6), "blurred-image", "warning", "sharpness"),
        (lambda pixels: pixels[:8], "tiny-image", "warning", "64 x 8 px"),
        (lambda pixels: pixels // 255, "blank-image", "warning", "grey levels deviate by 0.0"),
    ],
)
def test_images_unlike_the_others(encoded, spoil, code, severity, example):
    spoilt = {**encoded, "i007": encode(spoil(small(7)))}
    found = {f.code: f for f in image_findings(scan_images(cohort(encoded=spoilt)))}
    assert (found[code].severity, found[code].count) == (severity, 1)
    assert found[code].example.startswith("i007: ")
    assert example in found[code].example


def test_images_that_are_all_alike_are_no_finding(encoded):
    """Also where all of them are grey: it is meant so."""
    grey = {f"i{k:03}": encode(colourless(small(k))) for k in range(120)}
    for images in (encoded, grey):
        assert list(image_findings(scan_images(cohort(encoded=images)))) == []


def test_corrupt_images_are_errors_with_their_reason():
    """Of a decompression bomb, too, which is not decoded."""
    header = encode(np.zeros((40, 40, 3), dtype=np.uint8), "bmp")
    bomb = header[:18] + (60_000).to_bytes(4, "little") * 2 + header[26:]
    whole = encode(skin(), "jpeg")
    for broken, why in (
        (
            {"i003": b"<html>", "i002": whole[: len(whole) // 2]},
            "i002: damaged: image file is trunc",
        ),
        ({"i003": bomb}, "i003: too large: 60000 x 60000"),
    ):
        [finding] = image_findings(scan_images(cohort(encoded=broken)))
        assert (finding.code, finding.severity) == ("corrupt-image", "error")
        assert finding.count == len(broken)
        assert finding.example.startswith(why)
