"""Images of every make become upright RGB without metadata, and damaged ones are known."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from slimp.sources.decode_image import decode_image, verify_image
from slimp.sources.image_limits import CorruptImageError, own_limits

FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")
SECRETS = (b"Jane Doe", b"4711", b"GPS", b"xpacket", b"8BIM", b"motion")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """A smooth gradient, red to the right, blue downwards, so that JPEG keeps it."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, np.full_like(x, 90), y], axis=2).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
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
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg(*segments: bytes, **options: object) -> bytes:
    encoded = encode(picture(), **options)
    return encoded[:2] + b"".join(segments) + encoded[2:]


def png(*chunks: bytes, **options: object) -> bytes:
    encoded = encode(picture(), "PNG", **options)
    return encoded[:33] + b"".join(chunks) + encoded[33:]


def bomb(width: int = 100_000, height: int = 100_000) -> bytes:
    """A PNG of a few hundred bytes that claims to be 30 GB when decoded."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def exif(orientation: int | None = None) -> Image.Exif:
    tags = Image.Exif()
    tags[0x013B], tags[0xA431] = "Jane Doe", "4711"
    tags.get_ifd(0x8825)[1] = "N GPS"
    if orientation is not None:
        tags[0x0112] = orientation
    return tags


TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Author", "Jane Doe")
TEXT.add_itxt("XML:com.adobe.xmp", "<?xpacket 4711")
LADEN = {
    "exif": jpeg(exif=exif()),
    "comment": jpeg(comment=b"Jane Doe"),
    "xmp": jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<?xpacket 4711")),
    "iptc": jpeg(segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04Jane Doe")),
    "maker": jpeg(segment(0xE4, b"4711"), segment(0xEF, b"Jane Doe")),
    "thumbnail": jpeg(segment(0xE0, b"JFXX\0\x10" + jpeg(comment=b"Jane Doe"))),
    "trailer": jpeg() + b"motion photo of Jane Doe",
    "second image behind the first": jpeg() + jpeg(comment=b"Jane Doe"),
    "progressive": jpeg(progressive=True, comment=b"4711") + b"motion",
    "profile": jpeg(icc_profile=PROFILE, exif=exif()),
    "adobe": jpeg(segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01"), segment(0xFE, b"4711")),
    "fill bytes": jpeg(b"\xff\xff" + segment(0xFE, b"4711")[1:]),
    "junk between segments": jpeg()[:20] + b"\x004711" + jpeg()[20:],
    "png text": png(pnginfo=TEXT),
    "png exif": png(exif=exif()),
    "png time": png(chunk(b"tIME", b"4711Jan"), chunk(b"prVt", b"4711")),
    "png trailer": png() + b"Jane Doe",
    "png profile": png(icc_profile=PROFILE, pnginfo=TEXT),
    "png without an end": png(pnginfo=TEXT)[:-12],
}


@pytest.mark.parametrize(
    "encoded",
    [
        *(jpeg(), jpeg(progressive=True), jpeg(icc_profile=PROFILE), png(), png(optimize=True)),
        *(jpeg(restart_marker_blocks=2), png(icc_profile=PROFILE)),
    ],
)
@pytest.mark.parametrize("shorter_side", [0, 30, 400])
def test_published_bytes_stay_where_nothing_is_amiss(encoded, shorter_side):
    verified = verify_image(encoded, shorter_side=shorter_side)
    assert verified.encoded == encoded
    assert not verified.changes


@pytest.mark.parametrize("name", LADEN)
def test_metadata_go_and_pixels_stay(name):
    verified = verify_image(LADEN[name])
    assert verified.changes == {"stripped"}
    assert not [secret for secret in SECRETS if secret in verified.encoded]
    before, after = decode(LADEN[name]), decode(verified.encoded)
    assert after.format == before.format
    assert not dict(after.getexif())
    profile = PROFILE if "profile" in name else None
    assert after.info.get("icc_profile") == profile
    if "png" in name:
        np.testing.assert_array_equal(after, before)
    else:
        assert after.quantization == before.quantization
        assert_alike(after, before, 0.5)
    assert verify_image(verified.encoded).encoded == verified.encoded


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_colour_profiles_stay_unless_they_are_of_other_colours(kind):
    encoded = encode(picture(), kind, icc_profile=PROFILE)
    verified = verify_image(encoded, shorter_side=15)
    assert decode(verified.encoded).info["icc_profile"] == PROFILE
    if kind == "JPEG":
        for mode, colours in (("L", b"GRAY"), ("CMYK", b"CMYK")):
            other = PROFILE[:16] + colours + PROFILE[20:]
            encoded = encode(picture().convert(mode), icc_profile=other)
            assert "icc_profile" not in decode(verify_image(encoded).encoded).info


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
@pytest.mark.parametrize(
    ("size", "want"),
    [((400, 300), (133, 100)), ((300, 400), (100, 133)), ((1000, 101), (990, 100))],
)
def test_large_images_are_downsized(kind, size, want):
    verified = verify_image(encode(picture(*size), kind), shorter_side=100)
    image = decode(verified.encoded)
    assert ("resized" in verified.changes, image.format, image.size) == (True, "JPEG", want)
    assert_alike(image, picture(*size).resize(want, Image.Resampling.LANCZOS), 4)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("RGB", kind) for kind in FORMATS[2:]),
        *(("L", "JPEG"), ("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("CMYK", "JPEG")),
        *(("LA", "PNG"), ("RGBA", "PNG")),
    ],
)
def test_other_formats_and_modes_become_rgb_jpeg(mode, kind):
    image = picture().convert(mode)
    verified = verify_image(encode(image, kind))
    assert "converted" in verified.changes
    assert decode(verified.encoded).format == "JPEG"
    tolerance = 30 if mode == "1" else 20 if mode == "P" or kind == "GIF" else 6
    assert_alike(decode(verified.encoded), image.convert("RGB"), tolerance)


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    got = decode_image(encode(Image.fromarray(values), "PNG")).picture
    np.testing.assert_array_equal(
        got, Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    )
    twelve = decode_image(encode(Image.fromarray(values >> 4), "TIFF")).picture
    np.testing.assert_array_equal(twelve, got, "as a camera of 12 bits writes them")
    with pytest.raises(CorruptImageError, match="unknown range"):
        decode_image(encode(Image.fromarray(values.astype(np.int32) << 8), "TIFF"))


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_where_a_tiff_file_says_so(bits):
    values = np.linspace(0, 2**bits - 1, 40 * 30).reshape(30, 40).astype(f"uint{bits}")
    encoded = bytearray(encode(Image.fromarray(values), "TIFF"))
    entry = struct.pack("<HHI", 262, 3, 1)  # how grey values are meant, one short number
    assert encoded.count(entry) == 1
    encoded[encoded.index(entry) + len(entry)] = 0
    got = np.asarray(decode_image(bytes(encoded)).picture)[..., 0]
    np.testing.assert_array_equal(got, 255 - (values >> bits - 8))


def test_transparent_pixels_become_white():
    image = picture().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    got = decode_image(encode(image, "PNG")).picture
    np.testing.assert_array_equal(got, Image.new("RGB", image.size, "white"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shorter_side", [0, 15])
def test_the_orientation_tag_is_obeyed(orientation, shorter_side):
    encoded = encode(picture(), exif=exif(orientation))
    upright = ImageOps.exif_transpose(decode(encoded))
    size = upright.size
    if shorter_side:
        size = (20, 15) if upright.width > 30 else (15, 20)
    verified = verify_image(encoded, shorter_side=shorter_side)
    got = decode(verified.encoded)
    assert ("converted" in verified.changes) == (orientation != 1)
    assert got.getexif().get(0x0112, 1) == 1
    assert_alike(got, upright.resize(size, Image.Resampling.LANCZOS), 6 if shorter_side else 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP", "MPO"])
def test_of_several_frames_the_first_counts(kind):
    frames = [picture(), Image.new("RGB", (40, 30), "white")]
    verified = verify_image(encode(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert {"converted", "first_frames"} <= verified.changes
    assert_alike(decode(verified.encoded), picture(), 12)


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "an empty file"),
        (b"not an image", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (encode(picture(200, 200))[:2000], "damaged: .*truncated"),
        (encode(picture(200, 200), "PNG")[:400], "damaged: .*truncated"),
        (jpeg()[:3], "not an image"),
        (bomb(), "too large: 100000 x 100000 pixels, allowed are 128,000,000"),
        (bomb(20_000, 7_000), "too large"),
        (bomb(200, 200), "damaged"),
        (encode(Image.new("F", (9, 9)), "TIFF"), "unknown range"),
    ],
)
def test_damaged_images(encoded, reason):
    with own_limits(), pytest.raises(CorruptImageError, match=reason):
        verify_image(encoded, shorter_side=100)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([*(encode(picture(), kind) for kind in FORMATS), *LADEN.values()]),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6),
    st.lists(st.tuples(st.integers(2, 700), st.binary(max_size=4)), max_size=2),
    st.integers(0, 400),
    st.sampled_from([0, 20]),
)
def test_mangled_bytes_are_the_image_that_pillow_sees_or_corrupt(
    encoded, edits, insertions, cut, shorter_side
):
    mangled = bytearray(encoded)
    for position, value in edits:
        mangled[position % len(mangled)] = value
    for position, extra in insertions:
        mangled[position:position] = extra
    content = bytes(mangled[: len(mangled) - cut * (cut > 200)])
    with own_limits(), suppress(CorruptImageError):
        verified = verify_image(content, shorter_side=shorter_side)
        before, after = decode(content), decode(verified.encoded)
        assert (after.mode, after.format in ("JPEG", "PNG")) == ("RGB", True)
        if not shorter_side:
            assert sorted(after.size) == sorted(before.size)
        if verified.encoded == content:
            np.testing.assert_array_equal(after, before)
