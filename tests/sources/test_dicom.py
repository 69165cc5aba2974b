"""DICOM images become plain pictures: every way to write pixels, and not one tag."""

from __future__ import annotations

import io
import json
import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from raw_data import dicom as file

from slimp.data.schema import Schema
from slimp.sources import RawFiles, import_source
from slimp.sources import dicom as reader
from slimp.sources import image_limits as pictures
from slimp.sources.decode_image import verify_image
from slimp.sources.dicom import decode_dicom
from slimp.sources.image_limits import CorruptImageError, own_limits

pydicom = pytest.importorskip("pydicom", reason="needs the extra 'dicom'")
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)


def shown(encoded: bytes) -> np.ndarray:
    return np.asarray(decode_dicom(encoded)[0])


def grey(encoded: bytes) -> np.ndarray:
    image = shown(encoded)
    assert (image == image[:, :, :1]).all()
    return image[:, :, 0]


PALETTE = {
    f"{colour}PaletteColorLookupTable{what}": value
    for colour in ("Red", "Green", "Blue")
    for what, value in (
        ("Descriptor", [256, 0, 16]),
        ("Data", (np.arange(256, dtype=np.uint16) * 257)[::-1].tobytes()),
    )
}
PLANES = COLOURS.transpose(2, 0, 1).copy().reshape(16, 16, 3)
SIGNED = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (file(COLOURS, "RGB"), COLOURS),
        (file(PLANES, "RGB", PlanarConfiguration=1), COLOURS),
        (file(COLOURS.astype(np.uint16) * 256 + 77, "RGB", bits=16), COLOURS),
        (file(RAMP, "MONOCHROME2"), RAMP),
        (file(RAMP, "MONOCHROME1"), 255 - RAMP),
        (file(RAMP, "PALETTE COLOR", **PALETTE), 255 - RAMP),
        (file(RAMP.astype(np.uint16) * 5 + 1000, "MONOCHROME2", bits=12), RAMP),  # whole range
        (file(SIGNED, "MONOCHROME2", bits=16), RAMP),
        (
            file(RAMP // 2, "MONOCHROME2", RescaleSlope=2, RescaleIntercept=-7),
            np.round(255 * (RAMP // 2 / 127)).astype(np.uint8),
        ),
    ],
)
def test_pixels_come_through(encoded, expected):
    got = shown(encoded) if expected.ndim == 3 else grey(encoded)
    np.testing.assert_array_equal(got, expected)


def test_luminance_and_chrominance_become_colours():
    plain = Image.fromarray(COLOURS)
    got = shown(file(np.asarray(plain.convert("YCbCr")), "YBR_FULL"))
    assert np.abs(got.astype(int) - COLOURS).max() <= 3


@pytest.mark.parametrize(
    ("slope", "function"), [(1, None), (2, "LINEAR"), (1, "LINEAR_EXACT"), (1, "SIGMOID")]
)
def test_a_window_is_obeyed(slope, function):
    """The formulas of PS3.3 C.11.2.1.2.1 and C.11.2.1.3, cell by cell."""
    values = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    centre, width = 1000.0, 500.0
    tags = {"WindowCenter": [centre, 9.0], "WindowWidth": [width, 9.0], "VOILUTFunction": function}
    if slope != 1:
        tags |= {"RescaleSlope": slope, "RescaleIntercept": -100}
    got = grey(file(values, "MONOCHROME2", bits=12, **tags))
    for x, y in zip(values.ravel().tolist(), got.ravel().tolist(), strict=True):
        x = x * slope - 100 if slope != 1 else x
        share = (x - (centre - 0.5)) / (width - 1) + 0.5
        if function == "LINEAR_EXACT":
            share = (x - centre) / width + 0.5
        elif function == "SIGMOID":
            share = 1 / (1 + math.exp(-4 * (x - centre) / width))
        assert abs(y - 255 * min(max(share, 0), 1)) <= 0.51


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 20, "WindowWidth": None},
        {"VOILUTSequence": []},
        {"ModalityLUTSequence": []},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": 1, "RescaleIntercept": 0},
        {"RescaleSlope": 1, "RescaleIntercept": 0, "WindowCenter": None, "WindowWidth": None},
    ],
)
def test_tags_that_say_nothing_change_nothing(tags):
    """Neither is the file damaged, nor are its greys stretched to their own range."""
    np.testing.assert_array_equal(grey(file(RAMP // 2 + 9, "MONOCHROME2", **tags)), RAMP // 2 + 9)


def test_of_several_frames_the_first_counts():
    frames = np.stack([COLOURS, 255 - COLOURS, COLOURS])
    encoded = file(frames, "RGB", frames=3)
    np.testing.assert_array_equal(shown(encoded), COLOURS)
    assert decode_dicom(encoded)[1] == 3
    assert "first_frames" in verify_image(encoded, shorter_side=0).changes


def test_jpeg_within():
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, "JPEG", quality=95, subsampling=0)
    data = encapsulate([buffer.getvalue()])
    encoded = file(COLOURS, "YBR_FULL", syntax=JPEGBaseline8Bit, data=data)
    want = np.asarray(Image.open(buffer))
    assert np.abs(shown(encoded).astype(int) - want).max() <= 3


def refused(encoded: bytes) -> str:
    with own_limits(), pytest.raises(CorruptImageError) as error:
        verify_image(encoded, shorter_side=0)
    return str(error.value)


def test_refusals(monkeypatch):
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLossless

    whole = file(COLOURS, "RGB")
    assert "a person is named in its pixels" in refused(
        file(COLOURS, "RGB", BurnedInAnnotation="YES")
    )
    assert "damaged" in refused(whole[:-100])
    assert "without an image" in refused(whole[:140] + b"\xff" * 300)
    assert refused(bytes(128) + b"DICM")
    lossless = file(COLOURS, "RGB", syntax=JPEGLossless, data=encapsulate([b"\xff\xd8 none"]))
    message = refused(lossless)
    assert "needs a decoder: pip install" in message or "damaged" in message
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    assert "too large: 16 x 16" in refused(whole)


@pytest.mark.parametrize("group_length", [None, 0, 5])
def test_a_deflated_file_is_refused_before_it_is_inflated(group_length):
    """It may be a bomb: 64 MB of nothing in as many KB."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    encoded = bytearray(
        file(np.zeros((8000, 8000), np.uint8), "MONOCHROME2", syntax=DeflatedExplicitVRLittleEndian)
    )
    assert len(encoded) < 100_000
    if group_length is not None:
        encoded[140:144] = group_length.to_bytes(4, "little")
    tracemalloc.start()
    try:
        assert "deflated as a whole" in refused(bytes(encoded))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_without_the_extra_they_are_refused_in_a_sentence(monkeypatch):
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(reader, "import_module", absent)
    reader._pydicom.cache_clear()
    assert "pip install 'slimp[dicom]'" in refused(file(COLOURS, "RGB"))


def test_no_tag_enters_a_cohort(tmp_path):
    folder = tmp_path / "raw" / "images"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.dcm").write_bytes(file(np.roll(COLOURS, number, axis=0), "RGB"))
    pd.DataFrame({"file": ["0.dcm", "1", "2.DCM"], "x": list("abc")}).to_csv(
        tmp_path / "raw" / "metadata.csv", index=False
    )
    schema = Schema.from_dict({"image": "file"})
    cohort = import_source(
        "csv", tmp_path / "raw", tmp_path / "cohort", files=RawFiles(schema=schema)
    )
    assert len(cohort) == 3
    report = cohort.info.import_report
    assert (report["stripped"], report["converted"], report["absent"]) == (3, 3, 0)
    for path in (tmp_path / "cohort").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"Doe" not in content, path
            assert b"4711" not in content, path
            assert b"19600101" not in content, path
    assert "Doe" not in json.dumps(report)
