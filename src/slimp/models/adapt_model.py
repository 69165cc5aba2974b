"""A run's model -> a model for another cohort: what is kept, what is new, and what of it learns.

Weights are moved block by block. A block is a parameter; its rows or columns have names wherever
they stand for features, categories or inputs of a head. Blocks that are the same thing in both
models are matched, and their entries of equal names copied. New inputs of old units begin at 0, so
that these compute what they did; new units begin like those of a fresh layer.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.match_features import Encodings, LevelMatch, Match, Status, as_is, match_levels
from slimp.models.nested import MetadataLevel, Slimp

Policy = Literal["embeddings", "heads", "full"]
Kind = Literal["embedding", "head", "block"]
"""What a policy decides by."""
Names = Sequence[Hashable] | None
"""Of the entries along an axis; None: they are the same in both models."""


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
    _move_weights(run, model, levels)
    # Only one policy asks: the others must also work with encoders that do not say.
    others = "--train heads or --train full"
    stem = embedding_names(model.image_encoder, others) if train == "embeddings" else set()
    # A feature that is replaced by one of another kind has two rows, of which one is dropped.
    table = {(part, row.status == "dropped"): row for part, row in _rows(run, model, levels, stem)}
    for name, parameter in model.named_parameters():
        owners = _parts_of(name, model, stem)
        for owner in owners:
            table[owner, False].sizes[name] = parameter.numel() // len(owners)
    learning = {name for row in table.values() if row.learns(train) for name in row.sizes}
    model.freeze_all_but(learning)
    # What does not learn along with the images fits them no longer.
    still = () if any(name.startswith("image_encoder.") for name in learning) else run.aligned
    model.aligned = config.trained({*cohort, *still} & {*model.encodings})
    parts = tuple(
        Part(
            part=part,
            status=row.status,
            trained=not learning.isdisjoint(row.sizes),
            parameters=sum(row.sizes.values()),
            detail=row.detail,
        )
        for (part, _), row in table.items()
        if row.sizes or row.status == "dropped"
    )
    return Transfer(model=model, parts=parts)


# ------------------------------------------------------------------ the weights


@torch.no_grad()
def _move_weights(run: Slimp, model: Slimp, levels: Sequence[LevelMatch]) -> None:
    """Copies into `model`, which is fresh, all that `run` knows of its levels, images and views."""
    model.image_encoder.load_state_dict(run.image_encoder.state_dict())
    model.image_encoder.normalise_as(run.image_spec.mean, run.image_spec.std)
    if model.view is not None and run.view is not None:
        model.view.load_state_dict(run.view.state_dict())
    for level in levels:
        if level.status in ("new", "dropped"):
            continue
        known = as_is(run.encodings[level.name])
        old = {
            key: (weight, axes)
            for key, weight, *axes in _blocks(run.level(level.name), known, _below(run, level.name))
        }
        for key, weight, *axes in _blocks(
            model.level(level.name), level.matches, _below(model, level.name)
        ):
            if key in old and (_shares_values(level) or "num_mlp" not in key):
                _copy(weight, axes, *old[key])


def _below(model: Slimp, level: LevelName) -> list[Hashable]:
    """What each input of a level's head is: the images' or a finer level's, and its position."""
    finer = [name for name in LEVELS[: LEVELS.index(level)] if name in model.encodings]
    widths: dict[str, int] = {"images": model.image_encoder.embed_dim}
    widths |= dict.fromkeys(finer, model.config.tabular_width)
    return [(name, k) for name, width in widths.items() for k in range(width)]


