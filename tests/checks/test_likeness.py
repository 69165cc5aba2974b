from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from slimp.checks.likeness import ALIKE, align, blur, correlation, details, likeness
from slimp.checks.near_duplicates import NearPairs


def texture(seed, sigma=1.5, n=6):
    """Smooth noise from 0 to 255."""
    noise = np.random.default_rng(seed).normal(size=(n, 32, 32))
    smooth = gaussian_filter(noise, (0, sigma, sigma))
    smooth -= smooth.min(axis=(1, 2), keepdims=True)
    return (255 * smooth / smooth.max(axis=(1, 2), keepdims=True)).astype(np.uint8)


def pairs_of(first, second):
    first, second = np.array(first), np.array(second)
    zero = np.zeros_like(first)
    return NearPairs(first=first, second=second, turn=zero, distance=zero)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_blur_is_a_gaussian_with_mirrored_edges(sigma):
    grey = texture(0).astype(np.float32)
    expected = gaussian_filter(grey, (0, sigma, sigma), mode="reflect", truncate=8)
    np.testing.assert_allclose(blur(grey, sigma), expected, atol=1e-2)


def test_correlation_equals_the_definition_pair_by_pair():
    a, b = (texture(seed).astype(np.float32) for seed in (0, 1))
    slow = [
        np.corrcoef(x[2:-2, 2:-2].ravel(), y[2:-2, 2:-2].ravel())[0, 1]
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(correlation(a, b), slow, atol=1e-5)
    even = np.full((1, 32, 32), 7, dtype=np.float32)
    assert correlation(even, even).tolist() == [0]


@pytest.mark.parametrize("move", [(0, 1.5), (-1.2, 0.7), (2, -2)])
def test_alignment_undoes_a_shift(move):
    first = texture(3, sigma=2.5)
    second = shift(first.astype(float), (0, *move), order=3, mode="nearest").clip(0, 255)
    second = second.astype(np.uint8)
    before = correlation(first.astype(np.float32), second.astype(np.float32))
    after = correlation(first.astype(np.float32), align(first, second))
    assert (after > before).all()
    assert after.min() > 0.97


def test_likeness_does_not_depend_on_which_comes_first_nor_on_light():
    base = texture(4, n=8)
    shifted = shift(base.astype(float), (0, 1, -1), order=1, mode="nearest")
    both = np.concatenate([base, (0.6 * shifted + 20).astype(np.uint8)])
    one, other = pairs_of(range(8), range(8, 16)), pairs_of(range(8, 16), range(8))
    np.testing.assert_allclose(likeness(both, one), likeness(both, other), atol=1e-6)
    assert likeness(both, one).min() > 0.9


def test_batches_make_no_difference(monkeypatch):
    thumbnails = texture(5, n=9)
    pairs = pairs_of(np.repeat(range(9), 9), np.tile(range(9), 9))
    whole = likeness(thumbnails, pairs)
    monkeypatch.setattr("slimp.checks.likeness.BATCH", 7)
    np.testing.assert_allclose(likeness(thumbnails, pairs), whole, atol=1e-5)
    np.testing.assert_allclose(whole[:: 9 + 1], 1, atol=1e-5)


def nevus(seed):
    """A dark blob in the middle of plain skin, with a texture and a slightly different outline."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:32, :32] - 15.5) / (9 + rng.uniform(-1, 1, (2, 1, 1)))
    blob = 110 / (1 + np.exp(8 * (np.hypot(y, x) - 1)))
    fine = gaussian_filter(rng.normal(size=(32, 32)), 1)
    return (190 - blob + 12 * fine / fine.std() * (0.3 + blob / 110)).clip(0, 255)


def test_two_nevi_in_the_middle_correlate_and_are_not_one():
    thumbnails = np.stack([nevus(seed) for seed in range(12)]).astype(np.uint8)
    first, second = np.triu_indices(12, k=1)
    coarse = correlation(*(thumbnails[k].astype(np.float32) for k in (first, second)))
    assert np.median(coarse) > 0.85
    assert likeness(thumbnails, pairs_of(first, second)).max() < ALIKE


def test_details_of_an_even_picture_are_nothing():
    assert not details(np.full((1, 32, 32), 90, dtype=np.uint8)).round(3).any()
