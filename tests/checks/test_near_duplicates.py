from __future__ import annotations

import io
import tracemalloc
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter, shift

from slimp.checks import near_duplicates
from slimp.checks.near_duplicates import (
    ALIKE,
    TURNS,
    align,
    blur,
    correlation,
    details,
    likeness,
    near_pairs,
    perceptual_hashes,
    shrink,
    turned,
)
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize

ALL = 2**64 - 1


def slow_pairs(hashes, radius, even_radius, crowd=ALL):
    """The definition, bit by bit: mirroring complements the words of odd coefficients."""
    found = {}
    for i in range(len(hashes)):
        for j in range(i + 1, len(hashes)):
            for turn in range(8):
                own = [int(word) for word in hashes[i, turn >> 2]]
                other = [int(word) for word in hashes[j, 0]]
                if turn & 1:
                    other[1], other[3] = other[1] ^ ALL, other[3] ^ ALL
                if turn & 2:
                    other[2], other[3] = other[2] ^ ALL, other[3] ^ ALL
                bits = [(a ^ b).bit_count() for a, b in zip(own, other, strict=True)]
                if sum(bits) <= radius and bits[0] <= even_radius:
                    found.setdefault((i, j), []).append((sum(bits), turn))
    counts = Counter(picture for pair in found for picture in pair)
    crowded = sorted(picture for picture, count in counts.items() if count > crowd)
    rows = [
        (*pair, turn, distance)
        for pair, ((distance, turn), *_) in ((pair, sorted(ways)) for pair, ways in found.items())
        if not set(pair) & set(crowded)
    ]
    return rows, crowded


def search(hashes, **options):
    pairs, crowded = near_pairs(hashes, **options)
    return [tuple(row) for row in pairs.to_numpy().tolist()], crowded.tolist()


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_the_search_is_exact_in_both_radii(data):
    """Hashes near each other, few of each word, so that many pairs lie close to the radii."""
    seed, n = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 14))
    radius, even_radius = data.draw(st.integers(0, 140)), data.draw(st.integers(0, 40))
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2**64, (2, 2, 4), dtype=np.uint64)
    flips = rng.random((n, 2, 4, 64)) < rng.choice([0.02, 0.15, 0.3], (n, 1, 1, 1))
    noise = np.packbits(flips, axis=-1).view(np.uint64)[..., 0]
    hashes = base[rng.integers(0, 2, n)] ^ noise
    hashes[..., 1:] ^= rng.choice(np.array([0, ALL], dtype=np.uint64), (n, 2, 3))
    crowd = data.draw(st.integers(1, 14))
    found = search(hashes, radii=(radius, even_radius), crowd=crowd)
    assert found == slow_pairs(hashes, radius, even_radius, crowd)


@pytest.mark.parametrize(("tile", "block"), [((2, 3), 4), ((16, 5), 16)])
def test_tiles_and_blocks_make_no_difference(monkeypatch, tile, block):
    hashes = np.random.default_rng(0).integers(0, 2**64, (23, 2, 4), dtype=np.uint64)
    whole, crowded = slow_pairs(hashes, 112, 32, crowd=5)
    assert min(len(whole), len(crowded)) > 2
    monkeypatch.setattr(near_duplicates, "TILE", tile)
    monkeypatch.setattr(near_duplicates, "BLOCK", block)
    assert search(hashes, radii=(112, 32), crowd=5) == (whole, crowded)


def test_a_turned_image_is_found_and_its_turn_undone():
    for turn in range(8):
        image = np.random.default_rng(turn).integers(0, 256, (32, 32), dtype=np.uint8)
        other = next(
            moved for k in range(8) if (turned(moved := turned(image, k), turn) == image).all()
        )
        both = np.stack([image, other])
        pairs, _ = near_pairs(perceptual_hashes(both))
        assert pairs.to_numpy().tolist() == [[0, 1, turn, 0]]
        assert likeness(both, pairs) == pytest.approx(1, abs=1e-4)


def test_turns_are_called_what_they_are():
    image = np.arange(12).reshape(3, 4)
    named = {
        "upright": image,
        "mirrored left to right": np.fliplr(image),
        "mirrored top to bottom": np.flipud(image),
        "turned by 180 degrees": np.rot90(image, 2),
        "turned by 90 degrees to the left": np.rot90(image, 1),
        "turned by 90 degrees to the right": np.rot90(image, -1),
        "mirrored on the diagonal": image.T,
        "mirrored on the other diagonal": np.rot90(image, 2).T,
    }
    assert set(named) == set(TURNS)
    for turn, name in enumerate(TURNS):
        np.testing.assert_array_equal(turned(image, turn), named[name])


def test_the_search_reports_its_progress_and_can_be_stopped():
    hashes = np.random.default_rng(0).integers(0, 2**64, (2100, 2, 4), dtype=np.uint64)
    calls = []
    near_pairs(hashes, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1024, 2100), (2048, 2100), (2100, 2100)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        near_pairs(hashes, progress=stop)


