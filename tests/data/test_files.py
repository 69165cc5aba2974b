"""Files on disk: whole or not at all, and images by position."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimp.data.files import (
    ImagesInMemory,
    PackedImages,
    check_output,
    make_folder,
    new_file,
    new_folder,
    read_json,
    remove_partials,
    write_json,
)
from slimp.errors import UserError


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write_then_raise(path: Path, stop: type[BaseException]) -> None:
    path.write_text("2")
    raise stop


def pack(path: Path, encoded: list[bytes]) -> PackedImages:
    path.write_bytes(b"".join(encoded))
    return PackedImages(path, np.append(0, np.cumsum([len(e) for e in encoded])).astype(np.int64))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=20))
def test_packed_images_equal_a_list(tmp_path_factory, encoded):
    packed = pack(tmp_path_factory.mktemp("pack") / "images.bin", encoded)
    listed = ImagesInMemory(encoded)
    assert len(packed) == len(listed) == len(encoded)
    for position in reversed(range(len(encoded))):
        assert packed.read(position) == listed.read(position) == encoded[position]


def test_a_short_file_is_refused(tmp_path):
    packed = pack(tmp_path / "images.bin", [b"abc", b"def"])
    packed.path.write_bytes(b"abcd")
    with pytest.raises(UserError, match=r"has 4 bytes, but its table expects 6: it was cut short"):
        PackedImages(packed.path, packed.offsets)


def test_a_folder_appears_when_it_is_finished(tmp_path):
    target = tmp_path / "deep" / "run"
    with new_folder(target) as partial:
        (partial / "a").write_text("1")
        assert not target.exists()
        assert partial.parent == target.parent, "or the rename would copy"
    assert contents(target) == {"a"}
    assert contents(target.parent) == {"run"}
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_no_folder(tmp_path, stop):
    with pytest.raises(stop), new_folder(tmp_path / "run") as partial:
        write_then_raise(partial / "a", stop)
    assert contents(tmp_path) == set()


def test_a_failure_keeps_what_was_to_be_replaced(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("1")
    with pytest.raises(ValueError), new_folder(tmp_path / "run", overwrite=True):  # noqa: PT011
        raise ValueError
    assert contents(tmp_path / "run") == {"config.json"}
    with new_folder(tmp_path / "run", overwrite=True) as partial:
        (partial / "new").write_text("1")
    assert contents(tmp_path / "run") == {"new"}


def test_what_somebody_else_finished_meanwhile_stays(tmp_path):
    for cached in (False, True):  # of a cache theirs is as good as ours
        target = tmp_path / f"run{cached}"
        refused = nullcontext() if cached else pytest.raises(UserError, match="is not empty")
        with refused, new_folder(target, cached=cached) as partial:
            (partial / "ours").write_text("1")
            target.mkdir()
            (target / "config.json").write_text("1")
        assert contents(target) == {"config.json"}
    assert contents(tmp_path) == {"runFalse", "runTrue"}


def test_refuses_what_is_not_empty(tmp_path):
    (tmp_path / "a").write_text("1")
    with pytest.raises(
        UserError, match=r"is not empty\. Choose another folder or pass --overwrite"
    ):
        check_output(tmp_path)
    with pytest.raises(UserError, match="none that slimp wrote, so --overwrite would delete"):
        check_output(tmp_path, overwrite=True)
    check_output(tmp_path / "new")
    with pytest.raises(UserError, match="exists and is not a folder"):
        check_output(tmp_path / "a", overwrite=True)
    with pytest.raises(UserError, match="is not empty"), new_folder(tmp_path):
        pytest.fail("the block must not run")
    assert contents(tmp_path) == {"a"}


def test_a_file_appears_when_it_is_finished(tmp_path):
    target = tmp_path / "a.json"
    with new_file(target) as partial:
        partial.write_text("1")
        assert not target.exists()
    assert contents(tmp_path) == {"a.json"}
    with pytest.raises(KeyboardInterrupt), new_file(target) as partial:
        write_then_raise(partial, KeyboardInterrupt)
    assert (contents(tmp_path), target.read_text()) == ({"a.json"}, "1")


@pytest.fixture
def events(monkeypatch):
    """What is brought to the disk (as inode numbers) and renamed, in order."""
    seen, sync, rename = [], os.fsync, Path.replace

    def recorded_sync(handle):
        sync(handle)
        seen.append(("sync", os.fstat(handle).st_ino))

    def recorded_rename(path, target):
        seen.append(("rename", path.stat().st_ino))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(Path, "replace", recorded_rename)
    return seen


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after(tmp_path, events):
    write_json(tmp_path / "a.json", 1)
    file, folder = (tmp_path / "a.json").stat().st_ino, tmp_path.stat().st_ino
    assert events == [("sync", file), ("rename", file), ("sync", folder)]


def test_a_folder_is_on_the_disk_with_all_it_holds_before_it_has_its_name(tmp_path, events):
    with new_folder(tmp_path / "run") as partial:
        (partial / "deep").mkdir()
        for name in ("a", "deep/b"):
            (partial / name).write_text("1")
    run = tmp_path / "run"
    held = {("sync", path.stat().st_ino) for path in (run / "a", run / "deep/b", run / "deep", run)}
    assert set(events[:4]) == held
    assert events[4:] == [("rename", run.stat().st_ino), ("sync", tmp_path.stat().st_ino)]


def test_a_file_that_cannot_be_brought_to_the_disk_is_one(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", 1)

    def full(handle):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_json(tmp_path / "a.json", 2)
    assert read_json(tmp_path / "a.json") == 1
    assert contents(tmp_path) == {"a.json"}


@pytest.mark.parametrize("inside", ["x", "x/y", "x/y/z"])
def test_what_would_lie_in_a_file_is_refused(tmp_path, inside):
    (tmp_path / "fil").write_text("mine")
    for make in (new_folder, new_file):
        with (
            pytest.raises(UserError, match=r"fil.*: cannot be written"),
            make(tmp_path / "fil" / inside),
        ):
            pass
    with pytest.raises(UserError, match=r"fil: cannot be written"):
        make_folder(tmp_path / "fil")
    assert [path.name for path in tmp_path.iterdir()] == ["fil"]


def test_what_killed_writers_left_can_be_removed(tmp_path):
    with new_folder(tmp_path / "run") as partial:
        left = tmp_path / partial.name
    left.mkdir()
    (left / "a").touch()
    with new_file(tmp_path / "a.json") as partial:
        partial.write_text("1")
    partial.touch()
    (tmp_path / ".hidden").touch()
    remove_partials(tmp_path)
    assert contents(tmp_path) == {"run", "a.json", ".hidden"}
    remove_partials(tmp_path / "nowhere")


def test_json_goes_round_and_refuses_nan(tmp_path):
    content = {"a": [1, 2.5, None, "é"]}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert contents(tmp_path) == {"a.json"}


def test_bad_json_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'{"a": ')
    with pytest.raises(UserError, match=r"a\.json: damaged, not valid JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"a\.json: damaged"):
        read_json(tmp_path / "a.json")
