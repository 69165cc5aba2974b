"""Frozen features per image: what an encoder makes of each image and of its metadata.

Axis names: n = images, d = width.

Example:
    >>> from slimp import ModelConfig
    >>> from slimp.sources.synthetic.cohort import example
    >>> table = embed(Slimp(ModelConfig(encoder="resnet10t"), {}), example(2))
    >>> isinstance(table, FeatureTable), table.matrix("image").shape[1]
    (True, 512)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int

from slimp.data.cohort import Cohort, level_of_images
from slimp.data.encoding import Rows
from slimp.data.in_order import Progress
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError
from slimp.features.design import Array, RawTable, metadata_encoder
from slimp.features.encode import (
    InferenceConfig,
    as_model_reads,
    embed_cohort_images,
    embed_rows,
    encode_table,
    has_columns,
    table_read,
)
from slimp.features.feature_sets import METADATA_KEYS
from slimp.features.feature_table import ID_COLUMNS, FeatureTable
from slimp.features.pseudo_metadata import PseudoMetadata
from slimp.models.nested import Slimp

REMEDY = "Adapt the model to this cohort first, or add the columns, empty if unknown."


def embed(
    model: Slimp,
    cohort: Cohort,
    how: InferenceConfig | None = None,
    *,
    lacking: Literal["refuse", "missing"] = "refuse",
    pseudo: PseudoMetadata | str | Path | None = None,
    progress: Progress | None = None,
) -> FeatureTable:
    """Features of every image of a cohort, in the cohort's order, before any projection.

    `lesion` and `patient` are those of the image's own. A level that the model or the cohort lacks
    is left out. For a model of the hierarchy `flat` all metadata are joined at the lesion. The
    comparison with the patient's other lesions is made too, `FeatureTable.with_context`. An example
    stands at the head of the module.

    Args:
        model: the encoders; left as it was found.
        cohort: whose images and metadata.
        how: a backend other than torch is compared with torch first, on images of the cohort.
        lacking: columns that the model reads and the cohort has not, at a level of which it has
            some, or has in another unit or kind: an error, or missing in every row.
        pseudo: pseudo-metadata of these images, or their folder; see `with_pseudo_metadata`.
        progress: called after each batch.

    Raises:
        UserError: the cohort lacks some columns of a level, the backend is not there, cannot run
            this encoder or does not agree with torch, or the pseudo-metadata are of others.
    """
    how = how or InferenceConfig()
    if isinstance(pseudo, str | Path):
        pseudo = PseudoMetadata.load(pseudo)
    if (raw := RawTable.of(cohort)) is not None:
        raw.warn_of_unknown_categories(model.encodings.values(), cohort.info.name)
    cohort = as_model_reads(model, cohort)
    if pseudo is not None:
        pseudo.rows_for(model, cohort.images["image_id"])
    retrieved = () if pseudo is None else pseudo.embeddings
    strict = [x for x in model.encodings if lacking == "refuse" and x not in retrieved]
    encoded = _encoded(model, cohort, raw, strict)  # first, to refuse before any image is read
    features = {"image": embed_cohort_images(model, cohort, how, progress)}
    for level, (rows, of_image) in encoded.items():
        per_row = embed_rows(model, level, rows, device=how.device, precision=how.precision)
        features[METADATA_KEYS[level]] = per_row[of_image]
    columns = [name for name in (*ID_COLUMNS, "split") if name in cohort.images]
    ids = cohort.images[columns].reset_index(drop=True)
    table = FeatureTable(
        ids=ids,
        features=features,
        raw=raw,
        encoder=metadata_encoder(model),
        projection=None if (head := model.image_projection()) is None else head.numpy(),
        test_time_augmentation=how.test_time_augmentation,
    )
    if pseudo is not None:
        return with_pseudo_metadata(table, model, pseudo)
    return table.with_context()


def _encoded(
    model: Slimp, cohort: Cohort, raw: RawTable | None, strict: Collection[LevelName]
) -> dict[LevelName, tuple[Rows, Int[Array, " n"]]]:
    """Rows of each level of which the cohort has columns, and the one of each image.

    Of the `strict` ones it must have all columns. A flat model reads of each image its own cells,
    as of a new one that is predicted, and not those of the lesion's other images.
    """
    of_image = level_of_images(cohort)
    found: dict[LevelName, tuple[Rows, Array]] = {}
    for level, encoding in model.encodings.items():
        if has_columns(model, cohort, level, remedy=REMEDY if level in strict else None):
            found[level] = encode_table(encoding, table_read(model, cohort, level)), of_image[level]
            if model.config.hierarchy == "flat" and raw is not None:
                found[level] = raw.rows_of(model, level), of_image["image"]
    return found


def with_pseudo_metadata(table: FeatureTable, model: Slimp, pseudo: PseudoMetadata) -> FeatureTable:
    """The table with retrieved embeddings where the images have no metadata of their own.

    Observed metadata stay, those that the model does not read too. If the retrieval took known ones
    for unknown (`--impute all`) they are missing in the raw table; where it abstained, they are
    embedded as missing, and the ids say so in a column `abstained`.

    Raises:
        UserError: `pseudo` is of another model or test-time augmentation, or lacks an image.
    """
    theirs, ours = pseudo.test_time_augmentation, table.test_time_augmentation
    if theirs is not None and theirs != ours:
        raise UserError(
            f"pseudo-metadata: retrieved by image features of --test-time-augmentation {theirs}, "
            f"and these are of {ours}. Pass the same to both verbs."
        )
    rows = pseudo.rows_for(model, table.ids["image_id"])
    features, abstained = dict(table.features), pseudo.abstained[rows]
    raw, nothing_known = table.raw, all(found.all() for found in pseudo.imputed.values())
    hides = raw is not None and any(
        (raw.rows_of(model, level).present.any(dim=1).numpy() & found[rows]).any()
        for level, found in pseudo.imputed.items()
    )
    for level, embeddings in pseudo.embeddings.items():
        missing = encode_table(model.encodings[level], pd.DataFrame(index=[0]))
        nothing = embed_rows(model, level, missing, device=next(model.parameters()).device)
        own = features.get(METADATA_KEYS[level], nothing)
        retrieved = np.where(abstained[:, None], nothing, embeddings[rows])  # (n, d)
        imputed = pseudo.imputed[level][rows]
        features[METADATA_KEYS[level]] = np.where(imputed[:, None], retrieved, own)
        for name in LEVELS if nothing_known or model.config.hierarchy == "flat" else (level,):
            raw = raw.without(name, imputed) if raw is not None and hides else raw
    ordered = ("image", *METADATA_KEYS.values())
    return replace(
        table,
        ids=table.ids.assign(abstained=abstained),
        features={name: features[name] for name in ordered if name in features},
        imputed=tuple(METADATA_KEYS[level] for level in pseudo.embeddings),
        raw=raw,
        encoder=None,
    ).with_context()
