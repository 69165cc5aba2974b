"""A run's model -> a model for another cohort: what is kept, what is new, and what of it learns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from slimp.data.schema import LEVELS
from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.match_features import Encodings, LevelMatch, Status, match_levels
from slimp.models.move_weights import move_weights
from slimp.models.nested import Slimp

Policy = Literal["embeddings", "heads", "full"]
Kind = Literal["embedding", "head", "block"]
"""What a policy decides by."""


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
    cohort: Encodings,
    config: ModelConfig,
    *,
    train: Policy = "embeddings",
    rename: Mapping[str, str] | None = None,
) -> Transfer:
    """A model for a cohort that keeps what `run` knows of it; only what `train` says learns.

    Rows that hold nothing new to the run are embedded as by the run. New parameters always learn,
    since they would be noise otherwise; a table or a layer that is new in part learns as a whole.
    Levels for which the cohort has no metadata never learn.

    Args:
        run: the model to start from; left as it is.
        cohort: encodings per level with metadata, fitted on the training patients.
        config: the run's, apart from the weights of the levels.
        train: `embeddings` (SLIMP): patch and position embedding and CLS of the image encoder, all
            tabular embeddings, projection heads and temperatures; `heads`: the latter two alone;
            `full`: everything.
        rename: feature of the cohort -> the run's name for it, where they differ.

    Raises:
        UserError: `rename` names what is not there, or the image encoder does not say which of its
            layers are embeddings.
    """
    levels = match_levels(run.encodings, cohort, rename or {})
    model = Slimp(config, {x.name: x.encoding for x in levels if x.status != "dropped"})
    move_weights(run, model, levels)
    groups = [*_image_groups(model, train), *_view_groups(run, model)]
    for level in levels:
        groups += _level_groups(run, model, level)
    learning = {name for group in groups if group.learns(train) for name in group.sizes}
    model.freeze_all_but(learning)
    parts = tuple(
        Part(
            part=group.part,
            status=group.status,
            trained=not learning.isdisjoint(group.sizes),
            parameters=sum(group.sizes.values()),
            detail=group.detail,
        )
        for group in groups
    )
    return Transfer(model=model, parts=parts)


@dataclass(frozen=True)
class _Group:
    """Parameters, or slices of them, that are one row of the table."""

    part: str
    kind: Kind
    status: Status
    sizes: Mapping[str, int]
    """Name of a parameter -> how many of its numbers belong here."""
    detail: str = ""
    unused: bool = False
    """Of a level without a weight, or for which the cohort has no metadata."""

    def learns(self, train: Policy) -> bool:
        chosen = train == "full" or self.kind == "head" or self.status in ("new", "extended")
        return not self.unused and (chosen or (train, self.kind) == ("embeddings", "embedding"))


def _image_groups(model: Slimp, train: Policy) -> Iterator[_Group]:
    encoder = model.image_encoder
    sizes = {name: p.numel() for name, p in encoder.model.named_parameters()}
    # Only one policy asks: the others must also work with encoders that do not say.
    embedding = embedding_names(encoder, model.config.encoder) if train == "embeddings" else set()
    groups: dict[str, dict[str, int]] = {}
    for name, size in sizes.items():
        top = name.partition(".")[0] if name in embedding else ""
        groups.setdefault(top, {})[f"image_encoder.model.{name}"] = size
    rest = groups.pop("", {})
    for top, found in groups.items():
        yield _Group(f"images: {top}", "embedding", "kept", found)
    yield _Group("images: blocks and norms" if groups else "images: encoder", "block", "kept", rest)


def _view_groups(run: Slimp, model: Slimp) -> Iterator[_Group]:
    if model.view is None:
        if run.view is not None:
            yield _Group("views: head", "head", "dropped", {})
        return
    sizes = {f"view.{name}": p.numel() for name, p in model.view.named_parameters()}
    yield _Group("views: head", "head", "kept" if run.view is not None else "new", sizes)


def _level_groups(run: Slimp, model: Slimp, level: LevelMatch) -> Iterator[_Group]:
    """The rows of one level, from its features to its heads."""
    if level.status == "dropped":
        detail = "the cohort has coarser metadata, but none at this level"
        yield _Group(f"{level.name}: level", "block", "dropped", {}, detail)
        return
    unused = level.status == "unused" or not model.config.weights[level.name]
    for match, sizes in zip(level.matches, _feature_sizes(model, level), strict=True):
        name = f"{level.name}: {match.feature.name}"
        yield _Group(name, "embedding", match.status, sizes, match.detail, unused)
    for feature in level.dropped:
        yield _Group(f"{level.name}: {feature.name}", "embedding", "dropped", {})
    prefix = f"levels.{level.name}."
    for part, kind, status, start in _shared_parts(run, model, level):
        begin = tuple(prefix + name for name in start.split())
        sizes = {n: p.numel() for n, p in model.named_parameters() if n.startswith(begin)}
        if sizes:
            yield _Group(f"{level.name}: {part}", kind, status, sizes, unused=unused)


def _shared_parts(
    run: Slimp, model: Slimp, level: LevelMatch
) -> tuple[tuple[str, Kind, Status, str], ...]:
    """What the features of a level share: name, kind, status, and how parameter names start."""
    vectors, values, wider = level.status, level.status, level.status
    if level.status == "kept":
        if any(match.status == "new" for match in level.matches):
            vectors = "extended"
        if not any(match.source for match in level.matches if match.feature.kind == "continuous"):
            values = "new"
        finer = LEVELS[: LEVELS.index(level.name)]
        if any(name in model.encodings and name not in run.encodings for name in finer):
            wider = "grown"
    return (
        ("all continuous", "embedding", values, "tabular.num_mlp.mlp.0.bias"),
        ("missing vectors", "embedding", vectors, "tabular.missing_vectors"),
        ("CLS", "embedding", level.status, "tabular.encoder.cls_token"),
        ("blocks and norms", "block", level.status, "tabular.encoder.transformer_encoder."),
        ("pooling", "block", wider, "pool."),
        ("heads and temperature", "head", wider, "project_ temperature."),
    )


def _feature_sizes(model: Slimp, level: LevelMatch) -> Iterator[dict[str, int]]:
    """Per feature in token order: its own parameters, or its slice of the layer that all share."""
    trace, prefix = model.level(level.name).tabular, f"levels.{level.name}.tabular."
    h, mlp = trace.config.width, f"{prefix}num_mlp.mlp."
    for _ in range(trace.features.continuous):
        yield {f"{mlp}0.weight": h, f"{mlp}2.weight": h * h, f"{mlp}2.bias": h}
    for i, table in enumerate(trace.embeddings):
        yield {f"{prefix}embeddings.{i}.{x}": p.numel() for x, p in table.named_parameters()}


def embedding_names(encoder: ImageEncoder, name: str) -> set[str]:
    """Parameters of an image encoder's patch and position embedding, CLS and other single tokens.

    They are found as timm marks them: the first group of `group_matcher`, or else the module that
    its configuration calls `first_conv`; and top-level parameters that take no weight decay.

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
    found -= {x for x in found if x.startswith("norm_pre.")}  # a norm, though timm counts it in
    if not found or found >= set(parameters):
        raise UserError(
            f"encoder '{name}' does not say which of its layers are embeddings, so they cannot "
            "learn alone: pass --train heads or --train full."
        )
    return found


def _stem(model: nn.Module) -> tuple[str, ...]:
    """Regular expressions that match what timm calls the stem."""
    matcher: Any = getattr(model, "group_matcher", None)
    try:
        stem = matcher(coarse=False)["stem"]
    except (TypeError, KeyError):  # there is none, or it is a function
        return ()
    stems = (stem,) if isinstance(stem, str) else stem
    return tuple(x if isinstance(x, str) else x[0] for x in stems)
