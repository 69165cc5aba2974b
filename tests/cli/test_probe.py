"""What `slimp probe` prints and leaves: every protocol by its flag, and what it refuses first."""

from __future__ import annotations

from pathlib import Path

import pytest
from tables import hinting_features

from slimp.cli.main import main
from slimp.data.cohort import Cohort
from slimp.data.files import read_json
from slimp.features.feature_table import FeatureTable
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize

QUICK = ("--seeds", "2", "--folds", "2", "--replicates", "20", "--strengths", "0.01,0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("probe") / "cohort"
    synthesize(SyntheticConfig(patients=50, lesions=3, image_size=16)).save(target)
    return target


@pytest.fixture
def probe(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the verb on features that hint at the label; the exit status."""
    table, embedded = hinting_features(Cohort.load(folder)), []

    def features(*_: object, **__: object) -> FeatureTable:
        embedded.append(True)
        return table

    monkeypatch.setattr("slimp.evaluation.run_features.cached_features", features)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"whose hash is noted")

    def run(*words: str) -> int:
        out = ("--out", str(tmp_path / "out"), "--overwrite", "--no-report")
        return main(["probe", str(tmp_path / "run"), str(folder), *out, *QUICK, *words])

    run.embedded = embedded  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize("method", ["logistic", "knn"])
def test_every_protocol_by_its_flag(probe, tmp_path, capsys, method):
    flags = "--fractions 0.2,1 --shots 1,3 --draws 2 --leakage --subgroups"
    assert probe("--method", method, *flags.split(), "age:40:60,sex") == 0
    said = capsys.readouterr().out
    for text in (
        *("fraction 0.2", "fraction 1", "shots 1", "shots 3"),
        "above the split by patient",
        "CAUTION: only the split by patient is an honest estimate",
        *("40 to < 60", ">= 60", "without interval: fewer than 10 patients"),
    ):
        assert text in said, text
    assert "decision 'balanced': largest probability relative to the class's share" in said
    content = read_json(tmp_path / "out" / "metrics.json")
    assert {"low_shot", "leakage", "subgroups", "baselines", "brier"} <= set(content)
    assert content["decision"] == "balanced"
    assert sum(content["class_shares"].values()) == pytest.approx(1)
    assert (tmp_path / "out" / "low_shot.parquet").is_file()
    assert (tmp_path / "out" / "probe.json").is_file() == (method == "logistic")
    saved = read_json(tmp_path / "out" / "config.json")["probe"]
    assert saved["shots"] == [1, 3]
    assert saved["subgroups"] == ["age:40:60", "sex"]


def test_two_classes_out_of_many(probe, tmp_path, capsys):
    assert probe("--malignant", "melanoma,basal", "--subgroups", "none") == 2
    classes = capsys.readouterr().err.partition("the classes are: ")[2].strip().rstrip(".")
    assert not probe.embedded  # refused before anything slow
    positive = classes.split(", ")[0]
    assert probe("--malignant", positive, "--subgroups", "none") == 0
    said = capsys.readouterr().out
    assert "finding 'malignant': sensitivity at 90 % specificity" in said
    assert "subgroups" not in said
    content = read_json(tmp_path / "out" / "metrics.json")
    assert content["classes"] == ["benign", "malignant"]
    assert "subgroups" not in content


def test_a_leaking_split_is_named_as_one(probe, capsys):
    assert probe("--split", "image", "--subgroups", "none") == 0
    assert "split by image, so patients may both train and test" in capsys.readouterr().out


@pytest.mark.slow
def test_the_split_that_a_probe_leaves_gives_the_same_figures(probe, tmp_path, capsys):
    image = ("--subgroups", "none", "--features", "image")
    assert probe("--split", "grouped-5", "--seeds", "1", *image) == 0
    said = capsys.readouterr().out
    assert "each in one of 5 folds" in said
    assert "balanced accuracy per fold" in said
    first = read_json(tmp_path / "out" / "metrics.json")
    split = tmp_path / "split.csv"
    (tmp_path / "out" / "split.csv").rename(split)
    assert probe("--split-file", str(split), *image) == 0
    again = read_json(tmp_path / "out" / "metrics.json")
    assert again["balanced_accuracy"] == first["balanced_accuracy"]
    assert again["pooled"] == first["pooled"]
    assert (again["split"], first["split"]) == ("file", "grouped-5")
    split.write_text(split.read_text().replace("image_id", "picture").replace("patient_id", "who"))
    probe.embedded.clear()
    assert probe("--split-file", str(split)) == 2
    assert "split.csv: has the columns picture, who" in capsys.readouterr().err
    assert not probe.embedded
    assert probe("--split", "lesion", *image) == 0
    assert not (tmp_path / "out" / "split.csv").exists()
