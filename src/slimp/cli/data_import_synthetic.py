"""Draws a synthetic cohort: patients, lesions, photographs and metadata that depict nobody.

The hierarchy is true: a patient's phenotype shapes their metadata and all their lesions; a lesion's
type shapes its metadata and its look. Any size is written in the memory of its tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimp.cli.console import progress_bar, say
from slimp.sources.synthetic.cohort import write_synthetic
from slimp.sources.synthetic.config import SyntheticConfig

EXAMPLE = "slimp data import synthetic - cohorts/drawn --patients 200 --seed 1"
MAIN_FLAGS = (
    *("patients", "lesions", "images_per_lesion", "image_size"),
    *("seed", "overwrite"),
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

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
