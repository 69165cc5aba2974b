"""Predictions as JSON and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from slimp.prediction.predictor import Prediction, Predictor

STATEMENT = "Research software, not a medical device; not for diagnosis."
"""Said with every output."""
FORMAT = 1
"""Version of the JSON."""


def to_dict(predictor: Predictor, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Everything there is to say, ready for JSON; `docs/predict.md` lists the keys."""
    conformal, probe = predictor.conformal, predictor.probe
    never = [c for c, t in zip(probe.classes, conformal.thresholds, strict=True) if np.isinf(t)]
    return {
        "statement": STATEMENT,
        "format": FORMAT,
        "features": probe.features,
        "classes": list(probe.classes),
        "conformal": {
            "coverage": conformal.coverage,
            "per_class": conformal.per_class,
            "calibration_images": conformal.n,
            "calibration_patients": conformal.n_patients,
            "always_in_the_set": never,
            "verified": predictor.verified.to_dict(probe.classes),
        },
        "novelty": {
            "refused_below": predictor.config.novelty,
            "reference_images": len(predictor.reference),
            "can_refuse": predictor.can_refuse,
        },
        "cautions": predictor.cautions(),
        "images": [_image(prediction) for prediction in predictions],
    }


def to_frame(predictor: Predictor, predictions: Sequence[Prediction]) -> pd.DataFrame:
    """A row per image: `image status reason decision p_<class>... set novelty_p nearest_<k>_...`.

    Classes of a set are joined by `|`. What an image did not get is empty.
    """
    rows = []
    for prediction in predictions:
        row: dict[str, Any] = {
            "image": prediction.image,
            "status": prediction.status,
            "reason": prediction.reason,
            "decision": prediction.decision,
        }
        row |= {f"p_{c}": prediction.probabilities.get(c) for c in predictor.probe.classes}
        row |= {"set": "|".join(prediction.conformal_set) or None}
        row |= {"novelty_p": prediction.novelty_p, "metadata_known": prediction.metadata_known}
        for k in range(predictor.config.cases):
            case = prediction.nearest[k] if k < len(prediction.nearest) else None
            for name in ("image_id", "patient_id", "label", "similarity"):
                row[f"nearest_{k + 1}_{name}"] = getattr(case, name, None)
        rows.append({**row, "statement": STATEMENT})
    return pd.DataFrame(rows)


def _image(prediction: Prediction) -> dict[str, Any]:
    content = asdict(prediction)
    content["conformal_set"] = list(prediction.conformal_set)
    content["nearest"] = [asdict(case) for case in prediction.nearest]
    return content
