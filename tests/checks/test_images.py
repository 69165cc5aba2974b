from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from slimp.checks.report import check_cohort


def test_corrupt_images_are_errors_with_their_reason(encode, cohort, only):
    whole = encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), "jpeg")
    report = check_cohort(cohort(encoded={"i003": b"<html>", "i002": whole[: len(whole) // 2]}))
    finding = only(report, "corrupt-image")
    assert not report.usable
    assert finding.count == 2
    assert finding.example.startswith("i002: damaged: image file is truncated")


def test_a_decompression_bomb_is_not_decoded(encode, cohort, only):
    header = encode(np.zeros((40, 40, 3), dtype=np.uint8), "bmp")
    bomb = header[:18] + (60_000).to_bytes(4, "little") * 2 + header[26:]
    finding = only(check_cohort(cohort(encoded={"i003": bomb})), "corrupt-image")
    assert finding.example.startswith("i003: too large: 60000 x 60000")


def test_tiny_and_blank_images(encode, cohort, codes, only):
    tiny = encode(np.random.default_rng(0).integers(0, 255, (8, 50, 3), dtype=np.uint8))
    blank = encode(np.full((40, 40, 3), 200, dtype=np.uint8))
    report = check_cohort(cohort(encoded={"i004": tiny, "i009": blank}))
    assert codes(report) == {"tiny-image", "blank-image", "blurred-image"}
    assert only(report, "tiny-image").example == "i004: 50 x 8 px"
    assert only(report, "blank-image").example.startswith("i009")


def skin(seed, blur=0.8):
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.normal(0, 50, (60, 64, 3)), (blur, blur, 0))
    shade = np.linspace(-15, 15, 64)[:, None]
    return (np.array([190, 150, 130]) + shade + noise).clip(0, 255).astype(np.uint8)


def framed(pixels):
    pixels[:8] = 0
    return pixels


def vignetted(pixels):
    y, x = np.mgrid[-1:1:60j, -1:1:64j]
    return np.where((np.hypot(x, y) < 1.05)[..., None], pixels, 3).astype(np.uint8)


def burnt(pixels):
    pixels[10:50, 10:60] = 255
    return pixels


def colourless(pixels):
    return np.repeat(pixels[:, :, :1], 3, axis=2)


@pytest.fixture(scope="module")
def encoded(encode):
    return {f"i{k:03}": encode(skin(k)) for k in range(120)}


@pytest.mark.parametrize(
    ("spoil", "code", "severity"),
    [
        (framed, "framed-image", "warning"),
        (vignetted, "dark-corners", "note"),
        (burnt, "exposure", "warning"),
        (colourless, "grey-image", "warning"),
        (lambda pixels: skin(7, blur=6), "blurred-image", "warning"),
    ],
)
def test_images_unlike_the_others(cohort, only, encode, encoded, spoil, code, severity):
    spoilt = {**encoded, "i007": encode(spoil(skin(7)))}
    finding = only(check_cohort(cohort(encoded=spoilt)), code)
    assert finding.severity == severity
    assert finding.count == 1
    assert finding.example.startswith("i007: ")
    assert finding.remedy


def test_images_that_are_all_alike_are_no_finding(cohort, codes, encode, encoded):
    """Also where all of them are grey: it is meant so."""
    assert codes(check_cohort(cohort(encoded=encoded))) == set()
    grey = {f"i{k:03}": encode(colourless(skin(k))) for k in range(120)}
    assert codes(check_cohort(cohort(encoded=grey))) == set()
