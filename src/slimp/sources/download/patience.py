"""Requests that are tried again, at growing intervals and not before the server wants them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin

from slimp.errors import UserError
from slimp.sources.download.address import check_address, host_of

BUSY = {408, 425, 429, 500, 502, 503, 504}
"""Answers of a server that is busy or broken for now."""
TIMEOUT_SECONDS = (10.0, 30.0)
"""To connect, and between two pieces of an answer."""


class UnreachableError(UserError):
    """A server did not answer as often as it was asked; the whole download stops."""


class StoppedError(Exception):
    """Another thread asked this one to end."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often and after what time a failed request is made again."""

    tries: int = 8
    """Requests in a row that may fail; the eighth comes about two minutes after the first."""
    first_wait_seconds: float = 1.0
    """Before the second request; doubles from one to the next."""
    longest_wait_seconds: float = 300.0
    """A server that wants more time than this is left alone."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries must be positive, got {self.tries}")
        if self.first_wait_seconds < 0 or self.longest_wait_seconds < 0:
            raise ValueError("waits must be 0 seconds or more")

    def wait_seconds(self, failures: int, *, asked: float | None = None) -> float:
        """Time until the next request, after so many failed in a row.

        A random part, up to a quarter, keeps many clients from coming back at the same moment.

        Args:
            failures: 1 or more.
            asked: what the server asked for in `Retry-After`; never undercut.

        Example:
            >>> 4.0 <= Patience().wait_seconds(3) <= 5.0
            True
            >>> Patience().wait_seconds(1, asked=60)
            60
        """
        wait = min(self.first_wait_seconds * 2.0 ** (failures - 1), self.longest_wait_seconds)
        wait *= 1 + random.random() / 4
        return wait if asked is None else max(wait, asked)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` asks for, given as seconds or as a date; None if it is absent or odd."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)


class PatientSession:
    """A session of isic-cli (one of `requests`) whose requests are tried again.

    isic-cli's functions take it for theirs: they only call `get`.

    Args:
        session: makes one request; retries of its own would be multiplied.
        patience: how often, and after what time.
        internal: whether addresses of this machine and of private networks may be asked.
        stop: when set, waiting ends and no request is made any more.
        tell: gets a line when the server lets one wait for long.
    """

    def __init__(
        self,
        session: Any,
        *,
        patience: Patience,
        internal: bool,
        stop: threading.Event,
        tell: Callable[[str], None],
    ) -> None:
        self._session = session
        self.patience = patience
        self._internal = internal
        self.stop = stop
        self._tell = tell

    def get(self, url: str, **options: Any) -> Any:
        """The answer, whatever it says, unless the server is busy or the way to it broken.

        Raises:
            UnreachableError: as often as was tried; or its certificate is not valid.
            StoppedError: `stop` was set.
        """
        import requests

        options.setdefault("timeout", TIMEOUT_SECONDS)
        options.setdefault("hooks", {"response": self._check_redirection})
        full = self._session.create_url(url)
        check_address(full, internal=self._internal)
        host, failures = host_of(full), 0
        while True:
            self.check_stop()
            asked = None
            try:
                answer = self._session.get(url, **options)
            except requests.exceptions.SSLError as error:
                raise _no_trust(host, error) from None
            except requests.exceptions.InvalidSchema as error:
                raise UserError(f"{host}: {error}.") from None
            except requests.RequestException as error:
                reason = _reason(error)
            else:
                if answer.status_code in BUSY:
                    reason = f"answers {answer.status_code}"
                    asked = retry_after_seconds(answer.headers)
                elif _is_half(answer):
                    reason = "sends half an answer"
                else:
                    return answer
                answer.close()
            failures += 1
            self.wait(host, reason, failures, asked=asked)

    def wait(self, host: str, reason: str, failures: int, *, asked: float | None = None) -> None:
        """Returns when it is time for another request, after so many failed in a row.

        Raises:
            UnreachableError: it is no use.
            StoppedError: `stop` was set.
        """
        if failures >= self.patience.tries:
            raise UnreachableError(
                f"{host}: {reason}, {failures} times in a row. What was fetched is kept: run the "
                "same command again when the connection is back."
            )
        seconds = self.patience.wait_seconds(failures, asked=asked)
        if asked is not None and asked > self.patience.longest_wait_seconds:
            raise UnreachableError(
                f"{host}: {reason} and asks to come back in {asked:.0f} seconds. What was fetched "
                "is kept: run the same command again then."
            )
        if seconds >= 10:
            self._tell(f"{host}: {reason}; trying again in {seconds:.0f} s")
        self.stop.wait(seconds)
        self.check_stop()

    def check_stop(self) -> None:
        """Raises `StoppedError` if `stop` was set."""
        if self.stop.is_set():
            raise StoppedError

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def _check_redirection(self, answer: Any, **_: Any) -> None:
        """Refuses to be led to an address that must not be asked; called before it is followed."""
        if answer.is_redirect:
            try:
                there = urljoin(answer.url, answer.headers["Location"])
                check_address(there, internal=self._internal)
            except UserError:
                answer.close()
                raise


def _is_half(answer: Any) -> bool:
    """Whether it says to be JSON and is not: cut where no length was announced."""
    if not answer.ok or "json" not in answer.headers.get("Content-Type", ""):
        return False
    try:
        answer.json()
    except ValueError:
        return True
    return False


def _reason(error: Exception) -> str:
    """Why no answer came, in words."""
    import requests

    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not pass the request on"
    if isinstance(error, requests.Timeout):
        return "does not answer in time"
    if isinstance(error, requests.TooManyRedirects):
        return "redirects without end"
    text = str(error)
    if "resolve" in text or "getaddrinfo" in text:
        return "is not found (no network, or a wrong name)"
    if "refused" in text:
        return "refuses the connection"
    return "breaks the connection off"


def _no_trust(host: str, error: Exception) -> UnreachableError:
    return UnreachableError(
        f"{host}: its certificate is not valid, so it may be somebody else ({error}). If your "
        "institution inspects TLS, name its certificate in the variable REQUESTS_CA_BUNDLE."
    )
