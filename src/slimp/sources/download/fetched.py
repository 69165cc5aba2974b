"""What a user fetched by hand, counted against what was published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slimp.errors import TableError, UserError
from slimp.sources import Source
from slimp.sources.read_source import read_published


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A dataset on disk beside the published one."""

    looked_in: str
    rows: int
    images: int
    """Different images that the table names and that are there."""
    absent: int
    absent_examples: tuple[str, ...]
    published: int | None
    """Images as published; None if that depends."""

    def problem(self) -> str | None:
        """What is missing, in one sentence; None if nothing is."""
        if self.absent:
            named = ", ".join(self.absent_examples)
            return (
                f"{self.absent:,} of {self.absent + self.images:,} images that the table names are "
                f"not in {self.looked_in} (such as {named}): a part of the archive may not be "
                "fetched or unpacked yet."
            )
        if self.published is not None and self.images < self.published:
            return (
                f"the table names {self.images:,} images, but {self.published:,} were published: "
                "it is a part of the dataset, or was cut short."
            )
        return None


def check_fetched(
    source: Source, raw: Path, *, progress: Callable[[int, int], None] | None = None
) -> Fetched:
    """What of a source's published table and images is in `raw`.

    Args:
        source: a public dataset.
        raw: folder that the user filled.
        progress: called with the number of images looked for and in all.

    Raises:
        UserError: there is no table, it is unreadable, or it lacks the column of the images.
    """
    if not source.is_published or source.schema_file is None:
        raise UserError(f"source '{source.name}' is not published anywhere: nothing to fetch.")
    published, schema = read_published(source.schema_file, raw)
    column = schema.image
    try:
        if column not in published.table.columns:
            raise TableError(
                f"{published.table.index[0][0]}: has no column '{column}', so it is not the "
                f"table of {source.title}."
            )
        cells = list(dict.fromkeys(published.table[column]))
        absent = []
        for done, cell in enumerate(cells, start=1):
            if not published.open_image(cell):
                absent.append(cell)
            if progress is not None:
                progress(done, len(cells))
    finally:
        published.close()
    return Fetched(
        looked_in=published.looked_in,
        rows=len(published.table),
        images=len(cells) - len(absent),
        absent=len(absent),
        absent_examples=tuple(absent[:5]),
        published=source.images,
    )
