from __future__ import annotations

import numpy as np

from slimp.check import check_cohort


def test_corrupt_images_are_errors_with_their_reason(encode, cohort, only):
    whole = encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), "jpeg")
    report = check_cohort(cohort(encoded={"i003": b"<html>", "i002": whole[: len(whole) // 2]}))
    finding = only(report, "corrupt-image")
    assert not report.usable
    assert finding.count == 2
    assert finding.example.startswith("i002: image file is truncated")
    assert (
        "no known image format"
        in only(check_cohort(cohort(encoded={"i003": b"<html>"})), "corrupt-image").example
    )


def test_a_decompression_bomb_is_not_decoded(encode, cohort, only):
    header = encode(np.zeros((40, 40, 3), dtype=np.uint8), "bmp")
    bomb = header[:18] + (60_000).to_bytes(4, "little") * 2 + header[26:]
    finding = only(check_cohort(cohort(encoded={"i003": bomb})), "corrupt-image")
    assert finding.example == "i003: too large: 60000 x 60000 px"


def test_tiny_and_blank_images(encode, cohort, codes, only):
    tiny = encode(np.random.default_rng(0).integers(0, 255, (8, 50, 3), dtype=np.uint8))
    blank = encode(np.full((40, 40, 3), 200, dtype=np.uint8))
    report = check_cohort(cohort(encoded={"i004": tiny, "i009": blank}))
    assert codes(report) == {"tiny-image", "blank-image", "blurred-image"}
    assert only(report, "tiny-image").example == "i004: 50 x 8 px"
    assert only(report, "blank-image").example.startswith("i009")
