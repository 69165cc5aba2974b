"""The demo in miniature: the main job from a cohort to a report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from slimp.cli.demonstration import ADAPTED, HIDDEN, REFERENCE, DemoResult, run_demo
from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.prediction.predictor import Predictor
from slimp.sources.synthetic.cohort import SyntheticConfig
from slimp.training.config import PretrainConfig

torch.set_num_threads(1)

COHORT = SyntheticConfig(patients=60, lesions=2, image_size=16, seed=1)
CONFIG = PretrainConfig.from_preset(
    "tiny",
    encoder_options={"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    image_size=16,
    epochs=2,
    validate_every=1,
    seed=1,
    workers=0,
    accelerator="cpu",
    precision="32",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult]:
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run_demo(out, seed=1, cohort=COHORT, config=CONFIG)


def test_everything_lies_where_it_says(made: tuple[Path, DemoResult]) -> None:
    out, result = made
    names = sorted(path.name for path in out.iterdir())
    assert names == ["clinic", "cohort", "config.json", "probe", "report.html", "retrieved", "run"]
    assert sorted(path.name for path in (out / "clinic").iterdir()) == ["cohort", "probe", "run"]
    assert (out / "clinic" / "run" / "transfer.json").is_file()
    assert {path.name for path in (out / "retrieved").iterdir()} == {
        *("config.json", "metrics.json", "pseudo.parquet", "report.html")
    }
    assert result.report == out / "report.html"
    assert len(Cohort.load(out / "cohort").patients) == 60
    assert (out / "run" / "model.safetensors").is_file()
    metrics = json.loads((out / "probe" / "metrics.json").read_text())
    assert metrics["pretraining_saw_test_patients"] is False


def test_the_table_sets_features_beside_baselines(made: tuple[Path, DemoResult]) -> None:
    out, result = made
    probed = ["image", "image+lesion", "full", "majority", "metadata"]
    imputed = ["image", "image + imputed metadata"]
    assert list(result.table["features"]) == [*probed, *probed, *imputed]
    assert list(result.table["cohort"].unique()) == [REFERENCE, ADAPTED, HIDDEN]
    for cell in result.table["balanced accuracy"]:
        assert re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", cell)
    metrics = json.loads((out / "probe" / "metrics.json").read_text())
    shown = str(result.assessment.probes["full"].balanced_accuracy)
    assert result.table["balanced accuracy"].iloc[2] == shown
    assert metrics["balanced_accuracy"]["mean"] == pytest.approx(float(shown[:5]), abs=5e-4)


def test_it_is_tested_on_patients_that_pre_training_never_saw(
    made: tuple[Path, DemoResult],
) -> None:
    out, result = made
    parts = pd.read_parquet(out / "run" / "patients.parquet").set_index("patient_id")["part"]
    tested = {
        p for probe in result.assessment.probes.values() for p in probe.predictions.patient_id
    }
    assert tested
    assert set(parts[sorted(tested)]) == {"held_out"}


def test_its_probes_can_be_predicted_with(made: tuple[Path, DemoResult], tmp_path: Path) -> None:
    out, _ = made
    cohort = Cohort.load(out / "clinic" / "cohort")
    picture = tmp_path / "seen.jpg"
    picture.write_bytes(cohort.read_image(0))
    table = pd.DataFrame({"image": ["seen.jpg"]})
    (found,) = Predictor.load(out / "clinic" / "probe").predict([picture], table)
    assert found.status == "predicted"


def test_the_clinic_is_tested_on_patients_that_no_stage_saw(
    made: tuple[Path, DemoResult],
) -> None:
    out, result = made
    earlier = set(Cohort.load(out / "cohort").patients["patient_id"])
    parts = pd.read_parquet(out / "clinic" / "run" / "patients.parquet")
    parts = parts.set_index("patient_id")["part"]
    tested = set(result.adapted.main.predictions["patient_id"])
    assert tested
    assert not tested & earlier
    assert set(parts[sorted(tested)]) == {"held_out"}
    assert result.retrieval.loans.shared_patients == 0


def test_the_report_stands_alone(made: tuple[Path, DemoResult]) -> None:
    _, result = made
    page = result.report.read_text(encoding="utf-8")
    assert "slimp demo: a synthetic cohort" in page
    assert "slimp demo --seed 1" in page
    assert not re.search(r"(?:src|href)=[\"'](?!#|data:)", page)


def test_a_folder_in_use_is_left_alone(made: tuple[Path, DemoResult]) -> None:
    out, _ = made
    before = (out / "report.html").read_bytes()
    with pytest.raises(UserError, match=r"is not empty.* --overwrite"):
        run_demo(out, cohort=COHORT, config=CONFIG)
    assert (out / "report.html").read_bytes() == before


def test_the_same_seed_gives_the_same_table(made: tuple[Path, DemoResult], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("config.json", "old.txt"):  # of an earlier demo
        (tmp_path / "out" / name).touch()
    again = run_demo(tmp_path / "out", seed=1, overwrite=True, cohort=COHORT, config=CONFIG)
    assert not (tmp_path / "out" / "old.txt").exists()
    pd.testing.assert_frame_equal(again.table, made[1].table)
