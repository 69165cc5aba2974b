"""Writes a cohort in the format of other tools.

webdataset: tar shards with an image and a JSON file per sample; the webdataset package streams
them, and `slimp data import webdataset` reads them back. hf: Parquet shards, as
`datasets.load_dataset` reads them. Shards are cut by official split, and never within a patient. A
dataset card and croissant.json lie beside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import slimp
from slimp.cli.console import progress_bar, say, show_table
from slimp.cli.flags import REQUIRED_FLAG
from slimp.cli.inputs import Output
from slimp.sources.config import ExportOptions, Format

EXAMPLE = "slimp data export cohorts/mine --format webdataset --out shards"


@dataclass(frozen=True, kw_only=True)
class Arguments(Output):
    """Inputs and outputs."""

    cohort: Path
    """Cohort folder."""
    format: Format = field(metadata=REQUIRED_FLAG)
    """Which one: webdataset (tar) or hf (Hugging Face datasets, Parquet)."""
    options: ExportOptions = field(default_factory=ExportOptions)


def run(arguments: Arguments) -> None:
    """Exports, and prints what was written."""
    from slimp.sources.export import export_cohort
    from slimp.training.run_folder import versions

    cohort = slimp.Cohort.load(arguments.cohort)
    with progress_bar("exporting images") as progress:
        metrics = export_cohort(
            cohort,
            arguments.out,
            arguments.format,
            options=arguments.options,
            overwrite=arguments.overwrite,
            record={"cohort": str(arguments.cohort), "versions": versions()},
            progress=progress,
        )
    show_table(
        "exported",
        ["split", "images"],
        [(name, f"{count:,}") for name, count in metrics["splits"].items()],
    )
    if left_out := metrics["columns_left_out"]:
        say(
            f"left out, being neither metadata nor a licence: {', '.join(left_out)} (--published "
            "all takes them along)"
        )
    if cohort.info.licence == "unknown":
        say(
            "the licence of this cohort is not known, and the card says so: state licence and "
            "citation under [dataset] in the schema file, and import again"
        )
    size = f"{metrics['shards']} shards, {metrics['bytes'] / 2**20:,.1f} MiB"
    say(f"written: {arguments.out} ({size})")
