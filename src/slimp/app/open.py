"""Opens what the explorer shows: cohort, embeddings, columns, a probe, a second run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from slimp.app.audit import audit
from slimp.app.columns import COMPUTED, Column, category, cohort_columns, number
from slimp.app.comparison import Comparison
from slimp.app.embeddings import Embedded, embedded, private_folder
from slimp.app.explorer import Explorer
from slimp.app.predictions import Predicted
from slimp.app.seen import Seen
from slimp.data.cohort import Cohort
from slimp.evaluation.run_features import parts_of_run
from slimp.features.encode import InferenceConfig, Progress, level_of_images
from slimp.models.nested import Slimp
from slimp.prediction.predictor import Predictor
from slimp.training.parts import OFFICIAL_PARTS
from slimp.training.weights_run import as_run

ProgressBar = Callable[[str], AbstractContextManager[Progress]]
"""A title -> draws progress."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What to open."""

    run: str | Path
    """Folder of a run, or `weights:NAME`."""
    cohort: Path
    probe: Path | None = None
    compare: str | Path | None = None
    """Another run."""
    embeddings: Path | None = None
    """A file of `slimp embed`, in place of embedding."""
    projection: str = "pca"
    data_check: bool = False
    device: str = "cpu"


def open_explorer(sources: Sources, progress_bar: ProgressBar) -> Explorer:
    """Everything that the page needs, from the cache where it is there.

    Raises:
        UserError: run, cohort and the others do not fit each other, or one is damaged.
    """
    run, folder, probe = as_run(sources.run), sources.cohort, sources.probe
    cohort, predictor = Cohort.load(folder), None
    how = InferenceConfig(device=sources.device)
    if probe is not None:
        predictor = Predictor.load(probe, run=run, device=sources.device)
        augmentation = predictor.reference.test_time_augmentation
        how = InferenceConfig(device=sources.device, test_time_augmentation=augmentation)
    with progress_bar("embedding images") as progress:
        found = embedded(run, folder, cohort, how, features=sources.embeddings, progress=progress)
    comparison = predicted = None
    if predictor is not None and probe is not None:
        predicted = Predicted.of(predictor, probe, cohort, found)
    if sources.compare is not None:
        with progress_bar("embedding images by the other run") as progress:
            other = embedded(as_run(sources.compare), folder, cohort, how, progress=progress)
        patients = cohort.images["patient_id"].to_numpy()
        comparison = Comparison.of(_name(sources.compare), found, other, patients)
    kept = private_folder() / f"audit-{found.cohort_key[:24]}.json"
    with progress_bar("checking images") as progress:
        findings = audit(cohort, kept, run=sources.data_check, progress=progress)
    kinds = tuple(dict.fromkeys((sources.projection, "pca")))
    for kind in kinds:
        found.projection(kind)
    of_image = level_of_images(cohort)
    computed = [*_computed(run, cohort, found)]
    if predictor and predicted:
        computed += predicted.columns(predictor)
    if comparison:
        computed.append(number("agreement", COMPUTED, comparison.agreement))
    pa.default_memory_pool().release_unused()  # what reading the tables needed for a while
    return Explorer(
        cohort=cohort,
        run=_name(sources.run),
        embedded=found,
        of_image=of_image,
        columns=cohort_columns(cohort, of_image, computed),
        seen=Seen(
            model=predictor.model if predictor else Slimp.from_pretrained(run),
            cohort=cohort,
            images=found.spaces["image"],
            how=how,
            predictor=predictor,
            predicted=predicted,
        ),
        projections=kinds,
        comparison=comparison,
        findings=findings,
    )


def _name(run: str | Path) -> str:
    """What the page calls a run; never where it lies."""
    return Path(run).name or Path(run).resolve().name


def _computed(run: Path, cohort: Cohort, found: Embedded) -> Iterator[Column]:
    """The run's parts and the outlier scores, where there are any."""
    if parts := parts_of_run(run, cohort):
        ours = cohort.images["patient_id"].map(parts).map(OFFICIAL_PARTS)
        yield category("part", COMPUTED, pd.Series(ours))
    if not np.isnan(found.outlier).all():
        yield number("outlier", COMPUTED, found.outlier)
