"""A published table and its images become a cohort folder, whole or not at all.

Images stream from the source into a temporary folder beside the target, a few at a time in memory;
it gets the target's name when everything is written. An import that is interrupted leaves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slimp.data.cohort import Cohort, CohortInfo
from slimp.data.cohort_files import CohortWriter
from slimp.data.in_order import Progress, in_order
from slimp.data.schema import Schema
from slimp.data.signals import deferred_signals
from slimp.errors import CohortError, UserError
from slimp.sources.config import ImportOptions
from slimp.sources.decode_image import CHANGES, VerifiedImage, verify_image
from slimp.sources.image_limits import CorruptImageError, own_limits
from slimp.sources.level_tables import split_levels, type_rows
from slimp.sources.parse_cells import image_key

MUCH = 0.1
"""Share of the rows whose absence is worth a warning."""
NAMED = 10
"""Absent and corrupt images that are listed by name."""
GROUP = 64
"""Rows that a thread works on at a time; a quarter where images keep their size."""

OpenImage = Callable[[str], bytes | None]
"""Image cell -> the encoded image, or None if it is not there; called from several threads.

Raises `OSError` if this one image cannot be read, `UserError` if nothing should be.
"""
Outcome: TypeAlias = VerifiedImage | str | None
"""The image as the cohort stores it, why it is corrupt, or None if there is none."""


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A dataset as it was published, before anything is typed or dropped."""

    table: pd.DataFrame
    """Text cells; the index holds the file and the row, as `read_table.read_table` says."""
    open_image: OpenImage
    looked_in: str
    """Where images were looked for, in words."""
    hint: Callable[[str], str] = lambda cell: ""
    """A sentence that begins with a space, for an image cell that names no file; or ''."""
    notes: Callable[[], Sequence[str]] = lambda: ()
    """What is to be said about the files that `open_image` has found, a sentence each."""
    close: Callable[[], None] = lambda: None
    """Closes what `open_image` keeps open."""
    published: int | None = None
    """How many images the dataset has in full, where that is known."""
    layout: str = ""
    """Which of the dataset's known layouts this is, and what is to be said about it."""


@dataclass(frozen=True, kw_only=True)
class ImageCounts:
    """What became of the images of a table."""

    absent: list[str] = field(default_factory=list)
    """What the table calls those that are not there."""
    corrupt: list[str] = field(default_factory=list)
    """Likewise, each with the reason."""
    changes: Counter[str] = field(default_factory=Counter)
    """Of `decode_image.CHANGES` -> images."""

    def to_dict(self) -> dict[str, Any]:
        """Numbers, and some absent and corrupt images by name."""
        counts: dict[str, Any] = {"absent": len(self.absent)}
        counts |= {"absent_examples": self.absent[:NAMED], "corrupt": len(self.corrupt)}
        counts |= {"corrupt_examples": self.corrupt[:NAMED]}
        return counts | {name: self.changes[name] for name in CHANGES}


