"""Zip files read in place: nothing is unpacked to disk, and any thread may read any member.

A zip within a zip is read through its parent: as a stretch of the parent's bytes if it is stored,
else through `Inflated`, which knows states of the decompressor to start from.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from array import array
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from weakref import finalize

from slimp.errors import TableError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1 << 18
"""Read from a packed member at a time."""
STRIDE_BYTES = 1 << 22
"""Least distance of two places where a packed member can be entered, and half of the greatest; a
read inflates this much."""
BLOCKS = 8
"""Stretches between such places that a packed member keeps inflated."""
MAX_RATIO, RATIO_BYTES = 200, 1 << 26
"""A member of more bytes than the second that says it unpacks to this many times its size is no
data but a trap."""
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
DAMAGE = (
    *(zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError),
    *(struct.error, IndexError, OverflowError),
)
"""What the listing of a damaged zip file may raise."""
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Signature, and the lengths of name and extra field, before a member's bytes."""


class DamagedMemberError(OSError):
    """One member of an archive is damaged; the message says how, in a few words."""


@runtime_checkable
class Bytes(Protocol):
    """Bytes that any thread may read anywhere."""

    size: int

    def read(self, start: int, count: int) -> bytes:
        """At most `count` bytes from `start` on; fewer only at the end."""
        ...


class FileBytes:
    """The bytes of a file, opened at the first read and closed with this at the latest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._file: io.BufferedReader | None = None
        self._lock = Lock()

    def read(self, start: int, count: int) -> bytes:
        """See `Bytes`."""
        with self._lock:
            if self._file is None:
                self._file = self.path.open("rb")
                finalize(self, self._file.close)
            self._file.seek(min(start, self.size))
            return self._file.read(max(0, min(count, self.size - start)))

    def close(self) -> None:
        """Closes the file; a further read opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None


class Stretch:
    """`size` bytes of others, from `start` on."""

    def __init__(self, whole: Bytes, start: int, size: int) -> None:
        self._whole, self._start, self.size = whole, start, size

    def read(self, start: int, count: int) -> bytes:
        """See `Bytes`."""
        return self._whole.read(self._start + start, max(0, min(count, self.size - start)))


class Inflated:
    """What deflated bytes unpack to, entered anywhere at the cost of `STRIDE_BYTES` of inflation.

    The first read passes through all of it once, and notes states of the decompressor on the way.

    Args:
        packed: the deflated bytes.
        size: of what they unpack to, as declared.
        crc: of what they unpack to, as declared.
    """

    def __init__(self, packed: Bytes, size: int, crc: int) -> None:
        self._packed, self.size, self._crc = packed, size, crc
        self._starts: list[int] = []  # where each block begins in the unpacked bytes
        self._entries: list[tuple[int, zlib._Decompress]] = []  # place in the packed bytes, state
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()

    def read(self, start: int, count: int) -> bytes:
        """See `Bytes`.

        Raises:
            DamagedMemberError: the bytes do not unpack to what was declared.
        """
        end = min(start + count, self.size)
        pieces = []
        with self._lock:
            if not self._starts:
                self._pass_through()
            while start < end:
                number = bisect_right(self._starts, start) - 1
                within = start - self._starts[number]
                piece = self._block(number)[within : within + end - start]
                pieces.append(piece)
                start += len(piece)
        return b"".join(pieces)

    def _pass_through(self) -> None:
        """Notes where the bytes can be entered, and that they are what was declared."""
        state, unpacked, position, crc = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0, 0
        starts, entries = [0], [(0, state.copy())]
        try:
            while not state.eof:
                chunk = self._packed.read(position, CHUNK_BYTES)
                position += len(chunk)
                last = not chunk
                while True:
                    piece = state.decompress(chunk, STRIDE_BYTES)
                    unpacked, crc = unpacked + len(piece), zlib.crc32(piece, crc)
                    chunk = state.unconsumed_tail
                    if unpacked > self.size or (last and not piece):
                        raise DamagedMemberError("it is cut off, or larger than it says")
                    # within a chunk, too: a small one may unpack to a thousand times its size
                    if unpacked - starts[-1] >= STRIDE_BYTES:
                        starts.append(unpacked)
                        entries.append((position - len(chunk), state.copy()))
                    if not chunk:
                        break
        except zlib.error as error:
            raise DamagedMemberError(f"it does not unpack ({error})") from None
        if (unpacked, crc) != (self.size, self._crc):
            raise DamagedMemberError("it does not unpack to what it says")
        self._starts, self._entries = starts, entries

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            ends = [*self._starts[1:], self.size]
            self._blocks[number] = self._inflate(number, ends[number] - self._starts[number])
            if len(self._blocks) > BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]

    def _inflate(self, number: int, size: int) -> bytes:
        position, state = self._entries[number]
        state, chunk, pieces = state.copy(), b"", list[bytes]()
        while size > 0:
            if not chunk:
                chunk = self._packed.read(position, CHUNK_BYTES)
                position += len(chunk)
            pieces.append(state.decompress(chunk, size))
            chunk = state.unconsumed_tail
            size -= len(pieces[-1])
        return b"".join(pieces)


