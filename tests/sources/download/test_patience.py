"""When a request is made again: intervals that grow, and what servers ask for."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.errors import UserError
from slimp.sources.download.patience import Patience, PatientSession, retry_after_seconds


@given(
    failures=st.integers(1, 60),
    first=st.floats(0, 10),
    longest=st.floats(0, 1000),
    asked=st.none() | st.floats(0, 1000),
)
def test_waits_grow_are_bounded_and_never_undercut_the_server(failures, first, longest, asked):
    patience = Patience(first_wait_seconds=first, longest_wait_seconds=longest)
    wait = patience.wait_seconds(failures, asked=asked)
    want = min(first * 2.0 ** (failures - 1), longest)
    if asked is not None:
        assert wait >= asked
        want = max(want, asked)
    assert want <= wait <= 1.25 * want


def test_waits_differ_so_that_clients_do_not_come_back_together():
    assert len({Patience().wait_seconds(5) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120", 120.0), (" 0 ", 0.0), ("", None), ("soon", None), ("-5", None), ("1.5", None)],
)
def test_retry_after_in_seconds(text, seconds):
    assert retry_after_seconds({"Retry-After": text}) == seconds


def test_retry_after_as_a_date():
    later = datetime.now(UTC) + timedelta(seconds=90)
    assert 85 <= retry_after_seconds({"Retry-After": format_datetime(later)}) <= 90
    assert retry_after_seconds({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after_seconds({"Retry-After": "Wed, 21 Oct 2015 07:28:00 -0000"}) == 0
    assert retry_after_seconds({}) is None


@given(st.text())
def test_no_header_breaks_it(text):
    seconds = retry_after_seconds({"Retry-After": text})
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tries": 0}, "tries must be positive, got 0"),
        ({"first_wait_seconds": -1.0}, "waits must be 0 seconds or more"),
    ],
)
def test_nonsense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Patience(**settings)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080/admin", "https://192.168.1.1/"])
@pytest.mark.parametrize("redirected", [False, True])
def test_an_archive_elsewhere_does_not_lead_into_the_house(address, redirected):
    """Neither by the addresses that it lists nor by redirections; one in the house may."""
    pytest.importorskip("requests", reason="needs the extra 'isic'")

    class Far:
        def __init__(self):
            self.asked = []

        def create_url(self, url):
            return url

        def get(self, url, *, hooks, **_):
            self.asked.append(url)
            answer = SimpleNamespace(
                url=url, is_redirect=redirected, headers={"Location": address}, close=lambda: None
            )
            hooks["response"](answer)
            answer.status_code, answer.ok, answer.headers = 200, True, {}
            return answer

    first = "https://far.example/" if redirected else address
    session = Far()
    options = {"patience": Patience(), "stop": threading.Event(), "tell": print}
    with pytest.raises(UserError, match="of this machine or of a private network"):
        PatientSession(session, internal=False, **options).get(first)
    assert session.asked == [first] * redirected
    assert PatientSession(session, internal=True, **options).get(first).ok
