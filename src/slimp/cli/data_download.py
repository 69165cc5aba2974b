"""Fetches a dataset from the ISIC Archive, or checks what you fetched from elsewhere.

SOURCE is one of those that `slimp data sources` lists; isic with --collection fetches any other
public collection of the archive. Images and metadata.csv land in RAW, where `slimp data import`
finds them. What the disk needs is said first. A download that was cut off goes on where it ended
when the same command is run again. Other datasets are fetched by hand, because their owners want
their terms accepted: this verb says where, and counts what is in RAW.
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slimp.cli.console import note, progress_bar, say
from slimp.errors import UserError

if TYPE_CHECKING:
    from slimp.sources import Source

ANY_COLLECTION = "isic"
"""The source that reads any collection of the archive."""

EXAMPLE = "slimp data download hiba downloads/hiba"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    source: str
    """Name of the dataset, or isic."""
    raw: Path
    """Folder to fetch into, or that holds what you fetched."""
    collection: int | None = None
    """Number of a collection of the ISIC Archive (source isic)."""
    limit: int | None = None
    """Fetch the first images only; the same command with more goes on."""
    max_missing: int = 0
    """Images, at most, that the archive lists and does not deliver."""
    yes: bool = False
    """Do not ask before the download begins."""
    archive: str | None = None
    """Address of the archive's API, such as a mirror's; default: the variable SLIMP_ISIC_ARCHIVE,
    else the ISIC Archive."""


def run(arguments: Arguments) -> None:
    """Downloads or checks, and prints what there is.

    Raises:
        UserError: something is missing in the end.
    """
    from slimp.sources import get_source

    source, given = get_source(arguments.source), arguments.collection
    number = given if source.name == ANY_COLLECTION else source.collection
    if given is not None and given != number:
        raise UserError(
            f"source '{source.name}' is not collection {given} of the ISIC Archive. To fetch that, "
            f"use source '{ANY_COLLECTION}'."
        )
    if number is not None:
        _download(number, arguments)
    elif source.name == ANY_COLLECTION:
        raise UserError(
            "source 'isic' needs --collection NUMBER; the public collections are listed at "
            "https://api.isic-archive.com/collections/."
        )
    elif arguments.limit is not None:
        raise UserError(f"--limit has no effect: '{source.name}' is fetched by hand.")
    else:
        _check(source, arguments.raw)
    say(f"complete. next: slimp data import {source.name} {arguments.raw} COHORT")


def _check(source: Source, raw: Path) -> None:
    """Says where a dataset is, and counts what of it is in `raw`."""
    from slimp.sources.download.fetched import check_fetched

    lines = [source.title, source.homepage, f"licence: {source.licence}", source.citation]
    say("\n  ".join(line for line in [*lines, f"to do: {source.how_to_get}"] if line))
    with progress_bar("looking for images") as progress:
        say(check_fetched(source, raw, progress))


def _download(number: int, arguments: Arguments) -> None:
    """Fetches a collection, after the user agreed."""
    from slimp.sources.download.archive import Archive
    from slimp.sources.download.collection import download

    def agree(plan: str) -> None:
        note(plan)
        if arguments.yes:
            return
        if not sys.stdin.isatty():
            raise UserError("nobody can be asked whether to begin: pass --yes.")
        note("Begin? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UserError("nothing was fetched.")

    with (
        closing(Archive(arguments.archive)) as archive,
        progress_bar("fetching images") as progress,
    ):
        report = download(
            archive,
            number,
            arguments.raw,
            limit=arguments.limit,
            max_missing=arguments.max_missing,
            agree=agree,
            progress=progress,
        )
    licences = ", ".join(f"{name} ({count:,})" for name, count in report.licences.items())
    say(
        f"{arguments.raw}: {report.images:,} images, {report.fetched:,} of them fetched now\n"
        f"licences: {licences}; the attribution of each image is in attribution.csv"
    )
    if report.lost:
        note(f"not delivered by the archive: {', '.join(report.lost)}")
