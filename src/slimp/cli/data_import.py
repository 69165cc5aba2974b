"""Makes a cohort from a public dataset as it was published, or from your own table and images.

SOURCE is one of those that `slimp data sources` lists; RAW is its folder or zip file. For
your own data SOURCE is csv, and --schema names a file that says what each column is. Rows without
an image are dropped and counted; nothing is guessed. The cohort appears whole or not at all.
`slimp data import synthetic` has a help of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from slimp.cli.console import progress_bar, say, show_table
from slimp.sources.config import ImportOptions

EXAMPLE = "slimp data import csv my_data cohorts/mine --schema schema.toml"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    source: str
    """Name of the dataset, or csv."""
    raw: Path
    """Folder or zip file that holds the data as published."""
    cohort: Path
    """Cohort folder to write."""
    schema: Path | None = None
    """Schema file of your own table (source csv)."""
    table: str | None = None
    """The table, as a path from RAW on, if it is not where the source has it."""
    images: str | None = None
    """The folder, zip or HDF5 file of the images, as a path from RAW on, if it is elsewhere."""
    overwrite: bool = False
    """Replace what is in COHORT."""
    options: ImportOptions = field(default_factory=ImportOptions)


def run(arguments: Arguments) -> None:
    """Imports, and prints what was met and done."""
    from slimp.sources import RawFiles, import_source

    files = RawFiles(table=arguments.table, images=arguments.images)
    if arguments.schema is not None:
        files = RawFiles.from_toml(arguments.schema, table=arguments.table, images=arguments.images)
    with progress_bar("importing images") as progress:
        cohort = import_source(
            arguments.source,
            arguments.raw,
            arguments.cohort,
            files=files,
            options=arguments.options,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    say(repr(cohort))
    report = cohort.info.import_report
    show_table(
        "what the import met and did",
        ["", ""],
        [(name.replace("_", " "), _short(value)) for name, value in report.items() if value],
    )
    say(f"written: {arguments.cohort}\nnext: slimp data check {arguments.cohort}")


def _short(value: object, most: int = 5) -> str:
    """A value of the report in one line; all of it is in cohort.json."""
    if isinstance(value, dict):
        items = [f"{key or '(empty)'}: {_short(entry)}" for key, entry in value.items()]
        most = len(items)
    elif isinstance(value, list | tuple):
        items = [_short(entry) for entry in value]
    else:
        return str(value)
    more = f", and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
