"""The gradient of a batch whose activations do not fit: exact, in two passes.

A contrastive loss needs the embeddings of all rows at once, but each row's embedding depends on
that row only. So (GradCache, arXiv 2101.06983):

    1. embed all rows chunk by chunk, without graph;
    2. the loss, and its gradient with respect to the embeddings: light, all rows at once;
    3. embed each chunk again, with graph, and send its embeddings' gradient down.

The second forward pass costs a third more time; activations are held for one chunk only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from slimp.data.batches import Batch
from slimp.data.processes import process_and_count
from slimp.errors import UserError
from slimp.models.image_encoder import mixes_rows
from slimp.models.losses import NestedLoss
from slimp.models.nested import ROWS_ON_CPU, Autocast, Slimp

IMAGES = "pixels"
CHUNKS = 3
"""A batch just too large for one graph is embedded in so many chunks: on CPUs, smaller ones stay
nearer to the processor, and on GPUs they are large enough still."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of one encoder's input, few enough to be embedded with graph."""

    encoder: str
    """A level, or `pixels`."""
    rows: slice
    embed: Callable[[], Tensor]
    seed: tuple[int, ...]
    """Of what dropout draws, in both passes."""
    learns: bool
    """Whether any weight of the encoder is trained."""


def backward(
    model: Slimp,
    batch: Batch,
    *,
    chunk: int,
    autocast: Autocast,
    seed: tuple[int, ...] = (0,),
) -> NestedLoss:
    """The loss of a batch, whose gradient is added to `.grad` of the weights.

    In several processes the loss is that of the whole batch, and so is the gradient, but for the
    image encoder's: that is of this process's images (see `exchange_gradients`).

    Args:
        model: in training mode.
        batch: on the model's device.
        chunk: rows (images of all views, lesions, patients) that are embedded with graph at
            once, at most; a batch with no more of any takes the direct way, a larger one goes in
            chunks of a third of that.
        autocast: a context for the number format of the encoders.
        seed: what dropout draws is derived from these numbers, the process and the number of the
            chunk, so that both passes drop the same units, and a run that resumes draws what it
            would have.

    Raises:
        UserError: chunks are needed, but the encoder has batch normalisation.
    """
    # One way for all processes, though their shards differ: all drop the same units of metadata.
    if max(_largest_shard(batch), *(level.count for level in batch.levels)) <= chunk:
        return _directly(model, batch, autocast, seed)
    require_independent_rows(model, f"working in chunks of {chunk}")
    size = max(1, chunk // CHUNKS)
    if size > ROWS_ON_CPU:  # else every chunk would be filled up with rows of nothing
        size -= size % ROWS_ON_CPU
    chunks = list(_chunks(model, batch, size, seed))
    with record_function("encoders, without graph"), torch.no_grad():
        found: dict[str, list[Tensor]] = {}
        for part in chunks:
            found.setdefault(part.encoder, []).append(_embed(part, autocast))
    leaves = {name: torch.cat(parts).requires_grad_() for name, parts in found.items()}
    metadata = {name: leaves[name] for name in model.inputs(batch)}
    with record_function("loss and its gradient"):
        with autocast():
            loss = model.objective(leaves[IMAGES], metadata, batch)
        loss.total.backward()  # type: ignore[no-untyped-call]
    with record_function("encoders, with gradient"):
        for part in chunks:
            gradient = leaves[part.encoder].grad
            if part.learns and gradient is not None:
                _embed(part, autocast).backward(gradient[part.rows])  # type: ignore[no-untyped-call]
    return loss


def _directly(model: Slimp, batch: Batch, autocast: Autocast, seed: tuple[int, ...]) -> NestedLoss:
    with record_function("encoders, forward"), autocast():
        seed_dropout((*seed, process_and_count()[0], 0))
        images = model.encode_images(batch.pixels.flatten(0, 1))
        seed_dropout((*seed, 0, 1))  # alike in all processes
        metadata = {n: model.encode_rows(n, rows) for n, rows in model.inputs(batch).items()}
    with record_function("loss, forward"), autocast():
        loss = model.objective(images, metadata, batch)
    with record_function("backward"):
        loss.total.backward()  # type: ignore[no-untyped-call]
    return loss


def _chunks(model: Slimp, batch: Batch, size: int, seed: tuple[int, ...]) -> Iterator[Chunk]:
    """The encoders' work on a batch, in chunks of at most `size` rows."""
    process, _ = process_and_count()
    pixels = batch.pixels.flatten(0, 1)  # (v * s, 3, height, width)
    for number, rows in enumerate(_slices(len(pixels), size)):
        embed: Callable[[], Tensor] = partial(model.encode_images, pixels[rows])
        chance = (*seed, process, number)
        yield Chunk(IMAGES, rows, embed, chance, _learns(model.image_encoder))
    # Metadata are embedded alike in all processes: counted on from the largest shard's chunks.
    number = len(_slices(_largest_shard(batch), size))
    for name, found in model.inputs(batch).items():
        for rows in _slices(len(found), size):
            embed = partial(model.encode_rows, name, found[rows])
            yield Chunk(name, rows, embed, (*seed, 0, number), _learns(model.level(name).tabular))
            number += 1


def _largest_shard(batch: Batch) -> int:
    """Images of all views in the process that has the most."""
    return len(batch.pixels) * -(-len(batch.image_rows) // process_and_count()[1])


def _learns(encoder: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in encoder.parameters())


def _embed(chunk: Chunk, autocast: Autocast) -> Tensor:
    seed_dropout(chunk.seed)
    with autocast():  # one for each chunk: it keeps weights that it has rounded
        return chunk.embed()


def _slices(rows: int, size: int) -> list[slice]:
    """At least one, so that an encoder without rows still has an output of the right width."""
    return [slice(first, first + size) for first in range(0, max(rows, 1), size)]


def seed_dropout(numbers: tuple[int, ...]) -> None:
    """Sets torch's random state to a function of these numbers alone."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def require_independent_rows(model: nn.Module, what: str) -> None:
    """Raises a UserError if an image's embedding depends on the images beside it."""
    if layer := mixes_rows(model):
        raise UserError(
            f"the encoder has batch normalisation ({layer}): an image's embedding depends on those "
            f"beside it, so {what} would not be exact. Start from weights, whose statistics are "
            "kept (--batch-norm frozen), choose an encoder without it, such as a ViT or ConvNeXt, "
            "or batches that fit on one device."
        )
