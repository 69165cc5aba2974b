"""What runs a trained image encoder over many images: torch, or OpenVINO where it is installed.

A backend turns batches of pixels into features, in their order, and in inference mode only.
Axis names: n = images of a batch, d = width.
"""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from slimp.errors import UserError
from slimp.models.image_encoder import ImageEncoder, fused_attention
from slimp.models.precision import autocast_on, keep_freed_memory

BackendName = Literal["torch", "openvino"]
Augmentation = Literal["none", "dihedral"]
"""At test time: none, or the mean over the 8 symmetries of the square."""
Pixels = UInt8[Tensor, "_ 3 height width"]
Features = Float32[np.ndarray[Any, np.dtype[Any]], "_ d"]
Encode = Callable[[Iterable[Pixels]], Iterator[Features]]
"""A backend that is ready: features of each batch of pixels."""
AGREEMENT = 0.999
"""Least cosine between an accelerated backend's features and torch's in fp32, for every image."""
SYMMETRIES = 8
"""Of the square."""
CHECKED = 8
"""Images on which they are compared before each run."""


def batch_size_of(backend: BackendName, device: torch.device) -> int:
    """Images at once that were fastest in benchmarks/embed.py.

    Activations of few images stay in a core's cache, which OpenVINO makes use of. torch has a
    price per operation to spread over more images. A GPU has to be filled.
    """
    if backend == "openvino":
        return 16
    return 32 if device.type == "cpu" else 256


def torch_backend(encoder: ImageEncoder, device: torch.device, precision: str) -> Encode:
    """PyTorch itself, with fused attention: its slow backward pass is not needed here."""
    if device.type == "cpu":
        keep_freed_memory()

    def encode(batches: Iterable[Pixels]) -> Iterator[Features]:
        for pixels in batches:
            with fused_attention(encoder, True), inference(device, precision):
                features = encoder(pixels.to(device)).float().cpu().numpy()
            yield features

    return encode


def over_symmetries(encode: Encode) -> Encode:
    """The mean features of each image's 8 turns by 90 degrees and mirror images.

    A lesion has no upright, so these are equally good pictures of it.
    """

    def encode_all(batches: Iterable[Pixels]) -> Iterator[Features]:
        found = encode(view for pixels in batches for view in symmetries(pixels))
        while views := list(islice(found, SYMMETRIES)):
            yield np.asarray(np.mean(views, axis=0, dtype=np.float64), dtype=np.float32)

    return encode_all


def symmetries(pixels: Pixels) -> Iterator[Pixels]:
    """The same square images in each of 8 positions, the first as they are."""
    for side in (pixels, pixels.flip(3)):
        across = side.transpose(2, 3)  # not rot90, which ONNX has not
        for view in (side, across.flip(2), side.flip((2, 3)), across.flip(3)):
            yield view.contiguous()


def openvino_backend(encoder: ImageEncoder, batch_size: int, precision: str) -> Encode:
    """The encoder compiled by OpenVINO for this CPU and for batches of up to `batch_size` images.

    Smaller batches are padded, so that there is one shape. Several batches are in work at a
    time: a core that works on its own batch waits for nobody.

    Raises:
        UserError: OpenVINO is not installed, or cannot run this encoder.
    """
    compiled = compile_with_openvino(encoder, batch_size, precision)
    # One more than work at a time, so that there is always one that waits for a core.
    count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + 1
    requests = [compiled.create_infer_request() for _ in range(count)]
    return lambda batches: _in_turn(requests, batches, batch_size)


def compile_with_openvino(
    encoder: ImageEncoder, batch_size: int, precision: str, **options: object
) -> Any:
    """OpenVINO's compiled model, from uint8 pixels to features; `options` are OpenVINO's own.

    Raises:
        UserError: OpenVINO is not installed, or cannot run this encoder.
    """
    openvino, core = _openvino()
    shape = (batch_size, 3, encoder.spec.size, encoder.spec.size)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "THROUGHPUT",
        **options,
    }
    try:
        with warnings.catch_warnings(), fused_attention(encoder, False), torch.no_grad():
            # OpenVINO traces with TorchScript, which torch calls deprecated. What torch.export
            # makes takes longer to run: OpenVINO does not find the attention in it to fuse.
            warnings.simplefilter("ignore")
            example = torch.zeros(shape, dtype=torch.uint8)
            graph = openvino.convert_model(encoder, example_input=example)
        graph.reshape(list(shape))
        return core.compile_model(graph, "CPU", settings)
    except Exception as error:  # torch and OpenVINO raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"OpenVINO cannot run this encoder with precision {precision} on this machine "
            f"({reason}). Embed with --backend torch."
        ) from None


@contextmanager
def inference(device: torch.device, precision: str) -> Iterator[None]:
    """Without gradients, and in the number format that the encoders are to compute in."""
    with torch.inference_mode(), autocast_on(device, precision)():
        yield


def agreement(a: Features, b: Features) -> Float32[np.ndarray[Any, np.dtype[Any]], " _"]:
    """Cosine of each image's features by two computations."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / norms)


def require_agreement(encode: Encode, encoder: ImageEncoder, pixels: Pixels) -> float:
    """The least cosine between the features of `encode` and those of torch in fp32.

    Raises:
        UserError: it is below `AGREEMENT`.
    """
    exact = next(torch_backend(encoder, torch.device("cpu"), "32")([pixels]))
    fast = next(encode([pixels]))
    least = float(agreement(exact, fast).min())
    if not least >= AGREEMENT:  # so that NaN is refused too
        raise UserError(
            f"the accelerated backend's features differ from PyTorch's: cosine {least:.5f} on one "
            f"of the {len(pixels)} images tried, at least {AGREEMENT} is required. Embed with "
            "--precision 32, or with --backend torch."
        )
    return least


@cache
def _openvino() -> tuple[Any, Any]:
    """The module and its `Core`.

    One for the whole process: each Core gives the thread another stack for signals, and two that
    are not freed in reverse order leave a freed one behind, on which the next signal crashes.
    """
    # Importing and converting would each be reported over the network; OpenVINO does without
    # where this package is absent.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise UserError(
            "the backend 'openvino' is not installed. Install it with: "
            "pip install 'slimp[openvino]'. Or embed with --backend torch."
        ) from None
    return openvino, openvino.Core()


def _in_turn(requests: list[Any], batches: Iterable[Pixels], batch_size: int) -> Iterator[Features]:
    """Results in the order of `batches`, with a batch in work on every request."""
    running: deque[tuple[Any, int]] = deque()

    def finish() -> Features:
        request, count = running.popleft()
        request.wait()
        return np.array(request.get_output_tensor(0).data[:count], dtype=np.float32)

    for number, pixels in enumerate(batches):
        if len(running) == len(requests):
            yield finish()
        request = requests[number % len(requests)]
        # numpy's copy, since torch's would take threads from the requests that are running.
        missing = batch_size - len(pixels)
        padded = np.pad(pixels.numpy(), [(0, missing), *[(0, 0)] * 3]) if missing else pixels
        request.start_async([np.asarray(padded)])
        running.append((request, len(pixels)))
    while running:
        yield finish()
