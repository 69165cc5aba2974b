"""isic-cli's session with `urllib3.Retry` mounted: asks busy servers again, refuses odd addresses.

Plain HTTP is for this machine only: metadata and images must arrive as they were sent. An archive
far away has no reason to send the download to an address of a private network.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import warnings
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from slimp.errors import UserError

TRIES = 8
"""Requests in a row that may fail; the eighth comes about two minutes after the first."""
LONGEST_WAIT_SECONDS = 300.0
"""A server that asks for more time than this is waited for no longer."""
BUSY = (408, 425, 429, 500, 502, 503, 504)
TIMEOUT_SECONDS = (10.0, 30.0)
"""To connect, and between two pieces of an answer."""
AGAIN = "What was fetched is kept: run the same command again later."


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
