from __future__ import annotations

import io
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from slimp.checks import near_duplicates
from slimp.checks.likeness import ALIKE, likeness
from slimp.checks.near_duplicates import (
    EVEN_RADIUS,
    RADIUS,
    TURNS,
    near_pairs,
    perceptual_hashes,
    shrink,
    turned,
)
from slimp.data.cohort import Cohort
from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic

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


def rows_of(pairs):
    columns = (pairs.first, pairs.second, pairs.turn, pairs.distance)
    return [tuple(map(int, row)) for row in zip(*columns, strict=True)]


@given(st.data())
@settings(max_examples=60, deadline=None)
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
    found = near_pairs(hashes, radius=radius, even_radius=even_radius, crowd=crowd)
    expected = slow_pairs(hashes, radius, even_radius, crowd)
    assert (rows_of(found), found.crowded.tolist()) == expected


@pytest.mark.parametrize(("tile", "block"), [((1, 1), 1), ((2, 3), 4), ((16, 5), 16)])
def test_tiles_and_blocks_make_no_difference(monkeypatch, tile, block):
    hashes = np.random.default_rng(0).integers(0, 2**64, (23, 2, 4), dtype=np.uint64)
    crowd = 5
    whole, crowded = slow_pairs(hashes, 112, 32, crowd)
    assert min(len(whole), len(crowded)) > 2
    monkeypatch.setattr(near_duplicates, "TILE", tile)
    monkeypatch.setattr(near_duplicates, "BLOCK", block)
    found = near_pairs(hashes, radius=112, even_radius=32, crowd=crowd)
    assert (rows_of(found), found.crowded.tolist()) == (whole, crowded)


def test_none_and_one_picture_have_no_pairs():
    for n in (0, 1):
        nothing = np.zeros((n, 32, 32), dtype=np.uint8)
        pairs = near_pairs(perceptual_hashes(nothing))
        assert len(pairs) == 0
        assert likeness(nothing, pairs).shape == (0,)


@pytest.mark.parametrize("turn", range(8))
def test_a_turned_picture_is_found_and_its_turn_undone(turn):
    picture = np.random.default_rng(turn).integers(0, 256, (32, 32), dtype=np.uint8)
    other = next(
        moved for k in range(8) if (turned(moved := turned(picture, k), turn) == picture).all()
    )
    pairs = near_pairs(perceptual_hashes(np.stack([picture, other])))
    assert rows_of(pairs) == [(0, 1, turn, 0)]
    assert likeness(np.stack([picture, other]), pairs) == pytest.approx(1, abs=1e-5)


def test_turns_are_called_what_they_are():
    picture = np.arange(12).reshape(3, 4)
    told = {
        "upright": picture,
        "mirrored left to right": np.fliplr(picture),
        "mirrored top to bottom": np.flipud(picture),
        "turned by 180 degrees": np.rot90(picture, 2),
        "turned by 90 degrees to the left": np.rot90(picture, 1),
        "turned by 90 degrees to the right": np.rot90(picture, -1),
        "mirrored on the diagonal": picture.T,
        "mirrored on the other diagonal": np.rot90(picture, 2).T,
    }
    assert set(told) == set(TURNS)
    for turn, name in enumerate(TURNS):
        np.testing.assert_array_equal(turned(picture, turn), told[name])


def test_brightness_and_contrast_do_not_change_the_hash():
    rng = np.random.default_rng(0)
    grey = rng.integers(20, 120, (5, 32, 32)).astype(np.uint8)
    bits = np.bitwise_count(perceptual_hashes(grey) ^ perceptual_hashes(2 * grey + 10))
    assert bits.sum() == 0


def test_the_scan_in_threads_tells_its_progress_and_can_be_stopped():
    hashes = np.random.default_rng(0).integers(0, 2**64, (2100, 2, 4), dtype=np.uint64)
    calls = []
    near_pairs(hashes, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1024, 2100), (2048, 2100), (2100, 2100)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        near_pairs(hashes, progress=stop)