def _blocks(
    level: MetadataLevel, matches: Sequence[Match], below: Names
) -> Iterator[tuple[tuple[Hashable, ...], Tensor, Names, Names]]:
    """Per parameter of a level: what it is, its values, and the names of its rows and columns.

    A feature goes by the name that it has in the run; None is nothing that the run knows.
    """
    count, width = level.tabular.features.continuous, level.tabular.embed_dim
    features = [match.source.name if match.source else None for match in matches]
    values = [
        None if name is None else (name, k) for name in features[:count] for k in range(width)
    ]
    axes: dict[str, tuple[Names, Names]] = {
        "tabular.num_mlp.mlp.0.weight": (None, features[:count]),
        "tabular.num_mlp.mlp.2.weight": (values, None),
        "tabular.num_mlp.mlp.2.bias": (values, None),
        "tabular.values": (features[:count], None),
        "tabular.missing_vectors": (features, None),
        **dict.fromkeys(("pool.value.weight", "pool.gate.weight"), (None, below)),
        "project_below.weight": (None, below),
        # The hidden layer of a head is as wide as its input, and its units are shared alike.
        "project_below.0.weight": (below, below),
        "project_below.0.bias": (below, None),
        "project_below.2.weight": (None, below),
        "project_siblings.weight": (below, below),
    }
    for name, parameter in level.named_parameters():
        key: tuple[Hashable, ...] = tuple(name.split("."))
        rows, columns = axes.get(name, (None, None))
        if name.startswith("tabular.embeddings."):  # their number is the token's position
            token = count + int(name.split(".")[2])
            match, feature = matches[token], features[token]
            key = ("embeddings", feature, *key[3:])
            if match.feature.kind == "checkbox":
                key = (*key[:2], match.boxes[int(name.split(".")[3])] if match.boxes else None)
            elif match.source is not None:  # the run's categories come first in both
                rows = range(1 + len(match.source.categories))  # row 0 is for missing cells
            if None in key:
                continue
        yield key, parameter, rows, columns


def _copy(new: Tensor, axes: list[Names], old: Tensor, old_axes: list[Names]) -> None:
    """Overwrites the shared rows of `new`: by the old entries, and by 0 in new columns."""
    if old.ndim == 0:
        new.copy_(old)
        return
    rows = _shared(axes[0], old_axes[0], len(old))
    taken = old[rows[1]]
    if axes[1] is not None:
        columns = _shared(axes[1], old_axes[1], old.shape[1])
        wider = taken.new_zeros(len(taken), new.shape[1])
        wider[:, columns[0]] = taken[:, columns[1]]
        taken = wider
    new[rows[0]] = taken


def _shared(new: Names, old: Names, size: int) -> tuple[list[int], list[int]]:
    """Positions of the entries that are in both, in the new axis and in the old one."""
    if new is None or old is None:
        return [*range(size)], [*range(size)]
    position = {entry: k for k, entry in enumerate(old)}
    pairs = [(k, position[entry]) for k, entry in enumerate(new) if entry in position]
    return [k for k, _ in pairs], [k for _, k in pairs]


# ------------------------------------------------------------------ the table


@dataclass
class _Row:
    """A row of the table, and what a policy decides by."""

    kind: Kind
    status: Status
    detail: str = ""
    unused: bool = False
    """No loss reaches it, or the cohort has no metadata at its level."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Name of a parameter -> how many of its numbers belong here."""

    def learns(self, train: Policy) -> bool:
        chosen = train == "full" or self.kind == "head" or self.status in ("new", "extended")
        return not self.unused and (chosen or (train, self.kind) == ("embeddings", "embedding"))


