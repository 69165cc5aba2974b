"""Image encoders: any timm model, with the preprocessing that its weights expect.

Axis names: n = images, d = embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from jaxtyping import Float, UInt8
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.persistence import below_prefixes, misfit, read_state_dicts, some
from slimp.models.published_weights import PUBLISHED, read_published


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
        self.name = config.encoder
        self.model = _create(config, pretrained=pretrained)
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

    def load_weights(self, path: str | Path) -> None:
        """Loads the encoder's weights, of a name in `PUBLISHED` or from a local file.

        They may lie in an entry of a checkpoint (`model`, `state_dict`, DINO's `teacher`) and have
        a prefix such as `module.backbone.`, if only one such reading fits. A classifier is left
        out. Position embeddings of another image size are resampled by timm.

        Raises:
            CheckpointError: the file is missing, no tensor file, or of another architecture.
        """
        want, path = self.model.state_dict(), Path(path)
        if str(path) in PUBLISHED:
            states = {"": read_published(str(path), self.name)}
        else:
            states = read_state_dicts(path)
        first = next(iter(want))
        readings = {
            ": ".join(filter(None, [entry, prefix])) or "the file": self._without_classifier(below)
            for entry, state in states.items()  # or under other names that timm knows, as CLIP's
            for prefix, below in (below_prefixes(state, first) or {"": state}).items()
        }
        problems = {name: misfit(tensors, want) for name, tensors in readings.items()}
        fitting = [name for name, problem in problems.items() if problem is None]
        if len(fitting) > 1:
            raise CheckpointError(
                f"{path}: several sets of weights fit the encoder: {', '.join(fitting)}. Save the "
                "one to use in a file of its own."
            )
        if not fitting:
            problem = problems[max(readings, key=lambda name: len(readings[name]))]
            found = [f"{entry}: {n}" if entry else n for entry in states for n in states[entry]]
            raise CheckpointError(
                f"{path}: does not fit encoder '{self.name}': {problem}. Names found: "
                f"{some(found)}; expected: {some(want)}."
            )
        self.model.load_state_dict(readings[fitting[0]])

    def _without_classifier(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The entries of the encoder alone, under timm's present names."""
        if isinstance(self.model, timm.models.vision_transformer.VisionTransformer):
            # It may fail on weights of another architecture, which their shapes will show.
            with suppress(AttributeError, IndexError, KeyError, RuntimeError, ValueError):
                state = timm.models.vision_transformer.checkpoint_filter_fn(state, self.model)
        heads = self.model.pretrained_cfg.get("classifier") or ()
        starts = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
        return {name: value for name, value in state.items() if not name.startswith(starts)}

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them.

        Raises:
            UserError: this encoder cannot.
        """
        try:
            self.model.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError):
            raise UserError(f"encoder '{self.name}' cannot do gradient checkpointing.") from None


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


def _attention_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "fused_attn")]


def _rows_side_by_side(module: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> Tensor:
    """The same tokens, each one's values next to each other in memory.

    timm's patch embedding returns a transposed view, which every normalisation would copy back.
    """
    return tokens.contiguous() if tokens.ndim == 3 else tokens


def _create(config: ModelConfig, *, pretrained: bool) -> Any:
    """The timm model; untyped, since what it can do depends on its name."""
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
