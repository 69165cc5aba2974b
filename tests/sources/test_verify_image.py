"""Images of every make become upright RGB, and damaged ones are told apart."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from slimp.sources.verify_image import MAX_PIXELS, CorruptImageError, own_limits, verify_image


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """A smooth gradient, red to the right, blue downwards, so that JPEG keeps it."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, np.full_like(x, 90), y], axis=2).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    if kind == "JPEG":
        options.setdefault("quality", 95)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(encoded: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(encoded))
    image.load()
    return image


def assert_alike(a: Image.Image, b: Image.Image, tolerance: float = 3) -> None:
    assert (a.mode, a.size) == (b.mode, b.size)
    difference = np.asarray(a).astype(float) - np.asarray(b).astype(float)
    assert np.abs(difference).mean() < tolerance


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def bomb(width: int = 100_000, height: int = 100_000) -> bytes:
    """A PNG of a few hundred bytes that claims to be 30 GB when decoded."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 10_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("shorter_side", [0, 30, 31, 400])
def test_published_bytes_stay_where_nothing_is_amiss(kind, shorter_side):
    encoded = encode(picture(), kind)
    verified = verify_image(encoded, shorter_side=shorter_side)
    assert verified.encoded == encoded
    assert (verified.resized, verified.converted) == (False, False)


def laden(kind: str = "JPEG", **options: object) -> bytes:
    """A photograph that says who took it."""
    exif = Image.Exif()
    exif[0x013B] = "Jane Doe"
    comment = {"comment": b"of Jane Doe"} if kind == "JPEG" else {}
    return encode(picture(), kind, exif=exif, **comment, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_metadata_go_and_pixels_stay(kind):
    verified = verify_image(laden(kind), shorter_side=0)
    assert verified.stripped
    assert not verified.converted
    assert b"Doe" not in verified.encoded
    np.testing.assert_array_equal(decode(verified.encoded), decode(laden(kind)))
    assert not verify_image(verified.encoded, shorter_side=0).stripped


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("shorter_side", [0, 15])
def test_metadata_do_not_survive_another_encoding(kind, shorter_side):
    image = picture().convert("L")
    exif = Image.Exif()
    exif[0x013B] = "Jane Doe"
    options = {"comment": b"of Jane Doe"} if kind == "JPEG" else {}
    verified = verify_image(encode(image, kind, exif=exif, **options), shorter_side=shorter_side)
    assert verified.converted
    assert b"Doe" not in verified.encoded


def odd(kind: str) -> bytes:
    """A file that decoders read, though its segments do not follow one another."""
    encoded = laden(kind)
    if kind == "PNG":
        return encoded[:-12]
    return encoded[:20] + b"\x00\xd9" + encoded[20:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_odd_file_is_written_anew(kind):
    verified = verify_image(odd(kind), shorter_side=0)
    assert verified.converted
    assert verified.stripped
    assert b"Doe" not in verified.encoded
    assert_alike(decode(verified.encoded), decode(odd(kind)), 2)
    assert_alike(decode(verified.encoded), picture())


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("shorter_side", [0, 15])
def test_colour_profiles_stay(kind, shorter_side):
    encoded = encode(picture(), kind, icc_profile=PROFILE)
    verified = verify_image(encoded, shorter_side=shorter_side)
    assert decode(verified.encoded).info["icc_profile"] == PROFILE


@pytest.mark.parametrize(("mode", "colours"), [("L", b"GRAY"), ("CMYK", b"CMYK")])
def test_profiles_of_other_colours_go(mode, colours):
    profile = PROFILE[:16] + colours + PROFILE[20:]
    encoded = encode(picture().convert(mode), icc_profile=profile)
    assert "icc_profile" not in decode(verify_image(encoded, shorter_side=0).encoded).info


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize(
    ("size", "want"),
    [
        ((400, 300), (133, 100)),
        ((300, 400), (100, 133)),
        ((1000, 101), (990, 100)),
        ((2000, 2000), (100, 100)),
    ],
)
def test_large_images_are_downsized(kind, size, want):
    verified = verify_image(encode(picture(*size), kind), shorter_side=100)
    image = decode(verified.encoded)
    assert (verified.resized, image.format, image.size) == (True, "JPEG", want)
    assert_alike(image, picture(*size).resize(want, Image.Resampling.LANCZOS), 4)


@pytest.mark.parametrize("kind", ["BMP", "WEBP", "TIFF", "GIF", "PNG"])
def test_other_formats_become_jpeg(kind):
    verified = verify_image(encode(picture(), kind), shorter_side=0)
    image = decode(verified.encoded)
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert verified.converted == (kind != "PNG")
    assert_alike(image, picture(), 12)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "JPEG"),
        ("L", "PNG"),
        ("1", "PNG"),
        ("P", "PNG"),
        ("CMYK", "JPEG"),
        ("LA", "PNG"),
        ("RGBA", "PNG"),
    ],
)
def test_other_modes_become_rgb(mode, kind):
    image = picture().convert(mode)
    verified = verify_image(encode(image, kind), shorter_side=0)
    assert verified.converted
    assert_alike(decode(verified.encoded), image.convert("RGB"), {"1": 30, "P": 20}.get(mode, 6))


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    verified = verify_image(encode(Image.fromarray(values), "PNG"), shorter_side=0)
    want = Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    assert_alike(decode(verified.encoded), want)


def test_transparent_pixels_become_white():
    image = picture().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    got = decode(verify_image(encode(image, "PNG"), shorter_side=0).encoded)
    assert_alike(got, Image.new("RGB", image.size, "white"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shorter_side", [0, 15])
def test_the_orientation_tag_is_obeyed(orientation, shorter_side):
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(picture(), exif=exif)
    upright = ImageOps.exif_transpose(decode(encoded))
    verified = verify_image(encoded, shorter_side=shorter_side)
    got = decode(verified.encoded)
    if not shorter_side:
        assert verified.converted == (orientation != 1)
        assert_alike(got, upright)
    assert got.size == (
        upright.size if not shorter_side else (20, 15) if upright.width > 30 else (15, 20)
    )
    assert got.getexif().get(0x0112, 1) == 1
    small = upright.resize(got.size, Image.Resampling.LANCZOS)
    assert_alike(got, small, 6)


def test_of_several_frames_the_first_counts():
    frames = [picture(), Image.new("RGB", (40, 30), "white")]
    for kind in ("GIF", "PNG", "TIFF", "WEBP", "MPO"):
        encoded = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        verified = verify_image(encoded, shorter_side=0)
        assert verified.converted, kind
        assert_alike(decode(verified.encoded), picture(), 12)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "an empty file"),
        (b"not an image", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encode(picture(200, 200))[:2000], "damaged: .*truncated"),
        (encode(picture(200, 200), "PNG")[:400], "damaged: .*truncated"),
        (encode(picture())[:3], "not an image"),
        (bomb(), "too large: 100000 x 100000 pixels, allowed are 128,000,000"),
        (bomb(20_000, 7_000), "too large"),
        (bomb(200, 200), "damaged"),
        (encode(Image.new("F", (9, 9)), "TIFF"), "unknown range"),
    ],
)
def test_damaged_images(encoded, reason):
    with own_limits(), pytest.raises(CorruptImageError, match=reason):
        verify_image(encoded, shorter_side=100)


def test_pillows_limit_is_back_afterwards():
    before = Image.MAX_IMAGE_PIXELS
    with own_limits():
        assert Image.MAX_IMAGE_PIXELS is None
    assert before == Image.MAX_IMAGE_PIXELS
    assert MAX_PIXELS > 108_000_000, "the largest telephone cameras"


SEEDS = [encode(picture(), kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=8),
    st.integers(0, 400),
)
def test_mangled_bytes_are_an_image_or_corrupt(encoded, edits, cut):
    mangled = bytearray(encoded)
    for position, value in edits:
        mangled[position % len(mangled)] = value
    verified = None
    with own_limits(), suppress(CorruptImageError):
        verified = verify_image(bytes(mangled[: len(mangled) - cut]), shorter_side=20)
    if verified is not None:
        assert decode(verified.encoded).mode == "RGB"


LADEN = [laden(), laden(progressive=True), laden(icc_profile=PROFILE), laden("PNG"), odd("JPEG")]


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(LADEN),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 7)), max_size=3),
    st.lists(st.tuples(st.integers(2, 700), st.binary(max_size=4)), max_size=2),
)
def test_what_is_kept_shows_what_was_published(encoded, flips, insertions):
    """Bits of headers turned over, and bytes that slipped in."""
    mangled = bytearray(encoded)
    for position, bit in flips:
        mangled[position % len(mangled)] ^= 1 << bit
    for position, extra in insertions:
        mangled[position:position] = extra
    with own_limits():
        try:
            verified = verify_image(bytes(mangled), shorter_side=0)
        except CorruptImageError:
            return
        before, after = decode(bytes(mangled)), decode(verified.encoded)
    if verified.converted:
        assert after.mode == "RGB"
        assert sorted(after.size) == sorted(before.size)
    else:
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
