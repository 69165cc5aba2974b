"""Draws a synthetic cohort: patients, lesions, photographs and metadata that depict nobody.

The hierarchy is true: a patient's phenotype shapes their metadata and all their lesions; a lesion's
type shapes its metadata and its look. Any size is written in the memory of its tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimp.cli.console import progress_bar, say
from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where things are."""

    raw: str
    """Nothing is read: '-'."""
    cohort: Path
    """Cohort folder to write."""
    overwrite: bool = False
    """Replace what is in COHORT."""
    config: SyntheticConfig


def run(arguments: Arguments) -> None:
    """Draws and writes the cohort."""
    from slimp.data.cohort import Cohort

    with progress_bar("drawing patients") as progress:
        write_synthetic(arguments.cohort, arguments.config, progress, overwrite=arguments.overwrite)
    say(f"{Cohort.load(arguments.cohort)!r}\nwritten: {arguments.cohort}")
