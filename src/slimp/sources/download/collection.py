"""A whole collection of the ISIC Archive, as isic-cli would leave it, but resumed and checked.

The folder gets the images, then `attribution.csv`, `licenses/` and `metrics.json`, and when all of
them are right `metadata.csv`: a folder without that table is not complete.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from slimp import __version__
from slimp.data.files import (
    make_folder,
    new_file,
    remove_partials,
    sha256_of,
    write_json,
)
from slimp.errors import UserError
from slimp.sources.download.archive import (
    ATTRIBUTION_FIELD,
    LICENCE_FIELD,
    NAME_FIELD,
    Archive,
    ArchiveImage,
)
from slimp.sources.download.plan import CONFIG, METRICS, TABLE, Plan, image_files
from slimp.sources.download.session import StoppedError
from slimp.sources.image_limits import FORMATS, MAX_PIXELS, own_limits

LARGEST_BYTES = 1 << 30
"""Of an image whose size the archive does not say; an endless answer must not fill the disk."""
WORKERS, TRIES = 8, 3
"""Images fetched at the same time, and answers per image that may be broken or wrong."""


class LostImageError(Exception):
    """The server answers, but not with this image; the message is the reason, in a few words."""


@dataclass(kw_only=True)
class DownloadReport:
    """What a download did, for `metrics.json`."""

    images: int = 0
    fetched: int = 0
    licences: dict[str, int] = field(default_factory=dict)
    """Licence -> images under it."""
    lost: dict[str, str] = field(default_factory=dict)
    """Image that the archive lists and does not deliver -> why."""
    unlisted: list[str] = field(default_factory=list)
    """Images in the folder that the archive does not list (any more)."""


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
        UserError: the archive cannot be reached or understood; or what is in the end there is not
            what the archive says it holds.
    """
    make_folder(plan.folder)
    remove_partials(plan.folder)
    _write_config(archive, plan)
    listed = archive.images(plan.collection.number)
    listed = islice(listed, plan.images + (plan.images == plan.collection.images))
    report, rows = DownloadReport(), list[ArchiveImage]()
    pool = ThreadPoolExecutor(WORKERS)
    try:
        with own_limits():
            while chunk := list(islice(listed, 8 * WORKERS)):
                for image, got in zip(
                    chunk, pool.map(partial(_try_image, archive, plan.folder), chunk), strict=True
                ):
                    rows.append(image)
                    if isinstance(got, LostImageError):
                        report.lost[image.file] = str(got)
                    else:
                        report.fetched += got > 0
                    if progress is not None:
                        progress(min(len(rows), plan.images), plan.images)
    except BaseException:
        archive.stop.set()  # or the others would go on trying
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    _check_complete(plan, report, rows, max_missing)
    _write_tables(archive, plan, rows, report)
    return report


