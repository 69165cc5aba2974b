"""isic-cli's session with `urllib3.Retry` mounted: asks busy servers again, refuses odd addresses.

Plain HTTP is for this machine only: metadata and pictures must arrive as they were sent. An archive
far away has no reason to send the download to an address of a private network.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

from slimp.errors import UserError

ARCHIVE = "https://api.isic-archive.com/api/v2/"
VARIABLE = "SLIMP_ISIC_ARCHIVE"
"""Environment variable that names another archive, such as an institution's mirror."""
TRIES = 8
"""Requests in a row that may fail; the eighth comes about two minutes after the first."""
LONGEST_WAIT_SECONDS = 300.0
"""A server that asks for more time than this is waited for no longer."""
BUSY = (408, 425, 429, 500, 502, 503, 504)
TIMEOUT_SECONDS = (10.0, 30.0)
"""To connect, and between two pieces of an answer."""


class UnreachableError(UserError):
    """A server did not answer as often as it was asked; the whole download stops."""


class StoppedError(Exception):
    """Another thread asked this one to end."""


def open_session(
    base: str | None,
    *,
    internal: bool,
    stop: threading.Event,
    tell: Callable[[str], None],
    wait_seconds: float = 1.0,
) -> Any:
    """A session of isic-cli, for its own functions and for files.

    Args:
        base: address that relative ones start from.
        internal: whether addresses of this machine and of private networks may be asked.
        stop: when set, waiting ends and no request is made any more.
        tell: gets a line before a long wait.
        wait_seconds: before the second request; doubles from one to the next.

    Raises:
        UserError: isic-cli is not installed.
    """
    try:
        from isic_cli.session import IsicCliSession
    except ImportError:
        raise UserError(
            "downloads from the ISIC Archive go through its own client, isic-cli, which is not "
            "installed: pip install 'slimp[isic]'."
        ) from None

    class Session(IsicCliSession):  # type: ignore[misc]  # untyped
        def request(self, method: str, url: str, **options: Any) -> Any:
            full = self.create_url(url)
            check_address(full, internal=internal)
            options.setdefault("timeout", TIMEOUT_SECONDS)
            return _ask(partial(super().request, method, url, **options), full, stop, wait_seconds)

    session = Session(base, retry_strategy=_patient_retry(stop, tell, wait_seconds))

    def check_redirection(answer: Any, **_: Any) -> None:
        if answer.is_redirect:  # called before it is followed
            there = urljoin(answer.url, answer.headers["Location"])
            try:
                check_address(there, internal=internal)
            except UserError:
                answer.close()
                raise

    session.hooks["response"].append(check_redirection)
    return session


def _ask(ask: Callable[[], Any], address: str, stop: threading.Event, wait_seconds: float) -> Any:
    """The answer; asked again where it breaks off in the middle, which `Retry` does not cover."""
    import requests

    broken = (requests.exceptions.ChunkedEncodingError, requests.exceptions.InvalidJSONError)
    for _ in range(TRIES):
        if stop.is_set():
            raise StoppedError
        try:
            answer = ask()
            if answer.ok and "json" in answer.headers.get("Content-Type", ""):
                answer.json()
        except broken:
            stop.wait(wait_seconds)
            continue
        except requests.exceptions.SSLError as error:
            reason = (
                f"has no valid certificate, so it may be somebody else ({error}). If your "
                "institution inspects TLS, name its certificate in the variable REQUESTS_CA_BUNDLE"
            )
            raise _unreachable(address, reason) from None
        except requests.RequestException as error:
            reason = f"cannot be reached ({' '.join(str(error).split())[:150]})"
            raise _unreachable(address, reason) from None
        if answer.status_code in BUSY:
            raise _unreachable(address, f"answers {answer.status_code}, {TRIES} times in a row")
        return answer
    raise _unreachable(address, "breaks off in the middle of an answer")


def _patient_retry(stop: threading.Event, tell: Callable[[str], None], wait_seconds: float) -> Any:
    """urllib3's retries, with waits that `stop` ends and that are reported."""
    from urllib3.util.retry import Retry

    class PatientRetry(Retry):
        def sleep(self, response: Any = None) -> None:  # may be ended, unlike time.sleep
            wait = self.get_retry_after(response) if response is not None else None
            wait = self.get_backoff_time() if wait is None else wait
            if wait > LONGEST_WAIT_SECONDS:
                raise UnreachableError(
                    f"the server asks to come back in {wait:.0f} seconds. What was fetched is kept."
                )
            if wait >= 10:
                tell(f"the server is busy; trying again in {wait:.0f} s")
            if stop.wait(wait):
                raise StoppedError

    return PatientRetry(
        total=TRIES - 1,
        status_forcelist=BUSY,
        backoff_factor=wait_seconds,
        backoff_max=LONGEST_WAIT_SECONDS,
        backoff_jitter=wait_seconds / 4,  # keeps many clients from coming back together
        redirect=False,
        raise_on_status=False,
    )


def _unreachable(address: str, reason: str) -> UnreachableError:
    return UnreachableError(
        f"{host_of(address)}: {reason}. What was fetched is kept: run the same command again later."
    )


def archive_address(given: str | None = None) -> str:
    """The base address of the archive's API: as given, else of the environment variable, else ours.

    Raises:
        UserError: it is no address, or one without TLS.
    """
    address = given or os.environ.get(VARIABLE) or ARCHIVE
    check_address(address)
    return address if address.endswith("/") else f"{address}/"


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
    if not host:
        raise UserError(f"'{short}' is no address of a server, such as {ARCHIVE}.")
    if scheme != "https" and not (scheme == "http" and host in ("127.0.0.1", "::1", "localhost")):
        raise UserError(
            f"'{short}': not an https address, so what arrives could be altered on the way. Use "
            "https; http is only allowed to this machine (localhost)."
        )
    if not internal and is_internal(address):
        raise UserError(
            f"'{short}': an address of this machine or of a private network, named by an archive "
            "that is not in one. It was not asked."
        )


def is_internal(address: str) -> bool:
    """Whether it is of this machine or of a private network, as far as the address itself says."""
    host = host_of(address).rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        try:
            number = ipaddress.IPv4Address(socket.inet_aton(host))  # 127.1 and 0x7f000001, too
        except (OSError, ValueError):
            return False
    return not (getattr(number, "ipv4_mapped", None) or number).is_global


def host_of(address: str) -> str:
    """The server that an address names, for messages: signed addresses hold credentials."""
    return urlsplit(address).hostname or ""
