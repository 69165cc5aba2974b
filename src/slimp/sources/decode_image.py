"""The one decoder of foreign image files: what import stores and prediction sees.

The result is an upright 8-bit RGB image without metadata: what a file says about place, time
or person is dropped.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from slimp.sources.config import SHORTER_SIDE
from slimp.sources.dicom import decode_dicom, is_dicom
from slimp.sources.image_limits import FORMATS, CorruptImageError, check_size

JPEG_QUALITY = 95
BACKGROUND = "white"
"""Behind transparent pixels."""
_ORIENTATION = 0x0112
_PHOTOMETRIC = 0x0106
_JPEG_SEGMENT = re.compile(
    rb"\xff(?:[\xc0-\xcf\xdb-\xdf]|\xe0..JFIF\0|\xe2..ICC_PROFILE\0|\xee..Adobe)", re.DOTALL
)
"""A segment before the pixels that bears on them."""
_JPEG_EXTRA = re.compile(rb"\xff[\xd9\xe0-\xef\xfe]")
"""Among the pixels, where 0xff is otherwise followed by 0, a restart or another scan: the end, or
a segment that does not bear on them."""
_PNG_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"}
    | {b"sBIT", b"pHYs", b"bKGD", b"hIST", b"mDCV", b"cLLI"}
)


CHANGES = ("resized", "converted", "stripped", "first_frames")
"""How an image may differ from its file: it is smaller; the file's format, colour mode or
orientation was another, or it had transparent pixels; the file held more than the image (EXIF,
XMP, IPTC, comments, DICOM tags), now gone; the file has several frames, this is the first."""


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """Pixels: upright, 8-bit RGB."""

    picture: Image.Image
    changes: frozenset[str]
    """Of `CHANGES`."""
    profile: bytes | None = None
    """Colour profile of RGB images."""


@dataclass(frozen=True, kw_only=True)
class VerifiedImage:
    """A JPEG or PNG file fit for a cohort."""

    encoded: bytes
    changes: frozenset[str] = frozenset()
    """Of `CHANGES`."""


def decode_image(encoded: bytes, *, shorter_side: int = SHORTER_SIDE) -> DecodedImage:
    """The image that a file holds.

    Args:
        encoded: a JPEG, PNG, TIFF, BMP, WebP, GIF or DICOM file.
        shorter_side: larger images are downsized to this, px; 0 keeps their size.

    Raises:
        CorruptImageError: it is none of these, is damaged, or has more than `MAX_PIXELS`.
    """
    Image.init()  # or Pillow would not know all of FORMATS yet
    try:
        if is_dicom(encoded):
            picture, frames = decode_dicom(encoded)
            return _decode(picture, shorter_side, frames)
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            check_size(*image.size)
            return _decode(image, shorter_side, getattr(image, "n_frames", 1))
    except CorruptImageError:
        raise
    except UnidentifiedImageError:
        raise CorruptImageError("not an image" if encoded else "an empty file") from None
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise CorruptImageError(f"damaged: {' '.join(str(error).split())[:200]}") from None


def verify_image(encoded: bytes, *, shorter_side: int = SHORTER_SIDE) -> VerifiedImage:
    """The image as a cohort stores it: the published bytes if they are nothing but an RGB image.

    Else it is encoded anew: a PNG that only held too much as PNG, everything else as JPEG.

    Raises:
        CorruptImageError: as `decode_image`.
    """
    decoded = decode_image(encoded, shorter_side=shorter_side)
    bare = _is_bare(encoded)
    if bare and not decoded.changes:
        return VerifiedImage(encoded=encoded)
    changes = decoded.changes | ({"stripped"} if not bare else set())
    return VerifiedImage(encoded=_encode(decoded), changes=changes)


def _decode(image: Image.Image, shorter_side: int, frames: int) -> DecodedImage:
    upright = image.getexif().get(_ORIENTATION, 1) in (0, 1)
    plain = image.format in ("JPEG", "PNG") and image.mode == "RGB" and frames == 1
    plain = plain and upright and "transparency" not in image.info
    scale = shorter_side / min(image.size)
    resized = 0 < scale < 1
    width, height = (max(round(scale * side), shorter_side) for side in image.size)
    if resized:
        # JPEG can decode at 1/2, 1/4, 1/8 of its size: fast, and still twice as fine as needed.
        image.draft(None, (2 * width, 2 * height))
    image.load()
    profile = image.info.get("icc_profile")
    picture = image if plain else _to_rgb(image)
    if resized:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if not upright:
        picture.getexif().update(image.getexif())
        picture = ImageOps.exif_transpose(picture)
    changes = {"resized": resized, "converted": not plain, "first_frames": frames > 1}
    return DecodedImage(
        picture=picture,
        changes=frozenset(name for name, is_so in changes.items() if is_so),
        profile=profile if profile is not None and profile[16:20] == b"RGB " else None,
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel; Pillow's own conversion would clip them
        values = np.asarray(image).astype(np.int64)
        low, high = values.min(initial=0), values.max(initial=0)
        if low < 0 or high >= 1 << 16:
            raise CorruptImageError("pixels of unknown range (beyond 16 bits)")
        bits = next(bits for bits in (8, 12, 16) if high < 1 << bits)  # as cameras fill them
        grey = (values >> bits - 8).astype(np.uint8)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # white is 0
            grey = 255 - grey
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        raise CorruptImageError("pixels of unknown range (floating point)")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, BACKGROUND)
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _encode(decoded: DecodedImage) -> bytes:
    picture, buffer = decoded.picture, io.BytesIO()
    picture.info = {}  # or Pillow would write the comment that it read
    if not decoded.changes and picture.format == "PNG":
        picture.save(buffer, "PNG", exif=b"", icc_profile=decoded.profile)
    else:  # a JPEG of unchanged pixels keeps its own quantisation, which loses next to nothing
        quality = JPEG_QUALITY if decoded.changes else "keep"
        picture.save(buffer, "JPEG", quality=quality, exif=b"", icc_profile=decoded.profile)
    return buffer.getvalue()


def _is_bare(encoded: bytes) -> bool:
    """Whether a JPEG or PNG file holds nothing but the image and its colour profile.

    Pillow passes over what it does not know, so this looks at the file: segments follow one
    another, each is known to bear on the pixels, and the end of the image is that of the file.
    """
    if encoded.startswith(b"\xff\xd8"):
        at = 2
        while _JPEG_SEGMENT.match(encoded, at):
            at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        end = _JPEG_EXTRA.search(encoded, at + 2)
        scans = encoded.startswith(b"\xff\xda", at)
        return scans and end is not None and encoded[end.start() :] == b"\xff\xd9"
    at, kind = 8, b""
    while encoded[at + 4 : at + 8] in _PNG_CHUNKS and kind != b"IEND":
        kind = encoded[at + 4 : at + 8]
        at += 12 + int.from_bytes(encoded[at : at + 4], "big")
    return encoded.startswith(b"\x89PNG\r\n\x1a\n") and kind == b"IEND" and at == len(encoded)
