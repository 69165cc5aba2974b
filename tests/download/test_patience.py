"""When a request is made again: intervals that grow, and what servers ask for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.download.patience import Patience, retry_after_seconds


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
