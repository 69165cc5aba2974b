"""Looks for everything in a cohort that could spoil a result, before a GPU is used.

Missing patient ids, unreadable, blank and duplicate images, conflicting labels, columns that give
the label away, missing values, personal data. Exit status 2 if the cohort cannot be used as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import slimp
from slimp.cli.console import note, progress_bar, say
from slimp.cli.flags import command_line
from slimp.cli.inputs import noted
from slimp.errors import CohortError

EXAMPLE = "slimp data check cohorts/mine --out audits/mine"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    cohort: Path
    """Cohort folder."""
    out: Path | None = None
    """Folder to write: a page (report.html), tables (CSV, Parquet) and metrics.json."""
    format: Literal["text", "json"] = "text"
    """What to print."""
    near_duplicates: bool = True
    """Also find images that were resized, compressed again, brightened, cropped or turned."""
    images: bool = True
    """Show duplicates on the page. Switch it off for a shareable report."""
    overwrite: bool = False
    """Replace what is in --out."""


def run(arguments: Arguments) -> None:
    """Prints what was found, and writes it if asked to.

    Raises:
        CohortError: the cohort is unusable.
    """
    import json

    from slimp.data.files import check_output
    from slimp.report.audit import write_audit

    out, near = arguments.out, arguments.near_duplicates
    if out is not None:
        check_output(out, overwrite=arguments.overwrite)
    cohort = slimp.Cohort.load(arguments.cohort)
    with progress_bar("opening, then comparing images") as progress:
        report = slimp.check_cohort(cohort, near_duplicates=near, progress=progress)
    if arguments.format == "json":
        say(json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        say(report.render())
    if out is not None:
        write_audit(
            out,
            report,
            cohort,
            config=noted(arguments),
            images=arguments.images,
            overwrite=arguments.overwrite,
            command=command_line(arguments),
        )
        note(f"written: {out}")
    if not report.usable:
        raise CohortError(f"{arguments.cohort}: not usable as it is; see the errors above.")
