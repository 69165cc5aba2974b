"""`slimp data export`: to shards and back, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_cohort

from slimp.cli.main import main
from slimp.data.files import sha256_of


@pytest.fixture
def cohort(tmp_path) -> Path:
    tiny_cohort(patients=6).save(tmp_path / "cohort")
    return tmp_path / "cohort"


def test_there_and_back(cohort, tmp_path, capsys):
    shards = tmp_path / "shards"
    words = ["data", "export", str(cohort), "--format", "webdataset", "--out", str(shards)]
    assert main([*words, "--published", "all"]) == 0
    said = capsys.readouterr().out
    images = json.loads((shards / "metrics.json").read_text())["images"]
    assert f"split images images {images} written" in " ".join(said.split())
    assert f"written: {shards} (1 shards" in said
    config = json.loads((shards / "config.json").read_text())
    assert config["export"]["shard_mib"] == 256
    assert config["versions"]["slimp"]
    assert main(["data", "import", "webdataset", str(shards), str(tmp_path / "back")]) == 0
    for path in cohort.iterdir():
        assert sha256_of(tmp_path / "back" / path.name) == sha256_of(path)


def test_hugging_face(cohort, tmp_path, capsys):
    words = ["data", "export", str(cohort), "--out", str(tmp_path / "hub")]
    assert main(words) == 2
    assert "missing --format" in capsys.readouterr().err
    assert main([*words, "--format", "hf"]) == 0
    assert (tmp_path / "hub" / "README.md").is_file()
    assert main([*words, "--format", "hf"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*words, "--format", "hf", "--overwrite"]) == 0
