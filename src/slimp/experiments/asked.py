"""What a measure is asked about: the features of one arm, and the split they are tested on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pandas as pd

from slimp.data.cohort import Cohort
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Predictions, Task, prediction_table
from slimp.features.design import Design
from slimp.features.feature_sets import FeatureSet
from slimp.features.feature_table import FeatureTable
from slimp.retrieval.index import EmbeddedCohort

BESIDE = "image+table"
"""Feature set of experiments: image embeddings beside raw metadata, whatever learned the former."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """One arm on one split."""

    table: FeatureTable
    """Of all images of the cohort."""
    task: Task
    """The classes, and one split."""
    config: ProbeConfig
    cohort: Cohort
    run: Path
    features: tuple[str, ...]
    reference: EmbeddedCohort | None = None
    """Of which metadata are retrieved."""

    def design(self, features: str, table: FeatureTable | None = None) -> Design:
        """The feature set, of this table or another one."""
        table = table or self.table
        if features != BESIDE:
            return table.design(cast(FeatureSet, features))
        full = table.design("full")
        return replace(full, blocks={"image": full.blocks["image"]})

    def rows(
        self, said: Predictions, features: str, setting: str = "", draw: int = 0
    ) -> pd.DataFrame:
        """What a measure yields of these predictions."""
        rows = prediction_table(self.task, [said], self.config.decision)
        return rows.assign(features=features, setting=setting, draw=draw)
