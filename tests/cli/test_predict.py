"""`slimp predict` from the command line, on a probe that the command line made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tables import metadata_of, write_images

import slimp
from slimp.cli import main as cli
from slimp.data.cohort import Cohort
from slimp.explain.maps import relevance, upsampled
from slimp.explain.targets import LogOdds
from slimp.prediction.inputs import read_pixels
from slimp.prediction.output import STATEMENT
from slimp.prediction.predictor import Predictor
from slimp.prediction.result import Prediction
from slimp.report import overlays
from slimp.report.explanation import overlay
from slimp.report.overlays import SIDE

QUICK = (
    *("--seeds", "1", "--folds", "2", "--strengths", "0.01", "--replicates", "5"),
    *("--workers", "0", "--no-report"),
)


@pytest.fixture(scope="module")
def places(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Probes on a run of a few steps, and some of the cohort's images as files."""
    root = tmp_path_factory.mktemp("predict_command")
    probe = ("probe", str(made["run"]), str(made["cohort"]), *QUICK, "--out")
    assert cli.main([*probe, str(root / "image"), "--features", "image"]) == 0
    assert cli.main([*probe, str(root / "full")]) == 0
    assert cli.main([*probe, str(root / "knn"), "--features", "image", "--method", "knn"]) == 0
    cohort = Cohort.load(made["cohort"])
    metadata_of(cohort).to_csv(root / "metadata.csv", index=False)
    write_images(cohort, root / "images", range(6))
    return root


def predict(places: Path, probe: str, *more: object) -> int:
    words = ("predict", str(places / probe), *map(str, more), "--accelerator", "cpu")
    return cli.main([*words, *([] if "--novelty" in words else ["--novelty", "0"])])


def test_json_has_the_keys_that_the_docs_list(places, capsys) -> None:
    assert predict(places, "image", places / "images", "--format", "json", "--cases", 2) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert content["statement"] == STATEMENT
    assert STATEMENT in err
    keys = ["statement", "format", "features", "classes"]
    keys += ["test_time_augmentation", "decision", "decision_rule"]
    assert list(content) == [
        *(*keys, "class_shares", "conformal", "novelty", "cautions", "images"),
    ]
    assert "largest probability" in content["decision_rule"]
    assert {"coverage", "per_class", "always_in_the_set", "verified"} <= set(content["conformal"])
    assert len(content["images"]) == 6
    for image in content["images"]:
        assert image["status"] == "predicted"
        assert sum(image["probabilities"].values()) == pytest.approx(1)
        assert list(image["probabilities"]) == content["classes"]
        assert image["decision"] in image["conformal_set"]
        assert len(image["nearest"]) == 2
        assert 0 < image["novelty_p"] <= 1


def test_rows_of_the_table_that_are_about_no_image_are_counted(places, capsys, tmp_path) -> None:
    words = ("full", places / "images", "--metadata")
    assert predict(places, *words, places / "metadata.csv") == 0
    whole = pd.read_csv(places / "metadata.csv", dtype="str", keep_default_na=False)
    assert f"{len(whole) - 6} row(s) of --metadata" in capsys.readouterr().err
    whole[:6].to_csv(tmp_path / "these.csv", index=False)
    assert predict(places, *words, tmp_path / "these.csv") == 0
    assert "row(s) of --metadata" not in capsys.readouterr().err


def test_the_table_says_what_the_sets_are_worth(places, capsys) -> None:
    assert predict(places, "full", places / "images", "--metadata", places / "metadata.csv") == 0
    out, err = capsys.readouterr()
    assert "90% set" in out
    assert "verified: " in out
    assert STATEMENT in err
    assert "for each class" in out
    assert "decision: largest probability" in out
    predict(places, "image", places / "images", "--no-per-class", "--coverage", "0.8")
    assert "for each class" not in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["json", "csv", "parquet"])
