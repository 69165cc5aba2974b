"""RAW, a folder or one zip file, seen as files by their paths; zips anywhere in it are folders.

Nothing is unpacked to disk. Hidden files, and what file managers leave behind, are not seen.
"""

from __future__ import annotations

import io
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from slimp.errors import TableError
from slimp.sources.archives import Archive, Bytes, DamagedMemberError, FileBytes, Stream
from slimp.sources.dicom import is_dicom
from slimp.sources.parse_cells import IMAGE_ENDING, NO_ENDING, UNREAD_ENDING, image_key

MAX_IMAGE_BYTES = 1 << 28
"""An image of more is refused, as is one in a zip that says it unpacks to more."""
MAX_TABLE_BYTES = 1 << 32
"""A table in a zip that says it unpacks to more is refused."""
NESTED = 3
"""Zips within zips that are opened."""
ZIP_ENDING = re.compile(r"\.zip$", re.IGNORECASE)
SKIPPED = re.compile(r"(?:^|/)(?:\.|__MACOSX(?:/|$)|Thumbs\.db$)", re.IGNORECASE)


class Place:
    """All files under RAW, by number; zip files stand as folders of their name.

    Links in a folder are followed; those in a zip are refused.

    Args:
        raw: the folder or zip file.
        holds: what it should hold, for the message if it is not there.

    Raises:
        TableError: `raw` is not there, or a zip file in it is damaged or could do harm.
    """

    def __init__(self, raw: Path, holds: str = "the data as published") -> None:
        self.raw = raw
        self.paths: list[str] = []
        """From `raw` on, with `/`, as `part_1.zip/a.jpg`."""
        self._owners, self._members = array("l"), array("L")  # of each file: archive, number in it
        self._archives: list[Archive] = []
        self._files: list[FileBytes] = []
        try:
            if raw.is_dir():
                self._add_folder()
            elif raw.is_file() and (content := self._file_bytes(raw)).read(0, 2) == b"PK":
                self._add_archive(content, "", depth=1)
            else:
                what = "neither a folder nor a" if raw.exists() else "no such folder or"
                raise TableError(f"{raw}: {what} zip file. It should hold {holds}.")
        except OSError as error:
            self.close()
            raise TableError(f"{raw}: cannot be read ({error}).") from None
        except TableError:
            self.close()
            raise

    def shown(self, number: int) -> Path:
        """The file's place, for messages."""
        return self.raw / self.paths[number]

    def number(self, path: str) -> int | None:
        """The file at that path from `raw` on, or None."""
        wanted = path.strip().replace("\\", "/").removeprefix("./")
        return self.paths.index(wanted) if wanted in self.paths else None

    def inside_zip(self, number: int) -> bool:
        """Whether the file is a member of a zip."""
        return self._owners[number] >= 0

    def read(self, number: int, *, limit: int) -> bytes:
        """The whole file.

        Raises:
            TableError: it is larger than `limit`.
            OSError: it is unreadable or damaged.
        """
        owner = self._owners[number]
        if owner < 0:
            path = self.shown(number)
            if (size := path.stat().st_size) > limit:
                raise TableError(
                    f"{path}: has {size:,} bytes, more than the {limit:,} that are read. Remove it."
                )
            return path.read_bytes()
        return self._archives[owner].read(self._members[number], limit=limit)

    def open(self, number: int) -> io.BufferedReader:
        """The file as a seekable file object, which one thread at a time may use."""
        return io.BufferedReader(Stream(self._bytes(number)), 1 << 16)

    def is_packed(self, number: int) -> bool:
        """Whether reading a part of the file means inflating much of it."""
        owner = self._owners[number]
        return owner >= 0 and not self._archives[owner].is_stored(self._members[number])

    def same(self, a: int, b: int) -> bool:
        """Whether two files have the same content."""
        if self.inside_zip(a) and self.inside_zip(b):
            one, other = (self._archives[self._owners[n]] for n in (a, b))
            i, j = self._members[a], self._members[b]
            return (one.sizes[i], one.crcs[i]) == (other.sizes[j], other.crcs[j])
        return self.read(a, limit=MAX_TABLE_BYTES) == self.read(b, limit=MAX_TABLE_BYTES)

    def files(self, pattern: str) -> list[int]:
        """Files whose path ends as the pattern says (`*` within a name; case is ignored)."""
        return [n for n, path in enumerate(self.paths) if _matches(path, pattern)]

    def folders(self, pattern: str) -> list[str]:
        """Folders and zips whose path ends as the pattern says; '.' is RAW itself.

        One within another is left out: it is searched with that.
        """
        if pattern == ".":
            return [""]
        found = sorted(path for path in self._folders if _matches(_plain(path), pattern))
        return [path for path in found if not any(path.startswith(f"{o}/") for o in found)]

    def folder(self, path: str) -> str:
        """The folder or zip at that path from `raw` on.

        Raises:
            TableError: there is none, or nothing is in it.
        """
        wanted = path.strip().replace("\\", "/").removeprefix("./").rstrip("/")
        if wanted in ("", "."):
            return ""
        for found in (wanted, f"{wanted}.zip"):
            if any(_within(path, found) for path in self.paths):
                return found
        raise TableError(
            f"{self.raw / path}: no such image folder, or no file is in it. Name another with "
            "--images, as a path from RAW on."
        )

    def close(self) -> None:
        """Closes the zip files."""
        for file in self._files:
            file.close()

    @cached_property
    def _folders(self) -> frozenset[str]:
        direct = {path.rpartition("/")[0] for path in self.paths}
        parts = [path.split("/") for path in direct if path]
        return frozenset("/".join(names[:k]) for names in parts for k in range(1, len(names) + 1))

    def _bytes(self, number: int) -> Bytes:
        owner = self._owners[number]
        if owner < 0:
            return self._file_bytes(self.shown(number))
        return self._archives[owner].part(self._members[number])

    def _file_bytes(self, path: Path) -> FileBytes:
        self._files.append(FileBytes(path))
        return self._files[-1]

    def _add(self, path: str, owner: int, member: int) -> None:
        self.paths.append(path)
        self._owners.append(owner)
        self._members.append(member)

    def _add_folder(self) -> None:
        for path in _walk(self.raw):
            if ZIP_ENDING.search(path):
                self._add_archive(self._file_bytes(self.raw / path), path, depth=1)
            else:
                self._add(path, -1, 0)

    def _add_archive(self, source: Bytes, path: str, *, depth: int) -> None:
        shown = str(self.raw / path)
        if depth > NESTED:
            raise TableError(f"{shown}: lies in more than {NESTED} zip files. Unpack the outer.")
        archive = Archive(source, shown)
        owner = len(self._archives)
        self._archives.append(archive)
        for member, name in enumerate(archive.names):
            inner = f"{path}/{name}" if path else name
            if SKIPPED.search(name):
                continue
            if not ZIP_ENDING.search(name):
                self._add(inner, owner, member)
                continue
            try:
                self._add_archive(archive.part(member), inner, depth=depth + 1)
            except DamagedMemberError as error:
                raise TableError(
                    f"{self.raw / inner}: not a whole zip file ({error}). Download it again, or "
                    "remove it."
                ) from None


