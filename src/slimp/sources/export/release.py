"""What of a cohort leaves the house, and how a row of it reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS
from slimp.sources.export.plan import ExportOptions

LICENCE = re.compile(r"licen[cs]e|copyright|attribution", re.IGNORECASE)
"""Names of published columns that must go wherever an image goes."""
BATCH = 1000
"""Rows that are turned into Python objects at a time."""


def released(cohort: Cohort, options: ExportOptions) -> Cohort:
    """The cohort with those published columns that `options` let go along.

    Ids, labels, splits and the metadata of the schema always do; of the import report the counts
    do, and the examples do not: they name files and quote rows that may not be in the cohort.
    """
    info = replace(cohort.info, import_report=without_examples(cohort.info.import_report))
    cohort = replace(cohort, info=info)
    if options.published == "all":
        return cohort
    stay = [name for name in unreviewed_columns(cohort) if not LICENCE.search(name)]
    tables = replace(cohort.tables, images=cohort.images.drop(columns=stay))
    return replace(cohort, tables=tables)


def without_examples(report: Any) -> Any:
    """An import report of the same fields whose examples are empty."""
    if isinstance(report, Mapping):
        return {
            key: type(value)() if key.endswith(("example", "examples")) else without_examples(value)
            for key, value in report.items()
        }
    if isinstance(report, list | tuple):
        return [without_examples(item) for item in report]
    return report


def unreviewed_columns(cohort: Cohort) -> list[str]:
    """Columns of `cohort.images` that are neither the cohort's own nor metadata."""
    own = {"image_id", "lesion_id", "patient_id", "label", "split"}
    own |= set(cohort.schema.level("image").columns)
    return [str(name) for name in cohort.images.columns if name not in own]


def samples(cohort: Cohort, rows: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """Ids, label, split and metadata of each of these rows of `cohort.images`; None is missing."""
    of_lesion, of_patient = cohort.lesion_of_image, cohort.patient_of_lesion
    ids = [name for name in cohort.images.columns if name in ("label", "split")]
    ids = ["image_id", "lesion_id", "patient_id", *ids]
    published = unreviewed_columns(cohort)
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        places = {"image": some, "lesion": of_lesion[some], "patient": of_patient[of_lesion[some]]}
        levels = {
            name: _dicts(cohort.tables.of_level(name), cohort.schema.level(name).columns, rows)
            for name, rows in zip(LEVELS, map(places.__getitem__, LEVELS), strict=True)
        }
        own = _dicts(cohort.images, ids, some)
        more = _dicts(cohort.images, published, some)
        for i, sample in enumerate(own):
            metadata = {name: found[i] for name, found in levels.items()}
            yield {**sample, "metadata": metadata, "published": more[i]}


def _dicts(table: pd.DataFrame, columns: Any, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    if not len(columns):
        return [{} for _ in rows]
    part = table[list(columns)].iloc[rows]
    return list(pa.Table.from_pandas(part, preserve_index=False).to_pylist())
