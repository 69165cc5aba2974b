"""The model that a pre-training begins with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError
from slimp.models.adapt_model import embedding_names
from slimp.models.config import ModelConfig
from slimp.models.known_weights import described
from slimp.models.nested import Slimp
from slimp.training.config import PRESETS, PretrainConfig, part_of


def build_model(train: Cohort, config: PretrainConfig, kind: Callable[..., Slimp] = Slimp) -> Slimp:
    """A model whose encodings are fitted on `train`, with the starting weights that are asked for.

    `kind` may be a subclass with another objective.

    Raises:
        UserError: no level with a weight has metadata, or the starting weights do not fit.
    """
    encodings, settings = fit_encodings(train, config), part_of(config, ModelConfig)
    for name, needed, there in (
        ("view_positives", "a view_weight above 0", config.view_weight > 0),
        ("sigmoid_bias", "contrast=sigmoid", config.contrast == "sigmoid"),
        ("positive_temperature", "duplicates=soft", config.duplicates == "soft"),
    ):
        if not there and getattr(config, name) != getattr(ModelConfig, name):
            warnings.warn(f"{name} has no effect without {needed}.", stacklevel=2)
    usual = PRESETS[config.preset]
    if (
        (weights := usual.get("encoder_weights")) is not None
        and config.encoder.partition(".")[0] != usual["encoder"]
        and not (config.pretrained or config.encoder_weights)
    ):
        warnings.warn(
            f"the weights that preset {config.preset} starts from, {weights}, do not fit encoder "
            f"{config.encoder}, which starts at random; for published ones: --pretrained, or "
            "--encoder-weights.",
            stacklevel=2,
        )
    if config.encoder_weights is not None and settings.batch_norm == "auto":
        settings = replace(settings, batch_norm="frozen")
    model = kind(settings, encodings, pretrained=config.pretrained)
    if config.encoder_weights is not None:
        model.image_encoder.load_weights(config.encoder_weights)
        if described(config.encoder_weights) is None:
            spec = model.image_spec
            warnings.warn(
                f"{config.encoder_weights} does not say which normalisation its weights expect: "
                f"taking timm's for {config.encoder}, mean {spec.mean} and std {spec.std}. For "
                "another one: slimp weights convert.",
                stacklevel=2,
            )
    if config.train_encoder != "all":
        model.freeze_all_but(learning_names(model, config.train_encoder))
    if config.gradient_checkpointing:
        model.image_encoder.set_gradient_checkpointing(True)
    return model


def learning_names(model: Slimp, of_encoder: int | Literal["embeddings"]) -> set[str]:
    """Parameters that learn where only the image encoder's last blocks or embeddings do.

    Raises:
        UserError: timm does not tell the encoder's layers apart, or which are embeddings.
    """
    encoder = model.image_encoder
    if of_encoder == "embeddings":
        others = "--train-encoder all, or a number of last blocks"
        learning = {f"model.{name}" for name in embedding_names(encoder, others)}
    else:
        layers = encoder.layers() if of_encoder else {}
        last = max(layers.values(), default=0)
        learning = {name for name, number in layers.items() if number > last - of_encoder}
    prefix = "image_encoder."
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (not name.startswith(prefix) or name.removeprefix(prefix) in learning)
    }


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
