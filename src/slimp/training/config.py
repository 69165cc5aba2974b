"""Settings of pre-training and adaptation, in parts that each room takes as it needs.

`PretrainConfig` inherits all parts, so that its fields are flat: a flag of the command line is a
field, and a room that asks for a `BatchConfig` can be handed the whole. `AdaptConfig` has the
same ones but for the model, which is that of the run it starts from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from slimp.data.config import BatchConfig, require_choices, require_positive, super_post_init
from slimp.errors import UserError
from slimp.models.config import ModelConfig

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights are learned."""

    epochs: int = 150
    """Visits of every training patient (paper: 150 for pre-training, 100 for continual)."""
    learning_rate: float = 5e-4
    """Peak value, after warm-up and before the cosine to 0."""
    warmup: float = 0.1
    """Share of all steps over which the learning rate rises linearly."""
    weight_decay: float = 0.05
    """AdamW's, on matrices only (no biases, norms, embeddings, temperatures)."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient."""

    def __post_init__(self) -> None:
        super_post_init(OptimConfig, self)
        require_positive(self, "epochs", "learning_rate", "clip_norm")
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup must be in [0, 1), got {self.warmup}.")
        if not self.weight_decay >= 0:
            raise UserError(f"weight_decay must not be negative, got {self.weight_decay}.")


@dataclass(frozen=True, kw_only=True)
class RunConfig(BatchConfig, OptimConfig):
    """How a run is divided, watched and computed."""

    validation_fraction: float = 0.1
    """Share of the images whose patients validate."""
    held_out_fraction: float = 0.2
    """Share of the images whose patients training never sees, for honest probes; may be 0."""
    validate_every: int = 5
    """Epochs between validations."""
    patience: int = 0
    """Validations without improvement after which training stops; 0 never stops early."""
    monitor: Literal["validation_loss", "recall_at_5", "knn_balanced_accuracy", "last"] = "last"
    """What chooses the weights that are kept; last: those after the final step."""
    checkpoint_every_steps: int = 200
    """Steps between checkpoints for --resume; one more is written after the last step."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Of the encoders; the loss and the optimizer stay in 32 bit. auto: bf16 where it is fast."""
    gradient_checkpointing: bool = False
    """Recompute the image encoder's activations in the backward pass: slower, less memory."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    devices: int = 1
    """Devices per node, a process each; torchrun and srun set it. Batches are shared among all."""
    nodes: int = 1
    """Computers; torchrun and srun set it."""
    chunk: int | Literal["auto"] = "auto"
    """Images that are embedded with graph at once, at most; a larger batch takes two passes, with
    the same gradient (gradient cache). auto: as many as the device holds, measured at the start."""

    def __post_init__(self) -> None:
        super_post_init(RunConfig, self)
        require_choices(RunConfig, self)
        require_positive(self, "validate_every", "checkpoint_every_steps", "keep_checkpoints")
        require_positive(self, "devices", "nodes")
        if self.chunk != "auto":
            require_positive(self, "chunk")
        for name in ("validation_fraction", "held_out_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        if self.validation_fraction + self.held_out_fraction >= 1:
            raise UserError("validation_fraction and held_out_fraction leave nothing to train on.")
        if self.monitor != "last" and self.validation_fraction == 0:
            raise UserError(
                f"monitor={self.monitor} needs validation patients; none are set aside."
            )
        if self.patience and self.monitor == "last":
            raise UserError("patience needs a monitor other than 'last'.")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(ModelConfig, RunConfig):
    """Everything that changes the result of `slimp pretrain`. The defaults are the paper's."""

    preset: Literal["tiny", "small", "vit-s"] = "vit-s"
    """Defaults for a laptop (tiny, small) or the paper's model (vit-s)."""
    pretrained: bool = False
    """Start the image encoder from timm's published weights (needs the network once)."""
    encoder_weights: str | None = None
    """File of image-encoder weights to start from (.safetensors, or a .pth of tensors only)."""

    def __post_init__(self) -> None:
        super_post_init(PretrainConfig, self)
        require_choices(PretrainConfig, self)

    @classmethod
    def preset_values(cls, name: str) -> dict[str, Any]:
        """The fields that a preset changes.

        Raises:
            UserError: there is no such preset.
        """
        if name not in PRESETS:
            raise UserError(f"no preset '{name}'; there are: {', '.join(PRESETS)}.")
        return {"preset": name, **PRESETS[name]}

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> PretrainConfig:
        """A preset with some fields changed."""
        return cls(**{**cls.preset_values(name), **changes})


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(RunConfig):
    """Everything that changes the result of `slimp adapt`, given the run."""

    train: Literal["embeddings", "heads", "full"] = "embeddings"
    """What learns: embedding layers and projection heads (the paper), heads alone, or all
    weights. What starts fresh always learns."""
    same: Mapping[str, str] = field(default_factory=dict)
    """Features of the cohort that the run knows by another name, as in {sex: gender}."""
    view_weight: float | None = None
    """Weight of the view level. null: as in the run; 1 for a cohort of images alone."""
    epochs: int = 100
    """Visits of every training patient (paper: 100)."""
    learning_rate: float = 1e-4
    """Peak value: a fifth of pre-training's, since what is there already is to be kept."""

    def __post_init__(self) -> None:
        super_post_init(AdaptConfig, self)
        require_choices(AdaptConfig, self)
        if self.view_weight is not None and not 0 <= self.view_weight < math.inf:
            raise UserError(f"view_weight must be a number from 0 up, got {self.view_weight}.")
        for name, other in self.same.items():
            if list(self.same.values()).count(other) > 1:
                raise UserError(
                    f"same: '{name}' is not the only feature that is said to be '{other}'. "
                    "A feature of the run can become one feature of the cohort."
                )

    def of_run(self, model: ModelConfig, *, images_alone: bool) -> PretrainConfig:
        """The settings as the training loop takes them, for the model of a run.

        Args:
            model: of the run; architecture and weights of the levels stay.
            images_alone: the cohort has no metadata, so that only views can be contrasted.
        """
        weight = model.view_weight if self.view_weight is None else self.view_weight
        if images_alone and self.view_weight is None:
            weight = model.view_weight or 1.0
        settings = {f.name: getattr(model, f.name) for f in fields(model)}
        settings |= {f.name: getattr(self, f.name) for f in fields(RunConfig)}
        return PretrainConfig(**{**settings, "view_weight": weight})


