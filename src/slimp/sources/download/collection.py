"""A whole collection of the ISIC Archive, as isic-cli would leave it, but resumed and checked.

The folder gets the images, then `attribution.csv`, `licenses/` and `metrics.json`, and when all of
them are right `metadata.csv`: a folder without that table is not complete.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from slimp import __version__
from slimp.data.files import (
    make_folder,
    new_file,
    read_json,
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
    Collection,
)
from slimp.sources.download.session import StoppedError
from slimp.sources.image_limits import FORMATS, MAX_PIXELS, own_limits
from slimp.sources.parse_cells import IMAGE_ENDING

TABLE, CONFIG, METRICS = "metadata.csv", "config.json", "metrics.json"
SPARE_BYTES = 64 << 20
"""What a disk must have left after the download: for tables and the file system's own."""
LARGEST_BYTES = 1 << 30
"""Of an image whose size the archive does not say; an endless answer must not fill the disk."""
WORKERS, TRIES = 8, 3
"""Images fetched at the same time, and answers per image that may be broken or wrong."""


class LostImageError(Exception):
    """The server answers, but not with this image; the message is the reason, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a download will fetch, before anything is written."""

    collection: Collection
    folder: Path
    limit: int | None
    images: int
    present: int
    """Images that are in the folder already."""
    needed_bytes: int | None
    """Still to be written; None where the archive does not say how large the images are."""
    free_bytes: int


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


def plan_download(archive: Archive, number: int, folder: Path, *, limit: int | None = None) -> Plan:
    """What `download` will do; writes nothing.

    Raises:
        UserError: there is no such collection, it is empty, the folder holds something else, or the
            disk has no room for it.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be positive, got {limit}.")
    _check_folder(folder, number)
    collection = archive.collection(number)
    if collection.images == 0:
        raise UserError(f"{archive.host}: the collection {number} has no image that is public.")
    images = min(collection.images, limit or collection.images)
    there, needed = _image_files(folder), None
    if collection.size_bytes is not None:
        share = collection.size_bytes * images // collection.images
        needed = max(share - sum(path.stat().st_size for path in there), 0)
    disk = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.is_dir())
    free = shutil.disk_usage(disk).free
    if needed is not None and needed + SPARE_BYTES > free:
        raise UserError(
            f"{folder}: {gigabytes(needed)} are still to be fetched, but only {gigabytes(free)} "
            "are free there. Make room, choose another disk, or fetch fewer images with --limit."
        )
    return Plan(
        collection=collection,
        folder=folder,
        limit=limit,
        images=images,
        present=len(there),
        needed_bytes=needed,
        free_bytes=free,
    )


def gigabytes(size: int) -> str:
    """A number of bytes in words.

    Example:
        >>> gigabytes(1_234_567_890), gigabytes(56_700_000)
        ('1.2 GB', '57 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


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
    report, rows = DownloadReport(), list[ArchiveImage]()
    listed = archive.images(plan.collection.number)
    listed = islice(listed, plan.images + (plan.images == plan.collection.images))

    def fetch(image: ArchiveImage) -> int | LostImageError:
        try:
            return fetch_image(archive, image, plan.folder)
        except LostImageError as lost:
            return lost

    pool = ThreadPoolExecutor(WORKERS)
    try:
        with own_limits():
            while chunk := list(islice(listed, 8 * WORKERS)):
                for image, outcome in zip(chunk, pool.map(fetch, chunk), strict=True):
                    rows.append(image)
                    if isinstance(outcome, LostImageError):
                        report.lost[image.file] = str(outcome)
                    else:
                        report.fetched += outcome > 0
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
    with new_file(target) as partial:
        for _ in range(TRIES):
            problem = _receive(archive, image, partial) or _problem_with(partial, image.size_bytes)
            if problem is None:
                return partial.stat().st_size
            archive.stop.wait(archive.wait_seconds)
        raise LostImageError(problem)


def _receive(archive: Archive, image: ArchiveImage, partial: Path) -> str | None:
    """Writes what the server sends; why the answer ended too early, or None if it did not."""
    import requests

    most = LARGEST_BYTES if image.size_bytes is None else image.size_bytes
    with archive.files.get(image.url, stream=True) as answer, partial.open("wb") as file:
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
    files = {path.name for path in _image_files(plan.folder)}
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
            with new_file(plan.folder / "licenses" / f"{name}.txt") as partial:
                partial.write_text(text, encoding="utf-8")
    first = [NAME_FIELD, ATTRIBUTION_FIELD, LICENCE_FIELD]
    others = sorted({column for image in rows for column in image.record} - set(first))
    with new_file(plan.folder / "attribution.csv") as partial:
        owners = [{**image.record, "file": image.file} for image in rows]
        partial.write_bytes(_csv_text(["file", *first], owners))
    (plan.folder / TABLE).unlink(missing_ok=True)  # never one that metrics.json does not know
    with new_file(plan.folder / TABLE) as partial:
        partial.write_bytes(_csv_text([*first, *others], [image.record for image in rows]))
        content: dict[str, Any] = {**vars(report), "table_sha256": sha256_of(partial)}
        del content["fetched"]  # differs when run again
        write_json(plan.folder / METRICS, content)


def _csv_text(columns: list[str], rows: Iterable[dict[str, str]]) -> bytes:
    """A table as isic-cli writes it: commas, an empty cell for what is absent."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def _check_folder(folder: Path, number: int) -> None:
    """Refuses a folder that holds anything but the same download, or a table that was edited."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: exists and is not a folder. Choose another place.")
    if not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir()):
        return
    known = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    begun = known.get("download") if isinstance(known, dict) else None
    if not isinstance(begun, dict):
        raise UserError(
            f"{folder}: holds files that this command did not fetch. Choose an empty or new "
            "folder; what you fetched yourself can be imported as it is."
        )
    if begun.get("collection") != number:
        raise UserError(
            f"{folder}: holds collection {begun.get('collection')} ({begun.get('name')}), not "
            f"{number}. Choose another folder."
        )
    if (folder / TABLE).is_file():
        known = read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
        if not isinstance(known, dict) or sha256_of(folder / TABLE) != known.get("table_sha256"):
            raise UserError(
                f"{folder / TABLE}: was changed after it was fetched, and would be replaced. Move "
                "it out of the folder, or choose another folder."
            )


def _image_files(folder: Path) -> list[Path]:
    """The images directly in the folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [p for p in found if IMAGE_ENDING.search(p.name) and not p.name.startswith(".")]
