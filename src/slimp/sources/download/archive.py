"""What the ISIC Archive holds, asked through isic-cli, the archive's own client.

Of isic-cli the session and the functions that know the API are used, and not its command, which
asks the network for newer versions of itself, has no address of a mirror, and says 'successfully
downloaded' also where images failed.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from slimp.errors import UserError
from slimp.sources.download.session import check_address, host_of, open_session
from slimp.sources.parse_cells import IMAGE_ENDING

ARCHIVE = "https://api.isic-archive.com/api/v2/"
VARIABLE = "SLIMP_ISIC_ARCHIVE"
"""Environment variable that names another archive, such as an institution's mirror."""
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LICENCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
"""Names of images, and of licences, that may become names of files."""
NAME, ATTRIBUTION, LICENCE = "isic_id", "attribution", "copyright_license"
FIRST_COLUMNS = (NAME, ATTRIBUTION, LICENCE)
"""What the API says about every image; also the first columns of the table that isic-cli writes."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A collection of the archive."""

    number: int
    name: str
    images: int
    size_bytes: int | None
    """Of all images together; None where the archive does not say."""


@dataclass(frozen=True, kw_only=True)
class ArchiveImage:
    """One image of a collection, and what the archive says about it."""

    file: str
    """Name of the file, safe to use as one."""
    url: str
    """Signed, valid for some hours."""
    size_bytes: int | None
    record: dict[str, str]
    """A row of the table: column -> cell."""


class Archive:
    """The API of the ISIC Archive, or of a server that speaks as it does.

    Args:
        address: base address; default: that in the variable `SLIMP_ISIC_ARCHIVE`, else the
            archive's.
        wait_seconds: before a failed request is made again; doubles from one to the next.

    Raises:
        UserError: isic-cli is not installed, or the address has no TLS.
    """

    def __init__(self, address: str | None = None, *, wait_seconds: float = 1.0) -> None:
        address = address or os.environ.get(VARIABLE) or ARCHIVE
        check_address(address)
        self.address = address if address.endswith("/") else f"{address}/"
        self.host = host_of(address)
        self.stop = threading.Event()
        """Set to end all requests and all waiting, from any thread."""
        self.wait_seconds = wait_seconds
        self.session = open_session(self.address, stop=self.stop, wait_seconds=wait_seconds)

    def collection(self, number: int) -> Collection:
        """What the archive says about a collection.

        Raises:
            UserError: it has none of that number, or none that everybody may see.
        """
        from isic_cli.io import http

        with self._understood(f"collection {number}"):
            facts = http.get_collection(self.session, number)
            size = self._or_none(http.get_size_images, "", str(number))
            return Collection(
                number=number,
                name=str(facts["name"]),
                images=_count(http.get_num_images(self.session, "", str(number))),
                size_bytes=None if size is None else _count(size),
            )

    def images(self, number: int) -> Iterator[ArchiveImage]:
        """The images of a collection in the archive's order, page by page.

        Raises:
            UserError: the list cannot be understood.
        """
        from isic_cli.io import http

        with self._understood(f"list of collection {number}"):
            for content in http.get_images(self.session, "", str(number)):
                yield parse_image(content)

    def licence_text(self, name: str) -> str | None:
        """The text of a licence that images name; None if the archive has none."""
        from isic_cli.io import http

        text: str | None = self._or_none(http.get_license, name)
        return text

    def close(self) -> None:
        """Closes the connections."""
        self.session.close()

    def _or_none(self, ask: Any, *words: str) -> Any:
        """What one of isic-cli's functions gives; None where a mirror has nothing."""
        from requests import HTTPError

        try:
            return ask(self.session, *words)
        except HTTPError:
            return None

    @contextmanager
    def _understood(self, what: str) -> Iterator[None]:
        """Turns answers that are no answers into a sentence."""
        from requests import HTTPError, JSONDecodeError

        try:
            yield
        except HTTPError as error:
            raise UserError(
                f"{self.host}: there is no {what}, or it is not public ({error}). The public "
                "ones are listed at https://api.isic-archive.com/collections/."
            ) from None
        except (AttributeError, KeyError, TypeError, JSONDecodeError) as error:
            raise UserError(
                f"{self.host}: what it says about the {what} is not what the archive's API says "
                f"({' '.join(str(error).split())[:100]}). A proxy or a login page may stand in the "
                "way; or isic-cli is too old: pip install --upgrade 'slimp[isic]'."
            ) from None


def parse_image(content: Any) -> ArchiveImage:
    """An image from the API's JSON.

    Raises:
        UserError: its name, its licence or its address must not be used.
        AttributeError, KeyError, TypeError: something is missing.
    """
    name, full = content[NAME], content["files"]["full"]
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
        raise UserError(f"the archive calls an image {str(name)[:80]!r}, which is no file's name.")
    licence = _cell(content[LICENCE])
    if not LICENCE_NAME.fullmatch(licence):
        raise UserError(f"the archive gives {name} the licence {licence[:80]!r}, which is none.")
    check_address(full["url"])
    size, ending = full.get("size"), PurePosixPath(urlsplit(full["url"]).path).suffix
    groups = [content["metadata"].get(group, {}) for group in ("acquisition", "clinical")]
    record = {_cell(key): _cell(value) for group in groups for key, value in group.items()}
    attribution = _cell(content[ATTRIBUTION])
    return ArchiveImage(
        file=name + (ending if IMAGE_ENDING.fullmatch(ending) else ".jpg"),
        url=full["url"],
        size_bytes=None if size is None else _count(size),
        record=record | {NAME: name, ATTRIBUTION: attribution, LICENCE: licence},
    )


def _count(value: Any) -> int:
    """A number of images or bytes, which JSON may bring as anything."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value


def _cell(value: Any) -> str:
    """A value as a cell: empty for null, one line, and text that can be written as UTF-8."""
    text = "" if value is None else str(value)
    return re.sub(r"[\r\n\0]+", " ", text.encode("utf-8", "replace").decode("utf-8"))
