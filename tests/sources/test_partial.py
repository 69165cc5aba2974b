"""An import that is cut short, whenever and however, ends with the bits of one that is not."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from slimp.data.cohort import Cohort, CohortInfo
from slimp.data.schema import Schema
from slimp.errors import CohortError, UserError
from slimp.sources.importer import ImportOptions, hash_of, import_cohort
from slimp.sources.partial import PartialImport, partial_folder, read_journal
from slimp.sources.raw import RawTable

SCHEMA_TOML = """
image = "img"
lesion = "lesion"
patient = "patient"
label = "dx"
[patient_metadata]
age = { kind = "continuous" }
"""
SCHEMA = Schema.from_dict(
    {
        "image": "img",
        "lesion": "lesion",
        "patient": "patient",
        "label": "dx",
        "patient_metadata": {"age": {"kind": "continuous"}},
    }
)
INFO = CohortInfo(name="ours", source="test")
ROWS = 60
OPTIONS = ImportOptions(shorter_side=20, max_corrupt=0.2)


def encoded(k: int) -> bytes | None:
    """Of image k: as it is, to be downsized, to be converted, absent, or corrupt."""
    if k % 17 == 5:
        return None
    if k % 17 == 9:
        return b"no image"
    size = (40, 30) if k % 5 == 0 else (12, 10)
    buffer = io.BytesIO()
    mode, fill = ("L", k) if k % 7 == 0 else ("RGB", (k, 90, 70))
    Image.new(mode, size, fill).save(buffer, "PNG" if k % 3 else "JPEG")
    return buffer.getvalue()


def table(n: int = ROWS) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "img": [f"i{k}" for k in range(n)],
            "lesion": [str(k // 2) for k in range(n)],
            "patient": [f"p{k // 4}" for k in range(n)],
            "dx": ["MEL" if k % 3 else "NEV" for k in range(n)],
            "age": [str(40 + k) for k in range(n)],
        },
        dtype="str",
    )


def raw(opener: Callable[[str], bytes | None] | None = None) -> RawTable:
    opener = opener or (lambda cell: encoded(int(cell[1:])))
    return RawTable(table=table(), open_image=opener, looked_in="the drawer")


def run(target: Path, source: RawTable | None = None, **more: object) -> Cohort:
    more = {"info": INFO, "options": OPTIONS, "schema": SCHEMA} | more
    return import_cohort(source or raw(), more.pop("schema"), target, **more)


def interrupt_at(row: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == row:
            raise KeyboardInterrupt

    return progress


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The files of an import that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "c"
    report = run(folder).info.import_report
    assert min(report[key] for key in ("absent", "corrupt", "resized", "converted")) >= 3
    return contents(folder)


def append(path: Path, more: bytes) -> None:
    with path.open("ab") as file:
        file.write(more)


@given(stops=st.lists(st.integers(1, ROWS), min_size=1, max_size=6))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_number_of_interruptions_changes_no_bit(tmp_path_factory, whole, stops):
    target = tmp_path_factory.mktemp("cut") / "c"
    reached = 0
    for stop in stops:
        if stop > reached:
            with pytest.raises(KeyboardInterrupt):
                run(target, resume=True, progress=interrupt_at(stop))
            reached = stop
            assert left_in(target.parent) == [".c.import"]
    run(target, resume=True)
    assert contents(target) == whole
    assert left_in(target.parent) == ["c"]


def test_what_is_done_is_not_done_again(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", progress=interrupt_at(40))
    opened, seen = [], []

    def opener(cell: str) -> bytes | None:
        opened.append(cell)
        return encoded(int(cell[1:]))

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    run(tmp_path / "c", raw(opener), resume=True, progress=progress)
    assert sorted(opened) == sorted(f"i{k}" for k in range(40, ROWS))
    assert seen == [(k, ROWS) for k in range(41, ROWS + 1)]
    assert contents(tmp_path / "c") == whole


def test_resume_where_there_is_nothing_begins(tmp_path, whole):
    run(tmp_path / "c", resume=True)
    assert contents(tmp_path / "c") == whole


def test_an_old_partial_is_told_of(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", progress=interrupt_at(31))
    with pytest.raises(UserError) as error:
        run(tmp_path / "c")
    assert str(error.value) == (
        f"{tmp_path / 'c'}: an import of 60 rows was interrupted there after 31. Continue it with "
        "--resume, or start over with --overwrite."
    )
    assert left_in(tmp_path) == [".c.import"], "a refusal does not destroy it"
    opened = []

    def opener(cell: str) -> bytes | None:
        opened.append(cell)
        return encoded(int(cell[1:]))

    run(tmp_path / "c", raw(opener), overwrite=True)
    assert len(opened) == ROWS
    assert contents(tmp_path / "c") == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"source": replace(raw(), table=table().replace("MEL", "BCC"))},
            "another import: of table",
        ),
        (
            {"source": replace(raw(), looked_in="a box")},
            'of image places "the drawer", not "a box"',
        ),
        ({"options": ImportOptions(shorter_side=64, max_corrupt=0.2)}, '"shorter_side": 20}'),
        ({"schema": replace(SCHEMA, label=None)}, 'of schema {"label": "dx"}, not {}'),
        (
            {"info": replace(INFO, name="theirs")},
            'of source {"name": "ours"}, not {"name": "theirs"}',
        ),
    ],
)
def test_another_import_is_not_continued(tmp_path, change, message):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", progress=interrupt_at(31))
    before = read_journal(tmp_path / ".c.import" / "journal.jsonl")
    with pytest.raises(UserError, match=message):
        run(tmp_path / "c", resume=True, **change)
    assert read_journal(tmp_path / ".c.import" / "journal.jsonl") == before
    assert len(before) == 31


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: append(f / "cohort/images.bin", b"half an image"),
        lambda f: os.truncate(f / "cohort/images.bin", 700),
        lambda f: os.truncate(f / "cohort/images.bin", 0),
        lambda f: (f / "cohort/images.bin").unlink(),
        lambda f: append(f / "journal.jsonl", b"[12"),
        lambda f: append(f / "journal.jsonl", b"\0" * 50 + b"\n[3,0,0]\n"),
        lambda f: os.truncate(f / "journal.jsonl", 100),
        lambda f: (f / "journal.jsonl").unlink(),
        lambda f: (f / "cohort/.cohort.json.partial-x").touch(),
        lambda f: (f / "cohort/lesions.parquet").write_bytes(b"half a table"),
    ],
)
def test_what_the_disk_lost_is_done_again(tmp_path, whole, damage):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", progress=interrupt_at(50))
    damage(tmp_path / ".c.import")
    run(tmp_path / "c", resume=True)
    assert contents(tmp_path / "c") == whole


@pytest.mark.parametrize(
    "line", ["7", "true", '{"a":1}', "[]", "[1,2]", "[1,0,0,0,true]", "[-1,0,0,0,0]", "[" * 9999]
)
def test_a_line_that_is_no_record_ends_a_journal(tmp_path, line):
    journal = tmp_path / "journal.jsonl"
    journal.write_text(f'[3,0,0,0,0]\nnull\n"torn"\n{line}\nnull\n')
    assert read_journal(journal) == [[3, 0, 0, 0, 0], None, "torn"]


def test_a_refusal_leaves_nothing_even_when_continued(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", progress=interrupt_at(8), options=ImportOptions())
    with pytest.raises(CohortError, match="are corrupt"):
        run(tmp_path / "c", resume=True, options=ImportOptions())
    assert left_in(tmp_path) == []


def test_a_full_disk_keeps_what_was_written(tmp_path, whole, monkeypatch):
    real = os.fsync
    calls = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 20:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr("slimp.sources.partial.SAVE_SECONDS", 0)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "c")
    monkeypatch.undo()
    assert 0 < len(read_journal(tmp_path / ".c.import" / "journal.jsonl")) < ROWS
    run(tmp_path / "c", resume=True)
    assert contents(tmp_path / "c") == whole


def test_two_imports_do_not_write_one_cohort(tmp_path):
    with PartialImport(tmp_path / "c", {}, rows=3) as first:
        with pytest.raises(UserError, match="another import is writing it at this moment"):
            run(tmp_path / "c", resume=True)
        with pytest.raises(UserError, match="another import"):
            run(tmp_path / "c", overwrite=True)
        assert first.folder == partial_folder(tmp_path / "c")
    assert left_in(tmp_path) == []


def test_a_whole_cohort_is_not_overwritten_by_accident(tmp_path, whole):
    run(tmp_path / "c")
    with pytest.raises(UserError, match="is not empty"):
        run(tmp_path / "c", resume=True)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", overwrite=True, progress=interrupt_at(20))
    assert contents(tmp_path / "c") == whole, "until the new one is there, the old one stays"
    run(tmp_path / "c", overwrite=True, resume=True)
    assert contents(tmp_path / "c") == whole
    assert left_in(tmp_path) == ["c"]


def test_the_hash_sees_every_cell_name_and_row():
    first = table(4)
    same = pd.concat([table(2), table(4).iloc[2:]])
    assert hash_of(first) == hash_of(same)
    moved = first.assign(img=["i0i", "1", "i2", "i3"], lesion=first["lesion"])
    glued = first.assign(img=["i0", "i1", "i2", "i3"])
    assert hash_of(glued) == hash_of(first)
    assert hash_of(moved) != hash_of(first), "cells are told apart, not only their sum"
    others = [
        first.rename(columns={"age": "Age"}),
        first.iloc[::-1],
        first.assign(age=["40", "41", "42", "44"]),
        first.set_axis(range(1, 5)),
    ]
    assert len({hash_of(other) for other in [first, *others]}) == 5


CHILD = """
import sys, time
from pathlib import Path
import slimp.sources.csv_folder, slimp.sources.importer as importing, slimp.sources.partial as p
from slimp.cli.main import main
p.SAVE_SECONDS = 0.01
importing.PROCESSES_FROM = int(sys.argv.pop(1))
opened = importing._open
def slow(*args):
    time.sleep(0.003)
    return opened(*args)
