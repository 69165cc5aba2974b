"""What a probe says of every image of a cohort, as `slimp predict` would.

Axis names: n = images, k = classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int64

from slimp.app.columns import COMPUTED, Column, category, number
from slimp.app.embeddings import Embedded
from slimp.data.cohort import Cohort
from slimp.data.files import new_file, sha256_of
from slimp.data.schema import Schema
from slimp.features.design import Design, RawTable
from slimp.features.encode import embed_rows
from slimp.features.feature_sets import METADATA_KEYS, RELATIVE_TABLE, TABLE
from slimp.prediction.predictor import Predictor
from slimp.prediction.result import UNCALIBRATED, Prediction

Array = np.ndarray[Any, np.dtype[Any]]
AT_ONCE = 16_384
"""Images whose probabilities are computed at once."""
FILES = ("probe.safetensors", "probe.json", "predictions.parquet", "reference.parquet")
"""Of a probe, what its predictions depend on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """Arrays over the images of a cohort."""

    probabilities: Float[Array, "n k"]
    decided: Int64[Array, " n"]
    """Row of the class in `LinearProbe.classes`."""
    sets: Bool[Array, "n k"]
    """The conformal sets; empty where no metadata are known and the probe reads some."""
    novelty_p: Float[Array, " n"]

    @classmethod
    def of(cls, predictor: Predictor, probe: Path, cohort: Cohort, embedded: Embedded) -> Predicted:
        """Of a cohort's images; kept beside their embeddings. `probe` is the predictor's folder."""
        parts = [sha256_of(probe / name) for name in FILES if (probe / name).is_file()]
        key = hashlib.sha256(" ".join([*parts, repr(predictor.config)]).encode()).hexdigest()[:16]
        path = embedded.folder / f"predicted-{key}.npz"
        if not path.is_file():
            found = _predict(predictor, cohort, np.asarray(embedded.spaces["image"]))
            with new_file(path) as partial, partial.open("wb") as file:
                np.savez(file, **vars(found))
        with np.load(path) as arrays:
            return cls(**arrays)

    def columns(self, predictor: Predictor) -> Iterator[Column]:
        """To colour and filter by; an image out of distribution has nothing but `abstains`."""
        classes = np.array(predictor.probe.classes, dtype=object)
        refused = self.novelty_p < predictor.config.novelty
        top = np.take_along_axis(self.probabilities, self.decided[:, None], axis=1)[:, 0]
        size = np.where(refused | ~self.sets.any(axis=1), np.nan, self.sets.sum(axis=1))
        words = pd.Series(classes[self.decided]).mask(refused)
        yield category("predicted", COMPUTED, words)
        yield number("probability", COMPUTED, np.where(refused, np.nan, top))
        for name, share in zip(classes, self.probabilities.T, strict=True):
            yield number(f"p_{name}", COMPUTED, np.where(refused, np.nan, share))
        yield number("set size", COMPUTED, size)
        yield category("abstains", COMPUTED, pd.Series(np.where(refused, "yes", "no")))

    def prediction(self, predictor: Predictor, row: int) -> Prediction:
        """Of one image."""
        p, classes = float(self.novelty_p[row]), predictor.probe.classes
        if p < predictor.config.novelty:
            reason = predictor.surroundings.far_out(p, predictor.config.novelty)
            return Prediction(image="", status="refused", reason=reason, novelty_p=p)
        shown, inside = self.probabilities[row], self.sets[row]
        likeliest = np.argsort(-shown, kind="stable").tolist()
        return Prediction(
            image="",
            status="predicted",
            reason="" if inside.any() else UNCALIBRATED,
            probabilities=dict(zip(classes, shown.tolist(), strict=True)),
            decision=classes[self.decided[row]],
            conformal_set=tuple(classes[c] for c in likeliest if inside[c]),
            novelty_p=p,
        )


def to_dict(predictor: Predictor, found: Prediction) -> dict[str, Any]:
    """A prediction for JSON."""
    return {
        "probabilities": dict(found.probabilities),
        "predicted": found.decision,
        "rule": predictor.decision_rule,
        "coverage": predictor.conformal.coverage,
        "conformal_set": list(found.conformal_set),
        "abstains": found.status != "predicted",
        "reason": found.reason,
        "novelty_p": found.novelty_p,
    }


def _predict(predictor: Predictor, cohort: Cohort, images: Float32[Array, "n d"]) -> Predicted:
    probe, schema = predictor.probe, predictor.schema
    own = RawTable.of(cohort)
    frame = pd.DataFrame(index=range(len(cohort))) if own is None else own.frame
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
    return Predicted(probabilities=shown, decided=decided, sets=sets, novelty_p=p)


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
