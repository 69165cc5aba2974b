"""Processes that verify images: the same outcomes as without them, whatever happens to them."""

from __future__ import annotations

import io
import marshal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from slimp.sources import verifiers
from slimp.sources.verifiers import Verifiers, serve, verified
from slimp.sources.verify_image import VerifiedImage


def encoded(k: int, size: tuple[int, int] = (12, 10), **more: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(str(more.pop("mode", "RGB")), size, k).save(buffer, more.pop("format", "PNG"), **more)
    return buffer.getvalue()


IMAGES = [
    encoded(1),
    encoded(2, (60, 40)),
    encoded(3, mode="L"),
    encoded(4, format="JPEG", comment=b"Mrs. Miller"),
    encoded(5, format="GIF", mode="P"),
    encoded(6)[:50],
    b"",
    b"no image",
    None,
    "unreadable: the disk is broken",
]


def in_place() -> list[VerifiedImage | str | None]:
    return [verified(image, 20) for image in IMAGES]


def kinds(outcomes: list[VerifiedImage | str | None]) -> set[str]:
    return {type(outcome).__name__ for outcome in outcomes}


def test_the_examples_are_of_every_kind():
    outcomes = in_place()
    assert kinds(outcomes) == {"VerifiedImage", "str", "NoneType"}
    images = [outcome for outcome in outcomes if isinstance(outcome, VerifiedImage)]
    for flag in ("resized", "converted", "stripped"):
        assert {getattr(image, flag) for image in images} == {False, True}, flag


@pytest.mark.parametrize("processes", [0, 2])
def test_outcomes_are_the_same_and_in_order(processes):
    with Verifiers(processes, shorter_side=20) as verify, ThreadPoolExecutor(2) as threads:
        for outcomes in threads.map(verify, [IMAGES] * 6):
            assert outcomes == in_place()


def test_batches_are_small_and_lose_nothing(monkeypatch):
    monkeypatch.setattr(verifiers, "BATCH_BYTES", 100)
    sent = list(verifiers._batches(iter(IMAGES)))
    assert len(sent) > 3
    assert [image for batch in sent for image in batch] == IMAGES
    with Verifiers(1, shorter_side=20) as verify:
        assert verify(iter(IMAGES)) == in_place()


def test_a_killed_process_is_done_without():
    with Verifiers(1, shorter_side=20) as verify:
        assert verify(IMAGES) == in_place()
        (process,) = verify._started
        process.kill()
        process.wait()
        for _ in range(3):
            assert verify(IMAGES) == in_place()


def test_a_process_that_cannot_start_is_done_without(monkeypatch):
    monkeypatch.setattr(verifiers.sys, "executable", "/nowhere/python")
    with Verifiers(2, shorter_side=20) as verify:
        assert verify(IMAGES) == in_place()


def test_a_process_that_fails_at_once_is_done_without(monkeypatch):
    monkeypatch.setattr(verifiers, "__name__", "slimp.sources.nothing_of_this_name")
    with Verifiers(1, shorter_side=20) as verify:
        assert verify(IMAGES) == in_place()


def test_an_error_while_images_are_opened_goes_to_the_caller_and_spoils_nothing():
    def opened():
        yield IMAGES[0]
        raise KeyError("not our affair")

    with Verifiers(1, shorter_side=20) as verify:
        with pytest.raises(KeyError, match="not our affair"):
            verify(opened())
        assert verify(IMAGES) == in_place()


def test_processes_end_with_the_block():
    before = threading.active_count()
    with Verifiers(2, shorter_side=20) as verify:
        started = list(verify._started)
        assert all(process.poll() is None for process in started)
    assert all(process.poll() is not None for process in started)
    assert threading.active_count() == before


def test_the_other_side_answers_until_nobody_asks(tmp_path):
    """And sends back only what changed."""
    requests = tmp_path / "requests"
    requests.write_bytes(marshal.dumps(IMAGES[:3]) + marshal.dumps([None]))
    with requests.open("rb") as asked, (tmp_path / "answers").open("wb") as answers:
        serve(asked, answers, 20)
    with (tmp_path / "answers").open("rb") as answers:
        first, second, third = marshal.load(answers)
        assert first == (None, False, False, False, False)
        assert second[0] == verified(IMAGES[1], 20).encoded
        assert third[1:3] == (False, True)
        assert marshal.load(answers) == [None]
