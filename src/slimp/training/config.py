"""Settings of pre-training and adaptation, composed of parts.

`PretrainConfig` inherits the fields of all parts, so they are flat: a flag of the command line is a
field, and a function that needs a `BatchConfig` can be given the whole. Each class checks its own
fields. `AdaptConfig` lacks the model, which is that of the run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from slimp.data.config import BatchConfig, Settings, require_fractions, require_positive
from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.models.known_weights import described
from slimp.training.loggers import LogConfig

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Settings):
    """Optimisation."""

    epochs: int = 150
    """Epochs; each visits every training patient once (paper: 150, and 100 for adaptation)."""
    learning_rate: float = 5e-4
    """Peak learning rate, after warm-up and before the cosine decay to 0."""
    encoder_lr_scale: float = 1.0
    """Learning rate of the image encoder as a multiple of that; below 1 where the encoder starts
    from weights, since tables and heads start at random."""
    layer_decay: float = 1.0
    """Learning rate of each layer of the image encoder as a multiple of that of the next one;
    0.65 to 0.85 is usual for ViTs that start from weights."""
    warmup: float = 0.1
    """Fraction of all steps over which the learning rate rises linearly."""
    weight_decay: float = 0.05
    """AdamW's weight decay, of matrices only (not of biases, norms, embeddings, temperatures)."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; 0: any."""

    def _check(self) -> None:
        require_positive(self, "epochs", "learning_rate", "encoder_lr_scale", "layer_decay")
        if self.layer_decay > 1:
            raise UserError(f"layer_decay must be at most 1, got {self.layer_decay}.")
        require_fractions(self, "warmup")
        for name in ("weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class RunConfig(LogConfig, BatchConfig, OptimConfig):
    """Validation, checkpoints and devices."""

    validation_fraction: float = 0.1
    """Fraction of the images whose patients are used for validation."""
    held_out_fraction: float = 0.2
    """Fraction of the images whose patients are held out to test probes on; may be 0."""
    split_file: str | None = None
    """Table of image_id or patient_id, and fold or part: who trains, validates and is held out, in
    place of a random split. Probes leave one as split.csv."""
    fold: int | None = None
    """Fold of that file, or of the cohort's own split, to hold out; all others train."""
    validate_every: int = 5
    """Epochs between validations."""
    patience: int = 0
    """Validations without improvement after which training stops; 0: never."""
    monitor: Literal["validation_loss", "recall_at_5", "knn_balanced_accuracy", "last"] = "last"
    """Metric by which the saved weights are chosen; last: the weights after the final step."""
    checkpoint_every_steps: int = 200
    """Steps between checkpoints for --resume; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Precision of the encoders (loss and optimizer use 32 bit). auto: bf16 where it is fast."""
    gradient_checkpointing: bool = False
    """Recompute the image encoder's activations in the backward pass: slower, less memory."""
    compile: bool = False
    """Compile the image encoder with torch.compile, a minute or more at the start. Needs a C++
    compiler, for CUDA Triton too."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device type."""
    devices: int = 1
    """Devices per node, one process each (set by torchrun and srun); they share each batch."""
    nodes: int = 1
    """Nodes (set by torchrun and srun)."""
    chunk: int | Literal["auto"] = "auto"
    """Gradient-cache chunk size, images; a larger batch takes two passes, with the same gradient.
    auto: as many as fit on the device, measured at the start."""

    def _check(self) -> None:
        require_positive(self, "validate_every", "checkpoint_every_steps", "keep_checkpoints")
        require_positive(self, "devices", "nodes", *([] if self.chunk == "auto" else ["chunk"]))
        require_fractions(self, "validation_fraction", "held_out_fraction")
        if self.validation_fraction + self.held_out_fraction >= 1:
            raise UserError("validation_fraction and held_out_fraction leave nothing to train on.")
        if self.monitor != "last" and self.validation_fraction == 0:
            raise UserError(
                f"monitor={self.monitor} needs validation patients: raise validation_fraction."
            )
        if self.patience and self.monitor == "last":
            raise UserError("patience needs a monitor other than 'last'.")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(ModelConfig, RunConfig, heading="Preset and starting weights"):
    """All settings of `slimp.pretrain`.

    Example:
        >>> PretrainConfig.from_preset("tiny", epochs=5).image_size
        64
    """

    preset: Literal["tiny", "small", "laptop", "vit-s"] = "vit-s"
    """Defaults: vit-s is the paper's setting (ViT-S/16 at 224 px; docs/method.md lists what
    differs); laptop starts from ImageNet and is what to run on two cores; small and tiny start at
    random and train in minutes and seconds per epoch."""
    pretrained: bool = False
    """Start the image encoder from timm's published weights (needs the network once)."""
    encoder_weights: str | None = None
    """Image-encoder weights to start from: a name of slimp weights list, or a file. A name, and a
    file of slimp weights convert, bring their encoder and its normalisation along."""
    train_encoder: int | Literal["all", "embeddings"] = "all"
    """What of the image encoder learns: all, only its last N blocks (0: nothing), or only its patch
    and position embeddings."""

    def _check(self) -> None:
        if self.reconstruction_weight and not self.feature_dropout:
            raise UserError(
                "reconstruction_weight is of predicting hidden cells, but none are hidden: raise "
                "feature_dropout, or set it to 0."
            )
        if self.pretrained and self.encoder_weights is not None:
            raise UserError("pretrained and encoder_weights both say what to start from: drop one.")
        learning = self.train_encoder
        if learning not in ("all", "embeddings") and not (
            isinstance(learning, int) and learning >= 0
        ):
            raise UserError(f"train_encoder must be all, embeddings or 0 and up, got {learning}.")

    @classmethod
    def preset_values(cls, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that a preset sets, and `changes`, which the user sets.

        The preset's encoder, its options and weights go together: they give way to an encoder that
        the user chose, or to that of weights that the user chose. Options that the user sets beside
        such weights are added to the weights' own.

        Raises:
            UserError: there is no such preset, or there are no such weights.
        """
        if name not in PRESETS:
            raise UserError(f"no preset '{name}'; there are: {', '.join(PRESETS)}.")
        values, encoder = {"preset": name, **PRESETS[name]}, changes.get("encoder")
        base = None if encoder is None else encoder.partition(".")[0]  # without timm's tag
        if base not in (None, values.get("encoder", ModelConfig.encoder)):
            values.pop("encoder_options", None)
            values.pop("encoder_weights", None)
        if changes.get("pretrained"):
            values.pop("encoder_weights", None)
        weights = changes.get("encoder_weights")
        known = None if weights is None else described(weights)
        if known is not None and base in (None, known.encoder.partition(".")[0]):
            options = {**known.options, **changes.get("encoder_options", {})}
            changes = {**changes, "encoder_options": options}
            values["encoder"] = known.encoder
        return {**values, **changes}

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> PretrainConfig:
        """A preset with some fields changed."""
        return cls(**cls.preset_values(name, changes))


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(RunConfig, heading="Adaptation"):
    """All settings of `slimp.adapt`; the model's are those of the run.

    Example:
        >>> AdaptConfig(train="heads", epochs=20).learning_rate
        0.0001
    """

    train: Literal["embeddings", "heads", "full"] = "embeddings"
    """Parameters that learn: embedding layers and projection heads (the paper), heads only, or
    all. New parameters always learn."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Feature of the cohort = the run's name for it, as in gender=sex; repeat for more."""
    view_weight: float | None = None
    """Loss weight of the view level. Default: as in the run; 1 for a cohort without metadata."""
    epochs: int = 100
    """Epochs; each visits every training patient once (paper: 100)."""
    learning_rate: float = 1e-4
    """Peak learning rate; low, so that less is forgotten: a fifth of preset vit-s's, a tenth of
    the others'."""

    def _check(self) -> None:
        if self.view_weight is not None and not 0 <= self.view_weight < math.inf:
            raise UserError(f"view_weight must be a number from 0 up, got {self.view_weight}.")
        for name, count in Counter(self.rename.values()).items():
            if count > 1:
                renamed = " and ".join(f"'{x}'" for x, to in self.rename.items() if to == name)
                raise UserError(
                    f"rename: {renamed} are both renamed to '{name}'. A feature of the run can "
                    "become one feature of the cohort: leave one out."
                )

    def of_run(self, model: ModelConfig, *, images_alone: bool) -> PretrainConfig:
        """The settings of the training loop, for the model of a run.

        Args:
            model: of the run; architecture and weights of the levels stay. Cells are not
                predicted.
            images_alone: the cohort has no metadata, so that only views can be contrasted.
        """
        weight = model.view_weight if self.view_weight is None else self.view_weight
        if images_alone and self.view_weight is None:
            weight = model.view_weight or 1.0
        settings = values_of(model, ModelConfig) | values_of(self, RunConfig)
        fixed = {"view_weight": weight, "batch_norm": "frozen", "reconstruction_weight": 0.0}
        return PretrainConfig(**{**settings, **fixed})


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LogConfig, BatchConfig, OptimConfig):
    """Fine-tuning."""

    patients: int = 32
    """Patients per batch."""
    lesions: int = 4
    """Lesions drawn per patient and epoch, at most."""
    images_per_lesion: int = 2
    """Images drawn per lesion and epoch, at most."""
    epochs: int = 12
    """Epochs, at most; each visits every training patient once."""
    learning_rate: float = 1e-3
    """Peak learning rate of the tabular encoders and of the head."""
    encoder_lr_scale: float = 0.3
    """Learning rate of the image encoder as a multiple of that."""
    feature_dropout: float = 0.1
    """Probability of hiding a known metadata cell in a training step."""
    modality_dropout: float = 0.2
    """Probability of hiding an image's whole metadata, or the image itself (half each)."""
    validation_fraction: float = 0.15
    """Fraction of the training images whose patients choose the epoch and the temperature."""
    patience: int = 4
    """Epochs without improvement on those patients after which training stops; 0: never."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Precision of the encoders in training. auto: bf16 where it is fast."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device type."""

    def _check(self) -> None:
        require_fractions(self, "modality_dropout", "validation_fraction")
        require_positive(self, "validation_fraction")
        if self.patience < 0:
            raise UserError(f"patience must not be negative, got {self.patience}.")


START = ("preset", "pretrained", "encoder_weights", "train_encoder")
"""Settings of where a pre-training begins, which say nothing of an adapted run."""
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
    # Minutes on two cores (slimp[imagenet]); chosen by benchmarks/recipe.py.
    "laptop": {
        "encoder": "tf_efficientnet_lite0",
        "encoder_weights": "efficientnet-lite0",
        "image_size": 128,
        "lesions": 4,
        "epochs": 10,
        "learning_rate": 1e-3,
        "encoder_lr_scale": 0.3,
        "clip_norm": 0.0,
        "duplicates": "positive",
        "projection_layers": 1,
        "temperature": 0.1,
        "feature_dropout": 0.2,
        "crop_scale": 0.5,
        "colour": 0.3,
    },
    # The paper: ViT-Small/16 at 224 px, 64 patients, 100 lesions, 150 epochs.
    "vit-s": {},
}


def values_of(config: object, part: type) -> dict[str, Any]:
    """The fields of a part, from a configuration that has them."""
    return {f.name: getattr(config, f.name) for f in fields(part)}


def part_of(config: object, part: type[Part]) -> Part:
    """The `part` of a configuration that inherits from it."""
    return part(**values_of(config, part))
