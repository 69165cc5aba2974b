"""What a probe says of every image of a cohort, as `slimp predict` would.

Axis names: n = images, d = width of the image embeddings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32

from slimp.app.predictions import Facts, Predicted
from slimp.data.cohort import Cohort
from slimp.data.schema import Schema
from slimp.features.design import Design, RawTable
from slimp.features.encode import embed_rows
from slimp.features.feature_sets import METADATA_KEYS, RELATIVE_TABLE, TABLE
from slimp.prediction.predictor import Predictor

Array = np.ndarray[Any, np.dtype[Any]]
AT_ONCE = 16_384
"""Images whose probabilities are computed at once."""


def predict_cohort(
    predictor: Predictor, cohort: Cohort, images: Float32[Array, "n d"]
) -> Predicted:
    """Of every image of a cohort, whose embeddings are `images`."""
    probe, schema = predictor.probe, predictor.schema
    own, frame = RawTable.of(cohort), pd.DataFrame(index=range(len(cohort)))
    if own is not None:  # of another cohort than the probe's, columns in the same units alone
        there = {name: f for f in own.schema.features for name in f.columns}
        read = [(c, fitted) for f, fitted in predictor.features for c in f.columns if c in there]
        frame = own.frame[[c for c, fitted in read if fitted.is_like(there[c])]]
    raw, features = RawTable(schema=schema, frame=frame), {"image": images}
    for level in predictor.levels:
        cells = raw.rows_of(predictor.model, level)
        features[METADATA_KEYS[level]] = embed_rows(
            predictor.model, level, cells, device=predictor.device
        )
    if predictor.compares and predictor.reference.context is not None:
        features |= predictor.reference.context.relative(features, cohort.images)
        table = RawTable(schema=Schema.from_dict(predictor.record["schema"]), frame=frame)
        features[RELATIVE_TABLE] = table.relative(cohort.images)
    blocks = {name: features[name] for name in probe.blocks if name != TABLE}
    design, parts = Design(blocks=blocks, table=raw), []
    for first in range(0, len(cohort), AT_ONCE):
        rows = np.arange(first, min(first + AT_ONCE, len(cohort)))
        shown = probe.predict_proba(design[rows])
        decided = probe.decide(shown)
        p = predictor.surroundings.p_values(images[rows])
        parts.append((shown, decided, predictor.conformal.sets(shown, decided), p))
    shown, decided, sets, p = (np.concatenate(part) for part in zip(*parts, strict=True))
    if predictor.reads:
        sets &= _known(predictor, frame)[:, None]
    facts = facts_of(predictor)
    return Predicted(facts=facts, probabilities=shown, decided=decided, sets=sets, novelty_p=p)


def facts_of(predictor: Predictor) -> Facts:
    """What the explorer says of a probe."""
    return Facts(
        classes=tuple(predictor.probe.classes),
        rule=predictor.decision_rule,
        coverage=predictor.conformal.coverage,
        novelty=predictor.config.novelty,
        reference=len(predictor.surroundings.usual),
        cautions=tuple(predictor.cautions()),
    )


def _known(predictor: Predictor, frame: pd.DataFrame) -> Bool[Array, " n"]:
    """Images of which the probe knows any metadata; an unknown category is none."""
    found = np.zeros(len(frame), dtype=bool)
    for feature, fitted in predictor.features:
        for name in frame.columns.intersection([*feature.columns]):
            cells = frame[name]
            if feature.kind == "categorical":
                cells = cells.where(cells.isin([*fitted.categories, *fitted.spellings]))
            found |= cells.notna().to_numpy()
    return found
