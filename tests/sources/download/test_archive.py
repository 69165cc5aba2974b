"""What the archive says is taken for what it is, and never for a path or an address to trust."""

from __future__ import annotations

import builtins
import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.errors import UserError
from slimp.sources.download.archive import Archive, parse_image

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


def test_a_record_becomes_a_row():
    image = parse_image(IMAGE)
    assert image.file == "ISIC_0000001.JPG"
    assert image.size_bytes == 12
    assert image.record == {
        "isic_id": "ISIC_0000001",
        "attribution": "A hospital",
        "copyright_license": "CC-BY-NC",
        "image_type": "dermoscopic",
        "age_approx": "55",
        "sex": "",
        "melanocytic": "False",
    }


@pytest.mark.parametrize("ending", ["", "/", ".exe", ".jpg/..", ".csv", ".jpg%2F..%2Fx"])
def test_an_odd_ending_is_none(ending):
    address = f"https://files.example/x{ending}?response-content-disposition=y.png"
    assert parse_image(changed("files.full.url", address)).file == "ISIC_0000001.jpg"


@pytest.mark.parametrize(
    "name", ["../ISIC_1", "/etc/x", "a/b", "a\\b", ".x", "", "C:x", "a\0", "x" * 65, "CON.x", 5]
)
def test_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(UserError, match="which is no file's name"):
        parse_image(changed("isic_id", name))


@pytest.mark.parametrize("licence", ["../x", "", "a/b", None, ".hidden"])
def test_a_licence_that_is_no_file_name_is_refused(licence):
    with pytest.raises(UserError, match="gives ISIC_0000001 the licence"):
        parse_image(changed("copyright_license", licence))


@pytest.mark.parametrize("address", ["http://files.example/a.jpg", "file:///etc/passwd", ""])
def test_an_image_over_plain_http_is_refused(address):
    with pytest.raises(UserError, match=r"https|no address"):
        parse_image(changed("files.full.url", address))


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


@settings(max_examples=300, deadline=None)
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


class TestStandIn:
    """With the client installed."""

    @pytest.fixture(autouse=True)
    def _client(self):
        pytest.importorskip("isic_cli", reason="needs the extra 'isic'")

    def test_facts_of_a_collection(self, ask, archive):
        facts = ask(archive.address).collection(NUMBER)
        assert (facts.name, facts.doi, facts.images) == ("Skin in focus", None, 10)
        assert facts.size_bytes == sum(map(len, archive.images.values()))

    def test_pages_are_read_one_after_the_other(self, ask, archive):
        listed = [image.file for image in ask(archive.address).images(NUMBER)]
        assert listed == [f"{name}.jpg" for name in sorted(archive.images)]
        assert archive.asked.count("/api/v2/images/search/") == 4

    def test_no_such_collection(self, ask, archive):
        with pytest.raises(UserError, match=r"there is no collection 8, .* 404"):
            ask(archive.address).collection(8)

    def test_an_image_listed_twice(self, ask, archive):
        archive.records["ISIC_0000004"] = {"isic_id": "ISIC_0000001"}
        with pytest.raises(UserError, match=r"lists ISIC_0000001\.jpg twice"):
            list(ask(archive.address).images(NUMBER))

    @pytest.mark.parametrize(
        "body", [b"<html>Log in</html>", b"[]", b"{}", b"null", b'{"count": "many"}', b"\xff"]
    )
    def test_another_answer_is_one_sentence(self, ask, archive, body):
        archive.always_gets("/api/v2/images/search/$", body=body)
        with pytest.raises(UserError, match=r"127.0.0.1: (what it says|breaks off)"):
            ask(archive.address).collection(NUMBER)
        with pytest.raises(UserError, match=r"127.0.0.1: (what it says|breaks off)"):
            list(ask(archive.address).images(NUMBER))

    def test_a_redirection_to_plain_http_is_refused(self, ask, archive):
        there = (("Location", "http://mirror.example/api/?key=secret"),)
        archive.always_gets("/api/v2/collections/", status=302, headers=there)
        message = "'http://mirror.example/api/': not an https address"
        with pytest.raises(UserError, match=message) as error:
            ask(archive.address).collection(NUMBER)
        assert "secret" not in str(error.value)

    def test_nobody_there(self, ask, archive):
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
