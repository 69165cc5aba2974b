"""Image encoders: any timm model, with the preprocessing that its weights expect.

Axis names: n = images, d = embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from jaxtyping import Float, UInt8
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from slimp.errors import CheckpointError, UserError
from slimp.models.checkpoint_keys import fitting_weights
from slimp.models.config import ModelConfig
from slimp.models.known_weights import Channels, described
from slimp.models.persistence import read_state_dicts
from slimp.models.published_weights import file_of

OWN = "module:"
"""Before the name of an encoder that is no timm model, but a network that the caller passes."""


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """Preprocessing that belongs to the weights: side in px, then mean and std per channel."""

    size: int
    mean: Channels
    std: Channels


class ImageEncoder(nn.Module):
    """A timm model without its classifier; takes uint8 pixels and normalises them itself.

    Args:
        config: `encoder` is a timm name, `encoder_options` go to `timm.create_model`,
            `image_size` is the side of the input in px.
        pretrained: start from timm's published weights (needs the network once).
        network: in place of a timm model, where `encoder` is `module:` and a name for it: any that
            maps (n, 3, side, side) to (n, d). Pixels are normalised as for ImageNet; see
            `normalise_as`.

    Raises:
        UserError: timm does not know the name or the options, or a network is lacking or too many.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: ModelConfig, *, pretrained: bool = False, network: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.name = config.encoder
        if (network is not None) != self.name.startswith(OWN):
            raise UserError(
                f"encoder '{self.name}' with {'a' if network else 'no'} network of your own: name "
                f"it {OWN}NAME in the configuration, and pass it with image_encoder=."
            )
        self.model: Any = network or timm_model(config, pretrained=pretrained)
        patches = [module for module in self.model.modules() if isinstance(module, PatchEmbed)]
        for module in patches:
            module.register_forward_hook(_rows_side_by_side)
        # Convolutional networks are several times faster with the channels side by side.
        self.layout = torch.contiguous_format if patches else torch.channels_last
        self.model.to(memory_format=self.layout)
        self.embed_dim = _width(self.model, config)
        expected = timm.data.resolve_data_config(  # type: ignore[attr-defined, no-untyped-call]
            {}, model=self.model
        )
        self.spec = ImageSpec(
            size=config.image_size, mean=tuple(expected["mean"]), std=tuple(expected["std"])
        )
        for name in ("mean", "std"):
            values = torch.tensor(getattr(self.spec, name)).view(3, 1, 1)
            self.register_buffer(name, values * 255, persistent=False)

    def forward(self, pixels: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n d"]:
        """Embeddings of raw RGB pixels, 0 to 255."""
        normalised = (pixels.to(self.mean.dtype) - self.mean) / self.std
        return cast("Tensor", self.model(normalised.contiguous(memory_format=self.layout)))

    def load_weights(self, weights: str | Path) -> None:
        """Loads the encoder's weights, of a name in `known_weights()` or from a local file.

        Where they say which normalisation they expect, pixels are normalised so from then on;
        others keep what timm has for the architecture.

        Raises:
            CheckpointError: the file is missing, no tensor file, or of another architecture.
            UserError: the weights of this name are not on this machine.
        """
        known = described(str(weights))
        if known is not None and known.encoder.split(".")[0] != self.name.split(".")[0]:
            raise CheckpointError(
                f"{weights}: weights of encoder '{known.encoder}', not '{self.name}'. Leave "
                f"--encoder out or pass --encoder {known.encoder}."
            )
        path = file_of(str(weights))
        self.model.load_state_dict(fitting_weights(read_state_dicts(path), self.model, path))
        if known is not None:
            self.normalise_as(known.mean, known.std)

    def normalise_as(self, mean: Channels, std: Channels) -> None:
        """Pixels from 0 to 1 are from now on reduced by `mean` and divided by `std`.

        Raises:
            ValueError: a standard deviation is not positive.
        """
        if min(std) <= 0:
            raise ValueError(f"standard deviations must be positive, got {std}")
        self.spec = ImageSpec(size=self.spec.size, mean=mean, std=std)
        for name, values in (("mean", mean), ("std", std)):
            getattr(self, name).copy_(torch.tensor(values).view(3, 1, 1) * 255)

    @property
    def own(self) -> nn.Module | None:
        """The network that the caller passed."""
        return cast("nn.Module", self.model) if self.name.startswith(OWN) else None

    def layers(self) -> dict[str, int]:
        """Parameter -> number of its layer as timm counts them: the stem is 0, then the blocks.

        Raises:
            UserError: timm does not say for this encoder.
        """
        if not hasattr(self.model, "group_matcher"):
            raise UserError(f"encoder '{self.name}': timm does not tell its layers apart.")
        matcher = self.model.group_matcher(coarse=False)
        numbers = timm.models.group_parameters(self.model, matcher, reverse=True)
        last = max(numbers.values())
        top = [name for name, number in numbers.items() if number == last]
        if all(name.startswith(("fc_norm.", "head.")) for name in top):
            # The norm after pooling; timm counts that of a class token to the last block.
            numbers |= dict.fromkeys(top, last - 1)
        return {f"model.{name}": number for name, number in numbers.items()}

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them.

        Raises:
            UserError: this encoder cannot.
        """
        try:
            self.model.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError):
            raise UserError(f"encoder '{self.name}' cannot do gradient checkpointing.") from None


def mixes_rows(model: nn.Module) -> str | None:
    """The layer by which a row's embedding depends on the rows beside it, if there is one."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            return str(name)
    return None


def set_fused_attention(model: nn.Module, enable: bool) -> None:
    """Fused attention everywhere, or matrix products that can run in bf16 on a CPU."""
    for module in _attention_layers(model):
        module.fused_attn = enable


@contextmanager
def fused_attention(model: nn.Module, enable: bool) -> Iterator[None]:
    """As `set_fused_attention`, within a block."""
    before = [(module, module.fused_attn) for module in _attention_layers(model)]
    set_fused_attention(model, enable)
    try:
        yield
    finally:
        for module, fused in before:
            module.fused_attn = fused


@torch.no_grad()
def forward_operations(model: nn.Module, *inputs: Any) -> int:
    """Floating-point operations of matrix products and convolutions in a forward pass.

    A multiplication and an addition are two.
    """
    # The counter does not know the fused kernel of CPUs.
    with fused_attention(model, False), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return int(counter.get_total_flops())


def _attention_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "fused_attn")]


