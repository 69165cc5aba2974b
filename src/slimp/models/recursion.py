"""The recursion over levels by itself, for any encoders of images and metadata.

    h = image features
    for each level, from fine to coarse:
        h = pool(h) by parent
        m = metadata(level)
        loss += weight * InfoNCE(project(h), project(m))
        h = concat(h, m)

`Recursion.climb` is where it stands in the code. `Slimp` walks it with encoders of its own;
`NestedHeads` with embeddings that somebody else's encoders made.

Axis names: i = images, n = rows of a level, c = children of a level's rows, d = width of the
embeddings there, h = width of the metadata embeddings, p = width of the projections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from slimp.data.batches import LevelBatch
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.models.losses import Pair
from slimp.models.pooling import AttentionPool, Siblings, mean_pool
from slimp.models.projection import Temperature, projection

Metadata = Callable[[LevelBatch, Float[Tensor, "n p"]], Float[Tensor, "n h"]]
"""A level, and the projection of what lies below it -> an embedding of metadata per row."""
Pool = Callable[[Tensor, Tensor, int], Tensor]
"""Children, the number of each one's parent, and how many parents -> a row per parent."""


class Level(nn.Module):
    """One level of the recursion: pooling of the level below, and the projections of both sides."""

    def __init__(
        self,
        name: str,
        width: int,
        metadata_width: int,
        config: ModelConfig,
        tabular: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.name, self.config = name, config
        if tabular is not None:  # an encoder's parameters come first
            self.tabular = tabular
        self.pool: Pool = AttentionPool(width) if config.pooling == "attention" else mean_pool
        self.project_below = projection(width, config)
        context = config.context == "patient" and name == "lesion"
        self.project_siblings = Siblings(width) if context else None
        self.project_metadata = projection(metadata_width, config)
        self.temperature = Temperature(config)

    def pair(self, query: Float[Tensor, "n p"], m: Float[Tensor, "n h"], level: LevelBatch) -> Pair:
        """What lies below (images and finer metadata), projected, and the projected metadata."""
        return Pair(
            name=self.name,
            anchor=query,
            target=self.project_metadata(m),
            temperature=self.temperature(),
            bias=self.temperature.bias,
            groups=level.groups if self.config.duplicates == "positive" else None,
        )

    def reconstruct(self, h: Float[Tensor, "n d"], level: LevelBatch) -> Float[Tensor, ""] | None:
        """Loss of predicting cells that were hidden; None: nothing was, or it is not asked for."""
        return None


class Recursion(nn.Module):
    """Levels with metadata, and the walk over them."""

    config: ModelConfig
    levels: nn.ModuleDict

    def level(self, name: LevelName) -> Level:
        """The part that belongs to one level with metadata."""
        return cast("Level", self.levels[name])

    def contrasts(self, level: LevelBatch) -> bool:
        """Whether a level has metadata; another one only groups."""
        return level.name in self.levels

    def climb(
        self, h: Float[Tensor, "c d"], levels: Sequence[LevelBatch], metadata: Metadata
    ) -> Iterator[Pair]:
        """The recursion: a pair per level with metadata, from fine to coarse.

        Args:
            h: image embeddings.
            levels: the hierarchy above the images.
            metadata: gives the embeddings of a level's metadata: encoded ones, or retrieved ones.
        """
        for level, above in zip(levels, (*levels[1:], None), strict=True):
            if not self.reaches(level.name):
                return
            if not self.contrasts(level):
                h = mean_pool(h, level.parent, level.count)  # (c, d) -> (n, d)
                continue
            module = self.level(level.name)
            h = module.pool(h, level.parent, level.count)  # (c, d) -> (n, d)
            seen = h if module.project_siblings is None else module.project_siblings(h, above)
            query = module.project_below(seen)
            m = metadata(level, query)
            pair = module.pair(query, m, level)
            below, h = h, torch.cat([h, m], dim=-1)  # (n, d) and (n, d + h)
            yield replace(pair, below=below, reconstruction=module.reconstruct(h, level))

    def reaches(self, level: LevelName) -> bool:
        """Whether this level or a coarser one has a weight."""
        return any(self.config.weights[name] for name in LEVELS[LEVELS.index(level) :])

    def freeze_unweighted(self) -> None:
        """Freezes what no loss reaches; such a level still embeds its metadata.

        The metadata of a level without a weight are part of what coarser levels contrast: where one
        of these has a weight, their encoder and the pooling learn, and only the heads do not.
        """
        for name in LEVELS:
            if name in self.levels:
                level = self.level(name)
                level.requires_grad_(self.config.weights[name] > 0)
                for part in (level.tabular, level.pool):
                    if isinstance(part, nn.Module):
                        part.requires_grad_(self.reaches(name))

    def cap_temperatures(self) -> None:
        """Keeps all temperatures at 1 / 100 or above; to be called after each step."""
        for module in self.modules():
            if isinstance(module, Temperature):
                module.cap()


class NestedHeads(Recursion):
    """The nested loss for encoders, batches and a training loop of your own.

    Holds what the loss itself learns: projections and a temperature per level.

    Args:
        image_width: of the image embeddings.
        metadata_widths: of the metadata embeddings, for each level that has some: "image",
            "lesion", "patient".
        config: pooling, projections, temperature and weights; the encoders' fields are not read.

    Raises:
        UserError: there is no such level, or positives are to be told by cells of metadata.

    Example:
        >>> from slimp import nested_loss
        >>> heads = NestedHeads(384, {"lesion": 64, "patient": 32})
        >>> lesion_of_image, patient_of_lesion = torch.tensor([0, 0, 1]), torch.tensor([0, 1])
        >>> pairs = heads(
        ...     torch.randn(3, 384),  # your image encoder's
        ...     {"lesion": torch.randn(2, 64), "patient": torch.randn(2, 32)},
        ...     {"lesion": lesion_of_image, "patient": patient_of_lesion},
        ... )
        >>> loss = nested_loss(pairs, {"lesion": 0.9, "patient": 0.1}).total
        >>> loss.backward()
    """

    def __init__(
        self,
        image_width: int,
        metadata_widths: Mapping[LevelName, int],
        config: ModelConfig | None = None,
    ) -> None:
        super().__init__()
        _require_levels(metadata_widths)
        self.config, width = config or ModelConfig(), image_width
        if self.config.duplicates == "soft":
            raise UserError(
                "duplicates=soft compares cells of metadata, of which these heads see embeddings "
                "alone: pass duplicates=positive, and groups of equal rows."
            )
        levels: dict[str, Level] = {}
        for name in LEVELS:
            if name in metadata_widths:
                levels[name] = Level(name, width, metadata_widths[name], self.config)
                width += metadata_widths[name]
        self.levels = nn.ModuleDict(levels)

    def forward(
        self,
        images: Float[Tensor, "i d"],
        metadata: Mapping[LevelName, Float[Tensor, "_ _"]],
        parents: Mapping[LevelName, Int[Tensor, " _"]],
        groups: Mapping[LevelName, Int[Tensor, " _"]] | None = None,
    ) -> tuple[Pair, ...]:
        """The pairs that `slimp.nested_loss` takes, from fine to coarse.

        Args:
            images: image embeddings.
            metadata: level -> an embedding per row of that level.
            parents: level -> the row of that level that each row of the level below belongs to
                (for the first level: each image). A level without metadata only groups.
            groups: level -> rows with the same number are positives of one another, with
                `ModelConfig(duplicates="positive")`.

        Raises:
            UserError: rows of the levels do not fit together.
        """
        _require_levels(parents)
        if missing := [n for n in self.levels if n not in metadata or n not in parents]:
            raise UserError(f"level '{missing[0]}' lacks metadata or parents: pass both.")
        levels, below = [], len(images)
        for name in (name for name in LEVELS if name in parents):
            parent, own = parents[name], (groups or {}).get(name)
            count = len(metadata[name]) if name in metadata else int(parent.max()) + 1
            sizes = torch.bincount(parent.clamp(min=0), minlength=count)
            fits = len(parent) == below and len(sizes) == count and bool(sizes.all())
            if not fits or bool((parent < 0).any()):
                raise UserError(
                    f"parents['{name}'] must say of each of the {below} rows below which of the "
                    f"{count} rows of level '{name}' it belongs to, and leave none of these out."
                )
            levels.append(LevelBatch(name=name, rows=None, groups=own, parent=parent, count=count))
            below = count
        return tuple(self.climb(images, levels, lambda level, _: metadata[level.name]))


def _require_levels(names: Mapping[LevelName, object]) -> None:
    if unknown := [name for name in names if name not in LEVELS]:
        raise UserError(f"there is no level '{unknown[0]}': levels are {', '.join(LEVELS)}.")
