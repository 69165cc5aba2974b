"""Which addresses a download may ask: TLS everywhere but on one's own machine."""

from __future__ import annotations

import ipaddress
import os
import socket
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


def check_address(address: str, *, internal: bool = True) -> None:
    """Refuses what is not HTTPS: metadata of patients and pictures must arrive as they were sent.

    Plain HTTP is allowed to this machine itself, where nobody listens on the way.

    Args:
        address: to be asked.
        internal: whether addresses of this machine and of private networks are allowed. An
            archive far away has no reason to send one there.

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

    if not internal and is_internal(address):
        raise UserError(
            f"'{_short(address)}': an address of this machine or of a private network, named by an "
            "archive that is not in one. It was not asked."
        )


def is_internal(address: str) -> bool:
    """Whether it is of this machine or of a private network, as far as the address itself says."""
    host = (urlsplit(address).hostname or "").rstrip(".")
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
    return urlsplit(address).hostname or "the server"


def _short(address: str) -> str:
    """An address without its query, which may hold credentials."""
    return address.partition("?")[0][:200]