_SMALL_VIT = {"patch_size": 8, "global_pool": "avg", "class_token": False}

PRESETS: dict[str, dict[str, Any]] = {
    # Seconds per epoch on two cores: for the demo and for tests.
    "tiny": {
        "encoder": "vit_tiny_patch16_224",
        "encoder_options": {**_SMALL_VIT, "embed_dim": 96, "depth": 4, "num_heads": 3},
        "image_size": 64,
        "tabular_width": 64,
        "projection_width": 64,
        "patients": 32,
        "lesions": 8,
        "epochs": 40,
        "learning_rate": 1e-3,
    },
    # Minutes on two cores; the small ViT of the benchmarks.
    "small": {
        "encoder": "vit_tiny_patch16_224",
        "encoder_options": {**_SMALL_VIT, "embed_dim": 192, "depth": 6, "num_heads": 3},
        "image_size": 64,
        "epochs": 100,
        "lesions": 20,
        "learning_rate": 1e-3,
    },
    # The paper: ViT-Small/16 at 224 px, 64 patients, 100 lesions, 150 epochs.
    "vit-s": {},
}


def part_of(config: object, part: type[Part]) -> Part:
    """The `part` of a configuration that inherits from it."""
    return part(**{f.name: getattr(config, f.name) for f in fields(part)})  # type: ignore[arg-type]