class Images:
    """Image files under some folders of a place, found by what a table calls them.

    A cell may give a path from the folder on or just the file's name, with any ending or none. A
    file without an ending is found, too, and may be anything.

    Args:
        place: where the folders are.
        folders: paths in it; '' is all of it.
    """

    def __init__(self, place: Place, folders: Sequence[str] = ("",)) -> None:
        self._place, self.folders = place, tuple(folders)
        self._by_stem: dict[str, int | tuple[int, ...]] = {}
        self._unread: dict[str, int] = {}  # by stem, too: pictures in formats that are not read
        self._count = 0
        for number, path in enumerate(place.paths):
            if not any(_within(path, folder) for folder in self.folders):
                continue
            name = path.rpartition("/")[2]
            is_image = IMAGE_ENDING.search(name) is not None
            if is_image or NO_ENDING.search(name):
                stem = IMAGE_ENDING.sub("", name)
                before = self._by_stem.get(stem)
                known = () if before is None else before if isinstance(before, tuple) else (before,)
                self._by_stem[stem] = (*known, number) if known else number
                self._count += is_image
            elif UNREAD_ENDING.search(name):
                self._unread.setdefault(UNREAD_ENDING.sub("", name), number)

    def __len__(self) -> int:
        return self._count

    def __str__(self) -> str:
        shown = (str(self._place.raw / folder) for folder in self.folders)
        return " and ".join(shown) or "no folder"

    def find(self, cell: str) -> int | None:
        """The number of the file that the cell names.

        Raises:
            TableError: two files of different content answer to it.
        """
        key = image_key(cell)
        entry = self._by_stem.get(key.rpartition("/")[2], ())
        found = entry if isinstance(entry, tuple) else (entry,)
        at_path = [number for number in found if key in self._keys(number)]
        if at_path or "/" in key:
            found = tuple(at_path)
        if len(found) > 1:
            name = cell.strip().replace("\\", "/").rpartition("/")[2]
            exact = [n for n in found if self._place.paths[n].rpartition("/")[2] == name]
            found = tuple(exact) if len(exact) == 1 else found
        for other in found[1:]:
            if not self._place.same(found[0], other):
                raise TableError(
                    f"the image '{cell}' could be {self._place.shown(found[0])} or "
                    f"{self._place.shown(other)}, and they differ. "
                    "Remove one, or write the path in the table."
                )
        return found[0] if found else None

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None.

        Raises:
            OSError: it is unreadable or damaged, or there only in a format that is not read.
        """
        number = self.find(cell)
        if number is not None:
            return self._place.read(number, limit=MAX_IMAGE_BYTES)
        key = image_key(cell)
        other = self._unread.get(key.rpartition("/")[2])
        if other is not None and ("/" not in key or key in self._keys(other)):
            name = self._place.paths[other].rpartition("/")[2]
            raise OSError(f"there is {name}, whose format is not read; save it as JPEG or PNG")
        return None

    def _keys(self, number: int) -> Iterator[str]:
        """The paths that name the file: from each folder on, with the folder's name, from RAW."""
        path = self._place.paths[number]
        yield _plain(image_key(path))
        for folder in self.folders:
            if _within(path, folder):
                inner = _plain(image_key(path[len(folder) :].lstrip("/")))
                yield inner
                outer = folder.rpartition("/")[2] or self._place.raw.name
                yield f"{_plain(outer)}/{inner}"


