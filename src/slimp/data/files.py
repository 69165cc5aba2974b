"""Files on disk: atomic writes, and encoded images packed for memory-mapped random access."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slimp.errors import UserError

OURS = {"cohort.json", "config.json", "metrics.json", "predictions.parquet", "state.json"}
"""Files by which a folder is known to be written by this package, and may be replaced."""


class Images(Protocol):
    """Random access to encoded images (JPEG or PNG bytes) by position."""

    def __len__(self) -> int: ...

    def read(self, position: int) -> bytes:
        """The encoded bytes of one image."""
        ...


class ImagesInMemory:
    """Encoded images held in a list; for tests and small cohorts."""

    def __init__(self, encoded: Sequence[bytes]) -> None:
        self._encoded = list(encoded)

    def __len__(self) -> int:
        return len(self._encoded)

    def read(self, position: int) -> bytes:
        return self._encoded[position]


class PackedImages:
    """Encoded images laid end to end in one file, read through a memory map.

    Memory does not grow with the number of images, a read costs microseconds, and the object
    travels to worker processes as a path, never as the bytes.

    Args:
        path: the packed file.
        offsets: (n + 1,) byte positions; image i is `file[offsets[i]:offsets[i + 1]]`.
    """

    def __init__(self, path: Path, offsets: NDArray[np.int64]) -> None:
        self.path = path
        self.offsets = offsets
        self._map: mmap.mmap | None = None
        size = path.stat().st_size
        if len(offsets) and offsets[-1] > size:
            raise UserError(
                f"{path}: the file has {size} bytes, but its table expects {offsets[-1]}: "
                "it was cut short. Import the cohort again."
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def read(self, position: int) -> bytes:
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map[self.offsets[position] : self.offsets[position + 1]]


def check_output(folder: Path, *, overwrite: bool = False) -> None:
    """Refuses to write into a folder that holds something.

    Raises:
        UserError: `folder` is a file, or is not empty and `overwrite` is off; or it is on, but
            the folder was not written by this package.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: exists and is not a folder. Choose another place.")
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held and not overwrite:
        raise UserError(f"{folder}: is not empty. Choose another folder or pass --overwrite.")
    if held and not held & OURS:
        raise UserError(
            f"{folder}: holds files, but none that slimp wrote, so --overwrite would delete "
            "somebody's work. Choose another folder, or empty this one yourself."
        )


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, if it is not there, or says why it cannot."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """An error of the system becomes a sentence that names the place."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise UserError(f"{place}: cannot be written ({reason}). Choose another place.") from None


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False, cached: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends, and vanishes if it fails.

    Its content is on the disk before it gets its name, so that a power cut leaves a whole one.
    Where somebody else has made `target` meanwhile, theirs stays: an error, unless what is there
    is `cached` under a name that says its content.

    Raises:
        UserError: as `check_output` and `make_folder`.
    """
    check_output(target, overwrite=overwrite)
    make_folder(target.parent)
    with _writing(target):
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    partial.chmod(0o755)  # mkdtemp makes folders private
    old = partial.with_name(f"{partial.name}.old")
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            _to_disk(path)
        if target.is_dir():
            if cached and not overwrite and any(target.iterdir()):
                return
            check_output(target, overwrite=overwrite)
            target.replace(old)  # deleting may take long; two renames do not
        partial.replace(target)
        _to_disk(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A temporary path that is renamed to `target` when the block ends, and removed if it fails.

    Its content is on the disk before it gets its name, so that a power cut leaves a whole one.

    Raises:
        UserError: as `make_folder`.
    """
    make_folder(target.parent)
    with _writing(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.partial-", dir=target.parent)
    os.close(handle)
    partial = Path(name)
    partial.chmod(0o644)
    try:
        yield partial
        _to_disk(partial)
        partial.replace(target)
        _to_disk(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_partials(folder: Path) -> None:
    """Removes what killed writers left in `folder`; nobody else may be writing there."""
    for path in folder.glob(".*.partial-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Returns when a file's content, or a folder's list of names, has left the caches."""
    is_folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        if not is_folder:  # Windows and some network file systems cannot do this for a folder
            raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, by which a result knows what it was made with."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(target: Path, content: object) -> None:
    """Writes `content` as indented JSON, atomically; NaN is refused, use None."""
    with new_file(target) as partial:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The parsed file.

    Raises:
        UserError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged, not valid JSON ({error}).") from None
