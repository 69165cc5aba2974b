"""A whole collection of the ISIC Archive, as isic-cli would leave it, but resumed and checked.

The folder gets the images, then `attribution.csv`, `licenses/` and `metrics.json`, and when all of
them are right `metadata.csv`: a folder without that table is not complete.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from slimp.data.files import make_folder, new_file, remove_partials, sha256_of, write_json
from slimp.errors import UserError
from slimp.sources.download.archive import (
    ATTRIBUTION_FIELD,
    LICENCE_FIELD,
    NAME_FIELD,
    Archive,
    ArchiveImage,
)
from slimp.sources.download.plan import METRICS, TABLE, Plan, image_files, write_config
from slimp.sources.download.transfer import LostImageError, fetch_image
from slimp.sources.image_limits import own_limits

ATTRIBUTIONS, LICENCES = "attribution.csv", "licenses"
NAMED = 5
"""Images that a message lists by name."""
WORKERS = 8
"""Images that are fetched at the same time."""


@dataclass(kw_only=True)
class DownloadReport:
    """What a download did, for `metrics.json`."""

    images: int = 0
    fetched: int = 0
    kept: int = 0
    """Were whole already."""
    fetched_bytes: int = 0
    licences: dict[str, int] = field(default_factory=dict)
    """Licence -> images under it."""
    lost: dict[str, str] = field(default_factory=dict)
    """Image that the archive lists and does not deliver -> why."""
    unlisted: list[str] = field(default_factory=list)
    """Images in the folder that the archive does not list (any more)."""

    def add(self, image: ArchiveImage, outcome: int | LostImageError) -> None:
        """Counts one image: the bytes fetched for it, or why there are none."""
        if isinstance(outcome, LostImageError):
            self.lost[image.file] = str(outcome)
            return
        self.fetched += outcome > 0
        self.kept += outcome == 0
        self.fetched_bytes += outcome


def download(
    archive: Archive,
    plan: Plan,
    *,
    max_missing: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DownloadReport:
    """What was done to have the plan's images and tables in its folder; may be run again.

    Args:
        archive: where from.
        plan: of `plan_download`.
        max_missing: images that the archive may list and not deliver.
        progress: called with the number of images done and in all.

    Raises:
        UserError: no room; the archive cannot be reached or understood; or what is in the end
            there is not what the archive says it holds.
    """
    plan.check_space()
    make_folder(plan.folder)
    remove_partials(plan.folder)
    write_config(plan)
    report, rows = DownloadReport(), []
    whole = plan.images == plan.collection.images
    listed = islice(archive.images(plan.collection.number), plan.images + whole)
    with own_limits(), closing(_fetch_all(archive, listed, plan.folder)) as outcomes:
        for image, outcome in outcomes:
            report.add(image, outcome)
            rows.append(image)
            if progress is not None:
                progress(min(len(rows), plan.images), plan.images)
    _check_count(plan, len(rows), archive.host)
    _check_lost(report, rows, max_missing, plan.folder)
    _write_tables(archive, plan, rows, report)
    return report


def _fetch_all(
    archive: Archive, images: Iterable[ArchiveImage], folder: Path
) -> Generator[tuple[ArchiveImage, int | LostImageError], None, None]:
    """Each image in order with the bytes fetched for it, or why there are none."""

    def fetch(image: ArchiveImage) -> int | LostImageError:
        try:
            return fetch_image(archive.files, image, folder)
        except LostImageError as lost:
            return lost

    waiting: deque[tuple[ArchiveImage, Future[int | LostImageError]]] = deque()
    pool = ThreadPoolExecutor(WORKERS)
    try:
        for image in images:
            waiting.append((image, pool.submit(fetch, image)))
            if len(waiting) >= 4 * WORKERS:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except BaseException:
        archive.stop.set()  # or the others would go on trying
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _check_count(plan: Plan, listed: int, host: str) -> None:
    """Refuses a list that is shorter or longer than the archive said."""
    if listed != plan.images:
        number, said = plan.collection.number, plan.collection.images
        found = f"only {listed:,}" if listed < plan.images else "more"
        raise UserError(
            f"{host}: collection {number} was said to hold {said:,} images, but {found} are "
            "listed. It may have changed under way: run the same command again."
        )


def _check_lost(
    report: DownloadReport, rows: list[ArchiveImage], max_missing: int, folder: Path
) -> None:
    """Counts what is there against what should be."""
    files = {path.name for path in image_files(folder)}
    wanted = {image.file for image in rows}
    report.images = len((files & wanted) - set(report.lost))
    report.unlisted = sorted(files - wanted)
    report.lost = {name: why for name, why in report.lost.items() if name in wanted}
    for name in sorted(wanted - files - set(report.lost)):
        report.lost[name] = "was removed while the download ran"
    if len(report.lost) > max_missing:
        named = "; ".join(f"{name} {why}" for name, why in list(report.lost.items())[:NAMED])
        raise UserError(
            f"{folder}: {report.images:,} of {len(rows):,} images are there, {len(report.lost):,} "
            f"could not be fetched ({named}). Run the same command again; if the archive does not "
            f"have them, go on without them: --max-missing {len(report.lost)}."
        )


def _write_tables(
    archive: Archive, plan: Plan, rows: list[ArchiveImage], report: DownloadReport
) -> None:
    """Licences, attributions and, as the sign that all is there, the table."""
    report.licences = dict(sorted(Counter(i.record[LICENCE_FIELD] for i in rows).items()))
    for name in report.licences:
        text = archive.licence_text(name)
        if text is not None:
            with new_file(plan.folder / LICENCES / f"{name}.txt") as partial:
                partial.write_text(text, encoding="utf-8")
    first = [NAME_FIELD, ATTRIBUTION_FIELD, LICENCE_FIELD]
    others = sorted({column for image in rows for column in image.record} - set(first))
    owners = [{**image.record, "file": image.file} for image in rows]
    _write(plan.folder / ATTRIBUTIONS, csv_text(["file", *first], owners))
    table = csv_text([*first, *others], [image.record for image in rows])
    (plan.folder / TABLE).unlink(missing_ok=True)  # never one that metrics.json does not know
    content: dict[str, Any] = dict(vars(report))
    del content["fetched"], content["kept"], content["fetched_bytes"]  # differ when run again
    content["rows"] = len(rows)
    with new_file(plan.folder / TABLE) as partial:
        partial.write_bytes(table)
        content["table_sha256"] = sha256_of(partial)
        write_json(plan.folder / METRICS, content)


def csv_text(columns: list[str], rows: Iterable[dict[str, str]]) -> bytes:
    """A table as isic-cli writes it: commas, an empty cell for what is absent."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def _write(target: Path, content: bytes) -> None:
    with new_file(target) as partial:
        partial.write_bytes(content)
