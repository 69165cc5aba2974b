"""Draws a synthetic cohort: patients, lesions, photographs and metadata that depict nobody.

The hierarchy is true: a patient's phenotype shapes their metadata and all their lesions; a lesion's
type shapes its metadata and its look. Any size is written in the memory of its tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import slimp
from slimp.cli.console import progress_bar, say
from slimp.sources.synthetic.config import SyntheticConfig

EXAMPLE = "slimp data import synthetic - cohorts/drawn --patients 200 --seed 1"
MAIN_FLAGS = (
    *("patients", "lesions", "images_per_lesion", "image_size"),
    *("seed", "masks", "overwrite"),
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    raw: str
    """Nothing is read: '-'."""
    cohort: Path
    """Cohort folder to write."""
    overwrite: bool = False
    """Replace what is in COHORT and --masks."""
    masks: Path | None = None
    """Folder for a mask of each image, where its lesion is: what slimp explain --masks takes."""
    config: SyntheticConfig


def run(arguments: Arguments) -> None:
    """Draws and writes the cohort."""
    from slimp.data.files import check_output, new_folder
    from slimp.sources.synthetic.cohort import write_masks, write_synthetic

    masks = arguments.masks
    if masks is not None:
        check_output(masks, overwrite=arguments.overwrite)
    with progress_bar("drawing patients") as progress:
        write_synthetic(arguments.cohort, arguments.config, progress, overwrite=arguments.overwrite)
    cohort = slimp.Cohort.load(arguments.cohort)
    if masks is not None:
        with new_folder(masks, overwrite=arguments.overwrite) as folder:
            write_masks(folder, arguments.config, cohort.images["image_id"])
    say(f"{cohort!r}\nwritten: {arguments.cohort}{'' if masks is None else f', {masks}'}")
