"""Weights of a run -> a model for another cohort.

What both have is copied. Where a weight grows, new inputs of old units start at 0, so that these
compute what they did, and new units start like those of a fresh layer.

Axis names: k = entries along an axis that both weights have.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from slimp.data.schema import LEVELS, LevelName
from slimp.models.match_features import LevelMatch, Match
from slimp.models.nested import MetadataLevel, Slimp
from slimp.models.pooling import AttentionPool
from slimp.models.trace import Trace


class Positions(NamedTuple):
    """Positions of the shared entries of an axis, in the new weight and in the old one."""

    new: Int[Tensor, " k"]
    old: Int[Tensor, " k"]


@torch.no_grad()
def move_weights(run: Slimp, model: Slimp, levels: Iterable[LevelMatch]) -> None:
    """Copies into `model`, which is fresh, all that `run` knows of its levels, images and views."""
    model.image_encoder.load_state_dict(run.image_encoder.state_dict())
    if model.view is not None and run.view is not None:
        model.view.load_state_dict(run.view.state_dict())
    for match in levels:
        if match.status in ("new", "dropped"):
            continue
        new, old = model.level(match.name), run.level(match.name)
        below = _shared(_inputs(model, match.name), _inputs(run, match.name))
        for name in ("project_metadata", "temperature"):
            getattr(new, name).load_state_dict(getattr(old, name).state_dict())
        _move_pool(new, old, below)
        _move_head(new.project_below, old.project_below, below)
        run_features = [feature.name for feature in run.encodings[match.name].features]
        _move_trace(new.tabular, old.tabular, match.matches, run_features)


def _inputs(model: Slimp, level: LevelName) -> list[Hashable]:
    """What each input of a level's head is: the images' or a finer level's, and its position."""
    finer = [name for name in LEVELS[: LEVELS.index(level)] if name in model.encodings]
    widths = {"images": model.image_encoder.embed_dim}
    widths |= dict.fromkeys(finer, model.config.tabular_width)
    return [(name, k) for name, width in widths.items() for k in range(width)]


def _shared(new: Sequence[Hashable], old: Sequence[Hashable]) -> Positions:
    """The positions of what is in both lists; None in the new one is in no other."""
    position = {entry: k for k, entry in enumerate(old)}
    pairs = [(k, position[entry]) for k, entry in enumerate(new) if entry in position]
    return Positions(*torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1))


def _move_pool(new: MetadataLevel, old: MetadataLevel, below: Positions) -> None:
    if isinstance(new.pool, AttentionPool) and isinstance(old.pool, AttentionPool):
        for name in ("value", "gate"):
            _move_linear(getattr(new.pool, name), getattr(old.pool, name), columns=below)
        new.pool.score.load_state_dict(old.pool.score.state_dict())


def _move_head(new: nn.Module, old: nn.Module, below: Positions) -> None:
    """The hidden layer of a head is as wide as its input, and its units are shared alike."""
    if isinstance(new, nn.Linear):
        _move_linear(new, cast("nn.Linear", old), columns=below)
        return
    first, _, last = cast("list[nn.Linear]", list(cast("nn.Sequential", new)))
    old_first, _, old_last = cast("list[nn.Linear]", list(cast("nn.Sequential", old)))
    _move_linear(first, old_first, rows=below, columns=below)
    _move_linear(last, old_last, columns=below)


def _move_trace(new: Trace, old: Trace, matches: Sequence[Match], run: Sequence[str]) -> None:
    """All weights of a tabular encoder; `run` names the old one's features in token order."""
    new.encoder.load_state_dict(old.encoder.state_dict())
    sources = [match.source.name if match.source else None for match in matches]
    tokens = _shared(sources, run)
    count, known, width = new.features.continuous, old.features.continuous, new.config.width
    values = _shared(sources[:count], run[:known])
    if len(values.new):  # the layers that all continuous features share
        rows = _shared(
            *(
                [(name, k) for name in names for k in range(width)]
                for names in (sources[:count], run[:known])
            )
        )
        first, _, last = cast("list[nn.Linear]", list(new.num_mlp.mlp))
        old_first, _, old_last = cast("list[nn.Linear]", list(old.num_mlp.mlp))
        _move_linear(first, old_first, columns=values)
        _move_linear(last, old_last, rows=rows)
    for token, source in zip(*(x.tolist() for x in tokens), strict=True):
        if token >= count:
            _move_table(
                new.embeddings[token - count], old.embeddings[source - known], matches[token]
            )
    if new.config.missing == "learned" and len(tokens.new):
        _copy_rows(new.missing_vectors, old.missing_vectors, rows=tokens)


def _move_table(new: nn.Module, old: nn.Module, match: Match) -> None:
    """The table of a categorical feature, or the tables of a group's boxes."""
    if isinstance(new, nn.Embedding) and match.source is not None:
        rows = len(match.source.categories) + 1  # row 0 is for missing cells
        new.weight[:rows] = cast("nn.Embedding", old).weight[:rows]
        return
    boxes = match.boxes or range(len(match.feature.columns))
    for box, position in zip(cast("nn.ModuleList", new), boxes, strict=True):
        if position is not None:
            box.load_state_dict(cast("nn.ModuleList", old)[position].state_dict())


def _move_linear(
    new: nn.Linear,
    old: nn.Linear,
    *,
    rows: Positions | None = None,
    columns: Positions | None = None,
) -> None:
    _copy_rows(new.weight, old.weight, rows=rows, columns=columns)
    if new.bias is not None:
        _copy_rows(new.bias, old.bias, rows=rows)


def _copy_rows(
    new: Tensor, old: Tensor, *, rows: Positions | None = None, columns: Positions | None = None
) -> None:
    """Overwrites the shared rows of `new`: by the old entries, and by 0 in new columns.

    Rows or columns that are left out are the same on both sides.
    """
    rows = rows or _shared(range(len(old)), range(len(old)))
    taken = old[rows.old]
    if columns is not None:
        wider = taken.new_zeros(len(taken), new.shape[1])
        wider[:, columns.new] = taken[:, columns.old]
        taken = wider
    new[rows.new] = taken
