"""Looks for everything in a cohort that could spoil a result, before a GPU is used.

Counts, missing values, images that cannot be read or occur twice, conflicting labels, columns
that give the label away, patients that disagree with themselves. Exit status 2 if the cohort
cannot be used as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimp.console import progress_bar, say
from slimp.errors import CohortError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where things are."""

    cohort: Path
    """Cohort folder."""


def run(arguments: Arguments) -> None:
    """Prints what was found.

    Raises:
        CohortError: the cohort is unusable.
    """
    from slimp.check import check_cohort
    from slimp.cohort import Cohort

    cohort = Cohort.load(arguments.cohort)
    with progress_bar("opening images") as progress:
        report = check_cohort(cohort, progress=progress)
    say(report.render())
    if not report.usable:
        raise CohortError(f"{arguments.cohort}: not usable as it is; see the errors above.")
