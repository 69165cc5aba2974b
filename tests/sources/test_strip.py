"""What a file says besides its pixels is cut out, and the pixels stay to the bit."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from slimp.sources.strip import strip_metadata

SECRETS = (b"Jane Doe", b"4711", b"GPS", b"xpacket", b"8BIM", b"motion")


def picture() -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, 48), np.linspace(0, 255, 32))
    return Image.fromarray(np.stack([x, y, x[::-1]], axis=2).astype(np.uint8))


def jpeg(**options: object) -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def png(**options: object) -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG", **options)
    return buffer.getvalue()


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x013B], tags[0xA431] = "Jane Doe", "4711"
    tags.get_ifd(0x8825)[1] = "N GPS"
    return tags


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def with_segments(encoded: bytes, *segments: bytes) -> bytes:
    return encoded[:2] + b"".join(segments) + encoded[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def with_chunks(encoded: bytes, *chunks: bytes) -> bytes:
    return encoded[:33] + b"".join(chunks) + encoded[33:]


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LADEN_JPEG = {
    "exif": jpeg(exif=exif()),
    "comment": jpeg(comment=b"Jane Doe"),
    "xmp": with_segments(jpeg(), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<?xpacket 4711")),
    "iptc": with_segments(jpeg(), segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04Jane Doe")),
    "maker": with_segments(jpeg(), segment(0xE4, b"4711"), segment(0xEF, b"Jane Doe")),
    "thumbnail": with_segments(jpeg(), segment(0xE0, b"JFXX\0\x10" + jpeg(comment=b"Jane Doe"))),
    "trailer": jpeg() + b"motion photo of Jane Doe",
    "progressive": with_segments(jpeg(progressive=True, comment=b"4711")) + b"motion",
    "profile": jpeg(icc_profile=PROFILE, exif=exif()),
    "adobe": with_segments(
        jpeg(), segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01"), segment(0xFE, b"4711")
    ),
    "fill": jpeg()[:2] + b"\xff\xff" + segment(0xFE, b"4711")[1:] + jpeg()[2:],
}
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("Author", "Jane Doe")
TEXT.add_itxt("XML:com.adobe.xmp", "<?xpacket 4711")
LADEN_PNG = {
    "text": png(pnginfo=TEXT),
    "exif": png(exif=exif()),
    "time": with_chunks(png(), chunk(b"tIME", bytes(7)), chunk(b"prVt", b"4711")),
    "trailer": png() + b"Jane Doe",
    "profile": png(icc_profile=PROFILE, pnginfo=TEXT),
}


@pytest.mark.parametrize("encoded", [*LADEN_JPEG.values(), *LADEN_PNG.values()])
def test_nothing_but_the_image_is_left(encoded):
    bare = strip_metadata(encoded)
    assert len(bare) < len(encoded)
    assert not [secret for secret in SECRETS if secret in bare]
    np.testing.assert_array_equal(pixels(bare), pixels(encoded))
    image = Image.open(io.BytesIO(bare))
    assert not dict(image.getexif())
    assert not {"comment", "exif", "xmp", "photoshop", "Author"} & set(image.info)


@pytest.mark.parametrize("name", ["profile", "adobe"])
def test_what_bears_on_colours_stays(name):
    before = Image.open(io.BytesIO(LADEN_JPEG[name])).info
    after = Image.open(io.BytesIO(strip_metadata(LADEN_JPEG[name]))).info
    for key in ("icc_profile", "adobe_transform", "jfif"):
        assert before.get(key) == after.get(key)
    if name == "profile":
        assert after["icc_profile"] == PROFILE
        assert (
            Image.open(io.BytesIO(strip_metadata(LADEN_PNG[name]))).info["icc_profile"] == PROFILE
        )


@pytest.mark.parametrize(
    "encoded",
    [
        jpeg(),
        jpeg(progressive=True),
        jpeg(icc_profile=PROFILE),
        jpeg(restart_marker_blocks=2),
        png(),
        png(optimize=True),
    ],
)
def test_what_is_bare_is_left_alone(encoded):
    assert strip_metadata(encoded) is encoded


@pytest.mark.parametrize(
    "encoded",
    [
        *(b"", b"\xff\xd8", b"\xff\xd8\xff", b"GIF89a", jpeg()[:-2], jpeg()[:-1], png()[:-1]),
        jpeg()[:20] + b"\x00\xd9" + jpeg()[20:],  # no end of the image, though the marker's byte
        jpeg()[:20] + b"\xff\xe1\x00\x01" + jpeg()[20:],
        png()[:33] + b"\x7f\xff\xff\xfftEXt" + png()[33:],
    ],
)
def test_what_does_not_hold_together_is_told_apart(encoded):
    assert strip_metadata(encoded) is None


@pytest.mark.parametrize("encoded", [*LADEN_JPEG.values(), *LADEN_PNG.values()])
def test_stripping_again_changes_nothing(encoded):
    bare = strip_metadata(encoded)
    assert strip_metadata(bare) is bare


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([*LADEN_JPEG.values(), *LADEN_PNG.values()]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6),
    st.integers(0, 600),
)
def test_mangled_files_do_no_harm(encoded, edits, cut):
    mangled = bytearray(encoded)
    for position, value in edits:
        mangled[position % len(mangled)] = value
    mangled = mangled[: len(mangled) - cut]
    bare = strip_metadata(bytes(mangled))
    if bare is not None:
        assert len(bare) <= len(mangled)
        assert bare[:2] == mangled[:2]
