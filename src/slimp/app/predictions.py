"""What a probe says of every image of a cohort: kept, so that it is computed once.

Axis names: n = images, k = classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64

from slimp.app.columns import COMPUTED, Column, category, number
from slimp.data.files import new_file, sha256_of
from slimp.prediction.config import PredictConfig
from slimp.prediction.result import UNCALIBRATED, Prediction, far_out

Array = np.ndarray[Any, np.dtype[Any]]
FILES = (
    *("probe.safetensors", "probe.json", "predictions.parquet", "reference.parquet"),
    *("config.json", "metrics.json"),
)
"""Of a probe, what its predictions and its cautions depend on."""
VERSION = 5
"""Of the predictions: what was kept before the last change of how they are made is not read."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is said of a probe beside its predictions."""

    classes: tuple[str, ...]
    rule: str
    """How the class follows from the probabilities, in words."""
    coverage: float
    """Of the conformal sets."""
    novelty: float
    """Level below which an image is out of distribution."""
    reference: int
    """Images that it is compared with for this."""
    cautions: tuple[str, ...]
    """What weakens all predictions."""

    def to_dict(self, found: Prediction) -> dict[str, Any]:
        """A prediction for JSON."""
        return {
            "probabilities": dict(found.probabilities),
            "predicted": found.decision,
            "rule": self.rule,
            "coverage": self.coverage,
            "conformal_set": list(found.conformal_set),
            "abstains": found.status != "predicted",
            "reason": found.reason,
            "novelty_p": found.novelty_p,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """Arrays over the images of a cohort."""

    facts: Facts
    probabilities: Float[Array, "n k"]
    decided: Int64[Array, " n"]
    """Row of the class in `Facts.classes`."""
    sets: Bool[Array, "n k"]
    """The conformal sets; empty where no metadata are known and the probe reads some."""
    novelty_p: Float[Array, " n"]

    @classmethod
    def read(cls, path: Path) -> Predicted:
        """The inverse of `write`."""
        with np.load(path) as stored:
            arrays = dict(stored)
        facts = json.loads(str(arrays.pop("facts")))
        lists = {name: tuple(facts[name]) for name in ("classes", "cautions")}
        return cls(facts=Facts(**{**facts, **lists}), **arrays)

    def write(self, path: Path) -> None:
        """Into one file, atomically."""
        with new_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **{**vars(self), "facts": np.array(json.dumps(asdict(self.facts)))})

    def columns(self) -> Iterator[Column]:
        """To colour and filter by; an image out of distribution has nothing but `abstains`."""
        classes = np.array(self.facts.classes, dtype=object)
        refused = self.novelty_p < self.facts.novelty
        top = np.take_along_axis(self.probabilities, self.decided[:, None], axis=1)[:, 0]
        size = np.where(refused | ~self.sets.any(axis=1), np.nan, self.sets.sum(axis=1))
        words = pd.Series(classes[self.decided]).mask(refused)
        yield category("predicted", COMPUTED, words)
        yield number("probability", COMPUTED, np.where(refused, np.nan, top))
        for name, share in zip(classes, self.probabilities.T, strict=True):
            yield number(f"p_{name}", COMPUTED, np.where(refused, np.nan, share))
        yield number("set size", COMPUTED, size)
        yield category("abstains", COMPUTED, pd.Series(np.where(refused, "yes", "no")))

    def prediction(self, row: int) -> Prediction:
        """Of one image."""
        p, classes, level = float(self.novelty_p[row]), self.facts.classes, self.facts.novelty
        if p < level:
            reason = far_out(p, level, self.facts.reference)
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


def kept_at(embeddings: Path, probe: Path) -> Path:
    """The file of a probe's predictions, beside the embeddings that they are made of."""
    parts = [sha256_of(probe / name) for name in FILES if (probe / name).is_file()]
    parts.append(f"{PredictConfig()!r} {VERSION}")
    key = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    return embeddings / f"predicted-{key[:16]}.npz"
