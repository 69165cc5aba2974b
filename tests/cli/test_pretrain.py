"""`slimp pretrain` from weights that somebody brings."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import small_weights, tiny_cohort

from slimp.cli.main import main
from slimp.data.files import read_json
from slimp.models.nested import Slimp

SHORT = ["--epochs", "1", "--workers", "0", "--image-size", "32", "--validation-fraction", "0"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pretrain") / "cohort"
    tiny_cohort().save(folder)
    return str(folder)


def test_a_run_keeps_the_normalisation_of_the_weights_it_began_with(
    tmp_path: Path, cohort: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = small_weights(tmp_path / "small.safetensors")
    run, flags = tmp_path / "run", ["--encoder-weights", str(tmp_path / "small.safetensors")]
    command = ["pretrain", cohort, "--preset", "tiny", *SHORT, *flags, "--out"]
    assert main([*command, str(run)]) == 0, capsys.readouterr().err
    assert Slimp.from_pretrained(run).config.encoder == known.encoder
    adapted = ["adapt", str(run), cohort, "--out", str(tmp_path / "run2"), "--train", "full"]
    assert main([*adapted, "--epochs", "1", "--workers", "0"]) == 0, capsys.readouterr().err
    for folder in (run, tmp_path / "run2"):
        assert read_json(folder / "model.json")["image"] == {
            **{"size": 32, "mean": list(known.mean), "std": list(known.std)}
        }
        spec = Slimp.from_pretrained(folder).image_spec
        assert (spec.mean, spec.std) == (known.mean, known.std)
    assert main([*command, str(tmp_path / "no"), "--encoder", "resnet18"]) == 2
    assert "resnet10t" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
