"""`weights:NAME` in the place of a run: the features of a published encoder as it is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import SIZE, small_weights, tiny_cohort

from slimp.cli.main import main
from slimp.data.files import read_json
from slimp.data.images import image_batches
from slimp.errors import CheckpointError, UserError
from slimp.features.embed import embed
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.known_weights import read_header
from slimp.models.nested import Slimp
from slimp.models.persistence import read_tensors, save_tensors
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.training.adapt import adapt
from slimp.training.config import AdaptConfig
from slimp.training.parts import parts_of_run
from slimp.training.weights_run import as_run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    small_weights(tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_a_run_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_run(tmp_path / "run") == tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert as_run("runs/mine") == Path("runs/mine")


def test_the_features_are_those_of_the_encoder_as_it_is(file: Path) -> None:
    folder = as_run(f"weights:{file}@{SIZE}")
    assert as_run(f"weights:{file}@{SIZE}") == folder  # made once
    assert as_run(f"weights:{file}") != folder
    table = embed(Slimp.from_pretrained(folder), tiny_cohort())
    assert not {"lesion", "patient"} & set(table.features)

    known = read_header(file)
    assert known is not None
    config = ModelConfig(encoder=known.encoder, encoder_options=known.options, image_size=SIZE)
    encoder = ImageEncoder(config).eval()
    encoder.load_weights(file)
    pixels = torch.cat([found for found, _ in image_batches(tiny_cohort(), SIZE)])
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (known.mean, known.std))
    with torch.no_grad():
        expected = encoder.model((pixels / 255 - mean) / std)
    np.testing.assert_allclose(table.features["image"], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_nobody_is_known_to_have_been_learned_from(file: Path) -> None:
    assert parts_of_run(as_run(f"weights:{file}"), tiny_cohort()) is None


def test_what_says_too_little_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none-such"):
        as_run("weights:none-such")
    with pytest.raises(UserError, match="@large"):
        as_run("weights:monet@large")
    with pytest.raises(UserError, match="--as monet"):
        as_run("weights:monet")
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        as_run(f"weights:{tmp_path / 'file.pth'}")


def test_a_file_may_have_an_at_sign_in_its_path(tmp_path: Path, file: Path) -> None:
    moved = tmp_path / "me@clinic" / "small@2.safetensors"
    moved.parent.mkdir()
    shutil.copy(file, moved)
    assert as_run(f"weights:{moved}") == as_run(f"weights:{file}")
    assert as_run(f"weights:{moved}@{SIZE}") == as_run(f"weights:{file}@{SIZE}")


def test_a_name_that_a_file_says_does_not_lead_out_of_the_cache(file, cache):
    known = replace(read_header(file), name="../../x")
    save_tensors(file, read_tensors(file), known.to_header())
    assert as_run(f"weights:{file}").parent == cache / "slimp" / "runs"


def test_it_cannot_be_adapted_and_the_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="slimp pretrain COHORT --encoder-weights monet "):
        adapt("weights:monet@64", tiny_cohort(), AdaptConfig(), tmp_path / "out")


@pytest.mark.slow
def test_embed_probe_and_predict_take_it_for_a_run(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, out = tmp_path / "cohort", tmp_path / "probe"
    synthesize(SyntheticConfig(patients=50, lesions=2, image_size=SIZE)).save(cohort)
    name = f"weights:{file}@{SIZE}"
    assert main(["embed", name, str(cohort), "--out", str(tmp_path / "x.parquet")]) == 0
    assert "image" in pd.read_parquet(tmp_path / "x.parquet")
    command = ["probe", name, str(cohort), "--out", str(out), "--seeds", "1", "--workers", "0"]
    command += ["--replicates", "20", "--strengths", "0.01,0.1"]
    assert main([*command, "--features", "image"]) == 0, capsys.readouterr().err
    metrics = read_json(out / "metrics.json")
    assert metrics["pretraining_saw_test_patients"] is None
    assert read_json(out / "config.json")["run"] == name
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "resnet10t with published weights as they are" in page
    picture = tmp_path / "one.jpg"
    picture.write_bytes(tiny_cohort().store.read(0))
    assert main(["predict", str(out), str(picture)]) == 0, capsys.readouterr().err
