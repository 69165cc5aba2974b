"""Image encoders: any timm model, with the preprocessing that its weights expect.

Axis names: n = images, d = embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig


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
        self.model = _create(config, pretrained=pretrained)
        for module in self.model.modules():
            if isinstance(module, PatchEmbed):
                module.register_forward_hook(_rows_side_by_side)
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
        return cast("Tensor", self.model((pixels.to(self.mean.dtype) - self.mean) / self.std))

    def load_weights(self, path: str | Path) -> list[str]:
        """Loads a timm state dict from a local file; the names of its classifier, left aside.

        Position embeddings of another image size are resampled by timm.

        Raises:
            CheckpointError: the file is missing, no tensor file, or of another architecture.
        """
        path = Path(path)
        state = read_tensors(path)
        if isinstance(self.model, timm.models.vision_transformer.VisionTransformer):
            state = timm.models.vision_transformer.checkpoint_filter_fn(state, self.model)
        heads = self.model.pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        classifier = [name for name in state if name.startswith(tuple(f"{h}." for h in heads))]
        encoder = {name: value for name, value in state.items() if name not in classifier}
        load_tensors(self.model, encoder, path)
        return classifier

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them.

        Raises:
            UserError: this encoder cannot.
        """
        try:
            self.model.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError):
            name = self.model.pretrained_cfg.get("architecture")
            raise UserError(f"encoder '{name}' cannot do gradient checkpointing.") from None

    def set_fused_attention(self, enable: bool) -> None:
        """As `set_fused_attention`, of the encoder alone."""
        set_fused_attention(self, enable)


def set_fused_attention(model: nn.Module, enable: bool) -> None:
    """Fused attention everywhere, or matrix products that can run in bf16 on a CPU."""
    for module in _that_attend(model):
        module.fused_attn = enable


@contextmanager
def fused_attention(model: nn.Module, enable: bool) -> Iterator[None]:
    """The one kind of attention; afterwards each module has its own again."""
    before = {module: module.fused_attn for module in _that_attend(model)}
    set_fused_attention(model, enable)
    try:
        yield
    finally:
        for module, fused in before.items():
            module.fused_attn = fused


def _that_attend(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "fused_attn")]


def _rows_side_by_side(module: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> Tensor:
    """The same tokens, each one's values next to each other in memory.

    timm's patch embedding returns a transposed view of its convolution, and the sums along the
    residual stream keep that order: every normalisation of every block would copy it back.
    """
    return tokens.contiguous() if tokens.ndim == 3 else tokens


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
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: damaged or not a file of tensors ({reason}). Copy it or make it again."
        ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: holds other things than named tensors.")
    return state


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Loads tensors that have exactly the names and shapes of the module's own.

    Raises:
        CheckpointError: names the first that does not fit, and the file that it came from.
    """
    have = {name: list(value.shape) for name, value in tensors.items()}
    want = {name: list(value.shape) for name, value in module.state_dict().items()}
    for name in [*want, *have]:
        if have.get(name) != want.get(name):
            raise CheckpointError(
                f"{path}: does not fit this model: '{name}' has shape "
                f"{have.get(name, 'none (it is not there)')}, expected "
                f"{want.get(name, 'no such entry')}."
            )
    module.load_state_dict(tensors)


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
            f"cannot be made: {error}"
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
