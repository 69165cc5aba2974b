"""The model that a pre-training begins with."""

from __future__ import annotations

from dataclasses import replace

from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.training.config import PretrainConfig, part_of


def build_model(train: Cohort, config: PretrainConfig) -> Slimp:
    """A model whose encodings are fitted on `train`, with the starting weights that are asked for.

    Raises:
        UserError: no level with a weight has metadata.
    """
    encodings, settings = fit_encodings(train, config), part_of(config, ModelConfig)
    if config.encoder_weights is not None and settings.batch_norm == "auto":
        settings = replace(settings, batch_norm="frozen")
    model = Slimp(settings, encodings, pretrained=config.pretrained)
    if config.encoder_weights is not None:
        model.image_encoder.load_weights(config.encoder_weights)
    if config.gradient_checkpointing:
        model.image_encoder.set_gradient_checkpointing(True)
    return model


def fit_encodings(train: Cohort, config: PretrainConfig) -> dict[LevelName, Encoding]:
    """Statistics and vocabularies of the training part, per level with metadata."""
    encodings = {
        name: Encoding.fit(train.schema.level(name), train.tables.of_level(name))
        for name in LEVELS
        if train.schema.level(name).features
    }
    if not config.view_weight and not any(config.weights[name] for name in encodings):
        raise UserError(
            f"the levels with metadata are {list(encodings)}, but their weights are 0: "
            "there is nothing to learn."
        )
    return encodings
