"""A kept result counts only while the command that made it is here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_its_script_is_here(path: Path) -> None:
    words = json.loads(path.read_text("utf-8"))["command"].split()
    assert words[0] == "python"
    assert (ROOT / words[1]).is_file()
    assert not any(word.startswith("/") for word in words)


def test_the_tables_are_those_of_the_results() -> None:
    page = (ROOT / "benchmarks" / "results" / "README.md").read_text("utf-8")
    heads = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert heads == [path.stem for path in KEPT]
