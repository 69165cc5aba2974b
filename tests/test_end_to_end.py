"""The main job through the command line, on a synthetic cohort, in seconds."""

from __future__ import annotations

import json

import duckdb
import pandas as pd

from slimp.cli import main as cli


def test_the_cohort_is_sound_and_readable_without_this_package(made, capsys):
    assert cli.main(["data", "check", str(made["cohort"])]) == 0
    assert "80" in capsys.readouterr().out
    query = f"select count(distinct patient_id) from '{made['cohort']}/images.parquet'"
    assert duckdb.sql(query).fetchall() == [(80,)]


def test_the_run_holds_what_it_promises(made):
    run = made["run"]
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


def test_features_have_a_row_per_image(made):
    features = pd.read_parquet(made["features"])
    images = pd.read_parquet(made["cohort"] / "images.parquet")
    assert set(features["image_id"]) == set(images["image_id"])
    assert {"image", "lesion", "patient"} <= set(features.columns)


def test_the_probe_tests_on_patients_that_no_one_saw(made):
    metrics = json.loads((made["probe"] / "metrics.json").read_text())
    assert metrics["pretraining_saw_test_patients"] is False
    predictions = pd.read_parquet(made["probe"] / "predictions.parquet")
    parts = pd.read_parquet(made["run"] / "patients.parquet").set_index("patient_id")["part"]
    assert set(parts[predictions["patient_id"].unique()]) == {"held_out"}
    config = json.loads((made["probe"] / "config.json").read_text())
    assert "versions" in config


def test_a_finished_run_resumes_to_itself(made, capsys):
    before = (made["run"] / "model.safetensors").read_bytes()
    config = str(made["run"] / "config.json")
    argv = ["pretrain", str(made["cohort"]), "--out", str(made["run"]), "--resume"]
    assert cli.main([*argv, "--config", config]) == 0, capsys.readouterr().err
    assert (made["run"] / "model.safetensors").read_bytes() == before
