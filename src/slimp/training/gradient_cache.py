"""The gradient of a batch whose activations do not fit: exact, in two passes.

A contrastive loss needs the embeddings of all rows at once, but each row's embedding depends on
that row only. So (GradCache, arXiv 2101.06983):

    1. embed all rows chunk by chunk, without graph;
    2. the loss, and its gradient with respect to the embeddings: light, all rows at once;
    3. embed each chunk again, with graph, and send its embeddings' gradient down.

The second forward pass costs a third more time; activations are held for one chunk only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from slimp.data.batches import Batch
from slimp.errors import UserError
from slimp.models.losses import NestedLoss, nested_loss
from slimp.models.nested import Autocast, Slimp, mixes_rows
from slimp.training.stopwatch import Clock, untimed

Chance = tuple[int, ...]
"""Numbers that decide what dropout draws, such as (seed, step, process)."""
IMAGES = "pixels"
PIECES = 3
"""A batch just too large for one graph is taken in so many pieces: on CPUs, smaller ones stay
nearer to the processor, and on GPUs they are large enough still."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some rows of one encoder's input, few enough to be embedded with graph."""

    encoder: str
    """A level, or `pixels`."""
    rows: slice
    embed: Callable[[], Tensor]
    learns: bool
    """Whether any weight of the encoder is trained."""


def backward(
    model: Slimp,
    batch: Batch,
    weights: Mapping[str, float],
    *,
    chunk: int,
    autocast: Autocast,
    chance: Chance = (0,),
    clock: Clock = untimed,
) -> NestedLoss:
    """The loss of a batch, whose gradient is added to `.grad` of the weights.

    Both are this process's share, as in `nested_loss`.

    Args:
        model: in training mode.
        batch: on the model's device.
        weights: per level.
        chunk: rows (images of all views, lesions, patients) that are embedded with graph at
            once, at most; a batch with no more of any takes the direct way, a larger one goes in
            pieces of a third of that.
        autocast: a context for the number format of the encoders.
        chance: random state is derived from these numbers and the number of the chunk, so that
            both passes drop the same units, and a run that resumes draws what it would have.
        clock: counts the seconds of the parts.

    Raises:
        UserError: chunks are needed, but the encoder has batch normalisation.
    """
    rows = [batch.pixels.shape[0] * batch.pixels.shape[1], *(level.count for level in batch.levels)]
    if max(rows) <= chunk:
        return _directly(model, batch, weights, autocast, chance, clock)
    require_independent_rows(model, f"working in chunks of {chunk}")
    pieces = list(_pieces(model, batch, max(1, chunk // PIECES)))
    with clock("encoders, without graph"):
        cache = _embed_without_graph(pieces, autocast, chance)
    with clock("loss and its gradient"):
        draw_from(chance, len(pieces))
        views, images = batch.pixels.shape[:2]
        metadata = {name: cache[name] for name in model.inputs(batch)}
        with autocast():
            h = cache[IMAGES].reshape(views, images, -1)
            embeddings = model.relate(h, metadata, batch)
        loss = nested_loss(embeddings, weights)
        loss.total.backward()  # type: ignore[no-untyped-call]
    with clock("encoders, with gradient"):
        for number, piece in enumerate(pieces):
            gradient = cache[piece.encoder].grad
            if piece.learns and gradient is not None:
                draw_from(chance, number)
                with autocast():  # one for each chunk: it keeps weights that it has rounded
                    embedded = piece.embed()
                embedded.backward(gradient[piece.rows])  # type: ignore[no-untyped-call]
    return loss


def _directly(
    model: Slimp,
    batch: Batch,
    weights: Mapping[str, float],
    autocast: Autocast,
    chance: Chance,
    clock: Clock,
) -> NestedLoss:
    draw_from(chance, 0)
    with clock("encoders, forward"), autocast():
        embeddings = model(batch)
    with clock("loss, forward"):
        loss = nested_loss(embeddings, weights)
    with clock("backward"):
        loss.total.backward()  # type: ignore[no-untyped-call]
    return loss


def _pieces(model: Slimp, batch: Batch, size: int) -> Iterator[Piece]:
    """The encoders' work on a batch, in pieces of at most `size` rows."""
    pixels = batch.pixels.flatten(0, 1)  # (v * n, 3, height, width)
    learns = _learns(model.image_encoder)
    for rows in _slices(len(pixels), size):
        embed = partial(model.encode_images, pixels[rows])
        yield Piece(encoder=IMAGES, rows=rows, embed=embed, learns=learns)
    for name, found in model.inputs(batch).items():
        learns = _learns(model.level(name).tabular)
        for rows in _slices(len(found), size):
            some = found[torch.arange(len(found), device=found.present.device)[rows]]
            embed = partial(model.encode_rows, name, some)
            yield Piece(encoder=name, rows=rows, embed=embed, learns=learns)


@torch.no_grad()
def _embed_without_graph(
    pieces: list[Piece], autocast: Autocast, chance: Chance
) -> dict[str, Tensor]:
    """All embeddings of each encoder, as leaves that collect a gradient."""
    found: dict[str, list[Tensor]] = {}
    for number, piece in enumerate(pieces):
        draw_from(chance, number)
        with autocast():
            found.setdefault(piece.encoder, []).append(piece.embed())
    return {name: torch.cat(parts).requires_grad_() for name, parts in found.items()}


def _slices(rows: int, size: int) -> list[slice]:
    """At least one, so that an encoder without rows still has an output of the right width."""
    return [slice(first, first + size) for first in range(0, max(rows, 1), size)]


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def draw_from(chance: Chance, number: int) -> None:
    """Sets torch's random state to a function of its arguments alone."""
    state = np.random.SeedSequence((*chance, number)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def require_independent_rows(model: nn.Module, what: str) -> None:
    """Raises if a row's embedding depends on the rows beside it, as batch normalisation makes it.

    Raises:
        UserError: names the layer, `what` is impossible with it, and what to do.
    """
    if layer := mixes_rows(model):
        raise UserError(
            f"the encoder has batch normalisation ({layer}): an image's embedding depends on those "
            f"beside it, so {what} would not be exact. Choose an encoder without it, such as a "
            "ViT or ConvNeXt, or batches that fit on one device."
        )
