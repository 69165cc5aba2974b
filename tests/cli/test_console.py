"""Results as text."""

from __future__ import annotations

import sys

import pytest

from slimp.cli.console import PIPED_WIDTH, note, progress_bar, say, show_table


def test_results_and_notes_go_to_different_streams(capsys):
    say("a result")
    note("progress")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a result\n", "progress\n")


def test_a_piped_table_is_plain_text(capsys):
    rows = [("image", 0.5, "[b]0.44 to 0.56"), ("image+lesion", 0.625, "-")]
    show_table("probe", ["features", "balanced accuracy", "95 %"], rows)
    text = capsys.readouterr().out
    assert text.isascii()
    assert "\x1b" not in text
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == "probe"
    assert lines[1].split() == ["features", "balanced", "accuracy", "95", "%"]
    assert lines[2].split() == ["image", "0.500", "[b]0.44", "to", "0.56"]
    assert lines[2].index("0.500") == len("image+lesion  balanced accuracy") - len("0.500")


@pytest.mark.parametrize("length", [10, PIPED_WIDTH * 2])
def test_long_cells_are_never_cut(capsys, length):
    show_table("", ["path", "n"], [("x" * length, 1)])
    assert capsys.readouterr().out.count("x") == length


def test_progress_tells_the_pace_since_it_began(capsys, monkeypatch):
    """Of a job that had done 1,000 of 3,000 before and does 2,000 more in 4 seconds."""
    clock = iter([100.0, 102.0, 104.0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("slimp.cli.console.time.monotonic", lambda: next(clock, 104.0))
    with progress_bar("working") as progress:
        for done in (1000, 2000, 3000):
            progress(done, 3000)
    said = capsys.readouterr().err
    assert "working" in said
    assert "3000/3000" in said
    assert "500/s" in said


def test_a_pipe_sees_no_progress(capsys):
    with progress_bar("working") as progress:
        progress(1, 2)
    assert capsys.readouterr().err == ""
