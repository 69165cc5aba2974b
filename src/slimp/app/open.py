"""Opens what the explorer shows: cohort, embeddings, columns, a probe, a second run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from slimp import __version__
from slimp.app import embeddings, predictions
from slimp.app.audit import audit
from slimp.app.columns import COMPUTED, Column, category, cohort_columns, number
from slimp.app.comparison import Comparison
from slimp.app.embeddings import Embedded, embedded, private_folder
from slimp.app.explorer import Explorer
from slimp.app.predictions import Predicted
from slimp.data.cohort import Cohort, level_of_images
from slimp.data.in_order import Progress
from slimp.prediction.probe_record import open_probe
from slimp.training.parts import OFFICIAL_PARTS, parts_of_run
from slimp.training.weights_run import as_run

if TYPE_CHECKING:  # torch, which a start without anything new does without
    from slimp.app.seen import Seen
    from slimp.features.backends import Augmentation
    from slimp.prediction.predictor import Predictor
    from slimp.training.devices import Accelerator

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
    accelerator: Accelerator = "cpu"
    """Where the encoders run."""


class _Opening:
    """The steps of opening; encoders and probe are loaded by the first that needs them."""

    def __init__(self, sources: Sources, progress_bar: ProgressBar) -> None:
        self.sources, self.progress_bar = sources, progress_bar
        self.run = as_run(sources.run)
        self.cohort = Cohort.load(sources.cohort)
        self.augmentation: Augmentation = "none"
        self.probe: Path | None = None
        if sources.probe is not None:
            self.probe, _, record = open_probe(sources.probe, self.run)
            self.augmentation = record.get("test_time_augmentation", "none")

    @cached_property
    def predictor(self) -> Predictor | None:
        if self.probe is None:
            return None
        from slimp.prediction.predictor import Predictor
        from slimp.training.devices import device_of

        return Predictor.load(self.probe, run=self.run, device=device_of(self.sources.accelerator))

    def embedded(self) -> tuple[Embedded, Predicted | None]:
        """Embeddings of the cohort, and what the probe says of it."""
        features, kept = self.sources.embeddings, None
        if self.probe is not None:
            place, _ = embeddings.kept_at(
                self.run, self.sources.cohort, augmentation=self.augmentation, features=features
            )
            kept = predictions.kept_at(place, self.probe)
            if not kept.is_file():
                _ = self.predictor  # refuses, before anything is embedded, what does not fit
        with self.progress_bar("embedding images") as progress:
            found = self._embedded(self.run, features, progress)
        if kept is None:
            return found, None
        if not kept.is_file():
            from slimp.app.predict_cohort import predict_cohort

            assert self.predictor is not None
            images = np.asarray(found.spaces["image"])
            predict_cohort(self.predictor, self.cohort, images).write(kept)
        return found, Predicted.read(kept)

    def _embedded(self, run: Path, features: Path | None, progress: Progress) -> Embedded:
        return embedded(
            run,
            self.sources.cohort,
            self.cohort,
            accelerator=self.sources.accelerator,
            augmentation=self.augmentation,
            features=features,
            progress=progress,
        )

    def compared(self, found: Embedded) -> Comparison | None:
        """With the other run."""
        if self.sources.compare is None:
            return None
        with self.progress_bar("embedding images by the other run") as progress:
            other = self._embedded(as_run(self.sources.compare), None, progress)
        patients = self.cohort.images["patient_id"].to_numpy()
        return Comparison.of(_name(self.sources.compare), found, other, patients)

    def models(self, found: Embedded, predicted: Predicted | None) -> Seen:
        """What needs the encoders."""
        from slimp.app.seen import Seen
        from slimp.features.encode import InferenceConfig
        from slimp.models.nested import Slimp
        from slimp.training.adapt import unrelated
        from slimp.training.devices import device_of

        return Seen(
            model=self.predictor.model if self.predictor else Slimp.from_pretrained(self.run),
            cohort=self.cohort,
            images=found.spaces["image"],
            how=InferenceConfig(
                device=device_of(self.sources.accelerator),
                test_time_augmentation=self.augmentation,
            ),
            predictor=self.predictor,
            predicted=predicted,
            unrelated=unrelated(self.run),
        )


def open_explorer(sources: Sources, progress_bar: ProgressBar) -> Explorer:
    """Everything that the page needs, from the cache where it is there.

    Raises:
        UserError: run, cohort and the others do not fit each other, or one is damaged.
    """
    opening = _Opening(sources, progress_bar)
    run, cohort = opening.run, opening.cohort
    found, predicted = opening.embedded()
    comparison = opening.compared(found)
    kept = private_folder() / f"audit-{found.cohort_key[:24]}-{__version__}.json"
    with progress_bar("checking images") as progress:
        findings = audit(cohort, kept, run=sources.data_check, progress=progress)
    kinds = tuple(dict.fromkeys((sources.projection, "pca")))
    for kind in kinds:
        found.projection(kind)
    of_image = level_of_images(cohort)
    computed = [*_computed(run, cohort, found)]
    if predicted:
        computed += predicted.columns()
    if comparison:
        computed.append(number("agreement", COMPUTED, comparison.agreement))
    pa.default_memory_pool().release_unused()  # what reading the tables needed for a while
    return Explorer(
        cohort=cohort,
        run=_name(sources.run),
        embedded=found,
        of_image=of_image,
        columns=cohort_columns(cohort, of_image, computed),
        open_models=lambda: opening.models(found, predicted),
        predicted=predicted,
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
