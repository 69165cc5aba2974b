"""Which servers may be asked, and how often."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.errors import UserError
from slimp.sources.download.session import (
    ARCHIVE,
    archive_address,
    check_address,
    is_internal,
    open_session,
)


def test_the_archive_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("SLIMP_ISIC_ARCHIVE", raising=False)
    assert archive_address() == ARCHIVE
    monkeypatch.setenv("SLIMP_ISIC_ARCHIVE", "https://mirror.example/api/v2")
    assert archive_address() == "https://mirror.example/api/v2/"
    assert archive_address("http://localhost:8000/") == "http://localhost:8000/"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://mirror.example/api/v2/", "not an https address"),
        ("ftp://mirror.example/", "not an https address"),
        ("file:///etc/passwd", "is no address of a server"),
        ("mirror.example", "is no address of a server"),
        ("https://[::1", "is no address of a server"),
        ("", "is no address of a server"),
    ],
)
def test_addresses_without_tls_are_refused(address, message):
    with pytest.raises(UserError, match=message):
        check_address(address)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.8.9.1", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "localhost"),
        *("LOCALHOST.", "a.localhost", "[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "[fd00::1]"),
        *("10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    ],
)
def test_addresses_of_this_machine_and_of_private_networks(host):
    address = f"https://{host}:8080/admin?secret"
    assert is_internal(address)
    check_address(address)
    with pytest.raises(UserError, match=r"a private network, named by an archive") as error:
        check_address(address, internal=False)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("host", ["api.isic-archive.com", "8.8.8.8", "[2606:4700::1111]", "10.com"])
def test_other_addresses_may_always_be_asked(host):
    assert not is_internal(f"https://{host}/")
    check_address(f"https://{host}/", internal=False)


@given(st.text())
def test_any_text_is_an_address_or_refused(text):
    try:
        check_address(text)
    except UserError:
        return
    assert text.strip().lower().startswith("http")


@pytest.mark.parametrize("there", ["http://127.0.0.1:9/admin", "https://192.168.1.1/"])
def test_an_archive_elsewhere_does_not_lead_into_a_private_network(archive, there):
    """Neither by the addresses that it lists nor by redirections; one that is in it may."""
    pytest.importorskip("isic_cli", reason="needs the extra 'isic'")
    options = {"stop": threading.Event(), "tell": print, "wait_seconds": 0.001}
    with open_session(None, internal=False, **options) as far:
        with pytest.raises(UserError, match="private network"):
            far.get(there)
        answer = type("Answer", (), {"is_redirect": True, "url": "https://far.example/"})()
        answer.close = lambda: None
        answer.headers = {"Location": there}
        with pytest.raises(UserError, match="private network"):
            far.hooks["response"][-1](answer)
    with open_session(None, internal=True, **options) as near:
        assert near.get(f"{archive.address}/files/ISIC_0000001.jpg").ok


def test_a_server_is_not_asked_before_it_wants_to_be(archive, monkeypatch):
    pytest.importorskip("isic_cli", reason="needs the extra 'isic'")
    stop, waits, told = threading.Event(), [], []
    monkeypatch.setattr(stop, "wait", waits.append)
    archive.next_gets("/files/", {"status": 503, "headers": (("Retry-After", "42"),)})
    with open_session(None, internal=True, stop=stop, tell=told.append) as session:
        assert session.get(f"{archive.address}/files/ISIC_0000001.jpg").ok
        assert waits == [42]
        assert "42 s" in told[0]
        archive.next_gets("/files/", {"status": 503, "headers": (("Retry-After", "4200"),)})
        with pytest.raises(UserError, match="4200 seconds"):
            session.get(f"{archive.address}/files/ISIC_0000001.jpg")
