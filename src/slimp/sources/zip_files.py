"""Zip files read with `zipfile`, within limits; a member that could do harm refuses the file."""

from __future__ import annotations

import io
import re
import shutil
import stat
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from slimp.errors import TableError

MAX_UNPACKED_BYTES = 1 << 36
"""On disk, of all members that are unpacked for one import."""
MAX_DIRECTORY_BYTES = 1 << 27
"""Size of a zip's list of members; the names of a million images take about half of it."""
MAX_RATIO, RATIO_BYTES = 200, 1 << 26
"""A member of more bytes than the second that says it unpacks to this many times its size is a
bomb."""
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError),
    *(IndexError, OverflowError, NotImplementedError, RuntimeError),
)
"""What `zipfile` raises on a damaged file."""


class ZipMember:
    """A file in a zip file.

    Args:
        archive: the zip file.
        info: its entry.
    """

    __slots__ = ("_archive", "info")

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._archive, self.info = archive, info

    def read(self, shown: Path) -> bytes:
        """Its bytes; never more than it says, where `zipfile` stops.

        Raises:
            TableError: it says that it unpacks to far more than data do.
            OSError: it is damaged.
        """
        self._check_ratio(shown)
        try:
            return self._archive.read(self.info)
        except DAMAGE as error:
            raise OSError(f"damaged in its zip file ({error})") from None

    def unpack(self, folder: Path, shown: Path) -> Path:
        """A file in `folder` with its bytes, under another name.

        Raises:
            TableError: it is a bomb, is damaged, or there is no room for it.
        """
        self._check_ratio(shown)
        taken = sum(file.stat().st_size for file in folder.iterdir())
        free = min(MAX_UNPACKED_BYTES - taken, shutil.disk_usage(folder).free)
        if self.info.file_size > free:
            raise TableError(
                f"{shown}: unpacks to {self.info.file_size:,} bytes, but there is room for "
                f"{free:,} in {folder.parent}. Unpack it yourself, or set TMPDIR to a larger disk."
            )
        try:
            with (
                self._archive.open(self.info) as source,
                tempfile.NamedTemporaryFile(dir=folder, delete=False) as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
        except DAMAGE as error:
            raise TableError(f"{shown}: {_not_whole(error)}") from None
        return Path(target.name)

    def _check_ratio(self, shown: Path) -> None:
        size, packed = self.info.file_size, self.info.compress_size
        if size > RATIO_BYTES and size > MAX_RATIO * packed:
            raise TableError(
                f"{shown}: says that {packed:,} bytes unpack to {size:,}, which no data do. "
                "Remove it."
            )


class _Listed(io.FileIO):
    """A zip file of which no more than `limit` bytes are read at a time.

    `zipfile` reads the list of members at once, so this bounds their number.
    """

    limit = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.limit:
            raise zipfile.BadZipFile(
                f"the list of its members has {size:,} bytes, more than the {self.limit:,} that "
                "are read"
            )
        return super().read(-1 if size is None else size)


def open_zip(file: Path, shown: Path, stack: ExitStack) -> zipfile.ZipFile:
    """The zip file at `file`, which messages call `shown` and `stack` closes.

    Raises:
        TableError: it is damaged, or has too many members.
    """
    try:
        content = stack.enter_context(_Listed(file))
        archive = stack.enter_context(zipfile.ZipFile(content))
    except DAMAGE as error:
        raise TableError(f"{shown}: {_not_whole(error)}") from None
    content.limit = sys.maxsize
    return archive


def members(archive: zipfile.ZipFile, shown: Path) -> Iterator[tuple[str, ZipMember]]:
    """The files of a zip file by their tidied names, without folders.

    Raises:
        TableError: a member is a link, is encrypted, or has a name that points out of the archive.
    """
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        if name.endswith("/"):
            continue
        if problem := _problem(info, name):
            raise TableError(f"{shown}: the member '{name}' {problem}, so it is not read.")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        yield "/".join(parts), ZipMember(archive, info)


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


def _not_whole(error: BaseException) -> str:
    return f"not a whole zip file ({error}). Download it again, or remove it."
