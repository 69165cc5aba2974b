"""Downloads from a stand-in of the ISIC Archive: whole, checked, and the same after any mishap."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("isic_cli", reason="needs the extra 'isic'")

from slimp.cli import main as cli
from slimp.errors import UserError
from slimp.sources.download import collection as module
from slimp.sources.download.archive import Archive
from slimp.sources.download.collection import DownloadReport, download

NUMBER = 7


def fetch(stand_in, folder: Path, **options) -> DownloadReport:
    archive = Archive(f"{stand_in.address}/api/v2/", wait_seconds=0.001)
    try:
        return download(archive, NUMBER, folder, **options)
    finally:
        archive.close()


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the one that says when."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "config.json"
    }


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


@pytest.fixture
def whole(archive, tmp_path) -> dict[str, bytes]:
    """What a download without any mishap leaves."""
    fetch(archive, tmp_path / "whole")
    archive.asked.clear()
    return content(tmp_path / "whole")


def test_all_is_there_as_isic_cli_would_leave_it(archive, tmp_path):
    seen: list[tuple[int, int]] = []
    report = fetch(archive, tmp_path / "raw", progress=lambda *at: seen.append(at))
    assert (report.images, report.fetched, report.lost) == (10, 10, {})
    assert seen == [(i, 10) for i in range(1, 11)]
    files = content(tmp_path / "raw")
    for name, encoded in archive.images.items():
        assert files[f"{name}.jpg"] == encoded
    from isic_cli.cli.utils import _extract_metadata

    columns, records = _extract_metadata([archive.record(name) for name in sorted(archive.images)])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(records)
    assert files["metadata.csv"] == text.getvalue().encode()


def test_every_image_has_its_licence_and_whom_to_name(archive, tmp_path):
    report = fetch(archive, tmp_path / "raw")
    assert report.licences == {"CC-0": 5, "CC-BY": 5}
    rows = table(tmp_path / "raw" / "attribution.csv")
    assert [row["file"] for row in rows] == [f"{name}.jpg" for name in sorted(archive.images)]
    assert all(row["attribution"] and row["copyright_license"] for row in rows)
    assert (tmp_path / "raw" / "licenses" / "CC-BY.txt").read_text() == "by"
    known = json.loads((tmp_path / "raw" / "config.json").read_text())
    assert known["download"]["collection"] == NUMBER
    assert known["download"]["archive"] == f"{archive.address}/api/v2/"
    assert set(known["versions"]) == {"slimp", "isic-cli"}


MISHAPS = {
    "busy": ("/files/ISIC_0000001", {"status": 503}, {"status": 429}),
    "busy, with a time": (
        "/files/ISIC_0000001",
        {"status": 429, "headers": (("Retry-After", "0"),)},
    ),
    "cut": ("/files/ISIC_0000003", {"cut": 400}, {"cut": 0}),
    "cut, of unknown length": ("/files/ISIC_0000003", {"cut": 400, "announced": False}),
    "another page": ("/files/", {"body": b"<html>Log in</html>"}),
    "another page at length": ("/files/ISIC_0000004", {"body": b"\0" * 10_000}),
    "empty": ("/files/ISIC_0000004", {"body": b""}),
    "list cut": ("/api/v2/images/search/$", {"cut": 200}, {"cut": 30}),
    "list busy": ("/api/v2/images/search/$", {"status": 502}, {"status": 500}),
    "collection busy": ("/api/v2/collections/7/", {"status": 504}),
    "licence cut": ("/license-file/CC-BY/", {"cut": 1}),
    "redirected": ("/files/ISIC_0000005.jpg$", {"status": 302, "headers": (("Location", "?2"),)}),
    "late": ("/files/ISIC_0000006", {"delay": 0.2}),
}


@pytest.mark.parametrize("mishap", MISHAPS)
def test_mishaps_leave_no_trace(mishap, archive, whole, tmp_path):
    archive.next_gets(*MISHAPS[mishap])
    report = fetch(archive, tmp_path / "raw")
    assert (report.images, report.lost) == (10, {})
    assert content(tmp_path / "raw") == whole
    assert not any(archive.faults.values()), "the mishap was not met"


def test_a_slow_server_is_left_and_asked_again(archive, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("slimp.sources.download.archive.TIMEOUT_SECONDS", (1.0, 0.2))
    archive.next_gets("/files/ISIC_0000002", {"delay": 0.6})
    archive.next_gets("/collections/7/", {"delay": 0.6})
    fetch(archive, tmp_path / "raw")
    assert content(tmp_path / "raw") == whole
    assert archive.files_asked().count("ISIC_0000002.jpg") == 2


def test_what_is_whole_is_not_fetched_again(archive, whole, tmp_path):
    raw = tmp_path / "whole"
    (raw / "ISIC_0000004.jpg").unlink()
    damaged = raw / "ISIC_0000005.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    (raw / ".ISIC_0000006.jpg.partial-killed").write_bytes(b"half")
    report = fetch(archive, raw)
    assert (report.images, report.fetched) == (10, 2)
    assert sorted(archive.files_asked()) == ["ISIC_0000004.jpg", "ISIC_0000005.jpg"]
    assert content(raw) == whole


def test_a_limit_can_be_raised(archive, whole, tmp_path):
    raw = tmp_path / "raw"
    assert fetch(archive, raw, limit=4).images == 4
    assert len(table(raw / "metadata.csv")) == 4
    archive.asked.clear()
    assert fetch(archive, raw).fetched == 6
    assert len(archive.files_asked()) == 6
    assert content(raw) == whole


def test_an_image_that_never_comes_is_named_and_the_others_kept(archive, tmp_path):
    archive.always_gets("/files/ISIC_0000002", status=404)
    archive.always_gets("/files/ISIC_0000007", body=b"no image")
    raw = tmp_path / "raw"
    with pytest.raises(UserError) as error:
        fetch(archive, raw)
    message = str(error.value)
    assert "8 of 10 images are there, 2 could not be fetched" in message
    assert "ISIC_0000002.jpg the server answers 404" in message
    assert "ISIC_0000007.jpg has 8 bytes instead of" in message
    assert "--max-missing 2" in message
    assert not (raw / "metadata.csv").exists(), "the table says that all is there"
    report = fetch(archive, raw, max_missing=2)
    assert (report.images, len(report.lost)) == (8, 2)
    assert len(table(raw / "metadata.csv")) == 10
    assert not list(raw.glob(".*"))


def test_a_collection_without_images_is_refused(archive, tmp_path):
    archive.images.clear()
    with pytest.raises(UserError, match="collection 7 has no image"):
        fetch(archive, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("said", [12, 8, 10])
def test_wrong_counts_are_refused(said, archive, tmp_path):
    """Of 10 images one is listed twice."""
    archive.count = said
    if said == len(archive.images):
        known = archive.record("ISIC_0000001")
        archive.records["ISIC_0000004"] = {key: known[key] for key in ("isic_id", "files")}
    with pytest.raises(UserError, match=f"hold {said} images, but fewer, more, or some twice are"):
        fetch(archive, tmp_path / "raw")
    assert not (tmp_path / "raw" / "metadata.csv").exists()


def test_a_server_that_never_answers_ends_it_at_once(archive, tmp_path):
    archive.always_gets("/files/ISIC_0000001", status=503)
    with pytest.raises(UserError, match=r"127\.0\.0\.1: cannot be reached .* 503"):
        fetch(archive, tmp_path / "raw")
    archive.always.clear()
    fetch(archive, tmp_path / "raw")
    assert not list((tmp_path / "raw").glob(".*"))


def test_an_endless_answer_does_not_fill_the_disk(archive, tmp_path):
    archive.always_gets("/files/ISIC_0000001", body=b"\xff" * 3_000_000)
    with pytest.raises(UserError, match=r"ISIC_0000001.jpg has .* bytes instead of"):
        fetch(archive, tmp_path / "raw")
    assert not (tmp_path / "raw" / "ISIC_0000001.jpg").exists()


def test_nothing_is_written_where_there_is_no_room(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000))
    with pytest.raises(UserError, match=r"but only 0 MB are free there. Make room"):
        fetch(archive, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
    assert not archive.files_asked()


def test_somebody_elses_files_are_left_alone(archive, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="holds something other than a download of collection 7"):
        fetch(archive, raw)
    assert [path.name for path in raw.iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="exists and is not a folder"):
        fetch(archive, raw / "thesis.txt")


def test_a_table_that_was_edited_and_another_collection_are_not_replaced(archive, tmp_path):
    fetch(archive, tmp_path / "raw")
    path = tmp_path / "raw" / "metadata.csv"
    path.write_text(path.read_text() + "mine\n")
    with pytest.raises(UserError, match=r"metadata.csv: was changed after it was fetched"):
        fetch(archive, tmp_path / "raw")
    assert path.read_text().endswith("mine\n")
    config = tmp_path / "raw" / "config.json"
    config.write_text(config.read_text().replace('"collection": 7', '"collection": 8'))
    with pytest.raises(UserError, match="holds something other than a download of collection 7"):
        fetch(archive, tmp_path / "raw")


COMMAND = ["data", "download", "isic", "--collection", "7", "--yes"]


def test_the_command(archive, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLIMP_ISIC_ARCHIVE", f"{archive.address}/api/v2")
    raw = tmp_path / "raw"
    assert cli.main([*COMMAND, str(raw)]) == 0
    captured = capsys.readouterr()
    assert "collection 7 of 127.0.0.1, 'Skin in focus': 10 images; 0 MB to fetch" in captured.err
    assert f"{raw}: 10 images, 10 of them fetched now" in captured.out
    assert "licences: CC-0 (5), CC-BY (5)" in captured.out
    assert cli.main([*COMMAND, str(raw)]) == 0
    captured = capsys.readouterr()
    assert "10 images, 10 of them there already" in captured.err
    assert "0 of them fetched now" in captured.out


def test_the_command_asks_before_it_fetches(archive, tmp_path, capsys, monkeypatch):
    where = ["--archive", f"{archive.address}/api/v2/", str(tmp_path / "raw")]
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert cli.main([*COMMAND[:-1], *where]) == 2
    assert "nobody can be asked whether to begin: pass --yes" in capsys.readouterr().err
    for said, status in (("\n", 2), ("no\n", 2), ("Y\n", 0)):
        terminal = io.StringIO(said)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", terminal)
        assert cli.main([*COMMAND[:-1], *where]) == status
        assert (tmp_path / "raw").exists() == (status == 0)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
def test_interrupted_and_run_again(archive, whole, tmp_path):
    raw = tmp_path / "raw"
    archive.always_gets("/files/ISIC_000000[4-9]", delay=0.5)
    code = (  # a shell starts background jobs with SIGINT ignored
        "import signal, sys, slimp.cli.main as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    argv = [*COMMAND, "--archive", f"{archive.address}/api/v2/", str(raw)]
    command = [sys.executable, "-c", code, *argv]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while len(list(raw.glob("*.jpg"))) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 130, message
    assert message.splitlines()[-1] == "slimp: interrupted"
    assert not (raw / "metadata.csv").exists()
    assert not list(raw.glob(".*")), "half images"
    before = {path.name for path in raw.glob("*.jpg")}
    assert 3 <= len(before) < 10
    archive.always.clear()
    archive.asked.clear()
    fetch(archive, raw)
    assert content(raw) == whole
    assert not before & set(archive.files_asked())