def _rows_side_by_side(module: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> Tensor:
    """The same tokens, each one's values next to each other in memory.

    timm's patch embedding returns a transposed view, which every normalisation would copy back.
    """
    return tokens.contiguous() if tokens.ndim == 3 else tokens


def timm_model(config: ModelConfig, *, pretrained: bool) -> Any:
    """The timm model that an encoder runs; untyped, since what it can do depends on its name."""
    options = dict(config.encoder_options)
    if "img_size" in options:
        raise UserError("set image_size, not encoder_options.img_size.")
    try:
        published = timm.models.get_pretrained_cfg(config.encoder)
        if published is not None and published.fixed_input_size:
            options["img_size"] = config.image_size
        return timm.create_model(config.encoder, pretrained=pretrained, num_classes=0, **options)
    except OSError as error:  # the hub could not be reached
        raise UserError(
            f"the weights of '{config.encoder}' cannot be fetched ({error}). Without a "
            "network, fetch them elsewhere and pass the file with --encoder-weights."
        ) from None
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(
            f"encoder '{config.encoder}' with options {options} at {config.image_size} px "
            f"cannot be made: {error}. Choose a name of timm.list_models() and its options."
        ) from None


@torch.no_grad()
def _width(model: nn.Module, config: ModelConfig) -> int:
    """Width of the model's output, by one image of zeros: a size that it refuses shows here."""
    try:
        out = model.eval()(torch.zeros(1, 3, config.image_size, config.image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"encoder '{config.encoder}' does not take images of {config.image_size} px: "
            f"{' '.join(str(error).split())}"
        ) from None
    model.train()
    if out.ndim != 2:
        raise UserError(
            f"encoder '{config.encoder}' gives {out.ndim} axes per batch of images, not one "
            "vector per image. Set a global_pool in encoder_options."
        )
    return int(out.shape[1])
