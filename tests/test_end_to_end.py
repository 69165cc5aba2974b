"""The main job through the command line, on a synthetic cohort, in seconds."""

from __future__ import annotations

import json

import duckdb
import pandas as pd
import pytest

from slimp.cli import main as cli


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A cohort, a run, features and a probe, each made by its verb."""
    root = tmp_path_factory.mktemp("end_to_end")
    verbs = {
        "cohort": "data import synthetic - {cohort} --patients 80 --lesions 3 --image-size 32",
        "run": (
            "pretrain {cohort} --out {run} --preset tiny --image-size 32 --epochs 2 --workers 0 "
            "--patients 16 --lesions 4 --validate-every 1 --seed 1"
        ),
        "features": "embed {run} {cohort} --out {features}",
        "probe": "probe {run} {cohort} --out {probe}",
    }
    names = {**{name: name for name in verbs}, "features": "features.parquet"}
    places = {name: root / file for name, file in names.items()}
    for name, line in verbs.items():
        argv = line.format(**places).split()
        assert cli.main(argv) == 0, line
        assert places[name].exists()
    return places


def test_the_cohort_is_sound_and_readable_without_this_package(places, capsys):
    assert cli.main(["data", "check", str(places["cohort"])]) == 0
    assert "80" in capsys.readouterr().out
    query = f"select count(distinct patient_id) from '{places['cohort']}/images.parquet'"
    assert duckdb.sql(query).fetchall() == [(80,)]


def test_the_run_holds_what_it_promises(places):
    run = places["run"]
    config = json.loads((run / "config.json").read_text())
    assert config["pretrain"]["seed"] == 1
    assert {"python", "torch", "timm", "slimp"} <= set(config["versions"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    assert {row["epoch"] for row in rows if row["kind"] == "epoch"} == {1, 2}
    keys = "step epoch loss loss_lesion loss_patient learning_rate temperature lesions_per_second"
    assert set(keys.split()) <= set(steps[0])
    assert (run / "model.safetensors").is_file()
    assert (run / "model.json").is_file()
    parts = pd.read_parquet(run / "patients.parquet")
    assert set(parts["part"]) == {"train", "validation", "held_out"}


def test_features_have_a_row_per_image(places):
    features = pd.read_parquet(places["features"])
    images = pd.read_parquet(places["cohort"] / "images.parquet")
    assert set(features["image_id"]) == set(images["image_id"])
    assert {"image", "lesion", "patient"} <= set(features.columns)


def test_the_probe_tests_on_patients_that_no_one_saw(places):
    metrics = json.loads((places["probe"] / "metrics.json").read_text())
    assert metrics["pretraining_saw_test_patients"] is False
    predictions = pd.read_parquet(places["probe"] / "predictions.parquet")
    parts = pd.read_parquet(places["run"] / "patients.parquet").set_index("patient_id")["part"]
    assert set(parts[predictions["patient_id"].unique()]) == {"held_out"}
    config = json.loads((places["probe"] / "config.json").read_text())
    assert "versions" in config


def test_a_finished_run_resumes_to_itself(places, capsys):
    before = (places["run"] / "model.safetensors").read_bytes()
    config = str(places["run"] / "config.json")
    argv = ["pretrain", str(places["cohort"]), "--out", str(places["run"]), "--resume"]
    assert cli.main([*argv, "--config", config]) == 0, capsys.readouterr().err
    assert (places["run"] / "model.safetensors").read_bytes() == before
