"""Pictures, folders, archives and spreadsheets, as people hand them out."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

OFFICE = "http://schemas.openxmlformats.org/"


def jpeg(shade: int = 0, size: tuple[int, int] = (9, 8)) -> bytes:
    """A picture of one colour, which other shades have not."""
    return encoded(Image.new("RGB", size, (shade % 256, 90, 70)))


def noise(seed: int, kind: str = "JPEG", mode: str = "RGB", *, width: int = 30) -> bytes:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (24, width, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels).convert(mode), kind)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(
    pixels: np.ndarray, kind: str, *, bits: int = 8, frames: int = 1, **tags: object
) -> bytes:
    """A DICOM file of these pixels, with a patient's name in it."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    content = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    content.PatientName, content.PatientID, content.PatientBirthDate = (
        "Doe^Jane^Secret",
        *("4711", "19600101"),
    )
    content.SOPClassUID, content.SOPInstanceUID = meta[2, 2].value, meta[2, 3].value
    shape = pixels.shape[1:] if frames > 1 else pixels.shape
    content.Rows, content.Columns = shape[:2]
    content.SamplesPerPixel = 3 if len(shape) == 3 else 1
    if content.SamplesPerPixel == 3:
        content.PlanarConfiguration = 0
    content.PhotometricInterpretation = kind
    content.BitsAllocated = 8 if bits <= 8 else 16
    content.BitsStored, content.HighBit = bits, bits - 1
    content.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    if frames > 1:
        content.NumberOfFrames = frames
    content.PixelData = tags.pop("data", pixels.tobytes())
    content["PixelData"].VR = "OB" if bits <= 8 else "OW"
    for tag, value in tags.items():
        setattr(content, tag, value)
    buffer = io.BytesIO()
    content.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def fill(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """The folder, with files of this content in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip file; the same bytes for the same content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def workbook(sheets: Mapping[str, list[list[object]]], hidden: str = "", merged: str = "") -> bytes:
    """An .xlsx file, sheet name -> rows of cells."""

    def cell(value: object) -> str:
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        kind = ' t="b"' if isinstance(value, bool) else ""
        return "<c/>" if value is None else f"<c{kind}><v>{value + 0}</v></c>"  # True: 1

    main, package = f"{OFFICE}spreadsheetml/2006/main", f"{OFFICE}package/2006/"
    office = f"{OFFICE}officeDocument/2006/relationships"
    listed, links, parts = "", "", {}
    for i, (name, rows) in enumerate(sheets.items(), start=1):
        state = "hidden" if name == hidden else "visible"
        listed += f'<sheet name="{name}" sheetId="{i}" r:id="r{i}" state="{state}"/>'
        links += f'<Relationship Id="r{i}" Type="{office}/worksheet" Target="worksheets/{i}.xml"/>'
        lines = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
        spans = f'<mergeCells><mergeCell ref="{merged}"/></mergeCells>' if merged else ""
        parts[f"xl/worksheets/{i}.xml"] = (
            f'<worksheet xmlns="{main}"><sheetData>{lines}</sheetData>{spans}</worksheet>'
        )
    root = f'<Relationship Id="r0" Type="{office}/officeDocument" Target="xl/workbook.xml"/>'
    for name, inside in (("_rels/.rels", root), ("xl/_rels/workbook.xml.rels", links)):
        parts[name] = f'<Relationships xmlns="{package}relationships">{inside}</Relationships>'
    parts["[Content_Types].xml"] = f'<Types xmlns="{package}content-types"/>'
    parts["xl/workbook.xml"] = (
        f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>{listed}</sheets></workbook>'
    )
    return zipped({name: content.encode() for name, content in parts.items()})
