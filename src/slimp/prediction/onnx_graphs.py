"""ONNX graphs of encoders and probe: written, compared with PyTorch, run and quantised.

Axis names: n = rows, d = width, k = classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from slimp import __version__
from slimp.data.encoding import Encoding, Rows
from slimp.errors import UserError
from slimp.evaluation.logistic import LinearProbe
from slimp.features.backends import SYMMETRIES, Augmentation, symmetries
from slimp.features.design import one_hot
from slimp.features.feature_sets import TABLE
from slimp.models.image_encoder import ImageEncoder
from slimp.prediction.output import STATEMENT

OPSET = 20
"""Of the graphs; ONNX Runtime reads it from version 1.17 on."""
TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch, absolute plus relative."""
IMAGE, PROBE = "image_encoder", "probe"
"""Names of graphs; those of the tabular encoders are in `METADATA_KEYS`."""


class Graph(nn.Module):
    """A function of tensors as a module; `weights` owns those that it takes."""

    def __init__(self, function: Callable[..., Tensor], weights: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.weights = function, weights

    def forward(self, *inputs: Tensor) -> Tensor:
        """The function's result."""
        return self.function(*inputs)


def image_graph(encoder: ImageEncoder, augmentation: Augmentation) -> Graph:
    """(n, 3, height, width) pixels to image embeddings, as `embed_images` makes them."""

    def over_symmetries(pixels: Tensor) -> Tensor:
        views: Tensor = encoder(torch.cat([*symmetries(pixels)]))
        return views.reshape(SYMMETRIES, -1, views.shape[1]).mean(dim=0)

    return Graph(over_symmetries if augmentation == "dihedral" else encoder, encoder)


def tabular_graph(tabular: nn.Module, encoding: Encoding) -> Graph:
    """Cells of a level, as `rows_of` takes them, to its embedding."""
    return Graph(lambda cells: tabular(rows_of(encoding, cells)), tabular)


def probe_graph(probe: LinearProbe) -> Graph:
    """Embeddings, and the cells of each level of the table for `rows_of`, to probabilities."""
    embedded = len(probe.blocks) - (TABLE in probe.blocks)
    parts = (probe.mean, probe.scale, probe.coef.T, probe.intercept)
    mean, scale, coef, intercept = (torch.from_numpy(part.astype(np.float32)) for part in parts)

    def predict_proba(*inputs: Tensor) -> Float[Tensor, "n k"]:
        tables = zip(probe.encodings, inputs[embedded:], strict=True)
        hot = [one_hot(encoding, rows_of(encoding, cells)) for encoding, cells in tables]
        x = torch.cat([*inputs[:embedded], *hot], dim=1)
        z = torch.where(x.isnan(), 0.0, (x - mean) / scale)
        return torch.softmax(z @ coef + intercept, dim=1)

    return Graph(predict_proba)


def rows_of(encoding: Encoding, cells: Float64[Tensor, "n columns"]) -> Rows:
    """Encoded metadata of numbers in the columns' units, categories counted from 1; NaN: missing.

    In operations that a graph can hold; of tables on disk it is `Encoding.encode`.
    """
    parts: dict[str, list[Tensor]] = {
        kind: [cells[:, :0]] for kind in ("continuous", "categorical", "checkbox")
    }
    present, start = [], 0
    for feature in encoding.features:
        own = cells[:, start : (start := start + len(feature.columns))]
        known = own > 0 if feature.kind == "categorical" else ~own.isnan()
        numbers = (own - feature.mean) / feature.std  # 0 and 1 but of continuous features
        parts[feature.kind].append(torch.where(known, numbers, 0.0))
        present.append(known.any(dim=1))
    rows = {kind: torch.cat(columns, dim=1).float() for kind, columns in parts.items()}
    rows["categorical"] = rows["categorical"].long()
    return Rows(**rows, present=torch.stack(present, dim=1))


def example_cells(encoding: Encoding) -> Float64[Tensor, "3 columns"]:
    """A row of which all is known, one of which nothing is, and one of every second column."""
    known = [
        float(feature.kind != "categorical" or len(feature.categories) > 0)
        for feature in encoding.features
        for _ in feature.columns
    ]
    cells = torch.tensor(known, dtype=torch.float64).repeat(3, 1)
    cells[1], cells[2, 1::2] = math.nan, math.nan
    return cells


@torch.no_grad()
def write_graph(path: Path, graph: Graph, **inputs: Tensor) -> Tensor:
    """Writes a graph of any number of rows, and returns what PyTorch makes of these three.

    Raises:
        UserError: ONNX Runtime makes something else of them.
    """
    import onnx

    output = "probabilities" if path.stem == PROBE else "features"
    graph.eval()  # or the exporter would leave it, and the encoder in it, in training mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # That of torch.export (dynamo=True) takes 20 to 30 times as long for the same numbers.
        how: dict[str, Any] = {"dynamo": False, "opset_version": OPSET}
        how["dynamic_axes"] = {name: {0: "rows"} for name in (*inputs, output)}
        two = tuple(x[:2] for x in inputs.values())
        try:
            torch.onnx.export(graph, two, path, input_names=[*inputs], output_names=[output], **how)
        except Exception as error:  # many kinds, as an operator that ONNX does not have
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path.name}: torch cannot export it ({reason}). Choose another encoder."
            ) from None
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"slimp": __version__, "statement": STATEMENT})
    onnx.save(model, path)
    wanted: Tensor = graph(*inputs.values())
    found = runner(path)(**{name: x.numpy() for name, x in inputs.items()})
    if not np.allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE):
        raise UserError(
            f"{path.name}: ONNX Runtime differs from PyTorch by more than {TOLERANCE:g}. Check the "
            "versions of torch and onnxruntime, or choose another encoder."
        )
    return wanted


def runner(path: Path) -> Callable[..., Any]:
    """The graph in ONNX Runtime, on as many threads as torch has: its output for inputs by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    return lambda **inputs: session.run(None, inputs)[0]


def quantise(path: Path) -> None:
    """Replaces a graph by one with matrix products in 8 bits, their weights in 7.

    With 8 bits the sums overflow on CPUs without VNNI, and numbers would depend on the machine.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    exact, kinds = path.with_suffix(".exact"), ["MatMul", "Gemm"]
    quant_pre_process(path, exact, skip_optimization=True, skip_symbolic_shape=True)
    quantize_dynamic(exact, path, kinds, reduce_range=True, weight_type=QuantType.QInt8)
    exact.unlink()
