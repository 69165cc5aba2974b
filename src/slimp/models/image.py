"""Image encoders: any timm model, with the preprocessing that its weights expect.

Axis names: n = images, d = embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import timm
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from slimp.config import ModelConfig
from slimp.errors import CheckpointError, UserError


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """Preprocessing that belongs to the weights: side in px, then mean and std per channel."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ImageEncoder(nn.Module):
    """A timm model without its classifier; takes uint8 pixels and normalises them itself.

    Args:
        config: `encoder` is a timm name, `encoder_options` go to `timm.create_model`,
            `image_size` is the side of the input in px.
        pretrained: start from timm's published weights (needs the network once).

    Raises:
        UserError: timm does not know the name or the options.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        options = dict(config.encoder_options)
        try:
            model = timm.create_model(
                config.encoder, num_classes=0, pretrained=False, **_sized(config), **options
            )
            if pretrained:
                model = timm.create_model(
                    config.encoder, num_classes=0, pretrained=True, **_sized(config), **options
                )
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise UserError(
                f"encoder '{config.encoder}' with options {options} at {config.image_size} px "
                f"cannot be made: {error}"
            ) from None
        except OSError as error:  # the hub could not be reached
            raise UserError(
                f"the weights of '{config.encoder}' cannot be fetched ({error}). Without a "
                "network, fetch them elsewhere and pass the file with --encoder-weights."
            ) from None
        self.model = model
        self.embed_dim = cast("int", model.num_features)
        expected = timm.data.resolve_data_config({}, model=model)
        self.spec = ImageSpec(
            size=config.image_size, mean=tuple(expected["mean"]), std=tuple(expected["std"])
        )
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.spec, name)).view(3, 1, 1)
            self.register_buffer(name, values * 255, persistent=False)

    def forward(self, pixels: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n d"]:
        """Embeddings of raw RGB pixels, 0 to 255."""
        return cast("Tensor", self.model((pixels.float() - self.mean) / self.std))

    def load_weights(self, path: str | Path) -> list[str]:
        """Loads a timm state dict from a local file; the names it lacked or had too many.

        Only the classifier of the file may be left over. Position embeddings of another image
        size are resampled by timm.

        Raises:
            CheckpointError: the file is missing, no tensor file, or of another architecture.
        """
        path = Path(path)
        state = read_tensors(path)
        adapt = getattr(timm.models.vision_transformer, "checkpoint_filter_fn", None)
        if isinstance(self.model, timm.models.vision_transformer.VisionTransformer) and adapt:
            state = adapt(state, self.model)
        try:
            missing, unexpected = self.model.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: does not fit this encoder: {error}") from None
        if missing or [name for name in unexpected if not name.startswith(("head", "fc."))]:
            raise CheckpointError(
                f"{path}: does not fit this encoder: it lacks {missing[:3]} and has "
                f"{unexpected[:3]} too many. Is it the same timm model?"
            )
        return unexpected

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        self.model.set_grad_checkpointing(enable)

    def set_fused_attention(self, enable: bool) -> None:
        """Fused attention everywhere, or matrix products that can run in bf16 on a CPU."""
        for module in self.model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = enable


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a .pth file that holds nothing but tensors.

    Raises:
        CheckpointError: the file is missing, damaged, or would need code to load.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch raise many kinds for damaged files
        raise CheckpointError(f"{path}: damaged or not a file of tensors ({error}).") from None
    return cast("dict[str, Tensor]", content.get("state_dict", content))


def _sized(config: ModelConfig) -> dict[str, int]:
    """`img_size` for those timm models that are built for one size (transformers)."""
    if "img_size" in config.encoder_options:
        raise UserError("set image_size, not encoder_options.img_size.")
    fixed = ("vit", "deit", "eva", "swin", "beit", "mixer", "cait", "xcit", "flexivit", "maxvit")
    return {"img_size": config.image_size} if config.encoder.startswith(fixed) else {}
