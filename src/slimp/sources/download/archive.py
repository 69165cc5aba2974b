"""What the ISIC Archive holds, asked through isic-cli, the archive's own client.

Of isic-cli the session and the functions that know the API are used, and not its command, which
asks the network for newer versions of itself, has no address of a mirror, and says 'successfully
downloaded' also where images failed. `urllib3.Retry` in the session asks busy servers again.

Plain HTTP is for this machine only: metadata and images must arrive as they were sent. An archive
far away has no reason to send the download to an address of a private network.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from slimp.errors import UserError
from slimp.sources.parse_cells import IMAGE_ENDING

ARCHIVE = "https://api.isic-archive.com/api/v2/"
VARIABLE = "SLIMP_ISIC_ARCHIVE"
"""Environment variable that names another archive, such as an institution's mirror."""
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LICENCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
"""Names of images, and of licences, that may become names of files."""
TRIES = 8
"""Requests in a row that may fail; the eighth comes about two minutes after the first."""
LONGEST_WAIT_SECONDS = 300.0
"""A server that asks for more time than this is waited for no longer."""
BUSY = (408, 425, 429, 500, 502, 503, 504)
TIMEOUT_SECONDS = (10.0, 30.0)
"""To connect, and between two pieces of an answer."""
AGAIN = "What was fetched is kept: run the same command again later."
NAME, ATTRIBUTION, LICENCE = FIRST_COLUMNS = ("isic_id", "attribution", "copyright_license")
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
        self.address, self.host = f"{address.rstrip('/')}/", host_of(address)
        self.stop, self.wait_seconds = threading.Event(), wait_seconds
        """`stop` ends all requests and all waiting, from any thread."""
        self.session = open_session(self.address, stop=self.stop, wait_seconds=wait_seconds)
        self.close = self.session.close

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
            yield from map(parse_image, http.get_images(self.session, "", str(number)))

    def licence_text(self, name: str) -> str | None:
        """The text of a licence that images name; None if the archive has none."""
        from isic_cli.io import http

        text: str | None = self._or_none(http.get_license, name)
        return text

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
    return ArchiveImage(
        file=name + (ending if IMAGE_ENDING.fullmatch(ending) else ".jpg"),
        url=full["url"],
        size_bytes=None if size is None else _count(size),
        record=record | {NAME: name, ATTRIBUTION: _cell(content[ATTRIBUTION]), LICENCE: licence},
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


def open_session(base: str, *, stop: threading.Event, wait_seconds: float = 1.0) -> Any:
    """A session of isic-cli, for its own functions and for files.

    Args:
        base: address that relative ones start from; others of a private network may only be asked
            if it is in one.
        stop: when set, waiting ends and no request is made any more.
        wait_seconds: before the second request; doubles from one to the next.

    Raises:
        UserError: isic-cli is not installed.
    """
    try:
        from isic_cli.session import IsicCliSession
        from requests.exceptions import ChunkedEncodingError, RequestException, SSLError
    except ImportError:
        raise UserError(
            "downloads from the ISIC Archive go through its own client, isic-cli, which is not "
            "installed: pip install 'slimp[isic]'."
        ) from None
    internal = is_internal(base)

    class Session(IsicCliSession):  # type: ignore[misc]  # untyped
        def request(self, *args: Any, **options: Any) -> Any:
            """Asks again where the answer breaks off, which `Retry` does not cover."""
            options.setdefault("timeout", TIMEOUT_SECONDS)
            for _ in range(TRIES):
                with suppress(ChunkedEncodingError):
                    return super().request(*args, **options)
                stop.wait(wait_seconds)
            raise UserError(f"{host_of(base)}: breaks off in the middle of an answer. {AGAIN}")

        def send(self, request: Any, **options: Any) -> Any:
            """Sends a request; called for each redirection, too."""
            check_address(request.url, internal=internal)
            if stop.is_set():
                raise UserError("the download was stopped.")
            try:
                return super().send(request, **options)
            except ChunkedEncodingError:
                raise
            except RequestException as error:
                cause = getattr(error.args[0], "reason", error) if error.args else error
                what = f"cannot be reached ({' '.join(str(cause).split())[:150]})"
                if isinstance(error, SSLError):
                    what += ": it may be somebody else. If your institution inspects TLS, name its "
                    what += "certificate in the variable REQUESTS_CA_BUNDLE"
                raise UserError(f"{host_of(request.url)}: {what}. {AGAIN}") from None

    return Session(base, retry_strategy=_retry(stop, wait_seconds))


def _retry(stop: threading.Event, wait_seconds: float) -> Any:
    """urllib3's retries, with waits that `stop` ends and that are reported."""
    from urllib3.util.retry import Retry

    class StoppableRetry(Retry):
        def sleep(self, response: Any = None) -> None:
            wait = self.get_retry_after(response) if response is not None else None
            wait = self.get_backoff_time() if wait is None else wait
            if wait > LONGEST_WAIT_SECONDS:
                raise UserError(f"the server asks to come back in {wait:.0f} seconds. {AGAIN}")
            if wait >= 10:
                warnings.warn(f"the server is busy; next try in {wait:.0f} s", stacklevel=2)
            stop.wait(wait)

    return StoppableRetry(
        total=TRIES - 1,
        status_forcelist=BUSY,
        backoff_factor=wait_seconds,
        backoff_max=LONGEST_WAIT_SECONDS,
        backoff_jitter=wait_seconds / 4,  # keeps many clients from coming back together
        redirect=False,
    )


def check_address(address: str, *, internal: bool = True) -> None:
    """Refuses an address without TLS, and one of a private network unless `internal`.

    Raises:
        UserError: names the address, without its query, which may hold credentials.
    """
    short = address.partition("?")[0][:200]
    try:
        scheme, host = urlsplit(address).scheme, urlsplit(address).hostname
    except ValueError:
        scheme, host = "", None
    local = scheme == "http" and host in ("127.0.0.1", "::1", "localhost")
    if not host or not (scheme == "https" or local):
        raise UserError(
            f"'{short}' is not an https address, so what arrives could be altered on the way. Use "
            "https; http is only allowed to this machine (localhost)."
        )
    if not internal and is_internal(address):
        raise UserError(
            f"'{short}' is an address of this machine or of a private network, named by an archive "
            "that is not in one. It was not asked."
        )


def is_internal(address: str) -> bool:
    """Whether it is of this machine or of a private network, as far as the address itself says."""
    host = host_of(address).rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(OSError):
        host = socket.inet_ntoa(socket.inet_aton(host))  # 127.1 and 0x7f000001, too
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return False
    return not (getattr(number, "ipv4_mapped", None) or number).is_global


def host_of(address: str) -> str:
    """The server that an address names, for messages: signed addresses hold credentials."""
    return urlsplit(address).hostname or ""
