"""`slimp adapt` as people type it: what it prints, what it leaves, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slimp.cli.main import main
from slimp.data.files import read_json
from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic

torch.set_num_threads(1)

VIT = "{patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}"
RUN = ["--patients", "20", "--lesions", "2", "--epochs", "1", "--validation-fraction", "0"]
RUN += ["--workers", "0", "--accelerator", "cpu", "--precision", "32"]
MODEL = ["--encoder", "vit_tiny_patch16_224", "--encoder-options", VIT, "--image-size", "16"]
MODEL += ["--tabular-width", "8", "--projection-width", "8", "--held-out-fraction", "0.4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cohorts `first` and `second`, and a run on the first."""
    folder = tmp_path_factory.mktemp("adapt")
    for name, patients, seed in (("first", 80, 1), ("second", 10, 2)):
        size = SyntheticConfig(patients=patients, lesions=4, image_size=16, seed=seed)
        write_synthetic(folder / name, size)
    assert (
        main(["pretrain", str(folder / "first"), "--out", str(folder / "run"), *RUN, *MODEL]) == 0
    )
    return folder


def test_it_says_what_is_trained_and_what_was_forgotten(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "adapted"
    words = ["adapt", str(folder / "run"), str(folder / "second"), "--out", str(out), *RUN]
    assert main([*words, "--train", "heads"]) == 0
    said = capsys.readouterr().out
    assert "lesion: heads and temperature" in said
    assert "1 pretrain  synthetic-80-1" in said
    assert "2 adapt  synthetic-10-2" in said
    assert "forgetting was not measured" in said
    assert main([*words, "--train", "heads", "--resume", "--reference", str(folder / "first")]) == 0
    said = capsys.readouterr().out
    assert "tested on patients that both runs set aside" in " ".join(said.split())
    saved = read_json(out / "forgetting.json")
    assert saved["cohort"] == "synthetic-80-1"
    assert set(saved["after_minus_before"]) == {"image", "full"}
    assert read_json(out / "transfer.json")["stages"][1]["trained"] == "heads"


def test_the_settings_it_leaves_repeat_it(folder: Path, tmp_path: Path) -> None:
    words = ["adapt", str(folder / "run"), str(folder / "second"), "--out"]
    assert main([*words, str(tmp_path / "a"), *RUN, "--train", "full"]) == 0
    config = str(tmp_path / "a" / "config.json")
    assert main([*words, str(tmp_path / "b"), "--config", config]) == 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--rename", "sex=gender"], "the run has no feature 'gender'"),
        (["--train", "all"], "--train"),
        (["--reference", "nowhere"], "nowhere: not a cohort"),
    ],
)
def test_mistakes_are_one_paragraph(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], said: str
) -> None:
    out = tmp_path / "out"
    words = ["adapt", str(folder / "run"), str(folder / "second"), "--out", str(out), *RUN]
    assert main([*words, *extra]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_in_use_is_not_written_to(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    words = ["adapt", str(folder / "run"), str(folder / "second"), "--out", str(tmp_path), *RUN]
    assert main(words) == 2
    assert main([*words, "--overwrite"]) == 2
    assert "somebody's work" in capsys.readouterr().err
    assert main([*words[: -len(RUN) - 1], str(folder / "run"), "--overwrite"]) == 2
    assert "is the run to start from" in capsys.readouterr().err