def test_what_is_written_is_what_is_said(places, tmp_path, capsys, ending) -> None:
    out = tmp_path / f"found.{ending}"
    strange = np.random.default_rng(0).integers(0, 256, size=(40, 40, 3), dtype=np.uint8)
    Image.fromarray(strange).save(tmp_path / "noise.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    files = (places / "images", tmp_path / "noise.png", tmp_path / "broken.jpg")
    assert predict(places, "image", *files, "--out", out) == 0
    assert "1 refused, 1 unreadable" in capsys.readouterr().out
    if ending == "json":
        rows = json.loads(out.read_text())["images"]
        statuses = [row["status"] for row in rows]
        assert rows[6]["probabilities"] == {}
    else:
        frame = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
        statuses = frame["status"].tolist()
        shares = frame[[c for c in frame if c.startswith("p_")]]
        np.testing.assert_allclose(shares[:6].sum(axis=1), 1)
        assert shares[6:].isna().all(axis=None)
        assert set(frame["statement"]) == {STATEMENT}
        assert frame["decision_rule"].notna().tolist() == [*[True] * 6, False, False]
    assert statuses == [*["predicted"] * 6, "refused", "unreadable"]


def test_settings_repeat_it_and_results_are_not_lost(places, tmp_path, capsys) -> None:
    out, images = tmp_path / "found.csv", places / "images"
    assert predict(places, "image", images, "--out", out) == 0
    record = json.loads((tmp_path / "found.config.json").read_text())
    assert record["probe"] == str(places / "image")
    assert "torch" in record["versions"]
    assert record["predict"]["coverage"] == 0.9
    again = ("--config", tmp_path / "found.config.json", "--coverage", "0.8")
    assert predict(places, "image", images, *again) == 0
    assert "80% set" in capsys.readouterr().out
    assert predict(places, "image", images, "--out", out) == 2
    assert "exists already" in capsys.readouterr().err
    assert predict(places, "image", images, "--out", out, "--overwrite") == 0


def test_nothing_readable_exits_with_2_and_the_reason(places, tmp_path, capsys) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert predict(places, "image", tmp_path) == 2
    assert "none of the 1 file(s) could be read as an image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("probe", "flags", "message"),
    [
        ("full", (), "make a probe of images alone (--features image)"),
        ("knn", (), "--method knn"),
        ("image", ("--metadata", "none.csv"), ""),
    ],
)
def test_mistakes_are_explained(places, capsys, probe, flags, message) -> None:
    assert predict(places, probe, places / "images", *flags) == (2 if message else 0)
    err = capsys.readouterr().err
    assert message in err if message else "--metadata has no effect" in err


def test_a_probe_finds_its_run_from_any_folder_and_where_both_moved(
    made, tmp_path, monkeypatch
) -> None:
    shutil.copytree(made["run"], tmp_path / "a" / "RUN")
    monkeypatch.chdir(tmp_path / "a")
    flags = ["--out", "P", "--features", "image", *QUICK]
    assert cli.main(["probe", "RUN", str(made["cohort"]), *flags]) == 0
    assert json.loads(Path("P/config.json").read_text())["run"] == "RUN"
    monkeypatch.chdir(tmp_path)
    assert Predictor.load("a/P").reads == 0
    (tmp_path / "a").rename("b")
    assert Predictor.load("b/P").reads == 0
    # Another run at the place where its own was: the one that was typed is taken.
    Path("c/sub").mkdir(parents=True)
    shutil.move("b/P", "c/sub/P")
    shutil.move("b/RUN", "RUN")
    other = slimp.Slimp.from_pretrained("RUN")
    with torch.no_grad():
        next(other.parameters()).add_(1)
    other.save_pretrained(Path("c/sub/RUN"))
    assert Predictor.load("c/sub/P").reads == 0


def test_a_picture_of_what_each_class_rests_on(places, tmp_path, capsys) -> None:
    folder = tmp_path / "pictures"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert predict(places, "image", places / "images", broken, "--explain", folder) == 0
    table = pd.read_csv(folder / "overlays.csv")
    assert len(table) == 6
    assert sorted(path.name for path in folder.glob("*.png")) == sorted(table["file"])
    predictor = Predictor.load(places / "image")
    row = table.iloc[0]
    pixels = read_pixels(Path(row["image"]), predictor.model.image_spec.size)
    target = LogOdds.of(predictor.probe, row["decision"])
    drawn = relevance(predictor.model.image_encoder, pixels[None], target, row["method"])
    picture = read_pixels(Path(row["image"]), SIDE).permute(1, 2, 0).numpy()
    expected = overlay(Image.fromarray(picture), upsampled(drawn, SIDE)[0].numpy())
    written = np.asarray(Image.open(folder / row["file"]), dtype=float)
    np.testing.assert_allclose(written, np.asarray(expected, dtype=float), atol=2)
    assert predict(places, "image", places / "images", "--explain", folder) == 2  # it is there


@pytest.mark.parametrize(
    ("paths", "files"),
    [
        (["x/a.jpg", "x/b.jpg"], ["a.png", "b.png"]),
        (["x/a.jpg", "y/a.jpg", "x/1-a.jpg"], ["1-a.png", "2-a.png", "3-1-a.png"]),
        (["x/a.jpg", "x/A.jpg"], ["1-a.png", "2-A.png"]),  # one file on some systems
    ],
)
def test_no_picture_takes_the_place_of_another(paths, files):
    shown = [Prediction(image=path, status="predicted") for path in paths]
    assert overlays._names(shown) == files
