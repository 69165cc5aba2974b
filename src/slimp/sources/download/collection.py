"""A whole collection of the ISIC Archive, as isic-cli would leave it, but resumed and checked.

The folder gets the images, then `attribution.csv`, `licenses/` and `metrics.json`, and when all of
them are right `metadata.csv`: a folder without that table is not complete.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import pandas as pd

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
from slimp.sources.decode_image import decode_image
from slimp.sources.download.archive import FIRST_COLUMNS, LICENCE, Archive, ArchiveImage, Collection
from slimp.sources.image_limits import CorruptImageError, own_limits
from slimp.sources.parse_cells import IMAGE_ENDING

TABLE, CONFIG, METRICS = "metadata.csv", "config.json", "metrics.json"
SPARE_BYTES = 64 << 20
"""What a disk must have left after the download: for tables and the file system's own."""
LARGEST_BYTES = 1 << 30
"""Of an image whose size the archive does not say; an endless answer must not fill the memory."""
WORKERS, TRIES = 8, 3
"""Images fetched at the same time, and answers per image that may be broken or wrong."""


@dataclass(kw_only=True)
class DownloadReport:
    """What a download did."""

    images: int = 0
    """Listed and there."""
    fetched: int = 0
    """Of those, in this run."""
    lost: dict[str, str] = field(default_factory=dict)
    """Image that the archive lists and does not deliver -> why."""
    licences: dict[str, int] = field(default_factory=dict)
    """Licence -> images under it."""


def download(
    archive: Archive,
    number: int,
    folder: Path,
    *,
    limit: int | None = None,
    max_missing: int = 0,
    agree: Callable[[str], None] = lambda plan: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DownloadReport:
    """Fetches a collection's images and tables into a folder; may be run again to go on.

    Args:
        archive: where from.
        number: of the collection.
        folder: to fetch into.
        limit: fetch the first images only.
        max_missing: images that the archive may list and not deliver.
        agree: called with what will be fetched, before anything is written; may raise.
        progress: called with the number of images done and in all.

    Raises:
        UserError: there is no such collection, no room, or something else in the folder; the
            archive cannot be reached or understood; or it does not deliver what it lists.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be positive, got {limit}.")
    _check_folder(folder, number)
    collection = archive.collection(number)
    if collection.images == 0:
        raise UserError(f"{archive.host}: collection {number} has no image that is public.")
    expected = min(collection.images, limit or collection.images)
    agree(_plan(archive, collection, folder, expected))
    make_folder(folder)
    remove_partials(folder)
    asked = {"archive": archive.address, "collection": number, "name": collection.name}
    asked |= {"images": collection.images, "limit": limit}
    asked["asked_utc"] = datetime.now(UTC).isoformat(timespec="seconds")
    versions = {"slimp": __version__, "isic-cli": version("isic-cli")}
    write_json(folder / CONFIG, {"download": asked, "versions": versions})  # the key to resuming
    listed = islice(archive.images(number), expected + (expected == collection.images))
    report, rows = DownloadReport(), list[ArchiveImage]()
    for image in _fetch(archive, folder, listed, report):
        rows.append(image)
        progress(min(len(rows), expected), expected)
    report.images = len(rows) - len(report.lost)
    if not len(rows) == len({image.file.casefold() for image in rows}) == expected:
        raise UserError(
            f"collection {number} was said to hold {collection.images:,} images, but fewer, more, "
            "or some twice are listed. It may have changed meanwhile: run the same command again."
        )
    if len(report.lost) > max_missing:
        named = "; ".join(f"{name} {why}" for name, why in list(report.lost.items())[:5])
        raise UserError(
            f"{folder}: {report.images:,} of {expected:,} images are there, {len(report.lost):,} "
            f"could not be fetched ({named}). Run the same command again; if the archive does not "
            f"have them, go on without them: --max-missing {len(report.lost)}."
        )
    _write_tables(archive, folder, rows, report)
    return report


def _check_folder(folder: Path, number: int) -> None:
    """Refuses a folder that holds anything but the same download, or a table that was edited."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: exists and is not a folder. Choose another place.")
    if not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir()):
        return
    begun = _noted(folder / CONFIG).get("download")
    if not isinstance(begun, dict) or begun.get("collection") != number:
        raise UserError(
            f"{folder}: holds something other than a download of collection {number}. Choose an "
            "empty or new folder; what you fetched yourself can be imported as it is."
        )
    table = folder / TABLE
    if table.is_file() and sha256_of(table) != _noted(folder / METRICS).get("table_sha256"):
        raise UserError(
            f"{table}: was changed after it was fetched, and would be replaced. Move it out of the "
            "folder, or choose another folder."
        )


