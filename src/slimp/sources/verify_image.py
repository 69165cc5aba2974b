"""An encoded image is decoded in full once, at import, so that training never meets a damaged one.

What comes out is an upright RGB image as JPEG or PNG, downsized if it is large, and nothing but
the image: what a file says about where, when or of whom it was taken does not come along.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from slimp.sources.dicom import is_dicom, picture_of
from slimp.sources.image_limits import MAX_PIXELS, CorruptImageError, check_size
from slimp.sources.strip import strip_metadata

__all__ = ["MAX_PIXELS", "CorruptImageError", "VerifiedImage", "own_limits", "verify_image"]

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
JPEG_QUALITY = 95
PROFILE_COLOURS = slice(16, 20)
"""Where a colour profile says which colours it is of."""


@dataclass(frozen=True, kw_only=True)
class VerifiedImage:
    """An image fit for a cohort, and whether its bytes are still the published ones."""

    encoded: bytes
    resized: bool = False
    converted: bool = False
    """Re-encoded because of its file format, colour mode, orientation tag or transparency; or
    because its file is put together so oddly that nothing can be cut out of it."""
    stripped: bool = False
    """The file held more than the image (EXIF, XMP, IPTC, comments, DICOM tags), now removed."""
    first_frame: bool = False
    """The first of several frames."""


@contextmanager
def own_limits() -> Iterator[None]:
    """While images are verified: our limit on pixels instead of Pillow's, and no warnings of its.

    Both are global to Pillow, so one thread enters this around the work of all.
    """
    Image.init()
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\b")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def verify_image(encoded: bytes, *, shorter_side: int) -> VerifiedImage:
    """The image as a cohort keeps it: published bytes where possible.

    Args:
        encoded: a JPEG, PNG, TIFF, BMP, WebP, GIF or DICOM file; of several frames the first
            counts.
        shorter_side: larger images are downsized to this, px; 0 keeps them.

    Raises:
        CorruptImageError: it is none of these, is damaged, or has more than `MAX_PIXELS`.
    """
    Image.init()  # or Pillow would not know all of FORMATS yet
    try:
        if is_dicom(encoded):
            return _from_dicom(encoded, shorter_side)
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            return _verify(image, encoded, shorter_side)
    except CorruptImageError:
        raise
    except UnidentifiedImageError:
        raise CorruptImageError("not an image" if encoded else "an empty file") from None
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise CorruptImageError(f"damaged: {' '.join(str(error).split())[:200]}") from None


def _verify(image: Image.Image, encoded: bytes, shorter_side: int) -> VerifiedImage:
    width, height = image.size
    check_size(width, height)
    format_ = image.format
    upright = image.getexif().get(0x0112, 1) in (0, 1)  # the orientation tag
    plain = upright and format_ in ("JPEG", "PNG") and image.mode == "RGB"
    first_frame = getattr(image, "n_frames", 1) > 1
    plain = plain and not first_frame and "transparency" not in image.info
    size = _size(width, height, shorter_side)
    resized = size != (width, height)
    if resized:
        # JPEG can decode at 1/2, 1/4, 1/8 of its size: fast, and still twice as fine as needed.
        image.draft(None, (2 * size[0], 2 * size[1]))
    image.load()
    bare = strip_metadata(encoded)
    if plain and not resized and bare is not None:
        return VerifiedImage(encoded=bare, stripped=bare is not encoded)
    profile = image.info.get("icc_profile")
    picture = _to_rgb(image)
    if resized:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    if not upright:
        picture.getexif().update(image.getexif())
        picture = ImageOps.exif_transpose(picture)
    return VerifiedImage(
        encoded=_jpeg(picture, profile),
        resized=resized,
        converted=not plain or bare is None,
        stripped=bare is not encoded,
        first_frame=first_frame,
    )


def _from_dicom(encoded: bytes, shorter_side: int) -> VerifiedImage:
    picture, frames = picture_of(encoded)
    size = _size(*picture.size, shorter_side)
    resized = size != picture.size
    if resized:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return VerifiedImage(
        encoded=_jpeg(picture),
        resized=resized,
        converted=True,
        stripped=True,
        first_frame=frames > 1,
    )


def _size(width: int, height: int, shorter_side: int) -> tuple[int, int]:
    if not 0 < shorter_side < min(width, height):
        return width, height
    scale = shorter_side / min(width, height)
    return max(round(width * scale), shorter_side), max(round(height * scale), shorter_side)


def _jpeg(picture: Image.Image, profile: bytes | None = None) -> bytes:
    """The picture as a file; its profile comes along unless it is of other colours than RGB."""
    if profile is not None and profile[PROFILE_COLOURS] != b"RGB ":
        profile = None
    picture.info = {}  # or Pillow would write the comment that it read
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY, icc_profile=profile)
    return buffer.getvalue()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel; Pillow's own conversion would clip them
        values = np.asarray(image).astype(np.int64)
        values = values >> 8 if values.max(initial=0) > 255 else values
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise CorruptImageError("pixels of unknown range (floating point)")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")
