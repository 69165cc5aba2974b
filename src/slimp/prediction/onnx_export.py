"""A run and its probe as ONNX graphs, and beside them what it takes to use them without slimp.

The folder holds `image_encoder.onnx`, a tabular encoder per level, `probe.onnx`, `export.json` and
a copy of `reader.py`.

Axis names: n = rows, k = classes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from slimp import __version__
from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding, FittedFeature
from slimp.data.files import write_json
from slimp.data.images import image_batches
from slimp.data.schema import Feature, Schema
from slimp.errors import UserError
from slimp.evaluation.metrics import recall_per_class
from slimp.evaluation.result import codes_of, relabelled
from slimp.features.backends import Augmentation
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig, columns_of
from slimp.features.feature_sets import METADATA_KEYS, TABLE, FeatureSet
from slimp.models.nested import Slimp
from slimp.prediction.onnx_graphs import (
    IMAGE,
    OPSET,
    PROBE,
    example_cells,
    image_graph,
    probe_graph,
    quantise,
    runner,
    tabular_graph,
    write_graph,
)
from slimp.prediction.output import STATEMENT
from slimp.prediction.predictor import Predictor
from slimp.sources.config import SHORTER_SIDE
from slimp.sources.parse_cells import NUMBER, TICKS, parse_cells

PACKAGES = ("onnx", "onnxruntime")
"""What the extra `slimp[onnx]` installs."""
FORMAT = 1
"""Version of `export.json`."""
PREPROCESSING = {
    "stored": "upright RGB on white, at most shorter_side px (Lanczos); if changed, as JPEG of 95",
    "crop": "the central square; a JPEG is decoded at the smallest scale of at least size px",
    "resampling": "bilinear with antialiasing, as in Pillow",
    "normalisation": "in the graph: pixels / 255, minus mean, divided by std",
}


def export_onnx(
    folder: Path,
    model: Slimp,
    predictor: Predictor | None = None,
    *,
    int8: bool = False,
    cohort: Cohort | None = None,
) -> dict[str, Any]:
    """Writes graphs, `export.json` and `reader.py` into a folder, and returns the JSON's content.

    Args:
        folder: is there.
        model: the encoders, on a CPU and in evaluation mode.
        predictor: the probe on them.
        int8: matrix products of the image encoder in 8 bits, activations scaled as they come.
        cohort: on whose images the image encoder's graph is compared with PyTorch.

    Raises:
        UserError: a package is missing, probe or encoder cannot be exported, or ONNX Runtime
            differs from PyTorch.
    """
    _refuse(model, predictor, int8=int8)
    spec, side, augmentation = model.image_spec, model.image_spec.size, _augmentation(predictor)
    content: dict[str, Any] = {"statement": STATEMENT, "format": FORMAT, "slimp": __version__}
    content |= {"opset": OPSET, "int8": int8, "test_time_augmentation": augmentation}
    tables, graphs = dict[str, Any](), {IMAGE: ["pixels"]}
    content |= {
        "pixels": {"size": side, "shorter_side": max(SHORTER_SIDE, side)},
        "preprocessing": {**PREPROCESSING, "mean": spec.mean, "std": spec.std},
        "graphs": graphs,
        "tables": tables,
        "probe": None if predictor is None else _about(predictor),
    }
    noise = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    image = folder / f"{IMAGE}.onnx"
    graph = image_graph(model.image_encoder, augmentation)
    found = {"image": write_graph(image, graph, pixels=noise)}
    schema = None if predictor is None else predictor.schema
    for level, encoding in model.encodings.items():
        name, tabular = METADATA_KEYS[level], model.level(level).tabular
        there = None if schema is None else columns_of(schema, model, level)
        graphs[name] = [cells := f"{name}_cells"]
        tables[cells] = table_coding(encoding, schema, there)
        path, example = folder / f"{name}.onnx", {cells: example_cells(encoding)}
        found[name] = write_graph(path, tabular_graph(tabular, encoding), **example)
    if predictor is not None:
        probe = predictor.probe
        given = {IMAGE if x == "image" else x: found[x] for x in probe.blocks if x != TABLE}
        for encoding in probe.encodings:
            tables[cells := f"{PROBE}_{encoding.level}_cells"] = table_coding(encoding, schema)
            given[cells] = example_cells(encoding)
        graphs[PROBE] = [*given]
        write_graph(folder / f"{PROBE}.onnx", probe_graph(probe), **given)
    if int8:
        quantise(image)
    if cohort is not None:
        content["compared"] = compare(image, model, predictor, cohort)
    shutil.copy(Path(__file__).with_name("reader.py"), folder / "reader.py")
    write_json(folder / "export.json", content)
    return content


def _refuse(model: Slimp, predictor: Predictor | None, *, int8: bool) -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"{missing[0]} is not installed. Run: pip install 'slimp[onnx]'.")
    if predictor is not None and predictor.compares:
        raise UserError(
            "a probe of features 'relative' reads the patient's other lesions, and a graph has one "
            "image. Export one of --features full, or predict with: slimp predict."
        )
    if int8 and not any(isinstance(layer, nn.Linear) for layer in model.image_encoder.modules()):
        raise UserError(
            f"--int8 is for matrix products, and encoder '{model.config.encoder}' has none: "
            "convolutions lost too much in 8 bits (docs/export.md). Leave --int8 out."
        )


def _augmentation(predictor: Predictor | None) -> Augmentation:
    return "none" if predictor is None else predictor.reference.test_time_augmentation


def _about(predictor: Predictor) -> dict[str, Any]:
    """The probe's part of `export.json`."""
    probe = predictor.probe
    shares = np.where(probe.priors > 0, probe.priors, 1) ** (probe.decision == "balanced")
    return {
        "features": probe.features,
        "classes": list(probe.classes),
        "class_shares": probe.priors.tolist(),
        "decision_rule": predictor.decision_rule,
        "divided_by": shares.tolist(),
        "needs_metadata": predictor.reads > 0 and not predictor.spares_metadata,
        "cautions": predictor.cautions(),
        "left_out": "refusal of images out of distribution, conformal sets, nearest images",
    }


