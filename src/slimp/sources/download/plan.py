"""What a download will fetch and whether there is room for it, before anything is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slimp import __version__
from slimp.data.files import read_json, sha256_of, write_json
from slimp.errors import UserError
from slimp.sources.download.archive import Archive, Collection
from slimp.sources.parse_cells import IMAGE_ENDING

TABLE, CONFIG, METRICS = "metadata.csv", "config.json", "metrics.json"
SPARE_BYTES = 64 << 20
"""What a disk must have left after the download: for tables and the file system's own."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a download will fetch, before anything is written."""

    archive: str
    collection: Collection
    folder: Path
    limit: int | None
    images: int
    present: int
    """Images that are in the folder already."""
    needed_bytes: int | None
    """Still to be written; None where the archive does not say how large the images are."""
    free_bytes: int

    def check_space(self) -> None:
        """Raises UserError if the disk has no room for it."""
        if self.needed_bytes is not None and self.needed_bytes + SPARE_BYTES > self.free_bytes:
            raise UserError(
                f"{self.folder}: {gigabytes(self.needed_bytes)} are still to be fetched, but only "
                f"{gigabytes(self.free_bytes)} are free there. Make room, choose another disk, or "
                "fetch fewer images with --limit."
            )


def plan_download(archive: Archive, number: int, folder: Path, *, limit: int | None = None) -> Plan:
    """What `download` will do; writes nothing.

    Raises:
        UserError: there is no such collection, it is empty, or the folder holds something else.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be positive, got {limit}.")
    check_folder(folder, number, limit)
    collection = archive.collection(number)
    if collection.images == 0:
        raise UserError(f"{archive.host}: the collection {number} has no image that is public.")
    images = min(collection.images, limit or collection.images)
    there = image_files(folder)
    needed = None
    if collection.size_bytes is not None:
        share = collection.size_bytes * images // collection.images
        needed = max(share - sum(path.stat().st_size for path in there), 0)
    return Plan(
        archive=archive.address,
        collection=collection,
        folder=folder,
        limit=limit,
        images=images,
        present=len(there),
        needed_bytes=needed,
        free_bytes=shutil.disk_usage(_existing(folder)).free,
    )


def gigabytes(size: int) -> str:
    """A number of bytes in words.

    Example:
        >>> gigabytes(1_234_567_890), gigabytes(56_700_000)
        ('1.2 GB', '57 MB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def write_config(plan: Plan) -> None:
    """Notes what was asked, from where and when: the first thing written, the key to resuming."""
    try:
        client = version("isic-cli")
    except PackageNotFoundError:
        client = "unknown"
    download_ = {
        "archive": plan.archive,
        "collection": plan.collection.number,
        "name": plan.collection.name,
        "doi": plan.collection.doi,
        "limit": plan.limit,
        "images": plan.images,
        "asked_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    versions = {"slimp": __version__, "isic-cli": client}
    write_json(plan.folder / CONFIG, {"download": download_, "versions": versions})


def check_folder(folder: Path, number: int, limit: int | None) -> None:
    """Refuses a folder that holds anything but the same download, complete or not."""
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
    before = begun.get("limit")
    if limit is not None and (before is None or limit < before):
        begun_with, remedy = "all images", "leave --limit out"
        if before is not None:
            begun_with, remedy = f"{before} images", f"pass --limit {before} or more"
        raise UserError(
            f"{folder}: was begun with {begun_with}; {remedy}, or choose another folder for fewer."
        )
    _check_table(folder)


def _check_table(folder: Path) -> None:
    """Refuses to replace a table that somebody changed."""
    if not (folder / TABLE).is_file():
        return
    known = read_json(folder / METRICS) if (folder / METRICS).is_file() else {}
    if not isinstance(known, dict) or sha256_of(folder / TABLE) != known.get("table_sha256"):
        raise UserError(
            f"{folder / TABLE}: was changed after it was fetched, and would be replaced. Move it "
            "out of the folder, or choose another folder."
        )


def image_files(folder: Path) -> list[Path]:
    """The images directly in the folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if IMAGE_ENDING.search(path.name) and not path.name.startswith(".") and path.is_file()
    )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that is there."""
    place = folder.resolve()
    while not place.is_dir():
        place = place.parent
    return place