importing._open = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def own_data(tmp_path) -> list[str]:
    """The words of a command that imports 900 images."""
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    table(900).to_csv(folder / "metadata.csv", index=False)
    for k in range(900):
        if (image := encoded(k % 60)) is not None:
            (folder / "images" / f"i{k}.png").write_bytes(image)
    (tmp_path / "schema.toml").write_text(SCHEMA_TOML)
    words = ["data", "import", "csv", str(folder), "COHORT"]
    return [*words, "--schema", str(tmp_path / "schema.toml"), "--max-corrupt", "0.2"]


def start(
    words: list[str], target: Path, *more: str, processes_from: int = 1000
) -> subprocess.Popen[str]:
    words = [str(target) if word == "COHORT" else word for word in words]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(processes_from), *words, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for(process: subprocess.Popen[str], target: Path, rows: int) -> None:
    """Returns when the journal has that many rows."""
    journal = partial_folder(target) / "journal.jsonl"
    deadline = time.monotonic() + 60
    while len(read_journal(journal)) < rows:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(
    "kinds",
    [
        [signal.SIGKILL, signal.SIGTERM],
        pytest.param(
            [signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGINT], marks=pytest.mark.slow
        ),
    ],
    ids=["twice", "often"],
)
def test_kills_change_no_bit(tmp_path, own_data, kinds):
    """Signals to the command line at random moments."""
    expected = tmp_path / "expected"
    assert start(own_data, expected).communicate()[1] == ""
    target, rng, reached = tmp_path / "c", np.random.default_rng(), 0
    for number, kind in enumerate(kinds):
        process = start(own_data, target, "--resume", processes_from=1000 * (number % 2))
        wait_for(process, target, reached + int(rng.integers(2, 20)))
        process.send_signal(kind)
        _, stderr = process.communicate(timeout=60)
        after = len(read_journal(partial_folder(target) / "journal.jsonl"))
        assert reached < after < 900, (kind, stderr)
        reached = after
        if kind == signal.SIGKILL:
            assert process.returncode == -kind
        else:
            assert process.returncode == 130
            assert stderr == (
                "what was imported so far is kept: run the command again with --resume\n"
                "slimp: interrupted\n"
            )
        assert not target.exists()
    process = start(own_data, target, "--resume")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert contents(target) == contents(expected)
    assert not partial_folder(target).exists()
    report = json.loads((target / "cohort.json").read_text())["info"]["import_report"]
    assert report["rows"] == 900


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_while_the_folder_gets_its_name_loses_nothing(tmp_path, whole, renames, monkeypatch):
    """Also where another cohort had that name, and was just put aside."""
    run(tmp_path / "c", source=replace(raw(), table=table().replace("MEL", "BCC")))
    rename, done = Path.replace, []

    def killed(self: Path, target: Path) -> Path:
        if self.name in ("c", "cohort"):
            if len(done) == renames:
                raise KeyboardInterrupt
            done.append(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", overwrite=True)
    monkeypatch.undo()
    assert (tmp_path / "c").exists() == (renames == 0)
    run(tmp_path / "c", resume=True, overwrite=True)
    assert contents(tmp_path / "c") == whole
    assert left_in(tmp_path) == ["c"]


def test_a_cohort_put_aside_is_not_lost_to_another_try(tmp_path, monkeypatch):
    """Killed between the renames, and begun anew without --overwrite."""
    run(tmp_path / "c", source=replace(raw(), table=table().replace("MEL", "BCC")))
    earlier, rename = contents(tmp_path / "c"), Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.name == "cohort":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c", overwrite=True)
    monkeypatch.undo()
    assert not (tmp_path / "c").exists()
    with pytest.raises(UserError, match="pass --overwrite"):
        run(tmp_path / "c")
    assert contents(tmp_path / "c") == earlier
