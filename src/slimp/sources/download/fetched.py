"""What a user fetched by hand, counted against what was published."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from slimp.errors import TableError, UserError
from slimp.sources import Source
from slimp.sources.read_source import read_source


def check_fetched(source: Source, raw: Path, progress: Callable[[int, int], None]) -> str:
    """How much of a public dataset's table and images is in the folder `raw`, if it is all.

    Raises:
        UserError: something is missing, or the table cannot be read.
    """
    if not source.is_published:
        raise UserError(f"source '{source.name}' is not published anywhere: nothing to fetch.")
    found, schema = read_source(source.layouts, source.schema(), raw)
    with closing(found):
        if schema.image not in found.table.columns:
            raise TableError(
                f"{found.table.index[0][0]}: has no column '{schema.image}', so it is not the "
                f"table of {source.title}."
            )
        cells = found.table[schema.image].unique()
        absent = []
        for done, cell in enumerate(cells, start=1):
            try:
                if not found.open_image(cell):
                    absent.append(cell)
            except OSError as error:
                absent.append(f"{cell}: {error}")
            progress(done, len(cells))
    if absent:
        raise UserError(
            f"{raw}: {len(absent):,} of {len(cells):,} images that the table names are not in "
            f"{found.looked_in} (such as {', '.join(absent[:5])}): a part of the archive may not "
            "be fetched or unpacked yet."
        )
    if source.images is not None and len(cells) < source.images:
        raise UserError(
            f"{raw}: the table names {len(cells):,} images, but {source.images:,} were published: "
            "it is a part of the dataset, or was cut short."
        )
    return f"{raw}: {len(found.table):,} rows, {len(cells):,} images in {found.looked_in}"
