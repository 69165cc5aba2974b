"""A model's encoders over batches of pixels and over rows of metadata.

Axis names: n = images or rows, d = width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32

from slimp.data.encoding import Rows
from slimp.data.schema import LevelName
from slimp.features.backends import Encode, Pixels, inference, torch_backend
from slimp.models.nested import Slimp

Array = np.ndarray[Any, np.dtype[Any]]
ROWS_AT_ONCE = 4096
"""Metadata rows encoded at once."""


def embed_images(
    model: Slimp,
    batches: Iterable[Pixels],
    *,
    device: torch.device | str = "cpu",
    precision: Literal["32", "bf16"] = "32",
    encode: Encode | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float32[Array, "n d"]:
    """Image embeddings of batches of pixels, in their order.

    Args:
        model: left as it was found.
        batches: uint8 pixels, square and as large as the encoder expects.
        device: where to compute.
        precision: of the encoder; embeddings are always float32.
        encode: what runs the encoder; None: torch.
        progress: called with the images done after each batch.
    """
    device, found = torch.device(device), list[Array]()
    encode = encode or torch_backend(model.image_encoder, device, precision)
    with evaluating(model, device):
        for chunk in encode(batches):
            found.append(chunk)
            if progress is not None:
                progress(sum(map(len, found)))
    return np.concatenate(found)


def embed_rows(
    model: Slimp,
    level: LevelName,
    rows: Rows,
    *,
    device: torch.device | str = "cpu",
    precision: Literal["32", "bf16"] = "32",
) -> Float32[Array, "n d"]:
    """Embeddings of metadata rows; the model is left as it was found."""
    device = torch.device(device)
    with evaluating(model, device), inference(device, precision):
        return metadata_embeddings(model, level, rows, device)


def metadata_embeddings(
    model: Slimp, level: LevelName, rows: Rows, device: torch.device
) -> Float32[Array, "n d"]:
    """Embeddings of metadata rows by a model that is on `device` already."""
    return np.concatenate(
        [
            model.encode_rows(level, rows[index].to(device)).float().cpu().numpy()
            for index in torch.arange(len(rows)).tensor_split(-(-len(rows) // ROWS_AT_ONCE))
        ]
    )


@contextmanager
def evaluating(model: Slimp, device: torch.device) -> Iterator[None]:
    """Evaluation mode on `device`; afterwards all is as before."""
    training, before = model.training, next(model.parameters()).device
    model.eval().to(device)
    try:
        yield
    finally:
        model.train(training).to(before)
