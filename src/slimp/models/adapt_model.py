"""A run's model -> a model for another cohort: what is kept, what is new, and what of it learns."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from slimp.data.encoding import Encoding
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.match_features import LevelMerge, Status, merge
from slimp.models.moving import move
from slimp.models.nested import Slimp

Policy = Literal["embeddings", "heads", "full"]
Kind = Literal["embedding", "head", "block"]
"""What a policy goes by."""
FRESH: tuple[Status, ...] = ("new", "extended")
"""Parts that hold weights which nobody has trained."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A row of the table of what is kept, new, trained and frozen."""

    part: str
    status: Status
    trained: bool
    parameters: int
    """Numbers in it; those of all parts add up to the model's."""
    detail: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """The adapted model before it learns."""

    model: Slimp
    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """Numbers in the model."""
        return sum(part.parameters for part in self.parts)

    @property
    def trainable(self) -> int:
        """Numbers that learn."""
        return sum(part.parameters for part in self.parts if part.trained)


def transfer(
    run: Slimp,
    cohort: Mapping[LevelName, Encoding],
    config: ModelConfig,
    *,
    train: Policy = "embeddings",
    rename: Mapping[str, str] | None = None,
) -> Transfer:
    """A model for a cohort that keeps what `run` knows of it; only what `train` says learns.

    Rows that hold nothing which the run does not know are embedded as by the run. What starts
    fresh always learns, since it would be noise otherwise; of a table or a layer that is fresh in
    part, all does. Levels for which the cohort has nothing never learn.

    Args:
        run: the model to start from; left as it is.
        cohort: encodings per level with metadata, fitted on the training patients.
        config: the run's, but for the weights of the levels.
        train: `embeddings` (SLIMP): patch and position embedding and CLS of the image encoder, all
            tabular embeddings, projection heads and temperatures; `heads`: the latter two alone;
            `full`: everything.
        rename: feature of the cohort -> the run's name for it, where that is another.

    Raises:
        UserError: `rename` names what is not there, or the image encoder does not tell which of its
            layers are embeddings.
    """
    levels = merge(run.encodings, cohort, rename or {})
    model = Slimp(config, {x.name: x.encoding for x in levels if x.status != "dropped"})
    move(run, model, levels)
    groups = [*_image_groups(model, train), *_view_groups(run, model)]
    for level in levels:
        groups += _level_groups(run, model, level)
    learning = {name for group in groups if group.learns(train) for name in group.sizes}
    model.freeze_all_but(learning)
    return Transfer(model=model, parts=tuple(group.part(learning) for group in groups))


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Parameters, or shares of them, that are one row of the table."""

    part_name: str
    kind: Kind
    status: Status
    sizes: Mapping[str, int]
    """Name of a parameter -> how many of its numbers belong here."""
    detail: str = ""
    asleep: bool = False
    """Of a level without a weight, or for which the cohort has nothing."""

    def learns(self, train: Policy) -> bool:
        if self.asleep:
            return False
        chosen = train == "full" or self.kind == "head" or self.status in FRESH
        return chosen or (train == "embeddings" and self.kind == "embedding")

    def part(self, learning: Collection[str]) -> Part:
        return Part(
            part=self.part_name,
            status=self.status,
            trained=any(name in learning for name in self.sizes),
            parameters=sum(self.sizes.values()),
            detail=self.detail,
        )


def _image_groups(model: Slimp, train: Policy) -> Iterator[_Group]:
    encoder = model.image_encoder
    sizes = {name: p.numel() for name, p in encoder.model.named_parameters()}
    # Only one policy asks; the others serve encoders that do not tell, too.
    embedding = embedding_names(encoder, model.config.encoder) if train == "embeddings" else set()
    for top in dict.fromkeys(name.partition(".")[0] for name in sizes if name in embedding):
        names = [name for name in sizes if name in embedding and name.partition(".")[0] == top]
        found = {f"image_encoder.model.{name}": sizes[name] for name in names}
        yield _Group(part_name=f"images: {top}", kind="embedding", status="kept", sizes=found)
    rest = {f"image_encoder.model.{name}": n for name, n in sizes.items() if name not in embedding}
    name = "images: blocks and norms" if embedding else "images: encoder"
    yield _Group(part_name=name, kind="block", status="kept", sizes=rest)


def _view_groups(run: Slimp, model: Slimp) -> Iterator[_Group]:
    if model.view is None:
        if run.view is not None:
            yield _Group(part_name="views: head", kind="head", status="dropped", sizes={})
        return
    sizes = {f"view.{name}": p.numel() for name, p in model.view.named_parameters()}
    status: Status = "kept" if run.view is not None else "new"
    yield _Group(part_name="views: head", kind="head", status=status, sizes=sizes)


def _level_groups(run: Slimp, model: Slimp, level: LevelMerge) -> Iterator[_Group]:
    """The rows of one level, from its features to its heads."""
    if level.status == "dropped":
        detail = "the cohort has coarser metadata, but none here"
        name = f"{level.name}: level"
        yield _Group(part_name=name, kind="block", status="dropped", sizes={}, detail=detail)
        return
    asleep = level.status == "unused" or not model.config.weights[level.name]
    for match, sizes in zip(level.matches, _feature_sizes(model, level), strict=True):
        yield _Group(
            part_name=f"{level.name}: {match.feature.name}",
            kind="embedding",
            status=match.status,
            sizes=sizes,
            detail=match.detail,
            asleep=asleep,
        )
    for feature in level.dropped:
        name = f"{level.name}: {feature.name}"
        yield _Group(part_name=name, kind="embedding", status="dropped", sizes={})
    prefix = f"levels.{level.name}."
    for part, kind, status, starts in _common_parts(run, model, level):
        begin = tuple(prefix + start for start in starts)
        found = {n: p.numel() for n, p in model.named_parameters() if n.startswith(begin)}
        if found:
            name = f"{level.name}: {part}"
            yield _Group(part_name=name, kind=kind, status=status, sizes=found, asleep=asleep)


def _common_parts(
    run: Slimp, model: Slimp, level: LevelMerge
) -> tuple[tuple[str, Kind, Status, tuple[str, ...]], ...]:
    """What all features of a level share: name, kind, status, and how its parameters begin."""
    fresh = level.status == "kept" and any(match.status == "new" for match in level.matches)
    vectors: Status = "extended" if fresh else level.status
    wider = _wider(run, model, level)
    layers = "tabular.encoder.transformer_encoder."
    return (
        ("all continuous", "embedding", _of_values(level), ("tabular.num_mlp.mlp.0.bias",)),
        ("missing vectors", "embedding", vectors, ("tabular.missing_vectors",)),
        ("CLS", "embedding", level.status, ("tabular.encoder.cls_token",)),
        ("blocks and norms", "block", level.status, (layers,)),
        ("pooling", "block", wider, ("pool.",)),
        ("heads and temperature", "head", wider, ("project_", "temperature.")),
    )


def _feature_sizes(model: Slimp, level: LevelMerge) -> Iterator[dict[str, int]]:
    """Per feature in token order: its own parameters, or its share of the common layer's."""
    trace, prefix = model.level(level.name).tabular, f"levels.{level.name}.tabular."
    h, count = trace.config.width, trace.features.continuous
    mlp = f"{prefix}num_mlp.mlp."
    for _ in range(count):
        yield {f"{mlp}0.weight": h, f"{mlp}2.weight": h * h, f"{mlp}2.bias": h}
    for i, table in enumerate(trace.embeddings):
        name = f"{prefix}embeddings.{i}."
        yield {name + x: p.numel() for x, p in table.named_parameters()}


