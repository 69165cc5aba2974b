"""Reads a folder of `slimp export onnx`; needs numpy, pillow and onnxruntime alone."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

KEPT = (b"JFIF\0", b"ICC_PROFILE\0", b"Adobe")  # segments of a JPEG file that an import leaves be


class Reader:
    """Of a folder; called with an image file and its metadata, {column: cell}."""

    def __init__(self, folder: str | Path) -> None:
        self.spec = json.loads(Path(folder, "export.json").read_text("utf-8"))
        graphs = Path(folder).glob("*.onnx")
        self.run = {path.stem: onnxruntime.InferenceSession(path).run for path in graphs}

    def __call__(self, file: str | Path, cells: dict[str, Any]) -> dict[str, Any]:
        spec, probe, missing = self.spec, self.spec["probe"], set[str]()
        if probe and probe["needs_metadata"] and not cells:
            raise ValueError("this probe reads metadata: give {column: cell}, None where unknown")
        given = {name: coded(level, cells, missing) for name, level in spec["levels"].items()}
        given["image_encoder"] = {"pixels": pixels(file, **spec["pixels"])}
        found = {name: self.run[name](None, inputs)[0] for name, inputs in given.items()}
        if probe:
            inputs = {name: found[name] for name in probe["embeddings"]}
            for level, features in probe["table"].items():
                own = coded(features, cells, missing).items()
                inputs |= {f"{level}_{kind}": numbers for kind, numbers in own}
            p = found["probabilities"] = self.run["probe"](None, inputs)[0]
            found["decision"] = [probe["classes"][np.argmax(p / probe["divided_by"])]]
        return {name: x[0] for name, x in found.items()} | {"missing": sorted(missing)}


def coded(features: Any, cells: dict[str, Any], missing: set[str]) -> dict[str, Any]:
    """Numbers of a row and which features are known; the names of the others go to `missing`."""
    row: Any = {"continuous": [], "categorical": [], "checkbox": [], "present": []}
    for one in features:
        numbers = [number(cells.get(column), one) for column in one["columns"]]
        row[one["kind"]] += [x or 0 for x in numbers]
        row["present"].append(numbers != [None] * len(numbers))
        missing |= set() if row["present"][-1] else {one["name"]}
    return {k: np.array([x], dtype) for (k, x), dtype in zip(row.items(), "fqf?", strict=True)}


def number(cell: Any, one: dict[str, Any]) -> Any:
    """What a cell stands for; None if it is missing, or a category that is not known."""
    text = f"{cell:.15g}" if isinstance(cell, float) else str(cell).strip()
    if cell is None or text in one["codes"] or one["kind"] != "continuous":
        return None if cell is None else one["codes"].get(text)
    return (float(text) - one["mean"]) / one["std"]


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
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        image = image.resize(new, Image.Resampling.LANCZOS)
        image.getexif()[274] = turn
        image = ImageOps.exif_transpose(image)
    if not (plain and bare):
        image.save(stored := io.BytesIO(), "JPEG", quality="keep" if plain else 95)
    image = Image.open(stored)
    image.draft("RGB", (size, size))
    side = min(image.size)
    left, top = ((full - side + 1) // 2 for full in image.size)
    square = image.convert("RGB").crop((left, top, left + side, top + side))
    square = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).transpose(2, 0, 1)[None]
