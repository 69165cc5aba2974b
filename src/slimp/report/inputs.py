"""What a report is made from: plain numbers, tables and arrays, so that anyone can fill it in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slimp.evaluation.leakage import Leakage
from slimp.evaluation.low_shot import LowShot
from slimp.evaluation.similarity import Similarity
from slimp.evaluation.subgroups import Subgroups


@dataclass(frozen=True, kw_only=True)
class Score:
    """A figure with its 95 % interval, as in `metrics.json`."""

    mean: float
    low: float = math.nan
    high: float = math.nan
    per_seed: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Score:
        """From `{"mean": ..., "ci95": [low, high], "per_seed": [...]}`; None counts as NaN."""
        low, high = (_number(value) for value in entry.get("ci95") or (None, None))
        seeds = tuple(_number(value) for value in entry.get("per_seed") or ())
        return cls(mean=_number(entry.get("mean")), low=low, high=high, per_seed=seeds)


@dataclass(frozen=True, kw_only=True)
class ProbeFacts:
    """What one probe, or one floor, measured."""

    name: str
    """As in 'full' or 'metadata-only'."""
    metrics: Mapping[str, Score]
    """Metric -> score; the names of `metrics.json`."""
    class_recall: Mapping[str, Score] = field(default_factory=dict)
    """Class -> share of its test images that were found."""
    classes: tuple[str, ...] = ()
    predictions: pd.DataFrame | None = None
    """`image_id patient_id seed label predicted p_<class>... q_<class>...`, a row per test image
    and seed; q_ are calibrated probabilities, if there are any."""
    split: str | None = None
    """What never spans training and test: patient, lesion or image."""
    n_train: int | None = None
    n_test: int | None = None

    @property
    def key(self) -> Score | None:
        """Balanced accuracy, the figure that everything is compared by."""
        return self.metrics.get("balanced_accuracy")


@dataclass(frozen=True, kw_only=True)
class CohortFacts:
    """What the data are."""

    name: str
    source: str = "unknown"
    licence: str = "unknown"
    citation: str = ""
    import_report: Mapping[str, Any] = field(default_factory=dict)
    patients: int = 0
    lesions: int = 0
    images: int = 0
    classes: pd.DataFrame | None = None
    """`label images lesions patients`, a row per class; None without labels."""
    unlabelled: int = 0
    """Images without a label."""
    features: pd.DataFrame | None = None
    """`level feature kind unit missing`, a row per metadata feature. The unit may be empty;
    missing is a share."""
    parts: pd.DataFrame | None = None
    """`part patients images`, as pre-training set them aside."""


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Everything on the page. What is absent leaves its section out, with the reason."""

    title: str
    date: datetime
    cohort: CohortFacts
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run, flat."""
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    """The line that made the report; empty: not shown."""
    log: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows of `metrics.jsonl`."""
    probes: tuple[ProbeFacts, ...] = ()
    """From the smallest set of features to the largest; the last one is the headline's."""
    imputed: tuple[str, ...] = ()
    """Features with rows imputed by retrieval."""
    floors: tuple[ProbeFacts, ...] = ()
    """What a probe must beat to be worth anything."""
    seen_patients: frozenset[str] = frozenset()
    """Patients that pre-training learned from or chose its weights by."""
    similarity: Mapping[str, Similarity] = field(default_factory=dict)
    """Level -> similarity of image and metadata on held-out rows."""
    similarity_of: str = "on rows that training never saw"
    """Whose rows those are."""
    low_shot: LowShot | None = None
    """The last probe with fewer labels."""
    leakage: Leakage | None = None
    """The last probe split by patient, by lesion and by image."""
    subgroups: Subgroups | None = None
    """The last probe per group of the test images."""
    embedding: NDArray[np.float32] | None = None
    """(n, d) image embeddings for the map."""
    embedding_labels: tuple[str | None, ...] = ()
    """(n,) class of each row of `embedding`."""
    embedding_of: str = "all patients"
    """Whose images the map shows."""
    read_image: Callable[[str], bytes] | None = None
    """image_id -> encoded image; None leaves example lesions out."""
    seed: int = 0
    """Of what is drawn: rows of the map, example lesions."""


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
