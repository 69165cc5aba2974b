"""What the model is, and what its levels are asked to agree on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from slimp.data.config import require_choices, require_positive, super_post_init
from slimp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the model is and what its levels are asked to agree on."""

    encoder: str = "vit_small_patch16_224"
    """Image encoder: any timm model name."""
    encoder_options: Mapping[str, Any] = field(default_factory=dict)
    """Passed to timm's create_model, as in {depth: 6}."""
    image_size: int = 224
    """Side of the square input, px."""
    tabular_width: int = 128
    """Width h of the TRACE tabular encoders."""
    tabular_depth: int = 1
    """Transformer layers of each tabular encoder."""
    tabular_heads: int = 2
    """Attention heads of each tabular encoder."""
    tabular_dropout: float = 0.0
    """Dropout inside the tabular encoders."""
    missing: Literal["zero", "mask", "learned"] = "mask"
    """How a missing cell enters TRACE: zero vector (the original), masked out, learned vector."""
    projection_width: int = 128
    """Width of the space in which similarities are taken."""
    projection_layers: Literal[1, 2] = 2
    """Layers of the projection heads: 1 linear (CLIP), 2 with a GELU between (SimCLR)."""
    pooling: Literal["mean", "attention"] = "mean"
    """How children become a parent: mean (the paper) or gated attention (ABMIL)."""
    temperature: float = 0.07
    """Initial temperature of each level; learned, never below 0.01 (logit scale 100)."""
    hierarchy: Literal["nested", "flat"] = "nested"
    """nested: a loss per level; flat: one, on all metadata joined at the lesion level."""
    view_weight: float = 0.0
    """Weight of the view level (two augmented views of an image agree); 0 is the paper."""
    image_weight: float = 0.9
    """Weight of the image level, where a dataset has image-level metadata."""
    lesion_weight: float = 0.9
    """Weight of the inner loss, the paper's lambda."""
    patient_weight: float = 0.1
    """Weight of the outer loss, the paper's 1 - lambda."""
    duplicates: Literal["negative", "positive"] = "negative"
    """Rows of equal metadata: each other's negatives (the paper) or shared positives."""

    def __post_init__(self) -> None:
        super_post_init(ModelConfig, self)
        require_choices(ModelConfig, self)
        require_positive(self, "image_size", "tabular_width", "tabular_depth", "tabular_heads")
        require_positive(self, "projection_width", "temperature")
        if not all(0 <= weight < math.inf for weight in self.weights.values()):
            raise UserError(f"weights must be numbers from 0 up, got {self.weights}.")
        if not any(self.weights.values()):
            raise UserError("all weights are 0: there is nothing to learn.")
        if self.tabular_width % self.tabular_heads:
            raise UserError(
                f"tabular_width {self.tabular_width} must be a multiple of "
                f"tabular_heads {self.tabular_heads}."
            )

    @property
    def views(self) -> int:
        """Augmented views of each image that a step needs."""
        return 2 if self.view_weight > 0 else 1

    @property
    def weights(self) -> dict[str, float]:
        """Weight per level, the view level first."""
        return {
            "view": self.view_weight,
            "image": self.image_weight,
            "lesion": self.lesion_weight,
            "patient": self.patient_weight,
        }
