"""The findings of `slimp data check`, with the images that each is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slimp.checks.finding import Finding
from slimp.data.cohort import Cohort
from slimp.data.files import read_json, write_json
from slimp.data.in_order import Progress

MOST = 500
"""Images that a finding opens."""


def audit(
    cohort: Cohort, kept: Path, *, run: bool, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """The findings that `kept` holds, as the page takes them (see `server`).

    Where it is not there, none, or with `run` those of a check now.
    """
    if not kept.is_file():
        if not run:
            return []
        from slimp.checks.report import check_cohort

        report = check_cohort(cohort, progress=progress)
        write_json(kept, [_with_rows(found, cohort.images) for found in report.findings])
    return list(read_json(kept))


def _with_rows(found: Finding, images: pd.DataFrame) -> dict[str, Any]:
    """A finding with the rows of images of its ids, or of lesions or patients if none has them."""
    names = ("image_id", "lesion_id", "patient_id")
    rows = (np.flatnonzero(images[name].isin(list(found.ids))) for name in names)
    example = f" For example {found.example}." if found.example else ""
    return {
        "level": found.severity,
        "title": found.code.replace("-", " ").capitalize(),
        "text": f"{found.message[:1].upper()}{found.message[1:]}{example}",
        "remedy": found.remedy,
        "indices": next(filter(len, rows), np.arange(0))[:MOST].tolist(),
        "total": found.count,
    }
