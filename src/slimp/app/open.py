"""Opens what the explorer shows: cohort, embeddings and columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from slimp.app.columns import COMPUTED, Column, category, cohort_columns, number
from slimp.app.embeddings import Embedded, embedded
from slimp.app.explorer import Explorer
from slimp.data.cohort import Cohort
from slimp.evaluation.run_features import parts_of_run
from slimp.features.encode import InferenceConfig, Progress, level_of_images
from slimp.training.parts import OFFICIAL_PARTS
from slimp.training.weights_run import as_run


def open_explorer(
    run: str | Path,
    cohort_folder: Path,
    *,
    features: Path | None = None,
    projection: str = "pca",
    device: str = "cpu",
    progress: Progress | None = None,
) -> Explorer:
    """Everything that the page needs, from the cache where it is there.

    Raises:
        UserError: run, cohort and the others do not fit each other, or one is damaged.
    """
    folder, cohort = as_run(run), Cohort.load(cohort_folder)
    how = InferenceConfig(device=device)
    found = embedded(folder, cohort_folder, cohort, how, features=features, progress=progress)
    kinds = tuple(dict.fromkeys((projection, "pca")))
    for kind in kinds:
        found.projection(kind)
    of_image = level_of_images(cohort)
    return Explorer(
        cohort=cohort,
        run=Path(run).name,
        embedded=found,
        of_image=of_image,
        columns=cohort_columns(cohort, of_image, _computed(folder, cohort, found)),
        projections=kinds,
    )


def _computed(run: Path, cohort: Cohort, found: Embedded) -> list[Column]:
    """The run's parts and the outlier scores, where there are any."""
    columns = []
    if parts := parts_of_run(run, cohort):
        ours = cohort.images["patient_id"].map(parts).map(OFFICIAL_PARTS)
        columns.append(category("part", COMPUTED, pd.Series(ours)))
    if not np.isnan(found.outlier).all():
        columns.append(number("outlier", COMPUTED, found.outlier))
    return columns
