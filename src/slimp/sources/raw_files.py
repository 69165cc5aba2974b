"""RAW, a folder or one zip file, seen as files by their paths; zips anywhere in it are folders.

Members of a zip are read where they are; a zip within a zip, and what a library wants as a file, is
unpacked once into a temporary folder. Hidden files, and what file managers leave, are not seen.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from weakref import finalize

from slimp.errors import TableError
from slimp.sources.zip_files import ZipMember, members, open_zip

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
        self._members: list[ZipMember | None] = []
        self._unpacked: dict[int, Path] = {}
        self._lock = Lock()
        self._open = ExitStack()
        finalize(self, self._open.close)  # where nobody closes this, as after an error
        try:
            if raw.is_dir():
                for path in _walk(raw):
                    if ZIP_ENDING.search(path):
                        self._add_zip(raw / path, path, depth=1)
                    else:
                        self._add(path, None)
            elif _begins_as_zip(raw):
                self._add_zip(raw, "", depth=1)
            else:
                what = "neither a folder nor a" if raw.exists() else "no such folder or"
                raise TableError(f"{raw}: {what} zip file. It should hold {holds}.")
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise TableError(f"{raw}: cannot be read ({error}).") from None
            raise

    def close(self) -> None:
        """Closes the zip files, and removes what was unpacked."""
        self._open.close()

    def shown(self, number: int) -> Path:
        """The file's place, for messages."""
        return self.raw / self.paths[number]

    def number(self, path: str) -> int | None:
        """The file at that path from `raw` on, or None."""
        wanted = _tidy(path)
        return self.paths.index(wanted) if wanted in self.paths else None

    def inside_zip(self, number: int) -> bool:
        """Whether the file is a member of a zip."""
        return self._members[number] is not None

    def read(self, number: int, *, limit: int) -> bytes:
        """The whole file.

        Raises:
            TableError: it is larger than `limit`, or says that it unpacks to what no data do.
            OSError: it is unreadable or damaged.
        """
        path, member = self.shown(number), self._members[number]
        size = path.stat().st_size if member is None else member.info.file_size
        if size > limit:
            raise TableError(
                f"{path}: has {size:,} bytes, more than the {limit:,} that are read. Remove it."
            )
        return path.read_bytes() if member is None else member.read(path)

    def path(self, number: int) -> Path:
        """Where the file lies; a member of a zip is unpacked.

        Raises:
            TableError: it cannot be unpacked.
        """
        member = self._members[number]
        if member is None:
            return self.shown(number)
        with self._lock:
            if number not in self._unpacked:
                self._unpacked[number] = member.unpack(self._temporary, self.shown(number))
            return self._unpacked[number]

    def same(self, a: int, b: int) -> bool:
        """Whether two files have the same content."""
        one, other = self._members[a], self._members[b]
        if one is not None and other is not None:
            return (one.info.file_size, one.info.CRC) == (other.info.file_size, other.info.CRC)
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
        found = sorted(path for path in self._folders if _matches(without_zip(path), pattern))
        return [path for path in found if not any(path.startswith(f"{o}/") for o in found)]

    def folder(self, path: str) -> str:
        """The folder or zip at that path from `raw` on.

        Raises:
            TableError: there is none, or nothing is in it.
        """
        wanted = _tidy(path).rstrip("/")
        if wanted in ("", "."):
            return ""
        for found in (wanted, f"{wanted}.zip"):
            if any(is_within(path, found) for path in self.paths):
                return found
        raise TableError(
            f"{self.raw / path}: no such image folder, or no file is in it. Name another with "
            "--images, as a path from RAW on."
        )

    @cached_property
    def _folders(self) -> frozenset[str]:
        direct = {path.rpartition("/")[0] for path in self.paths}
        parts = [path.split("/") for path in direct if path]
        return frozenset("/".join(names[:k]) for names in parts for k in range(1, len(names) + 1))

    @cached_property
    def _temporary(self) -> Path:
        return Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="slimp-")))

    def _add(self, path: str, member: ZipMember | None) -> None:
        self.paths.append(path)
        self._members.append(member)

    def _add_zip(self, file: Path, path: str, *, depth: int) -> None:
        shown = self.raw / path
        if depth > NESTED:
            raise TableError(f"{shown}: lies in more than {NESTED} zip files. Unpack the outer.")
        for name, member in members(open_zip(file, shown, self._open), shown):
            inner = f"{path}/{name}" if path else name
            if SKIPPED.search(name):
                continue
            if ZIP_ENDING.search(name):
                unpacked = member.unpack(self._temporary, self.raw / inner)
                self._add_zip(unpacked, inner, depth=depth + 1)
            else:
                self._add(inner, member)


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


def without_zip(path: str) -> str:
    """The path with zips under the names that their unpacked folders would have."""
    return re.sub(r"\.zip(?=/|$)", "", path, flags=re.IGNORECASE)


def is_within(path: str, folder: str) -> bool:
    """Whether a path lies in a folder; '' is the folder of all."""
    return not folder or path.startswith(f"{folder}/")


@lru_cache(maxsize=256)
def _ending(pattern: str) -> re.Pattern[str]:
    """Matches a path whose last names are those of the pattern; `*` stays within a name."""
    return re.compile(r"(?:.*/)?" + re.escape(pattern).replace(r"\*", "[^/]*"), re.IGNORECASE)


def _matches(path: str, pattern: str) -> bool:
    return _ending(pattern).fullmatch(path) is not None


def _tidy(path: str) -> str:
    return path.strip().replace("\\", "/").removeprefix("./")


def _begins_as_zip(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) == b"PK"