class Stream(io.RawIOBase):
    """A seekable file object over `Bytes`, for libraries that want one. One thread at a time."""

    def __init__(self, source: Bytes) -> None:
        super().__init__()
        self._source, self._position = source, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The place that the next read begins at."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place, and returns it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}
        if base[whence] + offset < 0:
            raise OSError("a place before the beginning")
        self._position = base[whence] + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fills the buffer as far as there are bytes, and returns how many."""
        view = memoryview(buffer).cast("B")
        found = self._source.read(self._position, len(view))
        view[: len(found)] = found
        self._position += len(found)
        return len(found)


class Archive:
    """The members of a zip file, by number; those that could do harm refuse the whole of it.

    Args:
        source: the bytes of the zip file.
        shown: what messages call it.

    Raises:
        TableError: it is no whole zip file, is encrypted, or has a member that is a link or whose
            name points out of the archive.
    """

    def __init__(self, source: Bytes, shown: str) -> None:
        self._source, self.shown = source, shown
        self.names: list[str] = []
        """Of the files, with `/`; folders are left out."""
        self._offsets, self._packed, self.sizes = array("Q"), array("Q"), array("Q")
        self.crcs, self._methods = array("L"), array("H")
        for info in _members(source, shown):
            name = info.filename.replace("\\", "/")
            if name.endswith("/"):
                continue
            if not 0 <= info.header_offset < source.size:
                raise TableError(
                    f"{shown}: not a whole zip file (the member '{name}' lies outside of it). "
                    "Download it again, or remove it."
                )
            if problem := _problem(info, name):
                raise TableError(f"{shown}: the member '{name}' {problem}, so it is not read.")
            self.names.append("/".join(part for part in name.split("/") if part not in ("", ".")))
            self._offsets.append(info.header_offset)
            self._packed.append(info.compress_size)
            self.sizes.append(info.file_size)
            self.crcs.append(info.CRC)
            self._methods.append(info.compress_type)

    def read(self, number: int, *, limit: int) -> bytes:
        """The whole member.

        Raises:
            TableError: it is larger than `limit` bytes, or than it says.
            DamagedMemberError: it is damaged.
        """
        size = self.sizes[number]
        if size > limit:
            raise TableError(
                f"{self.shown}: the member '{self.names[number]}' says that it unpacks to "
                f"{size:,} bytes, more than the {limit:,} that are read. Remove it."
            )
        self._check_ratio(number)
        packed = self._stretch(number).read(0, self._packed[number])
        if len(packed) < self._packed[number]:
            raise DamagedMemberError("the archive ends within it")
        if self._methods[number] == DEFLATED:
            state = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                packed = state.decompress(packed, size + 1)
            except zlib.error as error:
                raise DamagedMemberError(f"it does not unpack ({error})") from None
        if len(packed) > size:
            raise TableError(
                f"{self.shown}: the member '{self.names[number]}' unpacks to more than the "
                f"{size:,} bytes it says. Remove it."
            )
        if len(packed) < size or zlib.crc32(packed) != self.crcs[number]:
            raise DamagedMemberError("its length or its checksum is another")
        return packed

    def part(self, number: int) -> Bytes:
        """The member's bytes, without reading all of them.

        Raises:
            TableError: it says that it unpacks to far more than data do.
            DamagedMemberError: it is damaged.
        """
        self._check_ratio(number)
        stretch = self._stretch(number)
        if self._methods[number] == STORED:
            return stretch
        return Inflated(stretch, self.sizes[number], self.crcs[number])

    def is_stored(self, number: int) -> bool:
        """Whether the member is not packed, so that reading a part of it is cheap."""
        return self._methods[number] == STORED

    def _check_ratio(self, number: int) -> None:
        size, packed = self.sizes[number], self._packed[number]
        if size > RATIO_BYTES and size > MAX_RATIO * packed:
            raise TableError(
                f"{self.shown}: the member '{self.names[number]}' says that {packed:,} bytes "
                f"unpack to {size:,}, which no data do. Remove it."
            )

    def _stretch(self, number: int) -> Stretch:
        """The packed bytes of a member."""
        offset = self._offsets[number]
        header = self._source.read(offset, LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or header[:4] != b"PK\3\4":
            raise DamagedMemberError("its header is damaged")
        _, name, extra = LOCAL_HEADER.unpack(header)
        return Stretch(
            self._source, offset + LOCAL_HEADER.size + name + extra, self._packed[number]
        )


def _members(source: Bytes, shown: str) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(io.BufferedReader(Stream(source), 1 << 20)) as listing:
            return listing.infolist()
    except DAMAGE as error:
        raise TableError(
            f"{shown}: not a whole zip file ({error}). Download it again, or remove it."
        ) from None


def _problem(info: zipfile.ZipInfo, name: str) -> str:
    """Why a member is not to be touched, or ''."""
    if ".." in name.split("/") or name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "has a name that points out of the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link to another file"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.compress_type not in (STORED, DEFLATED):
        return f"is packed by method {info.compress_type} (unpack the archive, RAW may be a folder)"
    return ""
