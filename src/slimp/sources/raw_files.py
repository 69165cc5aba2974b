"""RAW, a folder or one zip file, seen as files by their paths; zips anywhere in it are folders.

Members of a zip are read where they are; a zip within a zip, and what a library wants as a file, is
unpacked once into a temporary folder. Hidden files, and what file managers leave, are not seen.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from weakref import finalize

from slimp.errors import TableError

MAX_TABLE_BYTES = 1 << 32
"""A larger table is refused, as is one in a zip that says it unpacks to more."""
MAX_UNPACKED_BYTES = 1 << 36
"""A zip within a zip, or an HDF5 file in one, is not unpacked if it is larger."""
MAX_RATIO, RATIO_BYTES = 200, 1 << 26
"""A member of more bytes than the second that says it unpacks to this many times its size is a
bomb."""
NESTED = 3
"""Zips within zips that are opened."""
ZIP_ENDING = re.compile(r"\.zip$", re.IGNORECASE)
SKIPPED = re.compile(r"(?:^|/)(?:\.|__MACOSX(?:/|$)|Thumbs\.db$)", re.IGNORECASE)


class _Member(NamedTuple):
    """A file in a zip file."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo


class Place:
    """All files under RAW, by path; zip files stand as folders of their name.

    Links in a folder are followed; those in a zip are refused. `holds` is what RAW should hold, for
    the message if it is not there.

    Raises:
        TableError: `raw` is not there, or a zip file in it is damaged or could do harm.
    """

    def __init__(self, raw: Path, holds: str = "the data as published") -> None:
        self.raw = raw
        self.paths: dict[str, _Member | None] = {}
        """From `raw` on, with `/`, as `part_1.zip/a.jpg`; None: no member of a zip."""
        self._open = ExitStack()
        finalize(self, self._open.close)  # where nobody closes this, as after an error
        is_zip = raw.is_file() and (ZIP_ENDING.search(raw.name) or zipfile.is_zipfile(raw))
        if not raw.is_dir() and not is_zip:
            what = "neither a folder nor a" if raw.exists() else "no such folder or"
            raise TableError(f"{raw}: {what} zip file. It should hold {holds}.")
        try:
            for path in [""] if is_zip else _walk(raw):
                self._add(path, None)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise TableError(f"{raw}: cannot be read ({error}).") from None
            raise

    def close(self) -> None:
        """Closes the zip files, and removes what was unpacked."""
        self._open.close()

    def at(self, path: str) -> str | None:
        """The path from `raw` on as it is listed, or None if no file is there."""
        wanted = _tidy(path)
        return wanted if wanted in self.paths else None

    def read(self, path: str, *, limit: int = MAX_TABLE_BYTES) -> bytes:
        """The whole file; of a member, never more than it says.

        Raises:
            TableError: it is larger than `limit`, or says that it unpacks to what no data do.
            OSError: it is unreadable or damaged.
        """
        shown, member = self.raw / path, self.paths[path]
        size = shown.stat().st_size if member is None else member.info.file_size
        if size > limit:
            raise TableError(
                f"{shown}: has {size:,} bytes, more than the {limit:,} that are read. Remove it."
            )
        if member is None:
            return shown.read_bytes()
        _refuse_bomb(member.info, shown)
        try:
            return member.archive.read(member.info)
        except Exception as error:  # a dozen kinds on damaged files
            raise OSError(f"damaged in its zip file ({error})") from None

    def unpacked(self, path: str) -> Path:
        """Where the file lies; a member of a zip is unpacked, at each call."""
        shown, member = self.raw / path, self.paths[path]
        return shown if member is None else self._unpack(member, shown)

    def same(self, a: str, b: str) -> bool:
        """Whether two files have the same content."""
        one, other = self.paths[a], self.paths[b]
        if one is not None and other is not None:
            return (one.info.file_size, one.info.CRC) == (other.info.file_size, other.info.CRC)
        return self.read(a) == self.read(b)

    def files(self, pattern: str) -> list[str]:
        """Paths that end as the pattern says (`*` within a name; case is ignored)."""
        return list(filter(_ending(pattern), self.paths))

    def folders(self, *patterns: str) -> list[str]:
        """Folders and zips whose path ends as one of the patterns says; '.' is RAW itself.

        One within another is left out: it is searched with that.
        """
        if "." in patterns:
            return [""]
        endings = [_ending(pattern) for pattern in patterns]
        found = sorted(p for p in self._folders if any(end(without_zip(p)) for end in endings))
        return [path for path in found if not any(path.startswith(f"{o}/") for o in found)]

    def folder(self, path: str) -> str:
        """The folder or zip at that path from `raw` on; one without any file is refused."""
        wanted = _tidy(path).rstrip("/").removeprefix(".")
        for found in (wanted, f"{wanted}.zip"):
            if not found or found in self._folders:
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

    def _add(self, path: str, member: _Member | None, depth: int = 1) -> None:
        """Lists the file at that path, or if it is a zip file its members."""
        if path and not ZIP_ENDING.search(path):
            if self.paths.setdefault(path, member) is not member:
                raise TableError(f"{self.raw / path}: is there twice. Remove one of them.")
            return
        shown = self.raw / path
        if depth > NESTED:
            raise TableError(f"{shown}: lies in more than {NESTED} zip files. Unpack the outer.")
        file = shown if member is None else self._unpack(member, shown)
        try:
            archive = self._open.enter_context(zipfile.ZipFile(file))
        except Exception as error:  # a dozen kinds on damaged files
            raise _not_whole(shown, error) from None
        for info in archive.infolist():
            name = info.filename.replace("\\", "/")
            if name.endswith("/"):
                continue
            if problem := _problem(info, name):
                raise TableError(f"{shown}: the member '{name}' {problem}, so it is not read.")
            inner = "/".join(part for part in f"{path}/{name}".split("/") if part not in ("", "."))
            if not SKIPPED.search(inner):
                self._add(inner, _Member(archive, info), depth + 1)

    def _unpack(self, member: _Member, shown: Path) -> Path:
        """A file in the temporary folder with the member's bytes."""
        _refuse_bomb(member.info, shown)
        folder, size = self._temporary, member.info.file_size
        room = min(MAX_UNPACKED_BYTES, shutil.disk_usage(folder).free)
        if size > room:
            raise TableError(
                f"{shown}: unpacks to {size:,} bytes, but there is room for {room:,} in "
                f"{folder.parent}. Unpack it yourself, or set TMPDIR to a larger disk."
            )
        try:
            with (
                member.archive.open(member.info) as source,
                tempfile.NamedTemporaryFile(dir=folder, delete=False) as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
        except Exception as error:
            raise _not_whole(shown, error) from None
        return Path(target.name)


def _problem(info: zipfile.ZipInfo, name: str) -> str:
    """Why a member is not to be touched, or ''."""
    if ".." in name.split("/") or name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has a name that points out of the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link to another file"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is packed by method {info.compress_type} (unpack the archive, RAW may be a folder)"
    return ""


def _refuse_bomb(info: zipfile.ZipInfo, shown: Path) -> None:
    size, packed = info.file_size, info.compress_size
    if size > RATIO_BYTES and size > MAX_RATIO * packed:
        raise TableError(
            f"{shown}: says that {packed:,} bytes unpack to {size:,}, which no data do. Remove it."
        )


def _not_whole(shown: Path, error: BaseException) -> TableError:
    return TableError(f"{shown}: not a whole zip file ({error}). Download it again, or remove it.")


def one_file(place: Place, paths: Sequence[str]) -> str | None:
    """The path that lies highest, or None if there is none; several that differ are refused."""
    highest = [path for path in paths if path.count("/") == min(p.count("/") for p in paths)]
    for other in highest[1:]:
        if not place.same(highest[0], other):
            raise TableError(
                f"{place.raw / highest[0]} and {place.raw / other} differ. Name one of them "
                "with --table, or import from the folder that holds one."
            )
    return highest[0] if highest else None


def _walk(raw: Path) -> Iterator[str]:
    """Paths of all files from `raw` on, in order; links to nowhere, and pipes, are no files.

    A link is followed unless it leads to RAW or where a link before it led.
    """

    def fail(error: OSError) -> None:
        raise error

    entered = {os.path.realpath(raw)}
    for folder, inside, names in os.walk(raw, followlinks=True, onerror=fail):
        for name in sorted(inside):
            path = Path(folder, name)
            real = os.path.realpath(path) if path.is_symlink() else None
            if SKIPPED.search(name) or real in entered:
                inside.remove(name)
            elif real is not None:
                entered.add(real)
        inside.sort()
        start = "" if Path(folder) == raw else f"{Path(folder).relative_to(raw).as_posix()}/"
        for name in sorted(names):
            if not SKIPPED.search(name) and Path(folder, name).is_file():
                yield start + name


def without_zip(path: str) -> str:
    """The path with zips under the names that their unpacked folders would have."""
    return re.sub(r"\.zip(?=/|$)", "", path, flags=re.IGNORECASE)


def is_within(path: str, folder: str) -> bool:
    """Whether a path lies in a folder; '' is the folder of all."""
    return not folder or path.startswith(f"{folder}/")


def _ending(pattern: str) -> Callable[[str], re.Match[str] | None]:
    """Matches a path whose last names are those of the pattern; `*` stays within a name."""
    name = re.escape(pattern).replace(r"\*", "[^/]*")
    return re.compile(rf"(?:.*/)?{name}", re.IGNORECASE).fullmatch


def _tidy(path: str) -> str:
    return path.strip().replace("\\", "/").removeprefix("./")
