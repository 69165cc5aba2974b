"""Slimp: nested contrastive learning as one recursion over levels (SLIMP, arXiv 2505.23709).

    h = image features
    for each level, from fine to coarse:
        h = pool(h) by parent
        m = tabular(level)
        loss += weight * InfoNCE(project(h), project(m))
        h = concat(h, m)

The paper is the case lesion + patient; "flat", "lesion only", "three levels" and "view level
only" are configurations of the same recursion.

Axis names: v = views, n = rows of a level (images, lesions or patients), c = children of a
level's rows, d = width of the embeddings there, h = width of the tabular encoders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimp.data.batches import Batch, LevelBatch
from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding, Rows
from slimp.data.files import new_file, read_json, write_json
from slimp.data.processes import Shares
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.embeddings import Embeddings, Pair
from slimp.models.image_encoder import ImageEncoder, ImageSpec, load_tensors, read_tensors
from slimp.models.trace import Trace, TraceConfig

Autocast = Callable[[], AbstractContextManager[Any]]
"""Makes contexts in which the encoders compute in their number format."""
FORMAT = 1
"""Version of `model.json`."""

ROWS_ON_CPU = 16
"""Batches are filled up to a multiple of this in training: a CPU's kernels are made, and kept, for
each number of rows that they meet, and ragged batches would meet a new one in every step."""

LARGEST_LOGIT_SCALE = 100.0
"""1 / temperature is capped there, as in CLIP."""


class Slimp(nn.Module):
    """Image encoder, a tabular encoder per level with metadata, and what relates them.

    Args:
        config: architecture and weights of the levels.
        encodings: per level with metadata, fitted on training patients.
        pretrained: start the image encoder from timm's published weights.
    """

    def __init__(
        self,
        config: ModelConfig,
        encodings: Mapping[LevelName, Encoding],
        *,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.encodings = dict(encodings)
        self.image_encoder = ImageEncoder(config, pretrained=pretrained)
        width = self.image_encoder.embed_dim
        self.view = ViewLevel(width, config) if config.view_weight > 0 else None
        levels: dict[str, MetadataLevel] = {}
        for name in ("image", "lesion", "patient"):
            if name in self.encodings:
                levels[name] = MetadataLevel(width, self.encodings[name], config)
                width += config.tabular_width
        self.levels = nn.ModuleDict(levels)
        self._frozen: list[nn.Module] = []
        self._independent_rows = mixes_rows(self) is None
        for name, level in levels.items():
            # A level that is not asked for is never trained, but still embeds its metadata.
            level.requires_grad_(config.weights[name] > 0)

    @property
    def image_spec(self) -> ImageSpec:
        """Preprocessing that the image encoder expects."""
        return self.image_encoder.spec

    def encodings_of(self, cohort: Cohort) -> dict[LevelName, Encoding]:
        """Those of levels at which the cohort has metadata: an adapted model may have more."""
        return {
            name: encoding
            for name, encoding in self.encodings.items()
            if cohort.schema.level(name).features
        }

    def freeze_all_but(self, learning: Collection[str]) -> None:
        """Only the parameters of these names learn.

        A module none of whose parameters learn stays in evaluation mode while the others train.
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in learning)
        self._frozen = [
            module
            for module in self.modules()
            if (parameters := list(module.parameters()))
            and not any(parameter.requires_grad for parameter in parameters)
        ]

    def train(self, mode: bool = True) -> Slimp:
        """Training mode (or evaluation mode), but for what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def encode_images(self, pixels: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n d"]:
        """Image embeddings, before any projection."""
        n = len(pixels)
        if self.training and pixels.device.type == "cpu" and self._independent_rows:
            pixels = F.pad(pixels, (0,) * 7 + (-n % ROWS_ON_CPU,))
        return cast("Tensor", self.image_encoder(pixels)[:n])

    def encode_rows(self, level: LevelName, rows: Rows) -> Float[Tensor, "n h"]:
        """Metadata embeddings of one level, before any projection."""
        return cast("Tensor", self.level(level).tabular(rows))

    def level(self, name: LevelName) -> MetadataLevel:
        """The part of the model that belongs to one level with metadata."""
        return cast("MetadataLevel", self.levels[name])

    def forward(self, batch: Batch) -> Embeddings:
        """All pairs that the objective compares."""
        views, images = batch.pixels.shape[:2]
        h = self.encode_images(batch.pixels.flatten(0, 1))  # (v * n, d)
        metadata = {name: self.encode_rows(name, rows) for name, rows in self.inputs(batch).items()}
        return self.relate(h.reshape(views, images, -1), metadata, batch)

    def inputs(self, batch: Batch) -> dict[LevelName, Rows]:
        """The metadata rows that the objective needs, per level from fine to coarse."""
        return {
            level.name: level.rows
            for level in batch.levels
            if level.rows is not None and level.name in self.levels and self._asked(level.name)
        }

    def relate(
        self,
        views: Float[Tensor, "v n d"],
        metadata: Mapping[LevelName, Float[Tensor, "_ h"]],
        batch: Batch,
    ) -> Embeddings:
        """The recursion, upwards from the encoders' embeddings.

        Apart from the encoders, because it is light and needs all rows of a batch at once, while
        they are heavy and take rows one by one: so they can work in chunks.
        """
        if views.dtype == torch.bfloat16:  # sums over many children need the digits
            views = views.float()
        pairs = []
        if self.view is not None and len(views) > 1:
            pairs.append(self.view(views[0], views[1], batch.shares))
        h = views[0]
        for rows in batch.levels:
            if not self._asked(rows.name):
                break
            if rows.name not in metadata:
                h = mean_pool(h, rows.parent, rows.count)  # (c, d) -> (n, d)
                continue
            level, m = self.level(rows.name), metadata[rows.name]
            h = level.pool(h, rows.parent, rows.count)  # (c, d) -> (n, d)
            pairs.append(level(h, m, rows))
            h = torch.cat([h, m], dim=-1)  # (n, d + h)
        return Embeddings(pairs=tuple(pairs))

    def _asked(self, level: LevelName) -> bool:
        """Whether this level or a coarser one has a weight."""
        return any(self.config.weights[name] for name in LEVELS[LEVELS.index(level) :])

    @torch.no_grad()
    def cap_temperatures(self) -> None:
        """Brings temperatures below 1 / 100 back there, after each step (as CLIP does).

        A cap in the forward pass would have no gradient beyond it, and so no way back.
        """
        for module in self.modules():
            if isinstance(module, Temperature):
                module.log_scale.clamp_(max=math.log(LARGEST_LOGIT_SCALE))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `model.json` and `model.safetensors`: enough to rebuild the model anywhere."""
        folder = Path(folder)
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        try:
            with new_file(folder / "model.safetensors") as partial:
                save_file(tensors, partial)
        except SafetensorError as error:  # for a full disk too
            raise CheckpointError(f"{folder}: cannot write the weights ({error}).") from None
        content = {
            "format": FORMAT,
            "config": asdict(self.config),
            "encodings": {name: encoding.to_dict() for name, encoding in self.encodings.items()},
            "image": asdict(self.image_spec),
        }
        write_json(folder / "model.json", content)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Slimp:
        """The model of a run folder, in evaluation mode.

        Raises:
            CheckpointError: the folder holds no model, or a damaged one.
        """
        folder = Path(folder)
        if not (folder / "model.json").is_file():
            raise CheckpointError(
                f"{folder}: no model here (no model.json). Make one with: slimp pretrain."
            )
        model, spec = cls._from_json(folder / "model.json")
        path = folder / "model.safetensors"
        load_tensors(model, read_tensors(path), path)
        if spec != model.image_spec:
            raise CheckpointError(
                f"{folder}: the weights expect preprocessing {asdict(spec)}, this version of timm "
                f"would use {asdict(model.image_spec)}. Install the timm version named in "
                "config.json."
            )
        return model.eval()

    @classmethod
    def _from_json(cls, path: Path) -> tuple[Slimp, ImageSpec]:
        """A model of random weights, and the preprocessing that the saved weights expect."""
        try:
            content = read_json(path)
            if content.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: model format {content.get('format')!r}, this version reads {FORMAT}."
                )
            encodings = {
                name: Encoding.from_dict(entry) for name, entry in content["encodings"].items()
            }
            image = content["image"]
            spec = ImageSpec(size=image["size"], mean=tuple(image["mean"]), std=tuple(image["std"]))
            return cls(ModelConfig(**content["config"]), encodings), spec
        except CheckpointError:
            raise
        except (UserError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: describes no model of slimp ({error!r}).") from None


def mixes_rows(model: nn.Module) -> str | None:
    """The layer by which a row's embedding depends on the rows beside it, if there is one."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            return str(name)
    return None


class ViewLevel(nn.Module):
    """Two augmented views of an image are each other's positive pair (SimCLR, as SLIP adds it)."""

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.project = projection(width, config)
        self.temperature = Temperature(config.temperature)

    def forward(
        self, first: Float[Tensor, "n d"], second: Float[Tensor, "n d"], shares: Shares
    ) -> Pair:
        """The pair of projections."""
        return Pair(
            name="view",
            anchor=self.project(first),
            target=self.project(second),
            temperature=self.temperature(),
            shares=shares,
        )


class MetadataLevel(nn.Module):
    """One level of the recursion: pooling of the level below, metadata, and their projections."""

    def __init__(self, width: int, encoding: Encoding, config: ModelConfig) -> None:
        super().__init__()
        self.name = encoding.level
        self.duplicates = config.duplicates
        self.tabular = Trace(
            encoding,
            TraceConfig(
                width=config.tabular_width,
                depth=config.tabular_depth,
                heads=config.tabular_heads,
                dropout=config.tabular_dropout,
                missing=config.missing,
            ),
        )
        self.pool = AttentionPool(width) if config.pooling == "attention" else MeanPool()
        self.project_below = projection(width, config)
        self.project_metadata = projection(config.tabular_width, config)
        self.temperature = Temperature(config.temperature)

    def forward(self, h: Float[Tensor, "n d"], m: Float[Tensor, "n h"], batch: LevelBatch) -> Pair:
        """Projections of what lies below (images and finer metadata) and of the metadata."""
        return Pair(
            name=self.name,
            anchor=self.project_below(h),
            target=self.project_metadata(m),
            temperature=self.temperature(),
            groups=batch.groups if self.duplicates == "positive" else None,
            shares=batch.shares,
        )


class Temperature(nn.Module):
    """A learned temperature, kept as the logarithm of its inverse (the logit scale)."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        scale = min(1 / initial, LARGEST_LOGIT_SCALE)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self) -> Float[Tensor, ""]:
        """The temperature; `Slimp.cap_temperatures` keeps it at 1 / 100 or above."""
        return (-self.log_scale).exp()


class MeanPool(nn.Module):
    """Mean over children (the paper)."""

    def forward(
        self, x: Float[Tensor, "c d"], parent: Int[Tensor, " c"], count: int
    ) -> Float[Tensor, "n d"]:
        """One row per parent."""
        return mean_pool(x, parent, count)


class AttentionPool(nn.Module):
    """Gated attention over children (Ilse et al. 2018, eq. 9), so that one lesion can stand out.

    Starts as the mean: the last layer begins at zero.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.value = nn.Linear(width, hidden)
        self.gate = nn.Linear(width, hidden)
        self.score = nn.Linear(hidden, 1)
        nn.init.zeros_(self.score.weight)

    def weights(
        self, x: Float[Tensor, "c d"], parent: Int[Tensor, " c"], count: int
    ) -> Float[Tensor, " c"]:
        """Attention of each child; the children of a parent sum to 1."""
        hidden = torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))
        score: Tensor = self.score(hidden).squeeze(-1)  # (c,)
        score = score.to(torch.promote_types(score.dtype, torch.float32))
        # Softmax is unchanged by a constant per parent; its maximum keeps exp in range.
        top = score.new_full((count,), -torch.inf).scatter_reduce(0, parent, score.detach(), "amax")
        exp = (score - top[parent]).exp()
        return exp / exp.new_zeros(count).index_add(0, parent, exp)[parent]

    def forward(
        self, x: Float[Tensor, "c d"], parent: Int[Tensor, " c"], count: int
    ) -> Float[Tensor, "n d"]:
        """One row per parent."""
        weighted = x * self.weights(x, parent, count).unsqueeze(-1).to(x.dtype)
        return x.new_zeros(count, x.shape[-1]).index_add(0, parent, weighted)


def mean_pool(
    x: Float[Tensor, "c d"], parent: Int[Tensor, " c"], count: int
) -> Float[Tensor, "n d"]:
    """Mean of each parent's children; ragged, so no row is padding."""
    sums = x.new_zeros(count, x.shape[-1]).index_add(0, parent, x)
    sizes = torch.bincount(parent, minlength=count).unsqueeze(-1)
    return sums / sizes


def projection(width: int, config: ModelConfig) -> nn.Module:
    """A head into the space in which similarities are taken; not normalised."""
    if config.projection_layers == 1:
        return nn.Linear(width, config.projection_width, bias=False)
    return nn.Sequential(
        nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.projection_width, bias=False)
    )
