"""An import under way: a hidden folder beside its target, from which it can be continued.

`.NAME.import` holds `state.json` (of what the import is), `journal.jsonl` (a line per row of the
table, in its order), `lock`, and `cohort/`, which gets the target's name in the end. A line of the
journal is only written when the image before it is on the disk, so that whatever ended the
process, what the journal tells is there; what it does not tell is cut off and done again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from array import array
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slimp.data.cohort_files import CohortInfo, Tables, write_tables
from slimp.data.files import (
    check_output,
    make_folder,
    put_in_place,
    read_json,
    remove_partials,
    restore,
    write_json,
)
from slimp.data.schema import Schema
from slimp.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: there, nobody keeps two imports apart
    fcntl = None  # type: ignore[assignment]

SAVE_SECONDS = 2.0
"""Between entries in the journal; what a killed import has to do again."""
FORMAT = 2
"""Version of this folder's layout, in `state.json`."""

Record: TypeAlias = list[int] | str | None
"""What became of a row's image: `[bytes, resized, converted, stripped, first frame]`, the last four
as 0 or 1; why it is corrupt; None: absent."""


class PartialImport:
    """The images of a cohort, kept row by row; whole after `finish`, else to be continued.

    Used as a context manager. If the block is refused (a `UserError`), nothing is left; if it is
    cut short in any other way, what was done is kept.

    Args:
        target: cohort folder to be made.
        identity: all that decides what the import writes; one with another is not continued.
        rows: of the table.
        resume: continue what is there, if something is.
        overwrite: replace `target`; and without `resume`, what is there of an earlier import.
    """

    def __init__(
        self,
        target: Path,
        identity: Mapping[str, Any],
        *,
        rows: int,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.target, self.rows = target, rows
        self.folder = partial_folder(target)
        self._identity = json.loads(json.dumps({"format": FORMAT, "rows": rows, **identity}))
        self._resume, self._overwrite = resume, overwrite
        self._lengths = array("q")  # -1: the row is dropped
        self._lines: list[str] = []
        self._finished = False

    @property
    def done(self) -> int:
        """Rows that are through."""
        return len(self._lengths)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(rows that are through,) whether the image of each is kept."""
        return np.array(self._lengths, dtype=np.int64) >= 0

    def __enter__(self) -> PartialImport:
        restore(self.folder / "cohort", self.target.resolve())
        check_output(self.target, overwrite=self._overwrite)
        if self.target.resolve() == Path.cwd():
            raise UserError(f"{self.target}: is the folder you stand in. Name another one.")
        make_folder(self.target.parent)
        self._lock = _locked(self.folder, self.target)
        try:
            self.earlier = self._records()
            self._open()
        except BaseException:
            self._lock.close()
            raise
        return self

    def _records(self) -> list[Record]:
        """What an earlier import came to, if this one continues it."""
        records = read_journal(self.folder / "journal.jsonl")
        if records and not (self._resume or self._overwrite):
            raise UserError(
                f"{self.target}: an import of {self._identity['rows']:,} rows was interrupted "
                f"there after {len(records):,}. Continue it with --resume, or start over with "
                "--overwrite."
            )
        if not records or not self._resume:
            return []
        state = read_json(self.folder / "state.json")
        other = [name for name in self._identity if self._identity[name] != state.get(name)]
        if other:
            was, now = state.get(other[0]), self._identity[other[0]]
            raise UserError(
                f"{self.target}: what was interrupted there was another import: of {other[0]} "
                f"{_short(was, now)}, not {_short(now, was)}. Repeat the command "
                "that was interrupted, or start over with --overwrite and without --resume."
            )
        return records

    def _open(self) -> None:
        """Opens journal and images, behind what `earlier` tells."""
        cohort = self.folder / "cohort"
        images = cohort / "images.bin"
        if not self.earlier:
            shutil.rmtree(cohort, ignore_errors=True)
            (self.folder / "journal.jsonl").unlink(missing_ok=True)
            write_json(self.folder / "state.json", self._identity)
        cohort.mkdir(exist_ok=True)
        remove_partials(cohort)  # of an import that was killed as it wrote the tables
        images.touch()
        there, size = images.stat().st_size, 0
        for record in self.earlier:
            length = record[0] if isinstance(record, list) else -1
            if size + max(length, 0) > there:
                break
            self._lengths.append(length)
            size += max(length, 0)
        del self.earlier[self.done :]
        self._images = _open_cut(images, size)
        written = "".join(map(_line, self.earlier))
        self._journal = _open_cut(self.folder / "journal.jsonl", len(written.encode()))
        self._saved = time.monotonic()

    def add(self, record: Record, encoded: bytes = b"") -> None:
        """Takes the next row; `encoded` is its image if the record is of one that is kept."""
        self._images.write(encoded)
        self._lines.append(_line(record))
        self._lengths.append(record[0] if isinstance(record, list) else -1)
        if time.monotonic() > self._saved + SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Brings the images to the disk, then the journal that tells of them."""
        self._images.flush()
        os.fsync(self._images.fileno())
        lines, self._lines = self._lines, []
        self._journal.write("".join(lines).encode())
        self._journal.flush()
        self._saved = time.monotonic()

    def finish(self, tables: Tables, schema: Schema, info: CohortInfo) -> None:
        """Writes the tables, and gives the folder its name.

        Raises:
            CohortError: there are not as many rows in `tables.images` as images kept, or none.
        """
        self.save()
        lengths = np.array(self._lengths, dtype=np.int64)
        write_tables(self.folder / "cohort", tables, schema, info, lengths[lengths >= 0])
        self._images.close()
        put_in_place(self.folder / "cohort", self.target.resolve())
        self._finished = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        keep = self.done and not self._finished and not isinstance(error, UserError)
        # A full disk may be why we are here; then the journal just stays behind.
        with suppress(OSError):
            if keep and not self._images.closed:
                self.save()
        for file in (self._images, self._journal):
            with suppress(OSError):
                file.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()


def partial_folder(target: Path) -> Path:
    """Where an import that was interrupted waits to be continued."""
    target = target.resolve()
    return target.with_name(f".{target.name}.import")


def read_journal(path: Path) -> list[Record]:
    """The records of a journal; what follows the first line that is none counts as not written."""
    records: list[Record] = []
    if not path.is_file():
        return records
    *lines, _ = path.read_bytes().split(b"\n")
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not _is_record(record):
            break
        records.append(record)
    return records


def _is_record(value: object) -> bool:
    if not isinstance(value, list):
        return value is None or isinstance(value, str)
    return len(value) == 5 and all(type(number) is int and number >= 0 for number in value)


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"


def _open_cut(path: Path, size: int) -> IO[bytes]:
    """The file, cut to `size`, to be written on from there."""
    path.touch()
    file = path.open("r+b")
    file.truncate(size)
    file.seek(size)
    return file


def _locked(folder: Path, target: Path) -> IO[bytes]:
    """The folder's lock file, open and ours for as long as it is.

    Raises:
        UserError: another process has it.
    """
    while True:
        make_folder(folder)
        path = folder / "lock"
        file = path.open("ab")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except BlockingIOError:
            file.close()
            raise UserError(
                f"{target}: another import is writing it at this moment. Wait for it, or choose "
                "another folder."
            ) from None
        except FileNotFoundError:  # whoever had it was done, and removed the folder
            pass
        except OSError:  # a file system without locks
            return file
        file.close()


def _short(value: Any, other: Any, most: int = 80) -> str:
    """A value in a few words: of a mapping, what differs from another."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {k: v for k, v in value.items() if k not in other or other[k] != v}
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[:most]}..."
