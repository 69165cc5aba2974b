"""`slimp finetune` as people type it: what it leaves is a probe's, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tables import metadata_of, write_images

from slimp.cli.main import main
from slimp.data.cohort import Cohort
from slimp.data.files import read_json
from slimp.prediction.config import PredictConfig
from slimp.prediction.model_card import model_card
from slimp.prediction.predictor import Predictor

CPU = ["--workers", "0", "--accelerator", "cpu", "--precision", "32", "--epochs", "1"]
QUICK = ["--replicates", "20", "--strengths", "0.01", "--malignant", "bcc,melanoma"]


@pytest.fixture(scope="module")
def folder(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and the same fine-tuned."""
    folder = tmp_path_factory.mktemp("finetune")
    for name in ("cohort", "run"):
        (folder / name).symlink_to(made[name])
    assert main(words(folder, "tuned")) == 0
    return folder


def words(folder: Path, out: str, *more: str) -> list[str]:
    run, cohort = str(folder / "run"), str(folder / "cohort")
    return ["finetune", run, cohort, "--out", str(folder / out), *CPU, *QUICK, *more]


def test_it_leaves_what_a_probe_leaves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = folder / "tuned"
    content = read_json(tuned / "metrics.json")
    assert list(content["feature_sets"]) == ["image", "image+lesion", "full", "fine-tuned"]
    assert content["split"] == "held_out"
    assert content["pretraining_saw_test_patients"] is False
    assert content["over_frozen"]["baseline"] == "frozen full"
    assert (tuned / "report.html").is_file()
    card = model_card(tuned / "split0", {}, probe=tuned)
    assert "The classifier fine-tuned end to end on the features 'full'" in card
    parts = [pd.read_parquet(folder / run / "patients.parquet") for run in ("run", "tuned/split0")]
    held_out = [set(x.loc[x["part"] == "held_out", "patient_id"]) for x in parts]
    assert held_out[0] == held_out[1]
    cohort, probe = str(folder / "cohort"), str(folder / "probe")
    options = [*CPU[:4], *QUICK, "--no-report"]
    assert main(["probe", str(folder / "run"), cohort, "--out", probe, *options]) == 0
    capsys.readouterr()
    assert main(["compare", str(tuned), probe]) == 0
    assert "balanced_accuracy" in capsys.readouterr().out


def test_predict_takes_it_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    """And gives the test images the probabilities that were scored."""
    shutil.move(shutil.copytree(folder / "tuned", tmp_path / "copy"), tmp_path / "moved")
    cohort = Cohort.load(folder / "cohort")
    predictor = Predictor.load(tmp_path / "moved", PredictConfig(novelty=0.0))
    said = pd.read_parquet(folder / "tuned" / "predictions.parquet").set_index("image_id")
    chosen = [row for row, name in enumerate(cohort.images["image_id"]) if name in said.index][:5]
    paths = write_images(cohort, tmp_path / "images", chosen)
    names = [path.stem for path in paths]
    found = predictor.predict(paths, metadata_of(cohort))
    expected = said.loc[names, [f"p_{c}" for c in predictor.probe.classes]]
    given = [[p.probabilities[c] for c in predictor.probe.classes] for p in found]
    np.testing.assert_allclose(given, expected, atol=1e-4)
    assert [p.decision for p in found] == said.loc[names, "predicted"].tolist()


def test_a_place_in_use_needs_a_word_and_resuming_the_same_settings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "tuned" / "predictions.parquet").read_bytes()
    assert main(words(folder, "tuned")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(words(folder, "tuned", "--resume", "--learning-rate", "0.1")) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert main(words(folder, "tuned", "--resume", "--no-report")) == 0
    assert "tuned IMAGES --metadata TABLE\n" in capsys.readouterr().out
    assert (folder / "tuned" / "predictions.parquet").read_bytes() == before


def test_a_fine_tuned_run_relates_no_images_and_metadata(folder: Path, capsys) -> None:
    run, cohort = str(folder / "tuned" / "split0"), str(folder / "cohort")
    retrieve = ["retrieve", run, "--reference", cohort, "--target", cohort]
    for words in (retrieve, ["explain", run, cohort]):
        assert main([*words, "--out", str(folder / "out")]) == 2
        assert "was fine-tuned for labels" in capsys.readouterr().err
    words = ["explain", run, cohort, "--probe", str(folder / "tuned"), "--label", "malignant"]
    words += ["--out", str(folder / "explained"), "--images", "2", "--no-deletion", "--no-report"]
    assert main(words) == 0
    assert "image's part of a probe's log-odds of malignant, up to" in capsys.readouterr().out
    words = ["probe", run, cohort, "--out", str(folder / "probe of tuned"), *CPU[:4], *QUICK]
    assert main(words) == 0
    page = (folder / "probe of tuned" / "report.html").read_text()
    assert "no similarities of held-out rows were given" in page
