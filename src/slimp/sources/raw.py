"""What a source's reader hands over: the published table, and a way to open its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd

from slimp.cells import IMAGE_ENDING, image_key
from slimp.errors import TableError


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A dataset as it was published, before anything is typed or dropped."""

    table: pd.DataFrame
    """Text cells; the index holds the file and the row, as `reading.read_table` says."""
    open_image: Callable[[str], bytes | None]
    """Image cell -> the encoded image, or None if it is not there; called from several threads."""
    looked_in: str
    """Where images were looked for, in words."""
    close: Callable[[], None] = lambda: None
    """Closes what `open_image` keeps open."""


@runtime_checkable
class Reader(Protocol):
    """Finds a dataset's table and images under a folder.

    Raises:
        TableError: the table is missing or unreadable.
    """

    def __call__(self, raw: Path, *, table: str | None, images: str | None) -> RawTable:
        """`table` and `images` are paths from `raw` on that replace the usual ones."""
        ...


class ImageFolder:
    """Image files under some folders, found by what a table calls them.

    A cell may give a path from the folder on or just the file's name, with any ending or none.

    Args:
        folders: searched with all that is in them, hidden files aside.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._by_path: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for folder in self.folders:
            for path in _image_files(folder):
                key = image_key(path.relative_to(folder).as_posix())
                for where in {key, f"{folder.name}/{key}"}:
                    self._by_path.setdefault(where, []).append(path)
                self._by_stem.setdefault(key.rpartition("/")[2], []).append(path)

    def __len__(self) -> int:
        return sum(map(len, self._by_stem.values()))

    def __str__(self) -> str:
        return " and ".join(map(str, self.folders)) or "no folder"

    def find(self, cell: str) -> Path | None:
        """The file that the cell names.

        Raises:
            TableError: two files of different content answer to it.
        """
        key = image_key(cell)
        found = self._by_path.get(key) or ([] if "/" in key else self._by_stem.get(key, []))
        if len(found) > 1:
            exact = [path for path in found if path.name == cell.strip().rpartition("/")[2]]
            found = exact if len(exact) == 1 else found
        if len({path.read_bytes() for path in found} if len(found) > 1 else found) > 1:
            raise TableError(
                f"the image '{cell}' could be {found[0]} or {found[1]}, and they differ. "
                "Remove one, or write the path in the table."
            )
        return found[0] if found else None

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None."""
        path = self.find(cell)
        return None if path is None else path.read_bytes()


def first_file(raw: Path, names: Iterable[str], given: str | None = None) -> Path:
    """The first of these files that is there; `given` replaces them.

    Raises:
        TableError: none is there, or the raw folder is not.
    """
    names = [given] if given is not None else list(names)
    if not raw.is_dir():
        raise TableError(f"{raw}: no such folder. It should hold {' or '.join(names)}.")
    for name in names:
        if (raw / name).is_file():
            return raw / name
    raise TableError(f"{raw}: there is no table {' or '.join(names)}. Name another with --table.")


def image_folders(raw: Path, patterns: Iterable[str], given: str | None = None) -> list[Path]:
    """The folders that match the first pattern with a match; `given` replaces the patterns.

    A folder within another is left out: it is searched with that.

    Raises:
        TableError: the given folder is not there.
    """
    if given is not None:
        if not (raw / given).is_dir():
            raise TableError(f"{raw / given}: no such image folder. Name another with --images.")
        return [raw / given]
    for pattern in patterns:
        found = sorted(path for path in raw.glob(pattern) if path.is_dir())
        if found:
            return [path for path in found if not any(other in path.parents for other in found)]
    return []


def _image_files(folder: Path) -> Iterable[Path]:
    for where, inside, names in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if IMAGE_ENDING.search(name) and not name.startswith("."):
                yield Path(where, name)
