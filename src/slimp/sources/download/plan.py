"""What a download will fetch and whether there is room for it, before anything is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from slimp.data.files import read_json, sha256_of
from slimp.errors import UserError
from slimp.sources.download.archive import Archive, Collection
from slimp.sources.parse_cells import IMAGE_ENDING

TABLE, CONFIG, METRICS = "metadata.csv", "config.json", "metrics.json"
SPARE_BYTES = 64 << 20
"""What a disk must have left after the download: for tables and the file system's own."""


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
    there, needed = image_files(folder), None
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


def image_files(folder: Path) -> list[Path]:
    """The images directly in the folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [p for p in found if IMAGE_ENDING.search(p.name) and not p.name.startswith(".")]
