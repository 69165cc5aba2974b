"""Maps of what an image encoder's score rests on: four methods behind one function.

A score is any function of image embeddings, such as the cosine with the lesion's own metadata, so
no method needs a class. Maps are not negative, and as coarse as the encoder's last grid.

Axis names: n = images, d = width of the embeddings, a = attention heads, t = tokens, y and x =
rows and columns of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from slimp.errors import UserError
from slimp.explain.config import METHODS, Method
from slimp.models.image_encoder import ImageEncoder, fused_attention

Array = np.ndarray[Any, np.dtype[Any]]
ON_ATTENTION = ("gradient-attention", "rollout")
"""Methods for plain ViTs only."""
Score = Callable[[Float[Tensor, "n d"]], Float[Tensor, " n"]]
"""Embeddings of images -> what is explained of each; the images do not mix."""
COLOURS = "cividis"
"""Readable with every kind of colour vision, and in grey."""
CELLS = 8
"""Rows and columns that occlusion covers one by one, at most."""


def relevance(
    encoder: ImageEncoder, pixels: UInt8[Tensor, "n 3 height width"], score: Score, method: Method
) -> Float[Tensor, "n y x"]:
    """What the score of each image rests on; the encoder has to be in evaluation mode.

    - `gradient-attention`: attention times its gradient, positive parts, mean over heads,
      propagated through the layers (Chefer et al., ICCV 2021, eq. 5 and 6).
    - `rollout`: attention alone (Abnar and Zuidema, 2020). It does not know the score.
    - `grad-cam`: activations weighted by their mean gradient (Selvaraju et al., 2017), of the last
      feature map, or in ViTs of what enters the last block.
    - `occlusion`: how much the score falls when a cell is blurred (Zeiler and Fergus, 2014);
      without any gradient, and a pass per cell.

    Raises:
        UserError: the encoder has no attention over a grid of the image, or no feature map.
    """
    if encoder.training:
        raise ValueError("the encoder is in training mode")
    if method == "occlusion":
        return _occlusion(encoder, pixels, score)
    inputs = (pixels - encoder.mean) / encoder.std
    inputs = inputs.contiguous(memory_format=encoder.layout).requires_grad_()
    with torch.enable_grad():
        if method == "grad-cam":
            return _grad_cam(encoder, inputs, score)
        with attention_weights(encoder) as attention:
            total = score(encoder.model(inputs)).sum()
        if method == "rollout":
            return _over_patches(encoder, _rollout([a.detach() for a in attention]))
    return _over_patches(encoder, propagated(total, attention))


def default_methods(encoder: ImageEncoder) -> tuple[Method, ...]:
    """`gradient-attention` for plain ViTs, `grad-cam` and `occlusion` for all others.

    Both, because the cosine of a linear projection does not depend on the length of the embedding:
    Grad-CAM's map sums to 0 before its negative part is cut, and may so miss what occlusion finds.
    """
    return ("gradient-attention",) if grid_of(encoder) else ("grad-cam", "occlusion")


def grid_of(encoder: ImageEncoder) -> tuple[int, int] | None:
    """Rows and columns of patches of a plain ViT; None for other encoders."""
    model: Any = encoder.model
    patches = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    plain = hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens")
    return cast("tuple[int, int]", tuple(patches)) if plain and patches else None


@contextmanager
def attention_weights(encoder: ImageEncoder) -> Iterator[list[Float[Tensor, "n a t t"]]]:
    """Collects the attention of each layer of a plain ViT, in order, with its graph.

    Fused attention never makes these matrices, so it is off inside.

    Raises:
        UserError: the encoder is no plain ViT.
    """
    if grid_of(encoder) is None:
        raise UserError(
            f"encoder '{encoder.name}' has no attention over all patches of the image. Choose "
            f"another method: {', '.join(m for m in METHODS if m not in ON_ATTENTION)}."
        )
    blocks: Any = encoder.model.blocks
    with collected_attention(encoder, [block.attn.attn_drop for block in blocks]) as found:
        yield found
    if len(found) != len(blocks):
        raise UserError(f"encoder '{encoder.name}': {len(found)} of {len(blocks)} layers attended")


@contextmanager
def collected_attention(
    model: nn.Module, drops: Iterable[nn.Module]
) -> Iterator[list[Float[Tensor, "n a t t"]]]:
    """Collects what passes these dropouts of attention, with its graph; nothing is fused inside."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, out: Tensor) -> None:
        # Frozen encoders leave no graph behind: it begins here.
        found.append(out if out.requires_grad else out.requires_grad_(torch.is_grad_enabled()))

    handles = [drop.register_forward_hook(keep) for drop in drops]
    try:
        with fused_attention(model, enable=False):
            yield found
    finally:
        for handle in handles:
            handle.remove()


