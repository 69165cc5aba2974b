"""Which addresses a download may ask: TLS everywhere but on one's own machine."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from slimp.errors import UserError

ARCHIVE = "https://api.isic-archive.com/api/v2/"
VARIABLE = "SLIMP_ISIC_ARCHIVE"
"""Environment variable that names another archive, such as an institution's mirror."""
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def archive_address(given: str | None = None) -> str:
    """The base address of the archive's API, with a slash at its end.

    Args:
        given: what the user asked for; else the environment variable counts, else the ISIC Archive.

    Raises:
        UserError: it is no address, or one without TLS.
    """
    address = given or os.environ.get(VARIABLE) or ARCHIVE
    check_address(address)
    return address if address.endswith("/") else f"{address}/"


def check_address(address: str) -> None:
    """Refuses what is not HTTPS: metadata of patients and pictures must arrive as they were sent.

    Plain HTTP is allowed to this machine itself, where nobody listens on the way.

    Raises:
        UserError: names the address.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if not host:
        raise UserError(f"'{_short(address)}' is no address of a server, such as {ARCHIVE}.")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
        raise UserError(
            f"'{_short(address)}': not an https address, so what arrives could be altered on the "
            "way. Use https; http is only allowed to this machine (localhost)."
        )


def host_of(address: str) -> str:
    """The server that an address names, for messages: signed addresses hold credentials."""
    return urlsplit(address).hostname or "the server"


def _short(address: str) -> str:
    """An address without its query, which may hold credentials."""
    return address.partition("?")[0][:200]
