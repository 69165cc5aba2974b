"""One image from its address to its file: whole, checked, or not there at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from slimp.data.files import new_file
from slimp.sources.download.archive import ArchiveImage
from slimp.sources.download.patience import PatientSession
from slimp.sources.image_limits import FORMATS, MAX_PIXELS

CHUNK_BYTES = 1 << 14
"""Written at a time; what is lost when a connection breaks off."""
LARGEST_BYTES = 1 << 30
"""Of an image whose size the archive does not say; an endless answer must not fill the disk."""
WRONG_BODIES = 3
"""Whole answers that are not the image, after which it is given up."""


class LostImageError(Exception):
    """The server answers, but not with this image; the message is the reason, in a few words."""


def fetch_image(session: PatientSession, image: ArchiveImage, folder: Path) -> int:
    """The bytes that were fetched to make `folder / image.file` whole: 0 if it was already.

    A connection that breaks off is taken up where it ended, as long as each try brings something.

    Raises:
        LostImageError: the server does not have it, or sends something else.
        UnreachableError: no answer, as often as was asked.
    """
    target = folder / image.file
    if target.is_file() and problem_with(target, image.size_bytes) is None:
        return 0
    failures = wrong = best = fetched = 0
    with new_file(target) as partial:
        while True:
            before = partial.stat().st_size
            cut = _receive(session, image, partial)
            after = partial.stat().st_size
            fetched += max(after - before, 0)
            if cut is not None:  # tries that bring more than any before do not count
                failures, best = (1, after) if after > best else (failures + 1, best)
                session.wait(image.name, cut, failures)
                continue
            problem = problem_with(partial, image.size_bytes)
            if problem is None:
                return fetched
            wrong += 1
            if wrong == WRONG_BODIES:
                raise LostImageError(problem)
            partial.write_bytes(b"")
            session.wait(image.name, problem, 1)


def problem_with(path: Path, size_bytes: int | None) -> str | None:
    """Why a file is not the image of that size, in words; None if it is."""
    size = path.stat().st_size
    if size_bytes is not None and size != size_bytes:
        return f"has {size:,} bytes instead of {size_bytes:,}"
    if size > LARGEST_BYTES:
        return f"has more than {LARGEST_BYTES:,} bytes"
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return f"is too large, {picture.width} x {picture.height} pixels"
            picture.draft(None, (1, 1))  # JPEG: all data are read, few pixels are computed
            picture.load()
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        return f"is not a whole image ({' '.join(str(error).split())[:100]})"
    return None


def _receive(session: PatientSession, image: ArchiveImage, partial: Path) -> str | None:
    """Appends to `partial` what it lacks; why the answer ended too early, or None if it did not."""
    import requests

    have = partial.stat().st_size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    most = LARGEST_BYTES if image.size_bytes is None else image.size_bytes
    with session.get(image.url, stream=True, headers=headers) as answer:
        if answer.status_code == 416:  # what is there is no beginning of what the server has
            partial.write_bytes(b"")
            return "has changed under way"
        if not answer.ok:
            raise LostImageError(f"the server answers {answer.status_code}")
        continues = answer.status_code == 206 and _starts_at(answer, have)
        if answer.status_code == 206 and not continues:
            partial.write_bytes(b"")
            return "continues at the wrong place"
        with partial.open("ab" if continues else "wb") as file:
            try:
                for chunk in answer.iter_content(CHUNK_BYTES):
                    session.check_stop()
                    file.write(chunk)
                    if file.tell() > most:
                        break
            except requests.Timeout:
                return "sends nothing any more"
            except requests.RequestException:
                return "breaks off"
    return None


def _starts_at(answer: Any, position: int) -> bool:
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {position}-")