def table_coding(
    encoding: Encoding, schema: Schema | None, there: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """How cells become numbers, feature by feature, for `export.json`.

    Args:
        encoding: statistics and categories.
        schema: words for missing and spellings; None: only the empty cell is missing.
        there: columns that can be known, the others become null; None: all.
    """
    features = () if schema is None else schema.features
    known = {column: feature for feature in features for column in feature.columns}
    found = []
    for fitted in encoding.features:
        columns: Sequence[str | None] = fitted.columns
        if there is not None:
            names = fitted.columns_in(pd.DataFrame(columns=[*there]))
            columns = [name if name in there else None for name in names]
        entry: dict[str, Any] = {"name": fitted.name, "kind": fitted.kind, "columns": list(columns)}
        feature = next((known[name] for name in columns if name in known), None)
        if fitted.kind == "continuous":
            entry |= {"unit": fitted.unit, "plain": feature is None or feature.is_plain}
        found.append({**entry, "codes": _codes(fitted, feature)})
    return found


def _codes(fitted: FittedFeature, feature: Feature | None) -> dict[str, float | None]:
    """Text of a cell -> its number, None where it is missing, as an import and the encoding say.

    Of a continuous feature other cells are numbers; of the other kinds they are missing.
    """
    feature = feature or Feature(name=fitted.name, kind=fitted.kind, columns=fitted.columns)
    texts = ["", *feature.missing, *feature.aliases, *fitted.categories, *fitted.spellings]
    if fitted.kind == "checkbox":
        texts += [form for word in TICKS for form in (word, word.title(), word.upper())]
    elif fitted.kind == "continuous":  # -1, -1.0 and what Python writes are one number
        codes = [float(word) for word in feature.missing if re.fullmatch(NUMBER, word)]
        texts += [text for code in codes for text in (str(code), f"{code:.15g}")]
    as_published = replace(feature, categories=None)
    cells = parse_cells(pd.Series(texts, dtype="str"), as_published, lambda _: "the schema")
    alone = replace(fitted, columns=("cell",), also=(), mean=0.0, std=1.0)
    rows = Encoding(level="lesion", features=(alone,)).encode(pd.DataFrame({"cell": cells}))
    read = zip(texts, getattr(rows, fitted.kind)[:, 0].tolist(), rows.present[:, 0], strict=True)
    return {"nan": None, **{text: number if known else None for text, number, known in read}}


def compare(
    path: Path, model: Slimp, predictor: Predictor | None, cohort: Cohort
) -> dict[str, Any]:
    """How far a graph's image embeddings are from PyTorch's, and what the probe makes of both.

    The balanced accuracy is of images whose patients did not train the probe.
    """
    how, run = InferenceConfig(test_time_augmentation=_augmentation(predictor)), runner(path)
    table = embed(model, cohort, how, lacking="missing")
    batches = image_batches(cohort, model.image_spec.size, batch_size=32)
    exact = table.features["image"]
    found = np.concatenate([run(pixels=pixels.numpy()) for pixels, _ in batches])
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    cosine = (exact * found).sum(axis=1) / norms
    result: dict[str, Any] = {"cohort": cohort.info.name, "images": len(cohort)}
    result["largest_difference"] = float(np.abs(exact - found).max())
    result |= {"least_cosine": float(cosine.min()), "mean_cosine": float(cosine.mean())}
    if predictor is None:
        return result
    probe, ids = predictor.probe, table.ids
    design = table.design(cast("FeatureSet", probe.features))
    designs = (design, replace(design, blocks={**design.blocks, "image": found}))
    p = [probe.predict_proba(each) for each in designs]
    decided = [probe.decide(each) for each in p]
    result["largest_difference_of_probabilities"] = float(np.abs(p[0] - p[1]).max())
    result["same_decision"] = float((decided[0] == decided[1]).mean())
    if ids["label"].notna().any():
        ids = relabelled(ids, predictor.record["probe"]["malignant"])
    y = codes_of(ids["label"], probe.classes)
    new = (y >= 0) & ~ids["patient_id"].isin(predictor.reference.ids["patient_id"]).to_numpy()
    result["new_images"] = int(new.sum())
    if new.any():
        weights = np.ones((1, new.sum()))
        for name, each in zip(("pytorch", "onnx"), decided, strict=True):
            recall = recall_per_class(y[new], each[new], weights, len(probe.classes))
            result[f"balanced_accuracy_{name}"] = float(np.nanmean(recall))
    return result
