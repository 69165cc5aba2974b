"""Which servers may be asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.download.address import ARCHIVE, archive_address, check_address, host_of
from slimp.errors import UserError


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


def test_messages_do_not_tell_signatures():
    with pytest.raises(UserError) as error:
        check_address("http://mirror.example/a.jpg?X-Amz-Signature=secret")
    assert "secret" not in str(error.value)
    assert host_of("https://mirror.example/a.jpg?X-Amz-Signature=secret") == "mirror.example"


@given(st.text())
def test_any_text_is_an_address_or_refused(text):
    try:
        check_address(text)
    except UserError:
        return
    assert text.strip().lower().startswith("http")
