"""`slimp data import`: what it prints, and what it leaves."""

from __future__ import annotations

import pandas as pd
import pytest
from raw_data import fill, jpeg

from slimp.cli.main import main

SCHEMA = """
image = "img"
patient = "who"
label = "dx"
[lesion_metadata]
size = { kind = "continuous", unit = "mm" }
"""


@pytest.fixture
def words(tmp_path) -> list[str]:
    """The command that imports 40 images, of which one is absent."""
    fill(tmp_path / "raw/images", {f"i{k}.jpg": jpeg(k) for k in range(40) if k != 3})
    table = pd.DataFrame({"img": [f"i{k}" for k in range(40)]})
    table["who"], table["dx"], table["size"] = table.index // 2, table.index % 2, 1.5
    table.to_csv(tmp_path / "raw" / "metadata.csv", index=False)
    (tmp_path / "schema.toml").write_text(SCHEMA)
    words = ["data", "import", "csv", str(tmp_path / "raw"), str(tmp_path / "cohort")]
    return [*words, "--schema", str(tmp_path / "schema.toml")]


def test_it_says_what_was_met_and_what_comes_next(words, tmp_path, capsys):
    assert main(words) == 0
    said, noted = capsys.readouterr()
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines[0].startswith("Cohort('raw': 20 patients, 39 lesions, 39 images)")
    assert "absent 1" in lines
    assert "absent examples i3" in lines
    assert lines[-1] == f"next: slimp data check {tmp_path / 'cohort'}"
    assert noted == ""


def test_what_is_wrong_is_one_paragraph(words, tmp_path, capsys):
    assert main([*words, "--max-absent", "0.01"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("slimp: error: 1 of 40 images are absent")
    assert message.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "schema.toml"]


def test_places(words, tmp_path, capsys, monkeypatch):
    """The folder one stands in, and one whose parents are not there yet."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*words[:4], ".", *words[5:]]) == 2
    assert "current folder" in capsys.readouterr().err
    assert main([*words[:4], "../a/b", *words[5:]]) == 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
