"""The field's words: what the project writes uses none of its former private ones."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".md", ".toml", ".j2", ".css"}


def files() -> list[Path]:
    folders = (ROOT / name for name in ("src", "docs", "examples", "benchmarks"))
    found = [path for folder in folders for path in sorted(folder.rglob("*"))]
    return [path for path in (ROOT / "README.md", *found) if path.suffix in SUFFIXES]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_private_words_are_gone(path, private_words):
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [f"{n}: {m[0]}" for n, line in enumerate(lines, 1) if (m := private_words.search(line))]
    assert not found
