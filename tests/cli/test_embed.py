"""What `slimp embed` refuses, and what it leaves beside the features."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tiny import MODEL, tiny_cohort

from slimp.cli import main as cli
from slimp.data.cohort import Cohort
from slimp.features.embed import embed
from slimp.features.feature_table import FeatureTable
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, and a model without metadata."""
    root = tmp_path_factory.mktemp("embed")
    tiny_cohort(patients=6).save(root / "cohort")
    Slimp(ModelConfig(**MODEL), {}).save_pretrained(root / "run")
    return root


def run(places: Path, out: Path, *flags: str) -> int:
    paths = [str(places / "run"), str(places / "cohort"), "--out", str(out)]
    return cli.main(["embed", *paths, "--workers", "0", *flags])


@pytest.mark.parametrize(
    ("speedup", "flags", "precision"),
    [(0.5, (), "32"), (5.0, (), "bf16"), (5.0, ("--precision", "32"), "32")],
)
def test_what_was_used_is_recorded(
    places, tmp_path, monkeypatch, speedup, flags, precision
) -> None:
    monkeypatch.setattr("slimp.models.precision._bf16_speedup_on_cpu", lambda: speedup)
    flags = ("--accelerator", "cpu", "--test-time-augmentation", "dihedral", *flags)
    assert run(places, tmp_path / "f.parquet", *flags) == 0
    record = json.loads((tmp_path / "f.config.json").read_text())
    assert (record["precision"], record["backend"]) == (precision, "torch")
    assert record["test_time_augmentation"] == "dihedral"
    assert FeatureTable.load(tmp_path / "f.parquet").test_time_augmentation == "dihedral"


def test_bf16_is_not_chosen_where_it_changes_the_features(places, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("slimp.models.precision._bf16_speedup_on_cpu", lambda: 5.0)
    monkeypatch.setattr("slimp.features.encode.AGREEMENT", 1.1)
    assert run(places, tmp_path / "f.parquet", "--accelerator", "cpu") == 0
    assert json.loads((tmp_path / "f.config.json").read_text())["precision"] == "32"
    exact = embed(Slimp.from_pretrained(places / "run"), Cohort.load(places / "cohort"))
    found = FeatureTable.load(tmp_path / "f.parquet")
    np.testing.assert_allclose(found.features["image"], exact.features["image"], atol=1e-6)
    asked = ("--accelerator", "cpu", "--precision", "bf16")  # who asks for it gets it
    assert run(places, tmp_path / "g.parquet", *asked) == 0
    assert json.loads((tmp_path / "g.config.json").read_text())["precision"] == "bf16"


def test_openvino_is_recorded_with_its_version(places: Path, tmp_path: Path) -> None:
    if find_spec("openvino") is None:
        pytest.skip("needs pip install 'slimp[openvino]'")
    assert run(places, tmp_path / "f.parquet", "--backend", "openvino") == 0
    record = json.loads((tmp_path / "f.config.json").read_text())
    assert record["backend"] == "openvino"
    assert record["versions"]["openvino"]
