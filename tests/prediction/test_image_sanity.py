"""Photographs pass; sheets of one colour and noise do not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from slimp.prediction.image_sanity import fault_of, texture


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8))


def slope(height: int, width: int) -> np.ndarray:
    """A grey that grows downwards and to the right."""
    grey = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width))
    return np.repeat(grey[..., None], 3, axis=2)


def test_texture_of_known_pictures() -> None:
    stripes = np.zeros((50, 50, 3))
    stripes[::2] = 200
    spread, smoothness = texture(picture(stripes))
    assert spread == pytest.approx(100)
    assert smoothness == pytest.approx(0, abs=0.01)  # -1 downwards, 1 to the right
    assert texture(picture(slope(40, 60)))[1] > 0.9


@pytest.mark.parametrize("size", [(20, 20), (300, 90), (600, 600)])
def test_noise_and_one_colour_are_told_and_photographs_are_not(size: tuple[int, int]) -> None:
    noise = picture(np.random.default_rng(0).integers(0, 256, size=(*size, 3)))
    assert (fault_of(noise) or "").startswith("the picture is noise")
    assert "one colour" in (fault_of(picture(np.full((*size, 3), 77))) or "")
    assert fault_of(picture(slope(*size))) is None
    assert fault_of(noise.filter(ImageFilter.GaussianBlur(2))) is None


def test_a_single_pixel_is_of_one_colour() -> None:
    assert "one colour" in (fault_of(picture(np.full((1, 1, 3), 9))) or "")


def test_grain_does_not_make_noise_of_a_photograph() -> None:
    rng = np.random.default_rng(1)
    grainy = slope(128, 128) + rng.normal(scale=20, size=(128, 128, 1))
    assert fault_of(picture(grainy.clip(0, 255))) is None