def _rows(
    run: Slimp, model: Slimp, levels: Sequence[LevelMatch], stem: set[str]
) -> Iterator[tuple[str, _Row]]:
    """The table, without the numbers: what each part is, in the order of its names."""
    for name, _ in model.image_encoder.model.named_parameters():
        if name in stem:
            yield f"images: {name.partition('.')[0]}", _Row("embedding", "kept")
    yield _rest(stem), _Row("block", "kept")
    if model.view is not None:
        yield "views: head", _Row("head", "kept" if run.view is not None else "new")
    elif run.view is not None:
        yield "views: head", _Row("head", "dropped")
    for level in levels:
        if level.status == "dropped":
            detail = "the cohort has coarser metadata, but none at this level"
            yield f"{level.name}: level", _Row("block", "dropped", detail)
            continue
        unused = level.status == "unused" or not model.reaches(level.name)
        for match in level.matches:
            row = _Row("embedding", match.status, match.detail, unused)
            yield f"{level.name}: {match.feature.name}", row
        for feature in level.dropped:
            yield f"{level.name}: {feature.name}", _Row("embedding", "dropped")
        status = dict.fromkeys(_SHARED.values(), level.status)
        if level.status == "kept":
            if any(match.status == "new" for match in level.matches):
                status["missing vectors"] = "extended"
            if not _shares_values(level):
                status["all continuous"] = "new"
            if ({*model.encodings} - {*run.encodings}) & {*LEVELS[: LEVELS.index(level.name)]}:
                status["pooling"] = status["heads and temperature"] = "grown"
        for part, found in status.items():
            kind: Kind = "block" if part in ("blocks and norms", "pooling") else "embedding"
            kind = "head" if part.startswith("heads") else kind
            idle = unused or (kind == "head" and not model.config.weights[level.name])
            yield f"{level.name}: {part}", _Row(kind, found, unused=idle)


def _shares_values(level: LevelMatch) -> bool:
    """Whether a continuous feature of the run stays."""
    return any(x.source is not None for x in level.matches if x.feature.kind == "continuous")


def _rest(stem: set[str]) -> str:
    return "images: blocks and norms" if stem else "images: encoder"


def _parts_of(name: str, model: Slimp, stem: set[str]) -> list[str]:
    """The parts among which a parameter's numbers are divided evenly."""
    root, _, rest = name.partition(".")
    if root == "view":
        return ["views: head"]
    if root == "image_encoder":
        own = rest.removeprefix("model.")
        return [f"images: {own.partition('.')[0]}" if own in stem else _rest(stem)]
    level, _, own = rest.partition(".")
    features = [feature.name for feature in model.encodings[cast("LevelName", level)].features]
    count = model.level(cast("LevelName", level)).tabular.features.continuous
    if own.startswith("tabular.embeddings."):
        parts = [features[count + int(own.split(".")[2])]]
    elif own.startswith(("tabular.num_mlp.mlp.0.w", "tabular.num_mlp.mlp.2.", "tabular.values")):
        parts = features[:count]
    else:
        parts = [next(part for start, part in _SHARED.items() if own.startswith(start))]
    return [f"{level}: {part}" for part in parts]


_SHARED = {
    "tabular.num_mlp.": "all continuous",
    "tabular.missing_vectors": "missing vectors",
    "tabular.encoder.cls_token": "CLS",
    "tabular.encoder.": "blocks and norms",
    "pool.": "pooling",
    "project_": "heads and temperature",
    "temperature.": "heads and temperature",
}
"""How the names of a level's parameters begin -> the part that they belong to."""


def embedding_names(encoder: ImageEncoder, others: str) -> set[str]:
    """Parameters of an image encoder's patch and position embedding, CLS and other single tokens.

    They are found as timm marks them: the stem of `group_matcher`, and top-level parameters that
    take no weight decay.

    Args:
        encoder: a timm model.
        others: flags that work with any encoder, for the error.

    Raises:
        UserError: timm does not mark them.
    """
    model: Any = encoder.model
    parameters = [x for x, _ in cast("nn.Module", model).named_parameters()]
    try:
        stem = model.group_matcher(coarse=False)["stem"]
    except (AttributeError, TypeError, KeyError):  # there is none, or it is a function
        stem = ()
    patterns = [
        x if isinstance(x, str) else x[0] for x in ([stem] if isinstance(stem, str) else stem)
    ]
    found = {x for x in parameters if any(re.match(pattern, x) for pattern in patterns)}
    tokens: Any = getattr(model, "no_weight_decay", tuple)()
    found |= {x for x in tokens if x in parameters and "." not in x}
    found -= {x for x in found if x.startswith("norm_pre.")}  # a norm, though timm counts it in
    if not found or found >= set(parameters):
        raise UserError(
            f"encoder '{encoder.name}' does not say which of its layers are embeddings, so they "
            f"cannot learn alone: pass {others}."
        )
    return found
