"""Which servers may be asked, and how often."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.errors import UserError
from slimp.sources.download.archive import (
    ARCHIVE,
    Archive,
    check_address,
    is_internal,
    open_session,
)

requests = pytest.importorskip("requests", reason="needs the extra 'isic'")
pytest.importorskip("isic_cli", reason="needs the extra 'isic'")


def test_the_archive_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("SLIMP_ISIC_ARCHIVE", raising=False)
    assert Archive().address == ARCHIVE
    monkeypatch.setenv("SLIMP_ISIC_ARCHIVE", "https://mirror.example/api/v2")
    assert Archive().address == "https://mirror.example/api/v2/"
    assert Archive("http://localhost:8000/").address == "http://localhost:8000/"


@pytest.mark.parametrize(
    "address",
    [
        *("http://mirror.example/api/v2/", "ftp://mirror.example/", "file:///etc/passwd"),
        *("mirror.example", "https://[::1", ""),
    ],
)
def test_addresses_without_tls_are_refused(address):
    with pytest.raises(UserError, match="is not an https address"):
        check_address(address)


@pytest.mark.parametrize(
    ("host", "internal"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.9.1", "127.1", "2130706433", "0x7f000001")),
        *((host, True) for host in ("0.0.0.0", "localhost", "LOCALHOST.", "a.localhost", "[::1]")),
        *((host, True) for host in ("[::ffff:127.0.0.1]", "[fe80::1]", "[fd00::1]", "10.1.2.3")),
        *((host, True) for host in ("172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1")),
        *((host, False) for host in ("api.isic-archive.com", "8.8.8.8", "[2606:4700::1111]")),
        ("10.com", False),
    ],
)
def test_addresses_of_private_networks_are_for_archives_in_one(host, internal):
    address = f"https://{host}:8080/admin?secret"
    check_address(address)
    assert is_internal(address) == internal
    if internal:
        with pytest.raises(UserError, match=r"a private network, named by an archive") as error:
            check_address(address, internal=False)
        assert "secret" not in str(error.value)
    else:
        check_address(address, internal=False)


@given(st.text())
def test_any_text_is_an_address_or_refused(text):
    try:
        check_address(text)
    except UserError:
        return
    assert text.strip().lower().startswith("http")


@pytest.mark.parametrize("there", ["http://127.0.0.1:9/admin", "https://192.168.1.1/"])
def test_an_archive_elsewhere_does_not_lead_into_a_private_network(archive, there):
    """By addresses that it lists or redirections, both of which are sent; one that is in it may."""
    far = open_session("https://far.example", stop=threading.Event())
    with far, pytest.raises(UserError, match="private network"):
        far.send(requests.Request("GET", there).prepare())
    with open_session(archive.address, stop=threading.Event()) as near:
        assert near.get(f"{archive.address}/files/ISIC_0000001.jpg").ok


def test_a_server_is_not_asked_before_it_wants_to_be(archive, monkeypatch):
    stop, waits = threading.Event(), []
    monkeypatch.setattr(stop, "wait", waits.append)
    archive.next_gets("/files/", {"status": 503, "headers": (("Retry-After", "42"),)})
    with open_session(archive.address, stop=stop) as session:
        with pytest.warns(UserWarning, match="42 s"):
            assert session.get(f"{archive.address}/files/ISIC_0000001.jpg").ok
        assert waits == [42]
        archive.next_gets("/files/", {"status": 503, "headers": (("Retry-After", "4200"),)})
        with pytest.raises(UserError, match="4200 seconds"):
            session.get(f"{archive.address}/files/ISIC_0000001.jpg")
