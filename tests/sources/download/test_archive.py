"""What the archive says is taken for what it is, and never for a path or an address to trust."""

from __future__ import annotations

import builtins
import copy
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.errors import UserError
from slimp.sources.download.archive import (
    ARCHIVE,
    Archive,
    check_address,
    is_internal,
    open_session,
    parse_image,
)

pytest.importorskip("isic_cli", reason="needs the extra 'isic'")
requests = pytest.importorskip("requests", reason="needs the extra 'isic'")
NUMBER = 7
IMAGE = {
    "isic_id": "ISIC_0000001",
    "copyright_license": "CC-BY-NC",
    "attribution": "A\nhospital",
    "files": {"full": {"url": "https://files.example/a/b.JPG?x=1", "size": 12}},
    "metadata": {
        "acquisition": {"image_type": "dermoscopic"},
        "clinical": {"age_approx": 55, "sex": None, "melanocytic": False},
    },
}


def changed(path: str, value: object) -> dict:
    image = copy.deepcopy(IMAGE)
    *way, last = path.split(".")
    place = image
    for key in way:
        place = place[key]
    place[last] = value
    return image


@pytest.fixture
def ask():
    """Opens archives, and closes them after the test."""
    opened: list[Archive] = []

    def open_one(address) -> Archive:
        opened.append(Archive(f"{address}/api/v2/", wait_seconds=0.001))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.mark.parametrize("ending", ["", "/", ".exe", ".jpg/..", ".csv", ".jpg%2F..%2Fx"])
def test_an_odd_ending_is_none(ending):
    address = f"https://files.example/x{ending}?response-content-disposition=y.png"
    assert parse_image(changed("files.full.url", address)).file == "ISIC_0000001.jpg"


NAMES = ["../ISIC_1", "/etc/x", "a/b", "a\\b", ".x", "", "C:x", "a\0", "x" * 65, "CON.x", 5]
LICENCES = ["../x", "", "a/b", None, ".hidden"]
ADDRESSES = ["http://files.example/a.jpg", "file:///etc/passwd", ""]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        *(("isic_id", name, "which is no file's name") for name in NAMES),
        *(("copyright_license", name, "gives ISIC_0000001 the licence") for name in LICENCES),
        *(("files.full.url", address, "is not an https address") for address in ADDRESSES),
    ],
)
def test_names_and_addresses_that_must_not_be_used_are_refused(place, value, message):
    with pytest.raises(UserError, match=message):
        parse_image(changed(place, value))


def test_a_group_of_metadata_cannot_replace_the_name():
    image = parse_image(changed("metadata.clinical.isic_id", "../x"))
    assert image.record["isic_id"] == "ISIC_0000001"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
PLACES = [
    *("isic_id", "copyright_license", "attribution", "files", "files.full", "files.full.url"),
    *("files.full.size", "metadata", "metadata.clinical", "metadata.clinical.age_approx"),
]


@settings(max_examples=60, deadline=None)
@given(place=st.sampled_from(PLACES), value=json_values)
def test_any_json_is_an_image_or_refused(place, value):
    try:
        image = parse_image(changed(place, value))
    except (UserError, AttributeError, KeyError, TypeError):  # the latter become one sentence
        return
    assert "/" not in image.file
    for cell in (*image.record, *image.record.values()):
        assert "\n" not in cell
        cell.encode("utf-8")


def test_no_such_collection(ask, archive):
    with pytest.raises(UserError, match=r"there is no collection 8, .*404"):
        ask(archive.address).collection(8)


@pytest.mark.parametrize(
    "body", [b"<html>Log in</html>", b"[]", b"{}", b"null", b'{"count": "many"}', b"\xff"]
)
def test_another_answer_is_one_sentence(ask, archive, body):
    archive.always_gets("/api/v2/images/search/$", body=body)
    with pytest.raises(UserError, match=r"127.0.0.1: what it says"):
        ask(archive.address).collection(NUMBER)
    with pytest.raises(UserError, match=r"127.0.0.1: what it says"):
        list(ask(archive.address).images(NUMBER))


def test_a_redirection_to_plain_http_is_refused(ask, archive):
    there = (("Location", "http://mirror.example/api/?key=secret"),)
    archive.always_gets("/api/v2/collections/", status=302, headers=there)
    message = "'http://mirror.example/api/' is not an https address"
    with pytest.raises(UserError, match=message) as error:
        ask(archive.address).collection(NUMBER)
    assert "secret" not in str(error.value)


def test_nobody_there(ask):
    with pytest.raises(UserError, match=r"127.0.0.1: cannot be reached"):
        ask("http://127.0.0.1:9").collection(NUMBER)


def test_without_the_client_it_says_what_to_install(monkeypatch):
    load = builtins.__import__

    def without(name, *rest):
        if name.startswith("isic_cli"):
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'slimp\[isic\]'"):
        Archive()


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