def _write_config(archive: Archive, plan: Plan) -> None:
    """Notes what was asked, from where and when: the first thing written, the key to resuming."""
    asked = {
        "archive": archive.address,
        "collection": plan.collection.number,
        "name": plan.collection.name,
        "doi": plan.collection.doi,
        "limit": plan.limit,
        "images": plan.images,
        "asked_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    versions = {"slimp": __version__, "isic-cli": version("isic-cli")}
    write_json(plan.folder / CONFIG, {"download": asked, "versions": versions})


def _try_image(archive: Archive, folder: Path, image: ArchiveImage) -> int | LostImageError:
    try:
        return fetch_image(archive, image, folder)
    except LostImageError as lost:
        return lost


def fetch_image(archive: Archive, image: ArchiveImage, folder: Path) -> int:
    """The bytes that were fetched to make `folder / image.file` whole: 0 if it was already.

    Raises:
        LostImageError: the server does not have it, or sends something else.
        UnreachableError: no answer, as often as was asked.
    """
    target = folder / image.file
    if target.is_file() and _problem_with(target, image.size_bytes) is None:
        return 0
    problem: str | None = ""
    with new_file(target) as file:
        for _ in range(TRIES):
            problem = _receive(archive, image, file) or _problem_with(file, image.size_bytes)
            if problem is None:
                return file.stat().st_size
            archive.stop.wait(archive.wait_seconds)
        raise LostImageError(problem)


def _receive(archive: Archive, image: ArchiveImage, target: Path) -> str | None:
    """Writes what the server sends; why the answer ended too early, or None if it did not."""
    import requests

    most = LARGEST_BYTES if image.size_bytes is None else image.size_bytes
    with archive.files.get(image.url, stream=True) as answer, target.open("wb") as file:
        if not answer.ok:
            raise LostImageError(f"the server answers {answer.status_code}")
        try:
            for chunk in answer.iter_content(1 << 16):
                if archive.stop.is_set():
                    raise StoppedError
                file.write(chunk)
                if file.tell() > most:
                    break
        except requests.RequestException:
            return "breaks off in the middle"
    return None


def _problem_with(path: Path, size_bytes: int | None) -> str | None:
    """Why a file is not the image of that size, in words; None if it is."""
    size = path.stat().st_size
    if size_bytes is not None and size != size_bytes:
        return f"has {size:,} bytes instead of {size_bytes:,}"
    if size > LARGEST_BYTES:
        return f"has more than {LARGEST_BYTES:,} bytes"
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return f"is too large, {picture.width} x {picture.height} pixels"
            picture.draft(None, (1, 1))  # JPEG: all data are read, few pixels are computed
            picture.load()
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        return f"is not a whole image ({' '.join(str(error).split())[:100]})"
    return None


def _check_complete(
    plan: Plan, report: DownloadReport, rows: list[ArchiveImage], max_missing: int
) -> None:
    """Counts what is listed and what is there against what should be."""
    if len(rows) != plan.images:
        found = f"only {len(rows):,}" if len(rows) < plan.images else "more"
        raise UserError(
            f"collection {plan.collection.number} was said to hold {plan.collection.images:,} "
            f"images, but {found} are listed. It may have changed meanwhile: run the same command "
            "again."
        )
    files = {path.name for path in image_files(plan.folder)}
    wanted = {image.file for image in rows}
    report.unlisted = sorted(files - wanted)
    for name in sorted(wanted - files - set(report.lost)):
        report.lost[name] = "was removed while the download ran"
    report.images = len(wanted - set(report.lost))
    if len(report.lost) > max_missing:
        named = "; ".join(f"{name} {why}" for name, why in list(report.lost.items())[:5])
        raise UserError(
            f"{plan.folder}: {report.images:,} of {len(rows):,} images are there, "
            f"{len(report.lost):,} could not be fetched ({named}). Run the same command again; if "
            f"the archive does not have them, go on without them: --max-missing {len(report.lost)}."
        )


def _write_tables(
    archive: Archive, plan: Plan, rows: list[ArchiveImage], report: DownloadReport
) -> None:
    """Licences, attributions and, as the sign that all is there, the table."""
    report.licences = dict(sorted(Counter(i.record[LICENCE_FIELD] for i in rows).items()))
    for name in report.licences:
        if (text := archive.licence_text(name)) is not None:
            with new_file(plan.folder / "licenses" / f"{name}.txt") as file:
                file.write_text(text, encoding="utf-8")
    first = [NAME_FIELD, ATTRIBUTION_FIELD, LICENCE_FIELD]
    others = sorted({column for image in rows for column in image.record} - set(first))
    with new_file(plan.folder / "attribution.csv") as file:
        owners = [{**image.record, "file": image.file} for image in rows]
        file.write_bytes(_csv_text(["file", *first], owners))
    (plan.folder / TABLE).unlink(missing_ok=True)  # never one that metrics.json does not know
    with new_file(plan.folder / TABLE) as file:
        file.write_bytes(_csv_text([*first, *others], [image.record for image in rows]))
        content: dict[str, Any] = {**vars(report), "table_sha256": sha256_of(file)}
        del content["fetched"]  # differs when run again
        write_json(plan.folder / METRICS, content)


def _csv_text(columns: list[str], rows: Iterable[dict[str, str]]) -> bytes:
    """A table as isic-cli writes it: commas, an empty cell for what is absent."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")
