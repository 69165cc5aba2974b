"""The findings of `slimp data check`, with the images that each is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from slimp.checks.finding import Finding
from slimp.data.cohort import Cohort
from slimp.data.files import read_json, write_json
from slimp.data.in_order import Progress

MOST = 500
"""Images that a finding opens."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One finding."""

    level: str
    """error, warning or note."""
    title: str
    text: str
    remedy: str
    indices: tuple[int, ...]
    """Rows of the images, at most `MOST`."""
    total: int
    """Images, groups, cells or columns, as the text says."""


def audit(
    cohort: Cohort, kept: Path, *, run: bool, progress: Progress | None = None
) -> list[Found]:
    """The findings that `kept` holds; without it none, or with `run` those of a check now."""
    if not kept.is_file():
        if not run:
            return []
        from slimp.checks.report import check_cohort

        report = check_cohort(cohort, progress=progress)
        write_json(kept, [asdict(found) for found in _with_rows(report.findings, cohort)])
    return [Found(**{**entry, "indices": tuple(entry["indices"])}) for entry in read_json(kept)]


def _with_rows(findings: Iterable[Finding], cohort: Cohort) -> Iterable[Found]:
    for found in findings:
        example = f" For example {found.example}." if found.example else ""
        text = f"{found.message[:1].upper()}{found.message[1:]}{example}"
        yield Found(
            level=found.severity,
            title=found.code.replace("-", " ").capitalize(),
            text=text,
            remedy=found.remedy,
            indices=tuple(_rows(found.ids, cohort.images)[:MOST].tolist()),
            total=found.count,
        )


def _rows(ids: Iterable[str], images: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Of images with these ids, or of lesions or patients if no image is called so."""
    for name in ("image_id", "lesion_id", "patient_id"):
        if len(rows := np.flatnonzero(images[name].isin(list(ids)))):
            return rows
    return np.empty(0, dtype=np.int64)
