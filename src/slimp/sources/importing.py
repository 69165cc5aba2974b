"""A published table and its images become a cohort folder, whole or not at all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from slimp.cells import image_key
from slimp.cohort import Cohort, CohortInfo, CohortWriter
from slimp.errors import CohortError, TableError
from slimp.schema import Schema
from slimp.sources.raw import RawTable
from slimp.sources.verify import CorruptImageError, VerifiedImage, own_limits, verify_image
from slimp.storage import check_output
from slimp.tables import split_levels, type_rows

Progress = Callable[[int, int], None]
"""Called after each row with the number done and the number in all."""
Item = TypeVar("Item")
Result = TypeVar("Result")

NAMED = 10
"""Absent and corrupt images that are listed by name."""
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What an import does with images, and how much it puts up with."""

    shorter_side: int = 320
    """Larger images are downsized until their shorter side has this length, px; 0 keeps them."""
    max_corrupt: float = 0.01
    """Share of the images found that may be corrupt (they are dropped); more fails the import."""
    max_absent: float = 1.0
    """Share of the rows that may lack their image (they are dropped); more fails the import."""
    empty_patients: Literal["refuse", "own"] = "refuse"
    """Rows with an empty patient cell: refused, because two of them may be of one patient and
    land in two parts; own: each lesion without a patient is a patient of its own."""

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

    def add(self, cell: str, outcome: VerifiedImage | CorruptImageError | None) -> None:
        """Counts one row."""
        if outcome is None:
            self.absent += 1
            self.absent_examples += [cell] * (len(self.absent_examples) < NAMED)
        elif isinstance(outcome, CorruptImageError):
            self.corrupt += 1
            self.corrupt_examples += [f"{cell} ({outcome})"] * (len(self.corrupt_examples) < NAMED)
        else:
            self.resized += outcome.resized
            self.converted += outcome.converted


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
    settled among the rows that stay.

    Raises:
        TableError: as `tables.type_rows`; or a patient cell is empty.
        CohortError: no image was found, or more are absent or corrupt than `options` allow.
        UserError: `target` holds something and `overwrite` is off.
    """
    options = options or ImportOptions()
    check_output(target, overwrite=overwrite)
    rows = type_rows(raw.table, schema)
    if rows.report.empty_patient_ids and options.empty_patients == "refuse":
        raise _empty_patient(raw, schema, rows.report.empty_patient_ids)
    cells = rows.image_cells.tolist()
    kept = np.zeros(len(rows), dtype=bool)
    counts = ImageCounts()

    def fetch(cell: str) -> VerifiedImage | CorruptImageError | None:
        try:
            encoded = raw.open_image(cell)
            if encoded is None:
                return None
            return verify_image(encoded, shorter_side=options.shorter_side)
        except CorruptImageError as corrupt:
            return corrupt
        except OSError as error:
            return CorruptImageError(f"unreadable: {error}")

    with (
        CohortWriter(target, overwrite=overwrite) as writer,
        own_limits(),
        closing(_in_order(fetch, cells)) as outcomes,
    ):
        for row, outcome in enumerate(outcomes):
            counts.add(cells[row], outcome)
            if isinstance(outcome, VerifiedImage):
                writer.add_image(outcome.encoded)
                kept[row] = True
            if counts.corrupt > options.max_corrupt * len(cells):
                break  # more than any number of images found could excuse
            if progress is not None:
                progress(row + 1, len(cells))
        _check_counts(counts, int(kept.sum()), len(cells), raw, options)
        tables, report = split_levels(rows.keep(kept), schema)
        content: dict[str, Any] = asdict(report) | asdict(counts)
        content |= {
            "images": len(tables.images),
            "lesions": len(tables.lesions),
            "patients": len(tables.patients),
            "options": asdict(options),
        }
        writer.finish(tables, schema, replace(info, import_report=content))
    return Cohort.load(target)


def _empty_patient(raw: RawTable, schema: Schema, count: int) -> TableError:
    column = str(schema.patient)
    file, row = raw.table.index[(raw.table[column].str.strip() == "").to_numpy()][0]
    return TableError(
        f"{file}, row {row}: the patient column '{column}' is empty, as in {count} row(s) in all. "
        "Fill it in; or if each lesion without a patient is a patient of its own, pass "
        "--empty-patients own."
    )


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


def _in_order(
    work: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """Results in the order of `items`, worked out by several threads, a few ahead."""
    pending = iter(items)
    with ThreadPoolExecutor(THREADS) as pool:
        ahead = deque(pool.submit(work, item) for item in islice(pending, 4 * THREADS))
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(pool.submit(work, item) for item in islice(pending, 1))
        finally:
            pool.shutdown(cancel_futures=True)
