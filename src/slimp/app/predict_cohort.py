"""What a probe says of every image of a cohort, as `slimp predict` would.

Axis names: n = images, d = width of the image embeddings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32

from slimp.app.predictions import Facts, Predicted
from slimp.data.cohort import Cohort
from slimp.features.design import RawTable
from slimp.prediction.inputs import is_far, known_features
from slimp.prediction.predictor import Predictor

Array = np.ndarray[Any, np.dtype[Any]]
AT_ONCE = 16_384
"""Images whose probabilities are computed at once."""


def predict_cohort(
    predictor: Predictor, cohort: Cohort, images: Float32[Array, "n d"]
) -> Predicted:
    """Of every image of a cohort, whose embeddings are `images`."""
    probe, own, frame = predictor.probe, RawTable.of(cohort), pd.DataFrame(index=range(len(cohort)))
    if own is not None:  # of another cohort than the probe's, columns in the same units alone
        there = {name: f for f in own.schema.features for name in f.columns}
        read = [(c, fitted) for f, fitted in predictor.features for c in f.columns if c in there]
        frame = own.frame[[c for c, fitted in read if fitted.is_like(there[c])]]
        for name in map(str, frame.select_dtypes("number")):
            far = is_far(frame[name], name, predictor.encodings)
            frame = frame.assign(**{name: frame[name].mask(far)})
    design, parts = predictor.design(images, frame, cohort.images), []
    for first in range(0, len(cohort), AT_ONCE):
        rows = np.arange(first, min(first + AT_ONCE, len(cohort)))
        shown = probe.predict_proba(design[rows])
        decided = probe.decide(shown)
        p = predictor.surroundings.p_values(images[rows])
        parts.append((shown, decided, predictor.conformal.sets(shown, decided), p))
    shown, decided, sets, p = (np.concatenate(part) for part in zip(*parts, strict=True))
    if predictor.reads:
        sets &= (known_features(predictor.features, frame) > 0)[:, None]
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
