"""Masked autoencoder: a ViT sees a quarter of the patches, a small decoder predicts the rest.

He et al., arXiv 2111.06377. Differs: the decoder is half as wide as the encoder and 2 layers deep
(512 and 8 in the paper, for a ViT-L), since ours are small.

Axis names: n = images, t = patches, v = patches that the encoder sees, c = colours of the pixels of
a patch, s = prefix tokens (such as CLS) and v patches, d = width of the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int, UInt8
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from slimp.data.batches import Batch
from slimp.data.cohort import Cohort
from slimp.data.encoding import Rows
from slimp.data.processes import process_and_count
from slimp.data.schema import LevelName
from slimp.errors import UserError
from slimp.experiments.baselines import learn
from slimp.models.config import ModelConfig
from slimp.models.losses import NestedLoss
from slimp.models.match_features import Encodings
from slimp.models.nested import Slimp
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig


def train(
    cohort: Cohort, config: PretrainConfig, folder: Path, *, masked: float = 0.75, depth: int = 2
) -> Slimp:
    """A model whose image encoder learned to predict masked patches, without any metadata.

    Beside what `Train` has: `masked`, the fraction of the patches that are masked, above 0 and
    below 1; `depth`, layers of the decoder.

    Raises:
        UserError: the encoder is no plain ViT or only part of it learns, or the fraction is none.
    """
    if not 0 < masked < 1:
        raise UserError(f"masked must be above 0 and below 1, got {masked}.")
    if config.train_encoder != "all":  # the decoder learns as part of the image encoder
        raise UserError(f"a masked autoencoder trains all blocks, got {config.train_encoder=}.")
    options: dict[str, Any] = {"masked": masked, "depth": depth}
    build = partial(build_model, kind=partial(MaskedAutoencoder, **options))
    return learn(cohort, config, folder, build, trainer="mae", labels=False, **options)


class MaskedAutoencoder(Slimp):
    """An image encoder with a decoder; what it returns per image in training is the loss there.

    The encoders of metadata stay as they are. `masked` and `depth`: as in `train`.
    """

    def __init__(
        self,
        config: ModelConfig,
        encodings: Encodings,
        *,
        masked: float,
        depth: int,
        pretrained: bool = False,
    ) -> None:
        super().__init__(config, encodings, pretrained=pretrained)
        vit = self.image_encoder.model
        if not isinstance(vit, VisionTransformer) or vit.dynamic_img_size:
            raise UserError(
                f"a masked autoencoder leaves out patches of a ViT, and encoder '{config.encoder}' "
                "is none. Choose one, such as --encoder vit_small_patch16_224."
            )
        self.levels.requires_grad_(False)
        self.visible = VisiblePatches(vit.num_prefix_tokens)
        vit.add_module("patch_drop", self.visible)  # timm's place for leaving patches out
        self.side = vit.patch_embed.patch_size[0]
        patches = vit.patch_embed.num_patches
        self.seen = min(patches - 1, max(1, round((1 - masked) * patches)))
        self.training_only = Decoder(vit, depth)

    def inputs(self, batch: Batch) -> dict[LevelName, Rows]:
        """No metadata."""
        return {}

    def encode_images(self, pixels: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n _"]:
        """Embeddings; in training, (n, 1): the error at the masked patches of each image."""
        if not self.training:
            return super().encode_images(pixels)
        if process_and_count()[1] > 1:
            raise UserError("the masked autoencoder trains in one process: pass --devices 1.")
        encoder, vit = self.image_encoder, cast("VisionTransformer", self.image_encoder.model)
        images = (pixels.to(encoder.mean.dtype) - encoder.mean) / encoder.std
        order = torch.rand(len(images), vit.patch_embed.num_patches, device=images.device)
        order = order.argsort(dim=1)  # (n, t) the visible ones first
        self.visible.patches = order[:, : self.seen]
        tokens = vit.fc_norm(vit.forward_features(images))  # (n, s, d); one of the norms is none
        self.visible.patches = None
        predicted = self.training_only(tokens, order).to(images.dtype)  # (n, t, c)
        return masked_error(predicted, to_patches(images, self.side), order[:, self.seen :])

    def objective(
        self,
        images: Float[Tensor, "n 1"],
        metadata: Mapping[LevelName, Tensor],
        batch: Batch,
    ) -> NestedLoss:
        """Mean over the images."""
        loss = images.mean()
        return NestedLoss(total=loss, parts={"masked": loss})


class VisiblePatches(nn.Module):
    """Leaves the encoder some patches of each image, and its `prefix` first tokens; None: all."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix
        self.patches: Int[Tensor, "n v"] | None = None

    def forward(self, x: Float[Tensor, "n _ d"]) -> Float[Tensor, "n _ d"]:
        """The tokens that are left, in the order of `patches`."""
        if self.patches is None:
            return x
        return torch.cat([x[:, : self.prefix], _take(x[:, self.prefix :], self.patches)], dim=1)


class Decoder(nn.Module):
    """Encoded visible patches -> the pixels of all, by Transformer layers among mask tokens."""

    position: Tensor

    def __init__(self, vit: VisionTransformer, depth: int) -> None:
        super().__init__()
        width = -(-vit.embed_dim // 64) * 32
        self.prefix = vit.num_prefix_tokens
        grid, (height, breadth) = vit.patch_embed.grid_size, vit.patch_embed.patch_size
        self.enter = nn.Linear(vit.embed_dim, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        position = build_sincos2d_pos_embed(list(grid), width)
        self.register_buffer("position", position, persistent=False)  # (t, width)
        self.blocks = nn.Sequential(
            *(Block(width, width // 32, qkv_bias=True) for _ in range(depth)), nn.LayerNorm(width)
        )
        self.leave = nn.Linear(width, height * breadth * 3)

    def forward(
        self, tokens: Float[Tensor, "n s d"], order: Int[Tensor, "n t"]
    ) -> Float[Tensor, "n t c"]:
        """Predictions in the patches' own order; `order` lists the visible ones first."""
        x = self.enter(tokens)
        prefix, seen = x[:, : self.prefix], x[:, self.prefix :]
        masks = self.mask_token.to(x.dtype).expand(len(x), order.shape[1] - seen.shape[1], -1)
        whole = _take(torch.cat([seen, masks], dim=1), order.argsort(dim=1)) + self.position
        decoded = self.blocks(torch.cat([prefix, whole.to(x.dtype)], dim=1))
        return cast("Tensor", self.leave(decoded[:, self.prefix :]))


def to_patches(images: Float[Tensor, "n 3 height width"], side: int) -> Float[Tensor, "n t c"]:
    """Square patches, row by row, each as one vector."""
    n, colours, height, width = images.shape
    grid = images.reshape(n, colours, height // side, side, width // side, side)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, side * side * colours)


def masked_error(
    predicted: Float[Tensor, "n t c"], patches: Float[Tensor, "n t c"], masked: Int[Tensor, "n _"]
) -> Float[Tensor, "n 1"]:
    """Mean squared error at the masked patches, each normalised by its own mean and deviation."""
    wanted = _take(patches, masked)
    spread = (wanted.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    wanted = (wanted - wanted.mean(dim=-1, keepdim=True)) / spread
    return (_take(predicted, masked) - wanted).square().mean(dim=(1, 2)).unsqueeze(1)


def _take(x: Float[Tensor, "n _ w"], patches: Int[Tensor, "n m"]) -> Float[Tensor, "n m w"]:
    return x.gather(1, patches.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