def import_cohort(
    raw: RawTable,
    schema: Schema,
    target: Path,
    *,
    info: CohortInfo,
    options: ImportOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Cohort:
    """The cohort written to `target`; its `info.import_report` says what was met and done.

    Rows without an image, and corrupt images up to the limits of `options`, are dropped and
    counted; lesions and patients that have no image left vanish, and values that disagree are
    resolved among the rows that stay. Where fewer images are found than were published, a
    warning says so.

    Raises:
        TableError: as `level_tables.type_rows`; or a patient id is missing.
        CohortError: no image was found, or more are absent or corrupt than `options` allow.
        UserError: `target` holds something and `overwrite` is off.
    """
    options = options or ImportOptions()
    if target.resolve() == Path.cwd():
        raise UserError(f"{target}: is the current folder. Name another one.")
    with CohortWriter.open(target, overwrite=overwrite) as writer:
        refuse = options.missing_patient_id == "refuse"
        rows = type_rows(raw.table, schema, refuse_missing_patients=refuse)
        cells, total = rows.image_cells.tolist(), len(raw.table)
        counts, kept = collect_images(cells, raw, writer, options, progress)
        tables, report = split_levels(rows.keep(kept), schema)
        warnings = _few_images(counts, int(kept.sum()), total, raw.published)
        content = report | counts.to_dict()
        content["assumed"] = [*report["assumed"], *raw.notes()]
        content |= {
            "warnings": [*report["warnings"], *warnings],
            "layout": raw.layout,
            "images": len(tables.images),
            "lesions": len(tables.lesions),
            "patients": len(tables.patients),
            "options": asdict(options),
        }
        del rows, cells  # nearly all the memory of a large import
        writer.finish(tables, schema, replace(info, import_report=content))
        del tables
    return Cohort.load(target)


def collect_images(
    cells: Sequence[str],
    raw: RawTable,
    writer: CohortWriter,
    options: ImportOptions,
    progress: Progress | None = None,
) -> tuple[ImageCounts, NDArray[np.bool_]]:
    """Writes the image of every row; what was met, and (rows,) whether each has one.

    SIGINT and SIGTERM interrupt between two rows.

    Raises:
        CohortError: as `import_cohort`.
        KeyboardInterrupt: there was a signal.
    """
    counts, kept = ImageCounts(), np.zeros(len(cells), dtype=bool)
    size = GROUP if options.shorter_side else GROUP // 4

    def verify(start: int) -> list[Outcome]:
        return [_verified(cell, raw, options.shorter_side) for cell in cells[start : start + size]]

    groups = in_order(verify, range(0, len(cells), size))
    with deferred_signals() as stop, own_limits(), closing(groups):
        for row, outcome in enumerate(chain.from_iterable(groups)):
            if isinstance(outcome, VerifiedImage):
                counts.changes.update(outcome.changes)
                writer.add_image(outcome.encoded)
                kept[row] = True
            elif outcome is None:
                counts.absent.append(cells[row])
            else:
                counts.corrupt.append(f"{cells[row]} ({outcome})")
            if len(counts.corrupt) > options.max_corrupt * len(cells):
                break  # more than any number of images found could excuse
            if progress is not None:
                progress(row + 1, len(cells))
            if stop.wanted:
                raise KeyboardInterrupt
    _check_counts(counts, int(kept.sum()), len(cells), raw, options)
    return counts, kept


def _verified(cell: str, raw: RawTable, shorter_side: int) -> Outcome:
    try:
        encoded = raw.open_image(cell)
        return None if encoded is None else verify_image(encoded, shorter_side=shorter_side)
    except OSError as error:
        return f"unreadable: {error}"
    except CorruptImageError as corrupt:
        return str(corrupt)


def _few_images(counts: ImageCounts, kept: int, rows: int, published: int | None) -> list[str]:
    """A warning if many images are not there, as after a download that was cut short."""
    found, absent = kept + len(counts.corrupt), len(counts.absent)
    if published is not None and found < published:
        return [f"{found:,} of {published:,} published images are here"]
    share = f"{absent:,} of {rows:,} rows ({absent / rows:.0%}) have no image here"
    return [f"{share} and were dropped"] * (absent > MUCH * rows)


def _check_counts(
    counts: ImageCounts, kept: int, rows: int, raw: RawTable, options: ImportOptions
) -> None:
    """Raises if the images do not suffice."""
    absent, corrupt = len(counts.absent), len(counts.corrupt)
    found, listed = kept + corrupt, "; ".join(counts.corrupt[:NAMED])
    if corrupt > options.max_corrupt * found:
        raise CohortError(
            f"{corrupt} of {found} images read are corrupt, more than the allowed share of "
            f"{options.max_corrupt:.1%}: {listed}. Replace them, remove their rows, or allow more "
            "with --max-corrupt (they are then dropped)."
        )
    if found and not kept:
        raise CohortError(f"all {found} images that were read are corrupt: {listed}.")
    if not found:
        example = counts.absent[0]
        raise CohortError(
            f"none of the {rows} images of the table was found. Looked in {raw.looked_in}, for "
            f"instance for {image_key(example)}.jpg (or another ending).{raw.hint(example)}"
        )
    if absent > options.max_absent * rows:
        raise CohortError(
            f"{absent} of {rows} images are absent, more than the allowed share of "
            f"{options.max_absent:.1%}, such as {', '.join(counts.absent[:NAMED])}. Looked in "
            f"{raw.looked_in}. Allow more with --max-absent (their rows are then dropped)."
        )
