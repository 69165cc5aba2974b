"""Settings of the model and of its loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from slimp.data.config import Settings, require_fractions, require_positive
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError

DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"
"""Files of a saved model."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Model and loss.

    Example:
        >>> ModelConfig(lesion_weight=0.5).weights["patient"]
        0.1
    """

    encoder: str = "vit_small_patch16_224"
    """Image encoder: name of a timm model."""
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of timm's create_model, such as depth=6."""
    image_size: int = 224
    """Side of the square input image, px."""
    batch_norm: Literal["auto", "frozen", "batch"] = "auto"
    """Statistics of batch normalisation in training: frozen as they are, or those of each batch,
    which mix the images of a batch. auto: frozen where the encoder starts from weights."""
    tabular: Literal["trace", "ft-transformer"] = "trace"
    """Tabular encoders: TRACE (the paper), or FT-Transformer (its comparison; as published with
    --tabular-width 192 --tabular-depth 3 --tabular-heads 8)."""
    tabular_width: int = 128
    """Width of the tabular encoders."""
    tabular_depth: int = 1
    """Transformer layers of each tabular encoder."""
    tabular_heads: int = 2
    """Attention heads of each tabular encoder."""
    tabular_dropout: float = 0.0
    """Dropout in the tabular encoders."""
    missing: Literal["zero", "mask", "learned"] = "mask"
    """Tokens of missing cells: zero vectors (original TRACE), masked out, or learned vectors."""
    projection_width: int = 128
    """Width of the space in which similarities are computed."""
    projection_layers: Literal[1, 2] = 2
    """Layers of the projection heads: 1, linear (CLIP), or 2 with a GELU between (SimCLR)."""
    pooling: Literal["mean", "attention"] = "mean"
    """Pooling of lesions into patients: mean (the paper) or gated attention (ABMIL)."""
    context: Literal["none", "patient"] = "none"
    """What is projected of a lesion: itself (the paper), or also what sets it apart from the
    patient's other lesions in the batch, a step back down the recursion."""
    temperature: float = 0.07
    """Initial temperature of each level; learned, at least 0.01 (logit scale 100)."""
    hierarchy: Literal["nested", "flat"] = "nested"
    """nested: a loss per level; flat: one loss on all metadata, joined at the lesion level."""
    view_weight: float = 0.0
    """Loss weight of the view level (two augmented views of an image agree); the paper has none."""
    view_positives: Literal["image", "lesion", "patient"] = "image"
    """Positives of the view level: the other view of the image, or of all images of its lesion or
    patient (HiDisc)."""
    image_weight: float = 0.9
    """Loss weight of the image level, for cohorts with metadata per image."""
    lesion_weight: float = 0.9
    """Weight of the inner loss, lambda in the paper."""
    patient_weight: float = 0.1
    """Weight of the outer loss, 1 - lambda in the paper."""
    reconstruction_weight: float = 0.0
    """Loss weight of predicting the metadata cells that feature dropout hides (TIP)."""
    contrast: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: InfoNCE (the paper), rows compete for their partner. sigmoid: each pair of rows is a
    yes or no question of its own (SigLIP, which starts at a temperature of 0.1)."""
    sigmoid_bias: float = -10.0
    """Initial bias of the sigmoid loss; learned. SigLIP's suits batches of 32,000 rows: minus the
    logarithm of the rows in a batch."""
    duplicates: Literal["negative", "positive", "soft"] = "negative"
    """Rows with equal metadata: negatives of each other (the paper) or shared positives. soft:
    similar rows are positives too, the more the fewer of their cells differ."""
    positive_temperature: float = 0.1
    """Of soft positives: the share of differing cells over which a row's weight falls to 1 / e."""

    def _check(self) -> None:
        require_positive(self, "image_size", "tabular_width", "tabular_depth", "tabular_heads")
        require_positive(self, "projection_width", "temperature", "positive_temperature")
        require_fractions(self, "tabular_dropout")
        if not all(0 <= weight < math.inf for weight in self.weights.values()):
            raise UserError(f"weights must be numbers from 0 up, got {self.weights}.")
        if not any(w for name, w in self.weights.items() if name != "reconstruction"):
            raise UserError("all weights are 0: there is nothing to learn.")
        if self.contrast == "sigmoid" and self.duplicates == "soft":
            raise UserError(
                "duplicates=soft is for contrast=softmax only: leave out one of the two."
            )
        if self.tabular_width % self.tabular_heads:
            raise UserError(
                f"tabular_width {self.tabular_width} must be a multiple of "
                f"tabular_heads {self.tabular_heads}."
            )

    @property
    def views(self) -> int:
        """Augmented views of each image that a step needs."""
        return 2 if self.view_weight > 0 else 1

    def trained(self, levels: Iterable[LevelName]) -> tuple[LevelName, ...]:
        """Those of these levels that have a weight, from fine to coarse."""
        named = set(levels)
        return tuple(name for name in LEVELS if name in named and self.weights[name] > 0)

    @property
    def weights(self) -> dict[str, float]:
        """Weight per level, the view level first, and of the reconstruction."""
        return {
            "view": self.view_weight,
            "image": self.image_weight,
            "lesion": self.lesion_weight,
            "patient": self.patient_weight,
            "reconstruction": self.reconstruction_weight,
        }
