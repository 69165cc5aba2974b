"""Predictions as JSON and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from slimp.prediction.inputs import Metadata
from slimp.prediction.metadata_cautions import metadata_cautions
from slimp.prediction.predictor import Predictor
from slimp.prediction.result import UNCALIBRATED, Prediction

STATEMENT = "Research software, not a medical device; not for diagnosis."
"""Said with every output."""
FORMAT = 3
"""Version of the JSON."""


def to_dict(
    predictor: Predictor, predictions: Sequence[Prediction], metadata: Metadata | None = None
) -> dict[str, Any]:
    """All results, ready for JSON; `docs/predict.md` lists the keys.

    `metadata` are those that the predictions were made with.
    """
    conformal, probe = predictor.conformal, predictor.probe
    return {
        "statement": STATEMENT,
        "format": FORMAT,
        "features": probe.features,
        "classes": list(probe.classes),
        "test_time_augmentation": predictor.reference.test_time_augmentation,
        "decision": probe.decision,
        "decision_rule": predictor.decision_rule,
        "class_shares": dict(zip(probe.classes, probe.priors.tolist(), strict=True)),
        "conformal": None
        if without_sets(predictions)
        else {
            "coverage": conformal.coverage,
            "per_class": conformal.per_class,
            "calibration_images": conformal.n,
            "calibration_patients": conformal.n_patients,
            "always_in_the_set": predictor.always_in_the_set,
            "verified": predictor.verified.to_dict(probe.classes),
        },
        "novelty": {
            "refused_below": predictor.config.novelty,
            "reference_images": len(predictor.reference),
            "can_refuse": predictor.can_refuse,
        },
        "cautions": cautions(predictor, predictions, metadata),
        "images": [asdict(prediction) for prediction in predictions],
    }


def cautions(
    predictor: Predictor, predictions: Sequence[Prediction], metadata: Metadata | None = None
) -> list[str]:
    """What weakens all results, those of images without metadata, and what the table says."""
    found = predictor.cautions()
    if metadata is not None:
        found += metadata_cautions(metadata, predictor.encodings)
    if bare := sum(one.reason == UNCALIBRATED for one in predictions):
        found.append(
            f"No metadata of {bare} image(s) are known, and the probe reads metadata: their "
            "probabilities are less certain than its scores say, and they get no conformal set."
        )
    return found


def without_sets(predictions: Sequence[Prediction]) -> bool:
    """Whether images were predicted, but none with a conformal set."""
    found = [one.conformal_set for one in predictions if one.status == "predicted"]
    return bool(found) and not any(found)


def to_frame(predictor: Predictor, predictions: Sequence[Prediction]) -> pd.DataFrame:
    """A row per image: `image status reason decision decision_rule p_<class>... set novelty_p ...`.

    Classes of a set, and cells that count as missing, are joined by `|`. Cells without a value are
    empty.
    """
    rows = []
    for found in predictions:
        row: dict[str, Any] = {
            **{name: getattr(found, name) for name in ("image", "status", "reason", "decision")},
            "decision_rule": found.decision and predictor.decision_rule,
            **{f"p_{c}": found.probabilities.get(c) for c in predictor.probe.classes},
            "set": "|".join(found.conformal_set) or None,
            "novelty_p": found.novelty_p,
            "metadata_known": found.metadata_known,
            "unseen": "|".join(f"{k}: {v}" for k, v in found.unseen.items()) or None,
            "compared_with": found.compared_with,
        }
        for k in range(predictor.config.cases):
            case = found.nearest[k] if k < len(found.nearest) else None
            for name in ("image_id", "patient_id", "label", "similarity"):
                row[f"nearest_{k + 1}_{name}"] = getattr(case, name, None)
        rows.append({**row, "statement": STATEMENT})
    return pd.DataFrame(rows)