def discs(count):
    """A dark disc on plain skin, lighter or darker and with another noise in each image."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:32, :32]
    inside = np.hypot(down - 13.6, across - 11.2) < 7.1
    grey = 200 - rng.uniform(60, 100, (count, 1, 1)) * inside
    return (grey + rng.normal(0, 1, grey.shape)).astype(np.uint8)


def test_memory_of_a_search_does_not_grow_with_the_pairs():
    hashes = perceptual_hashes(discs(2000))
    assert len(near_pairs(hashes[:200], crowd=200)[0]) == 200 * 199 / 2
    tracemalloc.start()
    try:
        near_pairs(hashes)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 60 * 2**20, "these images have 2 million candidates, of 32 bytes each"


# Likeness


def texture(seed, sigma=1.5, n=6):
    """Smooth noise from 0 to 255."""
    noise = np.random.default_rng(seed).normal(size=(n, 32, 32))
    smooth = gaussian_filter(noise, (0, sigma, sigma))
    smooth -= smooth.min(axis=(1, 2), keepdims=True)
    return (255 * smooth / smooth.max(axis=(1, 2), keepdims=True)).astype(np.uint8)


def pairs_of(first, second):
    return pd.DataFrame({"first": first, "second": second, "turn": 0})


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_blur_is_a_gaussian_with_mirrored_edges(sigma):
    grey = texture(0).astype(np.float32)
    expected = gaussian_filter(grey, (0, sigma, sigma), mode="reflect")
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
    assert not details(even).round(3).any()


@pytest.mark.parametrize("move", [(0, 1.5), (-1.2, 0.7), (2, -2)])
def test_alignment_undoes_a_shift(move):
    first = texture(3, sigma=2.5).astype(np.float32)
    second = shift(first, (0, *move), order=3, mode="nearest").clip(0, 255)
    after = correlation(first, align(first, second))
    assert (after > correlation(first, second)).all()
    assert after.min() > 0.97


def test_likeness_does_not_depend_on_which_comes_first_nor_on_light():
    base = texture(4, n=8)
    shifted = shift(base.astype(float), (0, 1, -1), order=1, mode="nearest")
    both = np.concatenate([base, (0.6 * shifted + 20).astype(np.uint8)])
    one, other = pairs_of(range(8), range(8, 16)), pairs_of(range(8, 16), range(8))
    np.testing.assert_allclose(likeness(both, one), likeness(both, other), atol=1e-6)
    assert likeness(both, one).min() > 0.9


def test_parts_of_the_pairs_make_no_difference(monkeypatch):
    thumbnails = texture(5, n=9)
    pairs = pairs_of(np.repeat(range(9), 9), np.tile(range(9), 9))
    whole = likeness(thumbnails, pairs)
    monkeypatch.setattr(near_duplicates, "BLOCK", 7)
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


# Images


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Drawn lesions, one image of each."""
    cohort = synthesize(SyntheticConfig(patients=30, lesions=2, seed=3))
    rows = cohort.images.drop_duplicates("lesion_id").index[:40]
    return [Image.open(io.BytesIO(cohort.read_image(int(row)))).convert("RGB") for row in rows]


def compressed(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def cropped(image, share, left=0.5):
    width, height = image.size
    across, down = 2 * share * width, 2 * share * height
    box = (left * across, down / 2, width - (1 - left) * across, height - down / 2)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def resized(image, factor):
    return image.resize([round(factor * side) for side in image.size], Image.Resampling.BICUBIC)


EDITS = {
    "halved": lambda x: resized(x, 0.5),
    "doubled": lambda x: resized(x, 2),
    "compressed": lambda x: compressed(x, 50),
    "brighter": lambda x: ImageEnhance.Brightness(x).enhance(1.15),
    "darker": lambda x: ImageEnhance.Brightness(x).enhance(0.75),
    "cropped": lambda x: cropped(x, 0.03),
    "all": lambda x: compressed(resized(cropped(x, 0.03, left=0.4), 0.8), 70).transpose(
        Image.Transpose.ROTATE_90
    ),
}


def alike_pairs(thumbnails):
    pairs, _ = near_pairs(perceptual_hashes(thumbnails))
    pairs = pairs[likeness(thumbnails, pairs) >= ALIKE]
    return set(zip(pairs["first"], pairs["second"], strict=True))


@pytest.mark.parametrize("name", EDITS)
def test_edited_images_are_found(images, name):
    both = np.stack([shrink(x) for x in (*images, *map(EDITS[name], images))])
    true = {(k, k + len(images)) for k in range(len(images))}
    assert len(alike_pairs(both) & true) >= 0.95 * len(true)


def test_different_lesions_are_not_one_image(images):
    thumbnails = np.stack([shrink(x) for x in images])
    pairs, _ = near_pairs(perceptual_hashes(thumbnails), radii=(120, 63))
    assert len(pairs) > 100
    assert likeness(thumbnails, pairs).max() < ALIKE


@pytest.mark.real_data
def test_real_images_that_are_different_are_told_apart(real_data):
    """Of half a million pairs of photographs, the one that is called one is one."""
    paths = sorted((real_data / "pad-ufes-20").rglob("*.jpg"))
    found = alike_pairs(np.stack([shrink(Image.open(path)) for path in paths]))
    names = {frozenset((paths[i].stem, paths[j].stem)) for i, j in found}
    assert names == {frozenset(("PAT_701_4056_457", "PAT_701_1321_156"))}
