"""A published table and its images become a cohort folder, whole or not at all.

Images stream from the source into the folder, a few at a time in memory. What was done is kept if
the import is cut short: see `slimp.sources.partial`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import PIL
import pyarrow as pa

from slimp import __version__
from slimp.data.cohort import Cohort, CohortInfo
from slimp.data.files import check_output
from slimp.data.in_order import in_order
from slimp.data.schema import Schema
from slimp.data.signals import deferred_signals
from slimp.errors import CohortError
from slimp.sources.level_tables import split_levels, type_rows
from slimp.sources.parse_cells import image_key
from slimp.sources.partial import PartialImport, Record
from slimp.sources.raw import RawTable
from slimp.sources.verifiers import Opened, Verifiers
from slimp.sources.verify_image import VerifiedImage, own_limits

Progress = Callable[[int, int], None]
"""Called after each row with the number done and the number in all."""

MUCH = 0.1
"""Share of the rows whose absence is worth a warning."""
NAMED = 10
"""Absent and corrupt images that are listed by name."""
THREADS = min(8, os.cpu_count() or 1)
GROUP = 16
"""Rows that a thread works on at a time."""
PROCESSES_FROM = 5_000
"""Rows from which on it is worth to start processes."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What an import does with images, and how much it puts up with."""

    shorter_side: int = 320
    """Larger images are downsized until their shorter side has this length, px; 0 keeps them."""
    max_corrupt: float = 0.01
    """Share of the images found that may be corrupt (they are dropped); more fails the import."""
    max_absent: float = 1.0
    """Share of the rows that may lack their image (they are dropped); more fails the import."""
    missing_patient_id: Literal["refuse", "one-each"] = "refuse"
    """Rows without a patient id (blank, nan, unknown, ...): refused, because two of them may be of
    one patient and fall into two parts; one-each: each such lesion is a patient of its own."""

    def __post_init__(self) -> None:
        if self.shorter_side < 0:
            raise ValueError(f"shorter_side must be 0 or more, got {self.shorter_side}")
        for name in ("max_corrupt", "max_absent"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


@dataclass(kw_only=True)
class ImageCounts:
    """What became of the images of a table, row by row."""

    absent: int = 0
    absent_examples: list[str] = field(default_factory=list)
    corrupt: int = 0
    corrupt_examples: list[str] = field(default_factory=list)
    resized: int = 0
    converted: int = 0
    stripped: int = 0
    """Images whose files held more than the image (EXIF, XMP, comments, DICOM tags), now gone."""
    first_frames: int = 0
    """Images that are the first of several frames."""

    def add(self, cell: str, record: Record) -> None:
        """Counts one row."""
        if record is None:
            self.absent += 1
            self.absent_examples += [cell] * (len(self.absent_examples) < NAMED)
        elif isinstance(record, str):
            self.corrupt += 1
            self.corrupt_examples += [f"{cell} ({record})"] * (len(self.corrupt_examples) < NAMED)
        else:
            self.resized += record[1]
            self.converted += record[2]
            self.stripped += record[3]
            self.first_frames += record[4]


def import_cohort(
    raw: RawTable,
    schema: Schema,
    target: Path,
    *,
    info: CohortInfo,
    options: ImportOptions | None = None,
    published: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Cohort:
    """The cohort written to `target`; its `info.import_report` says what was met and done.

    Rows without an image, and corrupt images up to the limits of `options`, are dropped and
    counted; lesions and patients that have no image left vanish, and values that disagree are
    settled among the rows that stay. An import that is cut short leaves a hidden folder beside
    `target` (`partial_folder`), from which `resume` continues to the same files, bit for bit;
    the images are taken to be the same ones then. `published` is how many images there ought to
    be; where fewer are found, a warning says so.

    Raises:
        TableError: as `tables.type_rows`; or a patient id is missing.
        CohortError: no image was found, or more are absent or corrupt than `options` allow.
        UserError: `target` holds something and `overwrite` is off; or there is an import that
            was cut short, and neither is it to be resumed nor overwritten, or it was another one.
    """
    options = options or ImportOptions()
    check_output(target, overwrite=overwrite)
    identity = {
        "table": hash_of(raw.table),
        "image places": raw.looked_in,
        "schema": schema.to_dict(),
        "options": asdict(options),
        "source": asdict(info),
        "versions": {"slimp": __version__, "pillow": PIL.__version__},
    }
    total = len(raw.table)
    with PartialImport(target, identity, rows=total, resume=resume, overwrite=overwrite) as partial:
        refuse = options.missing_patient_id == "refuse"
        rows = type_rows(raw.table, schema, refuse_missing_patients=refuse)
        cells = rows.image_cells.tolist()
        counts = collect_images(cells, raw, partial, options, progress)
        tables, report = split_levels(rows.keep(partial.kept), schema)
        content: dict[str, Any] = asdict(report) | asdict(counts)
        warnings = _few_images(counts, int(partial.kept.sum()), total, published)
        content |= {
            "warnings": [*report.warnings, *warnings],
            "layout": raw.layout,
            "images": len(tables.images),
            "lesions": len(tables.lesions),
            "patients": len(tables.patients),
            "options": asdict(options),
        }
        del rows, cells  # nearly all the memory of a large import
        partial.finish(tables, schema, replace(info, import_report=content))
        del tables
    return Cohort.load(target)


def collect_images(
    cells: Sequence[str],
    raw: RawTable,
    partial: PartialImport,
    options: ImportOptions,
    progress: Progress | None = None,
) -> ImageCounts:
    """Brings the image of every row that is not through yet into `partial`, and counts them all.

    SIGINT and SIGTERM are granted between two rows.

    Raises:
        CohortError: as `import_cohort`.
        KeyboardInterrupt: there was a signal; what is done is kept.
    """
    counts = ImageCounts()
    for cell, record in zip(cells, partial.earlier, strict=False):
        counts.add(cell, record)
    partial.earlier.clear()

    left = len(cells) - partial.done
    groups = (cells[i : i + GROUP] for i in range(partial.done, len(cells), GROUP))
    with (
        deferred_signals() as stop,
        own_limits(),
        Verifiers(
            THREADS if left >= PROCESSES_FROM else 0, shorter_side=options.shorter_side
        ) as verify,
        closing(
            in_order(
                lambda some: verify(_open(x, raw) for x in some),
                groups,
                threads=THREADS,
                ahead=2 * THREADS,
            )
        ) as fetched,
    ):
        for outcome in chain.from_iterable(fetched):
            record = outcome if not isinstance(outcome, VerifiedImage) else _record(outcome)
            counts.add(cells[partial.done], record)
            partial.add(record, outcome.encoded if isinstance(outcome, VerifiedImage) else b"")
            if counts.corrupt > options.max_corrupt * len(cells):
                break  # more than any number of images found could excuse
            if progress is not None:
                progress(partial.done, len(cells))
            if stop.wanted:
                raise KeyboardInterrupt
    _check_counts(counts, int(partial.kept.sum()), len(cells), raw, options)
    partial.save()
    return counts


def _open(cell: str, raw: RawTable) -> Opened:
    """The encoded image of a cell, why it cannot be read, or None if it is absent."""
    try:
        return raw.open_image(cell)
    except OSError as error:
        return f"unreadable: {error}"


def _record(image: VerifiedImage) -> Record:
    counted = (image.resized, image.converted, image.stripped, image.first_frame)
    return [len(image.encoded), *map(int, counted)]


def hash_of(table: pd.DataFrame) -> str:
    """SHA-256 of a table of text: of its names, where its rows lie, and its cells."""
    digest = hashlib.sha256(json.dumps([str(name) for name in table.columns]).encode())
    columns = [table[name] for name in table.columns]
    columns += [table.index.get_level_values(n).to_series() for n in range(table.index.nlevels)]
    for column in columns:
        text = pa.chunked_array([pa.array(column.astype("str"), pa.large_string())])
        for chunk in text.chunks:
            ends = np.frombuffer(chunk.buffers()[1], dtype=np.int64)
            ends = ends[chunk.offset : chunk.offset + len(chunk) + 1]
            digest.update((ends - ends[0]).tobytes())
            digest.update(memoryview(chunk.buffers()[2])[ends[0] : ends[-1]])
    return digest.hexdigest()


def _few_images(counts: ImageCounts, kept: int, rows: int, published: int | None) -> list[str]:
    """A warning if many images are not there, as after a download that was cut short."""
    found = kept + counts.corrupt
    if published is not None and found < published:
        return [f"{found:,} of {published:,} published images are here"]
    if counts.absent > MUCH * rows:
        return [
            f"{counts.absent:,} of {rows:,} rows ({counts.absent / rows:.0%}) have no image here "
            "and were dropped"
        ]
    return []


def _check_counts(
    counts: ImageCounts, kept: int, rows: int, raw: RawTable, options: ImportOptions
) -> None:
    """Raises if the images do not suffice."""
    found = kept + counts.corrupt
    listed = "; ".join(counts.corrupt_examples)
    if counts.corrupt > options.max_corrupt * found:
        raise CohortError(
            f"{counts.corrupt} of {found} images read are corrupt, more than the allowed share of "
            f"{options.max_corrupt:.1%}: {listed}. Replace them, remove their rows, or allow more "
            "with --max-corrupt (they are then dropped)."
        )
    if found and not kept:
        raise CohortError(f"all {found} images that were read are corrupt: {listed}.")
    if not found:
        example = counts.absent_examples[0]
        raise CohortError(
            f"none of the {rows} images of the table was found. Looked in {raw.looked_in}, for "
            f"instance for {image_key(example)}.jpg (or another ending)."
        )
    if counts.absent > options.max_absent * rows:
        raise CohortError(
            f"{counts.absent} of {rows} images are absent, more than the allowed share of "
            f"{options.max_absent:.1%}, such as {', '.join(counts.absent_examples)}. Looked in "
            f"{raw.looked_in}. Allow more with --max-absent (their rows are then dropped)."
        )