def discs(count):
    """A dark disc on plain skin, lighter or darker and with another noise in each picture."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:32, :32]
    inside = np.hypot(down - 13.6, across - 11.2) < 7.1
    grey = 200 - rng.uniform(60, 100, (count, 1, 1)) * inside
    return (grey + rng.normal(0, 1, grey.shape)).astype(np.uint8)


def test_a_crowd_of_plain_pictures_is_told_and_not_paired():
    """Two thousand discs would be more than a million candidates; others among them are found."""
    rng = np.random.default_rng(1)
    textured = rng.integers(0, 256, (1, 32, 32), dtype=np.uint8)
    pictures = np.concatenate([textured, discs(2000), textured[:, ::-1]])
    found = near_pairs(perceptual_hashes(pictures))
    assert rows_of(found) == [(0, 2001, 2, 0)]
    assert found.crowded.tolist() == list(range(1, 2001))


def test_memory_of_a_search_does_not_grow_with_the_pairs():
    hashes = perceptual_hashes(discs(3000))
    assert len(near_pairs(hashes[:500], crowd=500)) == 500 * 499 / 2
    tracemalloc.start()
    try:
        near_pairs(hashes)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 64 * 2**20, "a candidate takes 32 bytes, and these pictures have 4 million"


# Pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Image.Image]:
    """Drawn lesions, one picture of each."""
    folder = tmp_path_factory.mktemp("synthetic") / "cohort"
    write_synthetic(folder, SyntheticConfig(patients=30, lesions=2, seed=3))
    cohort = Cohort.load(folder)
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


@pytest.mark.parametrize("name", EDITS)
def test_edited_pictures_are_found(pictures, name):
    both = np.stack([shrink(x) for x in (*pictures, *map(EDITS[name], pictures))])
    pairs = near_pairs(perceptual_hashes(both))
    alike = likeness(both, pairs) >= ALIKE
    found = {(int(i), int(j)) for i, j in zip(pairs.first[alike], pairs.second[alike], strict=True)}
    true = {(k, k + len(pictures)) for k in range(len(pictures))}
    assert len(found & true) >= 0.95 * len(true)


def test_different_lesions_are_not_one_picture(pictures):
    thumbnails = np.stack([shrink(x) for x in pictures])
    pairs = near_pairs(perceptual_hashes(thumbnails), radius=120, even_radius=63)
    assert len(pairs) > 100
    assert likeness(thumbnails, pairs).max() < ALIKE


def test_distances_agree_with_an_independent_hash(pictures):
    imagehash = pytest.importorskip("imagehash", reason="ImageHash is not installed")
    both = [*pictures, *(cropped(x, 0.03) for x in pictures)]
    theirs = [imagehash.phash(x, hash_size=16) for x in both]
    first, second = np.triu_indices(len(both), k=1)
    expected = np.array([theirs[i] - theirs[j] for i, j in zip(first, second, strict=True)])
    bits = perceptual_hashes(np.stack([shrink(x) for x in both]))[:, 0]
    ours = np.bitwise_count(bits[first] ^ bits[second]).sum(axis=1)
    assert np.corrcoef(ours, expected)[0, 1] > 0.9


@pytest.mark.real_data
def test_real_pictures_that_are_different_are_told_apart(real_data):
    """Of half a million pairs of photographs, the one that is called one is one."""
    paths = sorted((real_data / "pad-ufes-20").rglob("*.jpg"))
    thumbnails = np.stack([shrink(Image.open(path)) for path in paths])
    pairs = near_pairs(perceptual_hashes(thumbnails), radius=RADIUS, even_radius=EVEN_RADIUS)
    alike = likeness(thumbnails, pairs) >= ALIKE
    found = {
        frozenset((paths[i].stem, paths[j].stem))
        for i, j in zip(pairs.first[alike], pairs.second[alike], strict=True)
    }
    assert found == {frozenset(("PAT_701_4056_457", "PAT_701_1321_156"))}