def one_file(place: Place, numbers: Sequence[int]) -> int | None:
    """The file that lies highest, or None if there is none.

    Raises:
        TableError: several lie equally high, and differ.
    """
    if not numbers:
        return None
    depth = {number: place.paths[number].count("/") for number in numbers}
    highest = [number for number in numbers if depth[number] == min(depth.values())]
    for other in highest[1:]:
        if not place.same(highest[0], other):
            raise TableError(
                f"{place.shown(highest[0])} and {place.shown(other)} differ. Name one of them "
                "with --table, or import from the folder that holds one."
            )
    return highest[0]


def is_image_file(path: Path) -> bool:
    """Whether a file's ending is an image's; or it has none, and begins as DICOM does."""
    if IMAGE_ENDING.search(path.name):
        return path.is_file()
    if not NO_ENDING.search(path.name) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False


def _walk(raw: Path) -> Iterator[str]:
    """Paths of all files that there are, in order.

    Links to nowhere, and pipes, are no files; a folder that a link leads back to is not entered.
    """
    entered = {os.path.realpath(raw)}
    pending = [""]
    while pending:
        folder = pending.pop()
        inside = []
        for entry in sorted(os.scandir(raw / folder), key=lambda entry: entry.name):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if SKIPPED.search(entry.name):
                continue
            if not entry.is_symlink():
                is_file, is_folder = entry.is_file(), entry.is_dir()
            else:
                target, real = Path(entry.path), os.path.realpath(entry.path)
                is_file, is_folder = target.is_file(), target.is_dir() and real not in entered
                entered.add(real)
            if is_file:
                yield path
            elif is_folder:
                inside.append(path)
        pending += reversed(inside)


def _plain(path: str) -> str:
    """The path with zips under the names that their unpacked folders would have."""
    return re.sub(r"\.zip(?=/|$)", "", path, flags=re.IGNORECASE)


def _within(path: str, folder: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


@lru_cache(maxsize=256)
def _ending(pattern: str) -> re.Pattern[str]:
    """Matches a path whose last names are those of the pattern; `*` stays within a name."""
    return re.compile(r"(?:.*/)?" + re.escape(pattern).replace(r"\*", "[^/]*"), re.IGNORECASE)


def _matches(path: str, pattern: str) -> bool:
    return _ending(pattern).fullmatch(path) is not None
