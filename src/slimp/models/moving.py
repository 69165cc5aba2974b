"""Weights of one level of a run -> the same level of a model for another cohort, block by block.

What both have is copied. Where a weight grows, new inputs of old units begin at 0, so that these
compute what they did, and new units begin as a fresh layer's.

Axis names: k = entries along an axis that both weights have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from slimp.data.encoding import Encoding
from slimp.data.schema import LEVELS, LevelName
from slimp.models.match_features import LevelMerge, Match
from slimp.models.nested import AttentionPool, MetadataLevel, Slimp
from slimp.models.trace import Trace


class Places(NamedTuple):
    """Where the shared entries of an axis stand in the new weight, and where in the old."""

    new: Int[Tensor, " k"]
    old: Int[Tensor, " k"]


@torch.no_grad()
def move(run: Slimp, model: Slimp, levels: Iterable[LevelMerge]) -> None:
    """Puts into `model`, which is fresh, all that `run` knows of its levels, images and views."""
    model.image_encoder.load_state_dict(run.image_encoder.state_dict())
    if model.view is not None and run.view is not None:
        model.view.load_state_dict(run.view.state_dict())
    for level in levels:
        if level.status in ("new", "dropped"):
            continue
        below = _shared(_blocks_below(model, level.name), _blocks_below(run, level.name))
        new, old = model.level(level.name), run.level(level.name)
        for name in ("project_metadata", "temperature"):
            getattr(new, name).load_state_dict(getattr(old, name).state_dict())
        _move_pool(new, old, below)
        _move_head(new.project_below, old.project_below, below)
        _move_trace(new.tabular, old.tabular, level, run.encodings[level.name])


def _move_pool(new: MetadataLevel, old: MetadataLevel, below: Places) -> None:
    if isinstance(new.pool, AttentionPool) and isinstance(old.pool, AttentionPool):
        for name in ("value", "gate"):
            _move_linear(getattr(new.pool, name), getattr(old.pool, name), columns=below)
        new.pool.score.load_state_dict(old.pool.score.state_dict())


def _move_head(new: nn.Module, old: nn.Module, below: Places) -> None:
    """A head of two layers is as wide inside as its input, and its units are taken alike."""
    if isinstance(new, nn.Linear):
        _move_linear(new, cast("nn.Linear", old), columns=below)
        return
    first, _, last = cast("list[nn.Linear]", list(cast("nn.Sequential", new)))
    old_first, _, old_last = cast("list[nn.Linear]", list(cast("nn.Sequential", old)))
    _move_linear(first, old_first, rows=below, columns=below)
    _move_linear(last, old_last, columns=below)


def _move_trace(new: Trace, old: Trace, level: LevelMerge, run: Encoding) -> None:
    new.encoder.load_state_dict(old.encoder.state_dict())
    token_of = {feature.name: token for token, feature in enumerate(run.features)}
    pairs = [
        (token, token_of[match.source.name])
        for token, match in enumerate(level.matches)
        if match.source is not None
    ]
    values = [(token, source) for token, source in pairs if token < new.features.continuous]
    if values:
        at, blocks = _places(values), _places(_spans(values, new.config.width))
        for layer, places in ((0, {"columns": at}), (2, {"rows": blocks})):
            own, known = (cast("nn.Linear", trace.num_mlp.mlp[layer]) for trace in (new, old))
            _move_linear(own, known, **places)
    for token, source in pairs[len(values) :]:
        table = new.embeddings[token - new.features.continuous]
        _move_table(table, old.embeddings[source - old.features.continuous], level.matches[token])
    if new.config.missing == "learned" and pairs:
        _spread(new.missing_vectors, old.missing_vectors, rows=_places(pairs))


def _move_table(new: nn.Module, old: nn.Module, match: Match) -> None:
    """The table of a categorical feature, or the tables of a group's boxes."""
    if isinstance(new, nn.Embedding) and match.source is not None:
        rows = len(match.source.categories) + 1  # row 0 is for missing cells
        new.weight[:rows] = cast("nn.Embedding", old).weight[:rows]
        return
    boxes = match.boxes or range(len(match.feature.columns))
    for box, place in zip(cast("nn.ModuleList", new), boxes, strict=True):
        if place is not None:
            box.load_state_dict(cast("nn.ModuleList", old)[place].state_dict())


def _move_linear(
    new: nn.Linear, old: nn.Linear, *, rows: Places | None = None, columns: Places | None = None
) -> None:
    _spread(new.weight, old.weight, rows=rows, columns=columns)
    if new.bias is not None:
        _spread(new.bias, old.bias, rows=rows)


def _spread(
    new: Tensor, old: Tensor, *, rows: Places | None = None, columns: Places | None = None
) -> None:
    """Overwrites the rows of `new` that `old` has: with its entries, and 0 where it has none.

    Rows or columns left out are the same on both sides.
    """
    rows = rows or _places([(k, k) for k in range(len(old))])
    taken = old[rows.old]
    if columns is not None:
        wider = taken.new_zeros(len(taken), new.shape[1])
        wider[:, columns.new] = taken[:, columns.old]
        taken = wider
    new[rows.new] = taken


def _blocks_below(model: Slimp, level: LevelName) -> dict[str, int]:
    """What stands below a level, side by side, and how wide each is."""
    finer = [name for name in LEVELS[: LEVELS.index(level)] if name in model.encodings]
    width = model.config.tabular_width
    return {"pixels": model.image_encoder.embed_dim, **dict.fromkeys(finer, width)}


def _shared(new: dict[str, int], old: dict[str, int]) -> Places:
    """The entries of the blocks that both have."""
    starts = [dict(zip(blocks, _starts(blocks.values()), strict=True)) for blocks in (new, old)]
    return _places(
        [
            (starts[0][name] + k, starts[1][name] + k)
            for name, width in new.items()
            if name in old
            for k in range(width)
        ]
    )


def _starts(widths: Iterable[int]) -> list[int]:
    total, starts = 0, []
    for width in widths:
        starts.append(total)
        total += width
    return starts


def _spans(pairs: Sequence[tuple[int, int]], width: int) -> list[tuple[int, int]]:
    """The rows of blocks, from the numbers of the blocks."""
    return [(new * width + k, old * width + k) for new, old in pairs for k in range(width)]


def _places(pairs: Sequence[tuple[int, int]]) -> Places:
    new, old = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    return Places(new, old)
