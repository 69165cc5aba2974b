"""`slimp adapt` as people type it: what it prints, what it leaves, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimp.cli.main import main
from slimp.data.files import read_json
from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic

RUN = ["--patients", "20", "--lesions", "2", "--epochs", "1", "--validation-fraction", "0"]
RUN += ["--workers", "0", "--accelerator", "cpu", "--precision", "32"]


@pytest.fixture(scope="module")
def folder(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cohorts `first` and `second`, and a run on the first."""
    folder = tmp_path_factory.mktemp("adapt")
    (folder / "first").symlink_to(made["cohort"])
    (folder / "run").symlink_to(made["run"])
    size = SyntheticConfig(patients=10, lesions=4, image_size=32, seed=2)
    write_synthetic(folder / "second", size)
    return folder


def test_it_says_what_is_trained_and_what_was_forgotten(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "adapted"
    words = ["adapt", str(folder / "run"), str(folder / "second"), "--out", str(out), *RUN]
    assert main([*words, "--train", "heads"]) == 0
    said = capsys.readouterr().out
    assert "lesion: heads and temperature" in said
    assert "1 pretrain  synthetic-80-0" in said
    assert "2 adapt  synthetic-10-2" in said
    assert "forgetting was not measured" in said
    assert main([*words, "--train", "heads", "--resume", "--reference", str(folder / "first")]) == 0
    said = capsys.readouterr().out
    assert "tested on patients that both runs set aside" in " ".join(said.split())
    saved = read_json(out / "forgetting.json")
    assert saved["cohort"] == "synthetic-80-0"
    assert set(saved["after_minus_before"]) == {"image", "full"}
    assert read_json(out / "transfer.json")["stages"][1]["trained"] == "heads"


def test_the_settings_it_leaves_repeat_it(folder: Path, tmp_path: Path) -> None:
    words = ["adapt", str(folder / "run"), str(folder / "second"), "--out"]
    assert main([*words, str(tmp_path / "a"), *RUN, "--train", "full"]) == 0
    config = str(tmp_path / "a" / "config.json")
    assert main([*words, str(tmp_path / "b"), "--config", config]) == 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
