"""What the ISIC Archive holds, asked through isic-cli, the archive's own client.

Of isic-cli the session and the functions that know the API are used, and not its command, which
asks the network for newer versions of itself, has no address of a mirror, and says 'successfully
downloaded' also where images failed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from slimp.errors import UserError
from slimp.sources.download.session import (
    archive_address,
    check_address,
    host_of,
    is_internal,
    open_session,
)
from slimp.sources.parse_cells import IMAGE_ENDING

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
"""Names of images, and of licences, that may become names of files."""
NAME_FIELD, ATTRIBUTION_FIELD, LICENCE_FIELD = "isic_id", "attribution", "copyright_license"
"""What the API says about every image; also the first columns of the table that isic-cli writes."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A collection of the archive."""

    number: int
    name: str
    doi: str | None
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
        address: base address; see `session.archive_address`.
        tell: gets a line when one must wait.
        wait_seconds: before a failed request is made again; doubles from one to the next.

    Raises:
        UserError: isic-cli is not installed, or the address is refused.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tell: Callable[[str], None] = lambda line: None,
        wait_seconds: float = 1.0,
    ) -> None:
        self.address = archive_address(address)
        self.host = host_of(self.address)
        self.stop = threading.Event()
        """Set to end all requests and all waiting, from any thread."""
        self.wait_seconds = wait_seconds
        self._api, self.files = (
            open_session(
                base,
                internal=is_internal(self.address),
                stop=self.stop,
                tell=tell,
                wait_seconds=wait_seconds,
            )
            for base in (self.address, None)
        )

    def collection(self, number: int) -> Collection:
        """What the archive says about a collection.

        Raises:
            UserError: it has none of that number, or none that everybody may see.
        """
        from isic_cli.io import http
        from requests import HTTPError

        with self._understood(f"collection {number}"):
            facts = http.get_collection(self._api, number)
            doi = facts.get("doi")
            doi = doi.get("id") if isinstance(doi, Mapping) else doi
            try:
                size = _count(http.get_size_images(self._api, "", str(number)))
            except HTTPError:  # a mirror need not know it
                size = None
            return Collection(
                number=number,
                name=str(facts["name"]),
                doi=None if doi is None else str(doi),
                images=_count(http.get_num_images(self._api, "", str(number))),
                size_bytes=size,
            )

    def images(self, number: int) -> Iterator[ArchiveImage]:
        """The images of a collection in the archive's order, page by page.

        Raises:
            UserError: the list cannot be understood, or names an image twice.
        """
        from isic_cli.io import http

        seen: set[str] = set()
        with self._understood(f"list of collection {number}"):
            for content in http.get_images(self._api, "", str(number)):
                image = parse_image(content)
                if image.file.casefold() in seen:
                    raise UserError(
                        f"{self.host}: lists {image.file} twice; the collection seems to have "
                        "changed meanwhile. Run the same command again."
                    )
                seen.add(image.file.casefold())
                yield image

    def licence_text(self, name: str) -> str | None:
        """The text of a licence that images name; None if the archive has none."""
        from isic_cli.io import http
        from requests import HTTPError

        try:
            return str(http.get_license(self._api, name))
        except HTTPError:
            return None

    def close(self) -> None:
        """Closes the connections."""
        self._api.close()
        self.files.close()

    @contextmanager
    def _understood(self, what: str) -> Iterator[None]:
        """Turns answers that are no answers into a sentence."""
        import requests

        try:
            yield
        except requests.HTTPError as error:
            status = None if error.response is None else error.response.status_code
            raise UserError(
                f"{self.host}: there is no {what}, or it is not public (the server answers "
                f"{status}). The public ones are listed at "
                "https://api.isic-archive.com/collections/."
            ) from None
        except (AttributeError, KeyError, TypeError) as error:
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
    name, full = content[NAME_FIELD], content["files"]["full"]
    if not isinstance(name, str) or not FILE_NAME.fullmatch(name):
        raise UserError(f"the archive calls an image {str(name)[:80]!r}, which is no file's name.")
    licence = _cell(content[LICENCE_FIELD])
    if not LICENCE.fullmatch(licence):
        raise UserError(f"the archive gives {name} the licence {licence[:80]!r}, which is none.")
    check_address(full["url"])
    size, ending = full.get("size"), PurePosixPath(urlsplit(full["url"]).path).suffix
    groups = [content["metadata"].get(group, {}) for group in ("acquisition", "clinical")]
    record = {_cell(key): _cell(value) for group in groups for key, value in group.items()}
    attribution = _cell(content[ATTRIBUTION_FIELD])
    return ArchiveImage(
        file=name + (ending if IMAGE_ENDING.fullmatch(ending) else ".jpg"),
        url=full["url"],
        size_bytes=None if size is None else _count(size),
        record=record | {NAME_FIELD: name, ATTRIBUTION_FIELD: attribution, LICENCE_FIELD: licence},
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
