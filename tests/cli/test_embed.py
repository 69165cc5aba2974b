"""What `slimp embed` refuses, and what it leaves beside the features."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from slimp.cli import main as cli
from slimp.features.embed import FeatureTable
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, and a model without metadata."""
    root = tmp_path_factory.mktemp("embed")
    write_synthetic(root / "cohort", SyntheticConfig(patients=6, lesions=2, image_size=16))
    options = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    config = ModelConfig(encoder="vit_tiny_patch16_224", encoder_options=options, image_size=16)
    Slimp(config, {}).save_pretrained(root / "run")
    return root


def run(places: Path, out: Path, *flags: str) -> int:
    paths = [str(places / "run"), str(places / "cohort"), "--out", str(out)]
    return cli.main(["embed", *paths, "--workers", "0", *flags])


@pytest.mark.parametrize(
    ("speedup", "flags", "expected"),
    [(0.5, (), "32"), (5.0, (), "bf16"), (5.0, ("--precision", "32"), "32")],
)
def test_the_precision_that_was_used_is_recorded(
    places: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    speedup: float,
    flags: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.setattr("slimp.models.precision._bf16_speedup_on_cpu", lambda: speedup)
    assert run(places, tmp_path / "f.parquet", "--accelerator", "cpu", *flags) == 0
    record = json.loads((tmp_path / "f.config.json").read_text())
    assert (record["precision"], record["backend"]) == (expected, "torch")


def test_the_test_time_augmentation_is_recorded(places: Path, tmp_path: Path) -> None:
    flags = ("--precision", "32", "--accelerator", "cpu", "--test-time-augmentation", "dihedral")
    assert run(places, tmp_path / "f.parquet", *flags) == 0
    record = json.loads((tmp_path / "f.config.json").read_text())
    assert record["test_time_augmentation"] == "dihedral"
    assert FeatureTable.load(tmp_path / "f.parquet").test_time_augmentation == "dihedral"


def test_openvino_is_recorded_with_its_version(places: Path, tmp_path: Path) -> None:
    if find_spec("openvino") is None:
        pytest.skip("needs pip install 'slimp[openvino]'")
    assert run(places, tmp_path / "f.parquet", "--backend", "openvino") == 0
    record = json.loads((tmp_path / "f.config.json").read_text())
    assert record["backend"] == "openvino"
    assert record["versions"]["openvino"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--backend", "openvino", "--accelerator", "cuda"), "runs on CPUs; leave --accelerator"),
        (("--batch-size", "0"), "batch_size must be positive"),
        (("--workers", "-1"), "workers must not be negative"),
    ],
)
def test_refusals(
    places: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    message: str,
) -> None:
    assert run(places, tmp_path / "f.parquet", *flags) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