def _of_values(level: LevelMerge) -> Status:
    """The status of what all continuous features share."""
    values = [match for match in level.matches if match.feature.kind == "continuous"]
    if any(match.source is not None for match in values):
        return "unused" if level.status == "unused" else "kept"
    return "new"


def _wider(run: Slimp, model: Slimp, level: LevelMerge) -> Status:
    """The status of what looks at all that lies below a level."""
    finer = LEVELS[: LEVELS.index(level.name)]
    more = [name for name in finer if name in model.encodings and name not in run.encodings]
    return "grown" if more and level.status == "kept" else level.status


def embedding_names(encoder: ImageEncoder, name: str) -> set[str]:
    """Parameters of an image encoder's patch and position embedding, CLS and other lone tokens.

    They are found as timm marks them: the first group of `group_matcher`, or else the module that
    its configuration calls `first_conv`; and lone parameters that take no weight decay.

    Args:
        encoder: a timm model.
        name: timm's name of it, for the error.

    Raises:
        UserError: timm does not mark them.
    """
    model = cast("nn.Module", encoder.model)
    parameters = [x for x, _ in model.named_parameters()]
    found = {x for x in parameters if any(re.match(pattern, x) for pattern in _stem(model))}
    plain: Any = getattr(model, "no_weight_decay", set)
    found |= {x for x in plain() if x in parameters and "." not in x}
    first: Any = getattr(model, "pretrained_cfg", {}).get("first_conv")
    if not found and first:
        firsts = (first,) if isinstance(first, str) else tuple(first)
        found = {x for x in parameters if x.startswith(tuple(f"{module}." for module in firsts))}
    norms = {x for x in found if x.startswith("norm_pre.")}  # a norm, though timm counts it in
    if not found - norms or found >= set(parameters):
        raise UserError(
            f"encoder '{name}' does not tell which of its layers are embeddings, so they cannot "
            "learn alone: pass --train heads or --train full."
        )
    return found - norms


def _stem(model: nn.Module) -> tuple[str, ...]:
    """Regular expressions that match what timm calls the stem."""
    matcher: Any = getattr(model, "group_matcher", None)
    try:
        stem = matcher(coarse=False)["stem"]
    except (TypeError, KeyError):  # there is none, or it is a function
        return ()
    stems = (stem,) if isinstance(stem, str) else stem
    return tuple(x if isinstance(x, str) else x[0] for x in stems)