def _noted(path: Path) -> dict[str, object]:
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _plan(archive: Archive, collection: Collection, folder: Path, expected: int) -> str:
    """What will be fetched and how much room there is, in a sentence; refuses if it is too little.

    A collection whose size the archive does not say is tried.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    there = [p for p in found if IMAGE_ENDING.search(p.name) and not p.name.startswith(".")]
    disk = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.is_dir())
    free, needed = shutil.disk_usage(disk).free, None
    if collection.size_bytes is not None:
        share = collection.size_bytes * expected // collection.images
        needed = max(share - sum(path.stat().st_size for path in there), 0)
        if needed + SPARE_BYTES > free:
            raise UserError(
                f"{folder}: {_size(needed)} are still to be fetched, but only {_size(free)} are "
                "free there. Make room, choose another disk, or fetch fewer images with --limit."
            )
    present = f", {len(there):,} of them there already" if there else ""
    return (
        f"collection {collection.number} of {archive.host}, '{collection.name}': {expected:,} "
        f"images{present}; {'an unknown size' if needed is None else _size(needed)} to fetch into "
        f"{folder}, where {_size(free)} are free"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _fetch(
    archive: Archive, folder: Path, listed: Iterator[ArchiveImage], report: DownloadReport
) -> Iterator[ArchiveImage]:
    """The images in their order, each when it is in the folder or known to be lost."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        with own_limits():
            while chunk := list(islice(listed, 8 * WORKERS)):
                results = pool.map(partial(fetch_image, archive, folder), chunk)
                for image, problem in zip(chunk, results, strict=True):
                    report.fetched += problem == ""
                    if problem:
                        report.lost[image.file] = problem
                    yield image
    except BaseException:
        archive.stop.set()  # or the others would go on trying
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def fetch_image(archive: Archive, folder: Path, image: ArchiveImage) -> str | None:
    """None if the image is there already, empty if it was fetched, else why it could not be.

    Raises:
        UserError: no answer, as often as was asked.
    """
    target, problem = folder / image.file, ""
    if target.is_file() and not _problem_with(target.read_bytes(), image.size_bytes):
        return None
    for _ in range(TRIES):
        content, problem = _receive(archive, image)
        problem = problem or _problem_with(content, image.size_bytes)
        if not problem:
            with new_file(target) as file:
                file.write_bytes(content)
            break
        archive.stop.wait(archive.wait_seconds)
    return problem


def _receive(archive: Archive, image: ArchiveImage) -> tuple[bytes, str]:
    """What the server sends, and why that is not all of it, or ''."""
    from requests import RequestException

    most = LARGEST_BYTES if image.size_bytes is None else image.size_bytes
    content = bytearray()
    with archive.session.get(image.url, stream=True) as answer:
        if not answer.ok:
            return b"", f"the server answers {answer.status_code}"
        try:
            for chunk in answer.iter_content(1 << 16):
                if len(content) > most or archive.stop.is_set():
                    break
                content += chunk
        except RequestException:
            return b"", "breaks off in the middle"
    return bytes(content), ""


def _problem_with(content: bytes, size_bytes: int | None) -> str:
    """Why bytes are not the image of that size, or ''."""
    if size_bytes is not None and len(content) != size_bytes:
        return f"has {len(content):,} bytes instead of {size_bytes:,}"
    try:
        decode_image(content)
    except CorruptImageError as error:
        return f"is not a whole image ({error})"
    return ""


def _write_tables(
    archive: Archive, folder: Path, rows: list[ArchiveImage], report: DownloadReport
) -> None:
    """Licences, attributions and, as the sign that all is there, the table."""
    first = list(FIRST_COLUMNS)
    table = pd.DataFrame([{**image.record, "file": image.file} for image in rows])
    report.licences = dict(sorted(Counter(image.record[LICENCE] for image in rows).items()))
    for name in report.licences:
        if (text := archive.licence_text(name)) is not None:
            with new_file(folder / "licenses" / f"{name}.txt") as file:
                file.write_text(text, encoding="utf-8")
    with new_file(folder / "attribution.csv") as file:
        table[["file", *first]].to_csv(file, index=False)
    (folder / TABLE).unlink(missing_ok=True)  # never one that metrics.json does not know
    with new_file(folder / TABLE) as file:
        others = table.columns.drop([*first, "file"]).sort_values()
        table[[*first, *others]].to_csv(file, index=False, lineterminator="\r\n")
        content = {**asdict(report), "table_sha256": sha256_of(file)}
        del content["fetched"]  # differs when run again
        write_json(folder / METRICS, content)
