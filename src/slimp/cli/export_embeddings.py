"""Image embeddings with ids, metadata, a map and neighbours, for Embedding Atlas and FiftyOne.

Writes one Parquet file with a row per image: ids, label, metadata, `embedding`, `projection_x`,
`projection_y`, and `neighbors`, the rows of the nearest images and their cosine distances; beside
it a dataset card and a Croissant file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import slimp
from slimp.cli.console import note, progress_bar, say
from slimp.cli.flags import REQUIRED_FLAG
from slimp.cli.inputs import OnDevice, check_file
from slimp.data.config import require_positive

EXAMPLE = "slimp export embeddings runs/mine cohorts/mine --out atlas.parquet"


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Inputs and outputs."""

    run: Path
    """Run folder, or weights:NAME, a published encoder as it is."""
    cohort: Path
    """Cohort folder."""
    out: Path = field(metadata=REQUIRED_FLAG)
    """Parquet file to write. It holds metadata of patients."""
    overwrite: bool = False
    """Replace --out."""
    projection: Literal["pca", "umap"] = "pca"
    """umap takes minutes (pip install 'slimp[umap]')."""
    neighbours: int = 10
    """Nearest images of each."""

    def __post_init__(self) -> None:
        require_positive(self, "neighbours")


def run(arguments: Arguments) -> None:
    """Embeds, or takes the embeddings that slimp app kept, and writes the file."""
    from slimp.app.embeddings import embedded
    from slimp.app.export import beside, write_atlas
    from slimp.training.weights_run import as_run

    for path in (arguments.out, *beside(arguments.out)):
        check_file(path, overwrite=arguments.overwrite)
    folder, run = arguments.cohort, as_run(arguments.run)
    cohort = slimp.Cohort.load(folder)
    with progress_bar("embedding images") as progress:
        found = embedded(run, folder, cohort, accelerator=arguments.accelerator, progress=progress)
    write_atlas(
        arguments.out,
        cohort,
        found,
        projection=arguments.projection,
        neighbours=arguments.neighbours,
        run=run,
    )
    say(f"written: {arguments.out} ({len(cohort)} images)")
    note(f"embedding-atlas {arguments.out} --x projection_x --y projection_y --neighbors neighbors")
