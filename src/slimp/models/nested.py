"""Slimp: nested contrastive learning as one recursion over levels (SLIMP, arXiv 2505.23709).

The paper is the case lesion + patient; "flat", "lesion only", "three levels" and "view level
only" are configurations of the same recursion. `Recursion.climb` is where it stands; training
walks it with encoded metadata, retrieval with retrieved metadata (I -> L -> P).

Axis names: v = views, n = rows of a level (images, lesions or patients), c = children of a
level's rows, d = width of the embeddings there, h = width of the tabular encoders, p = width of
the projections, s = images of this process's shard.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from slimp.data.batches import Batch, LevelBatch
from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding, Rows
from slimp.data.processes import gather_rows
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import CheckpointError
from slimp.models.config import DESCRIPTION, WEIGHTS, ModelConfig
from slimp.models.hub import CARD, find_model, upload
from slimp.models.image_encoder import OWN, ImageEncoder, ImageSpec, mixes_rows
from slimp.models.known_weights import channels
from slimp.models.losses import NestedLoss, Pair, SoftPositives, nested_loss
from slimp.models.persistence import load_tensors, read_description, read_tensors, save_model
from slimp.models.projection import Temperature, projection
from slimp.models.reconstruction import CellDecoder
from slimp.models.recursion import Level, Recursion
from slimp.models.tabular import Tabular, tabular_encoder

Autocast = Callable[[], AbstractContextManager[Any]]
"""Makes contexts in which the encoders compute in their number format."""

TRAINING_ONLY = "training_only."
"""Before the names of parameters that only another objective needs: they are not saved."""
PLAIN_CARD = """---
library_name: slimp
license: other
---
Weights of a model of slimp. Research software, not a medical device; not for diagnosis. Whoever
published them said neither what they learned from nor under which licence they stand.
"""
"""The model card of a model whose run is not known."""
ROWS_ON_CPU = 16
"""Larger batches are filled up to a multiple of this in training: a CPU's kernels are made, and
kept, for each number of rows that they meet, and ragged batches would meet a new one each step."""


class Slimp(Recursion):
    """Image encoder, a tabular encoder per level with metadata, and what relates them.

    Args:
        config: architecture and weights of the levels.
        encodings: per level with metadata, fitted on training patients.
        pretrained: start the image encoder from timm's published weights.
        image_encoder: a network of your own in its place, see `ImageEncoder`.

    Example:
        >>> Slimp(ModelConfig(encoder="resnet10t", image_size=32), {})
        Slimp(resnet10t at 32 px, reads no metadata; 4,922,488 parameters)
    """

    def __init__(
        self,
        config: ModelConfig,
        encodings: Mapping[LevelName, Encoding],
        *,
        pretrained: bool = False,
        image_encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.encodings = dict(encodings)
        self.image_encoder = ImageEncoder(config, pretrained=pretrained, network=image_encoder)
        width = self.image_encoder.embed_dim
        self.view = ViewLevel(width, config) if config.view_weight > 0 else None
        levels: dict[str, MetadataLevel] = {}
        for level_name in LEVELS:
            if level_name in self.encodings:
                levels[level_name] = MetadataLevel(width, self.encodings[level_name], config)
                width += config.tabular_width
        self.levels = nn.ModuleDict(levels)
        self.freeze_unweighted()
        self.aligned = config.trained(self.encodings)
        """Levels at which the heads relate images and metadata: not those that were left behind
        when the image encoder went on to learn without their metadata."""
        self._frozen: list[nn.Module] = []
        frozen = config.batch_norm == "frozen" or (config.batch_norm == "auto" and pretrained)
        self._fixed_statistics = [m for m in self.modules() if frozen and isinstance(m, _BatchNorm)]
        self.train()

    @property
    def image_spec(self) -> ImageSpec:
        """Preprocessing that the image encoder expects."""
        return self.image_encoder.spec

    def __repr__(self) -> str:
        """In a line; `print(model.image_encoder)` and `print(model.levels)` list the modules."""
        spec, count = self.image_spec, sum(p.numel() for p in self.parameters())
        reads = ", ".join(f"{len(e.features)} features of {n}" for n, e in self.encodings.items())
        encoder = f"{self.config.encoder} at {spec.size} px"
        return f"Slimp({encoder}, reads {reads or 'no metadata'}; {count:,} parameters)"

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
        for module in (*self._frozen, *self._fixed_statistics):
            module.eval()
        self._independent_rows = mixes_rows(self) is None
        return self

    def encode_images(self, pixels: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n d"]:
        """Image embeddings, before any projection."""
        n = len(pixels)
        ragged = n > ROWS_ON_CPU and pixels.device.type == "cpu"
        if ragged and self.training and self._independent_rows:
            pixels = F.pad(pixels, (0,) * 7 + (-n % ROWS_ON_CPU,))
        return cast("Tensor", self.image_encoder(pixels)[:n])

    def image_projection(self) -> Float[Tensor, "d p"] | None:
        """The heads that bring an image near its metadata, side by side; None: none are linear."""
        levels, d = list(map(self.level, self.aligned)), self.image_encoder.embed_dim
        heads = [level.project_below for level in levels if level.project_siblings is None]
        linear = [head.weight.detach().T[:d] for head in heads if isinstance(head, nn.Linear)]
        # Below the first d rows are those of finer metadata.
        return torch.cat(linear, dim=1).float().cpu() if 0 < len(linear) == len(levels) else None

    def level(self, name: LevelName) -> MetadataLevel:
        """The part of the model that belongs to one level with metadata."""
        return cast("MetadataLevel", self.levels[name])

    def contrasts(self, level: LevelBatch) -> bool:
        """Whether a level has metadata, here and in the model."""
        return level.rows is not None and super().contrasts(level)

    def encode_rows(self, level: LevelName, rows: Rows) -> Float[Tensor, "n h"]:
        """Metadata embeddings of one level, before any projection."""
        return cast("Tensor", self.level(level).tabular(rows))

    def forward(self, batch: Batch) -> tuple[Pair, ...]:
        """All pairs that the objective compares, from fine to coarse."""
        images = self.encode_images(batch.pixels.flatten(0, 1))  # (v * s, d)
        metadata = {name: self.encode_rows(name, rows) for name, rows in self.inputs(batch).items()}
        return self.relate(images, metadata, batch)

    def inputs(self, batch: Batch) -> dict[LevelName, Rows]:
        """The metadata rows that the objective needs, per level from fine to coarse."""
        return {
            level.name: level.rows
            for level in batch.levels
            if level.rows is not None and self.contrasts(level) and self.reaches(level.name)
        }

    def relate(
        self,
        images: Float[Tensor, "_ d"],
        metadata: Mapping[LevelName, Float[Tensor, "_ h"]],
        batch: Batch,
    ) -> tuple[Pair, ...]:
        """All pairs of a batch, given the encoders' embeddings.

        Apart from the encoders: it is light and needs all rows at once, while they are heavy and
        take rows one by one, and so can work in chunks and in processes.

        Args:
            images: (v * s, d) embeddings of this process's images, the first view's first.
            metadata: embeddings of the rows in `inputs`.
            batch: where the rows belong.
        """
        if images.dtype == torch.bfloat16:  # sums over many children need the digits
            images = images.float()
        count, total = len(batch.pixels), len(batch.image_rows)
        views = [gather_rows(view, total) for view in images.tensor_split(count)]  # v of (n, d)
        pairs = []
        if self.view is not None and count > 1:
            shared = self.config.view_positives
            groups = None if shared == "image" else batch.owners(shared)
            pairs.append(self.view(views[0], views[1], groups))
        pairs += self.climb(views[0], batch.levels, lambda level, _: metadata[level.name])
        return tuple(pairs)

    def objective(
        self,
        images: Float[Tensor, "_ d"],
        metadata: Mapping[LevelName, Float[Tensor, "_ h"]],
        batch: Batch,
    ) -> NestedLoss:
        """What training minimises; arguments as of `relate`."""
        return nested_loss(self.relate(images, metadata, batch), self.config.weights)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `model.json` and `model.safetensors`: enough to rebuild the model anywhere."""
        state = self.state_dict().items()
        save_model(
            Path(folder),
            {name: x for name, x in state if not name.startswith(TRAINING_ONLY)},
            config=self.config,
            encodings=self.encodings,
            image=asdict(self.image_spec),
            aligned=self.aligned,
        )

    def push_to_hub(
        self,
        name: str,
        *,
        card: str = PLAIN_CARD,
        public: bool = False,
        revision: str | None = None,
    ) -> str:
        """Sends weights and description to OWNER/NAME of the hub, and returns the address.

        A model in memory knows neither its data nor their licence: `slimp push RUN` writes a card
        with both. A new repository is private unless `public`; `revision` is a branch.

        Raises:
            UserError: not a name of the hub's, or it refuses or cannot be reached.
        """
        with tempfile.TemporaryDirectory(prefix="slimp-") as folder:
            self.save_pretrained(folder)
            Path(folder, CARD).write_text(card, encoding="utf-8")
            return upload(Path(folder), name, public=public, revision=revision)

    @classmethod
    def from_pretrained(cls, name: str | Path, *, image_encoder: nn.Module | None = None) -> Slimp:
        """The model of a run folder, a bundle file or OWNER/NAME of the hub, in evaluation mode.

        A folder or file that is here goes before a repository of the hub of that name;
        OWNER/NAME@REVISION asks for a branch, tag or commit. An encoder that is a network of your
        own is not saved as code: pass one of the same shape, and it gets the weights.

        Raises:
            CheckpointError: there is no model, or a damaged one.
        """
        folder = find_model(name)
        config, encodings, image, aligned = read_description(folder)
        if image_encoder is None and config.encoder.startswith(OWN):
            raise CheckpointError(
                f"{folder}: its image encoder '{config.encoder}' is a network of somebody's own. "
                "Pass one of the same shape: Slimp.from_pretrained(..., image_encoder=network)."
            )
        try:
            model = cls(config, encodings, image_encoder=image_encoder)
            # As the weights that the run began with expect, whatever timm says of the encoder.
            model.image_encoder.normalise_as(channels(image["mean"]), channels(image["std"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder / DESCRIPTION}: describes no model of slimp ({error})."
            ) from None
        load_tensors(model, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
        model.aligned = aligned
        return model.eval()


class ViewLevel(nn.Module):
    """Two augmented views of an image are each other's positive pair (SimCLR, as SLIP adds it).

    Or all views of images of one lesion or patient are, as in HiDisc (PMC10468966).
    """

    def __init__(self, width: int, config: ModelConfig) -> None:
        super().__init__()
        self.project = projection(width, config)
        self.temperature = Temperature(config)

    def forward(
        self,
        first: Float[Tensor, "n d"],
        second: Float[Tensor, "n d"],
        groups: Int[Tensor, " n"] | None = None,
    ) -> Pair:
        """The pair of projections; `groups` as in `Pair`."""
        return Pair(
            name="view",
            anchor=self.project(first),
            target=self.project(second),
            temperature=self.temperature(),
            bias=self.temperature.bias,
            groups=groups,
        )


class MetadataLevel(Level):
    """A level with an encoder of its metadata, and what their columns are."""

    tabular: Tabular

    def __init__(self, width: int, encoding: Encoding, config: ModelConfig) -> None:
        tabular = tabular_encoder(encoding, config)
        super().__init__(encoding.level, width, config.tabular_width, config, tabular)
        self.encoding = encoding
        self.decoder = None
        if config.reconstruction_weight > 0:
            self.decoder = CellDecoder(width + config.tabular_width, encoding)

    def reconstruct(self, h: Float[Tensor, "n d"], level: LevelBatch) -> Float[Tensor, ""] | None:
        """Loss of predicting the cells that feature dropout hid; None where it did not act."""
        if self.decoder is None or level.rows is None or level.original is None:
            return None
        hidden = level.original.present & ~level.rows.present
        return cast("Tensor", self.decoder(h, level.original, hidden))

    def pair(self, query: Float[Tensor, "n p"], m: Float[Tensor, "n h"], level: LevelBatch) -> Pair:
        """The pair of projections, with soft positives where they are asked for."""
        pair = super().pair(query, m, level)
        if self.config.duplicates != "soft" or level.whole is None:
            return pair
        points = self.encoding.coordinates(level.whole)
        soft = SoftPositives(points=points, temperature=self.config.positive_temperature)
        return replace(pair, soft=soft)