def _rollout(attention: list[Tensor]) -> Float[Tensor, "n t t"]:
    """Products of the layers' attention, mixed half and half with the residual path."""
    total = torch.eye(attention[0].shape[-1]).to(attention[0])
    for layer in attention:
        total = (layer.mean(dim=1) + torch.eye(layer.shape[-1]).to(layer)) / 2 @ total
    return total


def propagated(score: Float[Tensor, ""], attention: list[Tensor]) -> Float[Tensor, "n q t"]:
    """Relevance of each token for each that the last layer returns, for a sum of scores.

    Without that of a token for itself at the start. `attention`: (n, a, q, t) of each layer.
    """
    gradients = torch.autograd.grad(score, attention)
    start = torch.eye(attention[0].shape[-1]).to(attention[0])
    total, layers = start[None], zip(attention, gradients, strict=True)
    for weights, gradient in layers:
        own = total[:, : weights.shape[2]]
        total = own + (weights.detach() * gradient).clamp(min=0).mean(dim=1) @ total
    return total - start[: total.shape[1]]


def _over_patches(encoder: ImageEncoder, relevances: Float[Tensor, "n t t"]) -> Tensor:
    """(n, y, x): the patches' relevance for the token, or the mean, that is the embedding."""
    model: Any = encoder.model
    prefix: int = model.num_prefix_tokens
    of_class_token = model.global_pool == "token"
    row = relevances[:, 0] if of_class_token else relevances[:, prefix:].mean(dim=1)
    rows, columns = grid_of(encoder) or (0, 0)
    return row[:, prefix:].reshape(len(row), rows, columns)


def _grad_cam(encoder: ImageEncoder, inputs: Tensor, score: Score) -> Float[Tensor, "n y x"]:
    model: Any = encoder.model
    kept: list[Tensor] = []
    grid = grid_of(encoder)
    if grid is not None:  # after the last block, patches may have no part in the embedding
        hook = model.blocks[-1].norm1.register_forward_hook(lambda m, i, out: kept.append(out))
        try:
            total = score(encoder.model(inputs)).sum()
        finally:
            hook.remove()
        (tokens,) = kept
        (gradient,) = torch.autograd.grad(total, tokens)
        both = (x[:, model.num_prefix_tokens :].detach() for x in (tokens, gradient))
        features, slopes = (x.transpose(1, 2).reshape(len(x), -1, *grid) for x in both)
    else:
        features = model.forward_features(inputs)
        if features.ndim != 4:
            raise UserError(f"encoder '{encoder.name}' has no feature map. Choose occlusion.")
        total = score(model.forward_head(features)).sum()
        (slopes,) = torch.autograd.grad(total, features)
        features = features.detach()
        if features.shape[1] != model.num_features:  # channels last, as in Swin
            features, slopes = (x.permute(0, 3, 1, 2) for x in (features, slopes))
    weights = slopes.mean(dim=(2, 3), keepdim=True)
    found: Tensor = (weights * features).sum(dim=1)
    return found.clamp(min=0)


@torch.no_grad()
def _occlusion(encoder: ImageEncoder, pixels: Tensor, score: Score) -> Float[Tensor, "n y x"]:
    grid = grid_of(encoder)
    rows, columns = (min(CELLS, side) for side in grid or (CELLS, CELLS))
    blurred, whole = blur(pixels), score(encoder(pixels))
    height, width = pixels.shape[-2:]
    found = pixels.new_zeros((len(pixels), rows, columns), dtype=torch.float32)
    for y in range(rows):
        for x in range(columns):
            cell = (
                slice(y * height // rows, (y + 1) * height // rows),
                slice(x * width // columns, (x + 1) * width // columns),
            )
            covered = pixels.clone()
            covered[..., cell[0], cell[1]] = blurred[..., cell[0], cell[1]]
            found[:, y, x] = whole - score(encoder(covered))
    return found.clamp(min=0)


def blur(pixels: UInt8[Tensor, "n 3 height width"]) -> UInt8[Tensor, "n 3 height width"]:
    """Images without detail: what stands for a region that is taken away."""
    side = min(pixels.shape[-2:])
    kernel = 2 * (side // 4) + 1
    return cast("Tensor", gaussian_blur(pixels, [kernel, kernel], [side / 8, side / 8]))


def upsampled(maps: Float[Tensor, "n y x"], size: int) -> Float[Tensor, "n size size"]:
    """Maps at the size of the image, bilinear."""
    shape = (size, size)
    return F.interpolate(maps[:, None], shape, mode="bilinear", align_corners=False)[:, 0]


def shaded(relevance: Float[Array, "y x"]) -> Image.Image:
    """A map as a layer (RGBA): the more relevant, the brighter and the more opaque."""
    top = float(relevance.max())
    share = relevance / top if top > 0 else relevance
    pixels = np.empty((*share.shape, 4), dtype=np.uint8)
    pixels[..., :3] = 255 * colormaps[COLOURS](share)[..., :3]
    pixels[..., 3] = (200 * share).clip(0, 255)
    return Image.fromarray(pixels)
