"""DICOM images as plain pictures: pixels come through, and none of the tags.

Reading them needs pydicom (`pip install 'slimp[dicom]'`).
"""

from __future__ import annotations

import io
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from scipy.special import expit

from slimp.sources.image_limits import CorruptImageError, check_size

_DEFLATED = "1.2.840.10008.1.2.1.99"

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def is_dicom(encoded: bytes) -> bool:
    """Whether the file begins as DICOM files do."""
    return encoded[128:132] == b"DICM"


def decode_dicom(encoded: bytes) -> tuple[Image.Image, int]:
    """The image as 8-bit RGB, of several frames the first, and how many frames there are.

    Grey values are shown as the file says (its window, its look-up tables, dark where low); the
    whole range of values counts where it says nothing.

    Raises:
        CorruptImageError: pydicom is not installed, or no decoder for the file's compression; or
            the file is damaged, too large, holds no image, or says that it shows a name.
    """
    pydicom = _pydicom()
    file = io.BytesIO(encoded)
    file.seek(132)  # behind what `is_dicom` looks at; tags of group 2 say how the rest is written
    meta = pydicom.filereader.read_dataset(
        file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2
    )
    if meta.get("TransferSyntaxUID") == _DEFLATED:  # or dcmread would inflate all of it
        raise CorruptImageError("a DICOM file that is deflated as a whole; save it another way")
    dataset = pydicom.dcmread(io.BytesIO(encoded))
    if "PixelData" not in dataset:
        raise CorruptImageError("a DICOM file without an image in it")
    if dataset.get("BurnedInAnnotation") == "YES":
        raise CorruptImageError(
            "a DICOM file that says a person is named in its pixels; crop it and save it as PNG"
        )
    check_size(int(dataset.Columns), int(dataset.Rows))
    frames = int(dataset.get("NumberOfFrames") or 1)
    pixels = _decode(dataset)
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        pixels = pydicom.pixels.apply_color_lut(pixels, dataset)
        pixels = _to_bytes(pixels, 8 * pixels.dtype.itemsize)
    elif kind.startswith("MONOCHROME"):
        pixels = _grey(pixels, dataset, pydicom)
    else:
        pixels = _to_bytes(pixels, int(dataset.BitsStored))
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB"), frames


def _decode(dataset: Any) -> Array:
    """The first frame, in RGB if it has colours."""
    try:
        pixels: Array = import_module("pydicom.pixels").pixel_array(dataset, index=0)
    except (RuntimeError, NotImplementedError) as error:
        syntax = dataset.file_meta.TransferSyntaxUID
        if getattr(syntax, "is_compressed", False) and "decode" in str(error).lower():
            raise CorruptImageError(
                f"a DICOM file compressed as {syntax.name}, which needs a decoder: pip install "
                "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
            ) from None
        raise
    return pixels


def _grey(pixels: Array, dataset: Any, pydicom: Any) -> Array:
    """Grey values as bytes: rescaled, seen through the first window, and bright where high.

    Tags may be there and empty, which says no more than if they were not.
    """
    scale = (dataset.get("RescaleSlope"), dataset.get("RescaleIntercept"))
    as_stored = not dataset.get("ModalityLUTSequence") and (None in scale or scale == (1, 0))
    values = pixels if as_stored else np.asarray(pydicom.pixels.apply_rescale(pixels, dataset))
    bits, window = int(dataset.BitsStored), _window(dataset)
    if dataset.get("VOILUTSequence"):
        window, values = None, pydicom.pixels.apply_voi_lut(values, dataset, index=0)
        low, high = 0.0, float(2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    elif window is not None:
        low, high = window
    elif bits <= 8 and as_stored and not dataset.PixelRepresentation:
        low, high = 0.0, float(2**bits - 1)
    else:
        low, high = float(values.min()), float(values.max())
    shown = (values.astype(np.float64) - low) / max(high - low, 1e-12)
    if window is not None and dataset.get("VOILUTFunction") == "SIGMOID":
        shown = expit(4 * shown - 2)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.asarray((255 * shown).round().clip(0, 255).astype(np.uint8))


def _window(dataset: Any) -> tuple[float, float] | None:
    """The ends of the first window (DICOM PS3.3 C.11.2.1.2), black and white if it is linear."""
    ends = [dataset.get("WindowCenter"), dataset.get("WindowWidth")]
    centre, width = (end if end is None or isinstance(end, int | float) else end[0] for end in ends)
    if centre is None or width is None:
        return None
    centre, width = float(centre), float(width)
    if (dataset.get("VOILUTFunction") or "LINEAR") == "LINEAR":  # the odd one out: see the standard
        centre, width = centre - 0.5, width - 1
    return centre - width / 2, centre + width / 2


def _to_bytes(pixels: Array, bits: int) -> Array:
    """Colours as bytes, of more bits per colour the upper 8."""
    return np.asarray(pixels >> max(0, bits - 8)).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _pydicom() -> Any:
    try:
        import_module("pydicom.pixels")
        return import_module("pydicom")
    except ImportError:
        raise CorruptImageError(
            "a DICOM file; reading those needs a further package: pip install 'slimp[dicom]'"
        ) from None
