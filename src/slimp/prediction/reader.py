"""Reads a folder of `slimp export onnx`; needs numpy, pillow and onnxruntime alone."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps

KEPT = (b"JFIF\0", b"ICC_PROFILE\0", b"Adobe")  # segments of a JPEG file that an import leaves be


class Reader:
    """Of a folder; called with an image file and its metadata, {column: cell}."""

    def __init__(self, folder: str | Path) -> None:
        self.spec = json.loads(Path(folder, "export.json").read_text("utf-8"))
        self.run = {x: InferenceSession(Path(folder, f"{x}.onnx")).run for x in self.spec["graphs"]}

    def __call__(self, file: str | Path, cells: dict[str, Any]) -> dict[str, Any]:
        spec, probe, tables = self.spec, self.spec["probe"], self.spec["tables"]
        if probe and probe["needs_metadata"] and not cells:
            raise ValueError("this probe reads metadata: give {column: cell}, None where unknown")
        given = {name: coded(table, cells) for name, table in tables.items()}
        given["pixels"] = pixels(file, **spec["pixels"])
        for name, inputs in spec["graphs"].items():  # the probe, which reads the others, is last
            given[name] = self.run[name](None, {x: given[x] for x in inputs})[0]
        found = {name: given[name][0] for name in spec["graphs"]}
        if probe:
            p = found["probabilities"] = found.pop("probe")
            found["decision"] = probe["classes"][np.argmax(p / probe["divided_by"])]
        missing = [x for t in tables.values() for x in t if np.isnan(coded([x], cells)).all()]
        return {**found, "missing": sorted({x["name"] for x in missing})}


def coded(features: Any, cells: dict[str, Any]) -> Any:
    """A row of the features' columns, as numbers; NaN is missing."""
    return np.array([[number(cells.get(c), x) for x in features for c in x["columns"]]], float)


def number(cell: Any, one: dict[str, Any]) -> Any:
    """What a cell stands for; None if it is missing, or a category that is not known."""
    text = f"{cell:.15g}" if isinstance(cell, float) else str(cell).strip()
    if cell is None or text in one["codes"] or one["kind"] != "continuous":
        return None if cell is None else one["codes"].get(text)
    if isinstance(cell, str) and not one["plain"]:
        raise ValueError(f"{one['name']}: give a number in {one['unit']}, not text as in the table")
    return float(text)


def pixels(file: str | Path, size: int, shorter_side: int) -> Any:
    """The image as an import stores it, then its central square: what `slimp predict` sees."""
    image: Any = Image.open(stored := io.BytesIO(Path(file).read_bytes()))
    if image.mode[0] in "IF":
        raise ValueError(f"{file}: more than 8 bits per colour; slimp predict reads most of these")
    turn, scale = image.getexif().get(274, 1), min(1, shorter_side / min(image.size))
    plain = image.mode == "RGB" and image.format in ("JPEG", "PNG") and turn < 2 and scale == 1
    plain &= not image.has_transparency_data and getattr(image, "n_frames", 1) == 1
    bare = image.format != "JPEG" or stored.getvalue().endswith(b"\xff\xd9")
    bare &= all(content.startswith(KEPT) for _, content in getattr(image, "applist", ()))
    if not plain:
        new = [max(round(scale * side), min(side, shorter_side)) for side in image.size]
        image.draft(None, [2 * side for side in new])
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        image = image.convert("RGB").resize(new, Image.Resampling.LANCZOS)
        image.getexif()[274] = turn
        image = ImageOps.exif_transpose(image)
    if not (plain and bare):
        image.save(stored := io.BytesIO(), "JPEG", quality="keep" if plain else 95)
    image = Image.open(stored)
    image.draft("RGB", (size, size))
    side = min(image.size)
    left, top = ((full - side + 1) // 2 for full in image.size)
    crop = image.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None]
