"""Zip members read in place: what zipfile reads, and nothing that could do harm."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.errors import TableError
from slimp.sources import archives
from slimp.sources.archives import Archive, DamagedMemberError, FileBytes, Inflated, Stream, Stretch

LIMIT = 1 << 20


class Memory:
    """Bytes in memory."""

    def __init__(self, content: bytes) -> None:
        self.content, self.size = content, len(content)

    def read(self, start: int, count: int) -> bytes:
        return self.content[start : start + count]


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            # of a fixed date: these bytes name tests, which all workers must call alike
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def text(size: int, seed: int = 0) -> bytes:
    """Bytes that pack, but not to nothing."""
    return np.random.default_rng(seed).integers(65, 75, size, dtype=np.uint8).tobytes()


@settings(max_examples=60, deadline=None)
@given(
    files=st.dictionaries(st.from_regex(r"[a-zé]{1,8}(/[a-z]{1,3})?", fullmatch=True), st.binary()),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    before=st.binary(max_size=20),
)
def test_members_are_what_zipfile_reads(files, method, before):
    archive = Archive(Memory(before + zipped(files, method)), "a.zip")
    assert archive.names == list(files)
    for number, name in enumerate(archive.names):
        assert archive.read(number, limit=LIMIT) == files[name]
        part = archive.part(number)
        assert (part.size, part.read(0, LIMIT)) == (len(files[name]), files[name])


def test_a_stretch_ends_where_it_ends():
    stretch = Stretch(Memory(b"0123456789"), 2, 5)
    assert [stretch.read(0, 2), stretch.read(3, 9), stretch.read(9, 1)] == [b"23", b"56", b""]


@pytest.mark.parametrize("level", [1, 9])
def test_packed_bytes_are_entered_anywhere(monkeypatch, level):
    monkeypatch.setattr(archives, "STRIDE_BYTES", 1000)
    monkeypatch.setattr(archives, "CHUNK_BYTES", 100)
    monkeypatch.setattr(archives, "BLOCKS", 2)
    content = text(30_000) + bytes(20_000)  # an end that packs to almost nothing
    state = zlib.compressobj(level, wbits=-15)
    packed = state.compress(content) + state.flush()
    inflated = Inflated(Memory(packed), len(content), zlib.crc32(content))
    for start in np.random.default_rng(0).integers(0, 50_000, 200):
        count = int(start) % 3000
        assert inflated.read(int(start), count) == content[start : start + count]
    assert inflated.read(0, 10**6) == content
    assert inflated.read(49_999, 5) == content[-1:]
    assert inflated.read(60_000, 5) == b""


@pytest.mark.parametrize("filler", [bytes(1), text(1000)])
def test_what_packs_to_almost_nothing_is_not_kept_whole(monkeypatch, filler):
    """128 MiB within one chunk of packed bytes: a zip in a zip may be a bomb."""
    monkeypatch.setattr(archives, "STRIDE_BYTES", 1 << 20)
    size = 1 << 27
    content = (filler * (size // len(filler) + 1))[: size - 7] + b"the end"
    state = zlib.compressobj(wbits=-15)
    packed = state.compress(content) + state.flush()
    inflated = Inflated(Memory(packed), size, zlib.crc32(content))
    tracemalloc.start()
    try:
        for start in [0, size - 7, *range(0, size, 9_999_991)]:
            assert inflated.read(start, 1000) == content[start : start + 1000]
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_packed_bytes_that_are_not_what_they_say():
    content = text(5000)
    state = zlib.compressobj(wbits=-15)
    packed = state.compress(content) + state.flush()
    crc = zlib.crc32(content)
    for wrong in (
        Inflated(Memory(packed), 4999, crc),  # larger than it says: a bomb
        Inflated(Memory(packed), 5001, crc),
        Inflated(Memory(packed), 5000, crc + 1),
        Inflated(Memory(packed[:-9]), 5000, crc),
        Inflated(Memory(b"\xff" + packed), 5000, crc),
    ):
        with pytest.raises(DamagedMemberError, match=r"not unpack|or larger"):
            wrong.read(0, 1)


def test_a_stream_is_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    source = FileBytes(tmp_path / "x")
    with io.BufferedReader(Stream(source), 4) as file:
        assert (file.seek(-3, 2), file.read(), file.seek(2), file.read(3)) == (7, b"789", 2, b"234")
        assert (file.seek(1, 1), file.tell(), file.read(1)) == (6, 6, b"6")
        with pytest.raises(OSError, match="before the beginning"):
            file.seek(-20, 2)
    source.close()
    assert source.read(1, 2) == b"12", "opened again"
    source.close()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def edited(at: int, fmt: str, value: int) -> bytes:
    """A zip with one member whose entry in the directory is changed."""
    content = bytearray(zipped({"a.jpg": b"a" * 100}))
    entry = content.rindex(b"PK\1\2")
    struct.pack_into(fmt, content, entry + at, value)
    return bytes(content)


def with_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link("a.jpg"), "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({"../a.jpg": b""}), r"'\.\./a\.jpg' has a name that points out of the archive"),
        (zipped({"a/../../b.jpg": b""}), "points out of the archive"),
        (zipped({"/etc/a.jpg": b""}), "points out of the archive"),
        (zipped({"C:/a.jpg": b""}), "points out of the archive"),
        (zipped({"..\\a.jpg": b""}), "points out of the archive"),
        (zipped({"\\\\host\\a.jpg": b""}), "points out of the archive"),
        (with_link(), "'a.jpg' is a link to another file"),
        (edited(8, "<H", 1), "'a.jpg' is encrypted"),
        (edited(10, "<H", 12), r"'a.jpg' is packed by method 12 \(unpack the archive"),
        (b"PK\5\6" + bytes(3), "not a whole zip file"),
        (zipped({"a.jpg": b"a"})[:20], "not a whole zip file"),
        (edited(0, "<I", 0), "not a whole zip file"),
        (edited(42, "<I", 10**9), "not a whole zip file .the member 'a.jpg' lies outside of it"),
    ],
)
def test_refused_at_sight(content, message):
    with pytest.raises(TableError, match=f"a.zip: .*{message}"):
        Archive(Memory(content), "a.zip")


def test_a_bomb_is_refused_by_what_it_says_and_by_what_it_is():
    honest = Archive(Memory(zipped({"a.jpg": bytes(LIMIT + 1)})), "a.zip")
    with pytest.raises(TableError, match=r"a\.zip: the member 'a\.jpg' says .* 1,048,577 bytes"):
        honest.read(0, limit=LIMIT)
    liar = Archive(Memory(edited(24, "<I", 10)), "a.zip")
    with pytest.raises(TableError, match=r"unpacks to more than the 10 bytes it says"):
        liar.read(0, limit=LIMIT)


def test_what_unpacks_to_far_more_than_data_do_is_a_trap():
    content = bytes((1 << 26) + 1)
    inner = zipped({"a.csv": content})
    for archive in (
        Archive(Memory(inner), "a.zip"),
        Archive(Memory(zipped({"a": inner})), "a.zip"),
    ):
        if archive.names == ["a.csv"]:
            with pytest.raises(TableError, match=r"says that 65,\d+ bytes unpack to 67,108,865"):
                archive.read(0, limit=1 << 30)
            with pytest.raises(TableError, match="which no data do"):
                archive.part(0)
        else:
            assert archive.part(0).read(0, len(inner)) == inner


def test_names_are_tidied():
    assert Archive(Memory(zipped({"./a//b.jpg": b""})), "a.zip").names == ["a/b.jpg"]


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (16, 7, "checksum"),
        (24, 101, "its length"),
        (20, 5000, "ends within it"),
        (42, 3, "its header is damaged"),
    ],
)
def test_a_damaged_member_is_no_reason_to_refuse_the_others(at, value, reason):
    archive = Archive(Memory(edited(at, "<I", value)), "a.zip")
    with pytest.raises(DamagedMemberError, match=reason):
        archive.read(0, limit=LIMIT)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mangled_archives_are_read_or_refused(data):
    content = bytearray(zipped({"a.jpg": text(300), "b/c.csv": b"x,y\n1,2\n", "d.png": b""}))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    content = content[:cut] if cut % 3 == 0 else content
    with suppress(TableError, DamagedMemberError):
        archive = Archive(Memory(bytes(content)), "a.zip")
        for number in range(len(archive.names)):
            with suppress(DamagedMemberError):
                assert len(archive.read(number, limit=LIMIT)) == archive.sizes[number]
            with suppress(DamagedMemberError):
                assert len(archive.part(number).read(0, 10)) <= 10


def test_folders_are_no_members(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("images")
        archive.writestr("images/a.jpg", b"a")
    assert Archive(FileBytes(tmp_path / "a.zip"), "a.zip").names == ["images/a.jpg"]
