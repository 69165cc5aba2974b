"""All columns of a cohort side by side: features, refused and unused ones alike.

Axis names: n = images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS, Feature, LevelName

Role = Literal["feature", "refused", "unused"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A column as it was published; missing is NA, features are typed, other columns are text."""

    name: str
    role: Role
    level: LevelName = "image"
    own: pd.Series
    """A value per row of its level's table."""
    values: pd.Series
    """A value per image."""
    feature: Feature | None = None
    """The schema's feature that reads the column; None for a refused or unused one."""
    reason: str = ""
    """Why the schema refuses it."""


def published_columns(cohort: Cohort) -> Iterator[Published]:
    """The feature columns level by level, then whatever else the images table holds."""
    lesions = cohort.lesion_of_image
    rows = {"lesion": lesions, "patient": cohort.patient_of_lesion[lesions]}
    used = _ids(cohort)
    for level in LEVELS:
        for feature in cohort.schema.level(level).features:
            for column in feature.columns:
                used.add(column)
                own = cohort.tables.of_level(level)[column]
                yield Published(
                    name=column,
                    role="feature",
                    level=level,
                    own=own,
                    values=own if level == "image" else _spread(own, rows[level]),
                    feature=feature,
                )
    blanks = {"", *(text for feature in cohort.schema.features for text in feature.missing)}
    for column in cohort.images.columns.difference(sorted(used), sort=False):
        values = cohort.images[column]
        values = values.mask(values.isin(blanks))
        yield Published(
            name=column,
            role="refused" if column in cohort.schema.refused else "unused",
            own=values,
            values=values,
            reason=cohort.schema.refused.get(column, ""),
        )


def _ids(cohort: Cohort) -> set[str]:
    """Columns of ids, labels and parts, by our names and by the published ones."""
    schema = cohort.schema
    published = (schema.image, schema.lesion, schema.patient, schema.label, schema.split)
    ours = {"image_id", "lesion_id", "patient_id", "label", "split"}
    return ours | {column for column in published if column is not None}


def _spread(own: pd.Series, rows: Int[np.ndarray, " n"]) -> pd.Series:
    return pd.Series(own.array.take(rows))
