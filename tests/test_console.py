"""Results as text."""

from __future__ import annotations

import pytest

from slimp.console import PIPED_WIDTH, note, say, show_table


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
    assert lines[2].split() == ["image", "0.5", "[b]0.44", "to", "0.56"]
    assert lines[2].index("0.5") == len("image+lesion  balanced accuracy") - len("0.5")


@pytest.mark.parametrize("length", [10, PIPED_WIDTH * 2])
def test_long_cells_are_never_cut(capsys, length):
    show_table("", ["path", "n"], [("x" * length, 1)])
    assert capsys.readouterr().out.count("x") == length
