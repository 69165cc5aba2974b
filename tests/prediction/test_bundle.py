"""What is given away of a run: card and settings, and a bundle that predicts as its folders."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from probes import make_probe, write_run
from tables import write_images
from tiny import same_weights

from slimp.cli import main as cli
from slimp.data.cohort import Cohort
from slimp.data.files import read_json, sha256_of, write_json
from slimp.errors import CheckpointError, UserError
from slimp.experiments.cohorts import lesions_as_patients
from slimp.models.hub import find_model
from slimp.models.nested import Slimp
from slimp.prediction.bundle import write_bundle
from slimp.prediction.config import PredictConfig
from slimp.prediction.model_card import model_card, published_settings, without_places
from slimp.prediction.predictor import Predictor
from slimp.training.loop import describe
from slimp.training.parts import Parts

DATA = {
    **{"cohort": "clinic A", "source": "csv", "licence": "CC-BY-NC-4.0", "citation": "Doe 2026."},
    **{"train_patients": 30, "train_images": 60, "held_out_patients": 8, "fingerprint": "f00d"},
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Path:
    """A run that says where it was made, an adaptation of it, and a probe."""
    root = tmp_path_factory.mktemp("bundle")
    table = write_run(root, patients=24)
    first = {"encoder_weights": "mae-base", "split_file": str(root / "split.csv"), "epochs": 3}
    write_json(root / "run" / "config.json", {"pretrain": first, "data": DATA, "versions": {}})
    make_probe(root / "probe", table, root, "full")
    make_probe(root / "image", table, root, "image")
    write_run(root, patients=24, name="adapted", seed=1)
    start = {"run": str(root / "run"), "weights_sha256": sha256_of(root / "run/model.safetensors")}
    second = {"adapt": {"train": "heads"}, "pretrain": {"encoder_weights": None}, "from": start}
    write_json(root / "adapted/config.json", {**second, "data": {**DATA, "cohort": "clinic B"}})
    write_images(Cohort.load(root / "cohort"), root / "images", range(6))
    return root


def test_a_bundle_predicts_as_its_folders(places, tmp_path) -> None:
    bundle = tmp_path / "some.slimp"
    write_bundle(places / "run", bundle, probe=places / "probe")
    config, metadata = PredictConfig(novelty=0), metadata_table(places)
    one, other = (Predictor.load(path, config) for path in (places / "probe", bundle))
    for a, b in zip(
        one.predict([places / "images"], metadata),
        other.predict([places / "images"], metadata),
        strict=True,
    ):
        assert (a.probabilities, a.conformal_set, a.novelty_p) == (
            *(b.probabilities, b.conformal_set, b.novelty_p),
        )
        assert [(c.label, c.similarity) for c in a.nearest] == [
            (c.label, c.similarity) for c in b.nearest
        ]
    assert one.verified == other.verified
    assert same_weights(places / "run", find_model(bundle))
    Slimp.from_pretrained(str(bundle))


def metadata_table(places: Path) -> pd.DataFrame:
    from tables import metadata_of

    return metadata_of(Cohort.load(places / "cohort"))


def test_it_holds_neither_ids_nor_places_and_always_the_same_bytes(places, tmp_path) -> None:
    a, b = tmp_path / "a.slimp", tmp_path / "elsewhere" / "b"
    probe = shutil.copytree(places / "probe", tmp_path / "probe")
    record = read_json(probe / "config.json")
    write_json(probe / "config.json", {**record, "run_relative": f"../..{places}/run"})
    names = write_bundle(places / "run", a, probe=probe)
    write_bundle(places / "run", b, probe=probe)
    assert a.read_bytes() == b.read_bytes()
    folder, cohort = find_model(a), Cohort.load(places / "cohort")
    assert "run_relative" not in read_json(folder / "probe" / "config.json")
    assert names == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*"))
    ids = {
        *cohort.images["image_id"],
        *cohort.lesions["lesion_id"],
        *cohort.patients["patient_id"],
    }
    for path in folder.rglob("*.*"):
        assert str(places).encode() not in path.read_bytes(), path
        if path.suffix == ".parquet":
            kept = pd.read_parquet(path).select_dtypes(["object", "str"])
            assert not ids & set(kept.astype(str).to_numpy().ravel()), path
        elif path.suffix != ".safetensors":
            assert not [x for x in ids if x in path.read_text(encoding="utf-8")], path
    theirs, ours = (
        pd.read_parquet(x / "reference.parquet") for x in (folder / "probe", places / "probe")
    )
    for column in ("patient_id", "image_id"):
        assert np.array_equal(
            theirs[column].rank(method="dense"), ours[column].rank(method="dense")
        )


def test_a_bundle_without_a_probe_and_what_is_no_bundle(places, tmp_path) -> None:
    bundle = tmp_path / "run.slimp"
    write_bundle(places / "run", bundle)
    with pytest.raises(CheckpointError, match="without a probe"):
        Predictor.load(bundle)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Slimp.from_pretrained(places / "run" / "model.safetensors")
    with pytest.raises(CheckpointError, match="probe of another run"):
        write_bundle(places / "adapted", tmp_path / "x", probe=scored(places, tmp_path))
    assert not (tmp_path / "x").exists()


def test_what_leads_out_of_a_bundle_is_refused_and_pickles_stay_inside(places, tmp_path) -> None:
    write_bundle(places / "run", tmp_path / "good")
    for name in ("../evil.json", "/evil.json", "probe/evil.pkl"):
        bad = tmp_path / "bad.slimp"
        bad.write_bytes((tmp_path / "good").read_bytes())
        with zipfile.ZipFile(bad, "a") as archive:
            archive.writestr(name, b"\x80\x04.")
        if name.endswith(".pkl"):
            assert not list(find_model(bad).rglob("*.pkl"))
            continue
        with pytest.raises(UserError, match="out of the archive"):
            find_model(bad)
    assert not list(tmp_path.rglob("evil*"))


def scored(places: Path, tmp_path: Path) -> Path:
    """A probe with subgroups of many and of few patients, and a cohort at some place."""
    folder = tmp_path / "scored"
    folder.mkdir()
    record = read_json(places / "probe" / "config.json")
    write_json(folder / "config.json", {**record, "cohort": str(places / "cohort")})
    found = read_json(places / "probe" / "metrics.json")
    estimate = {"mean": 0.5, "ci95": [0.25, None], "per_seed": [0.5]}
    groups = [
        {"column": "sex", "group": g, "n_patients": n, "metrics": {"balanced_accuracy": estimate}}
        for g, n in (("female", 10), ("male", 9))
    ]
    write_json(folder / "metrics.json", {**found, "subgroups": {"groups": groups}})
    return folder


def test_the_card_states_data_licences_scores_and_limits(places, tmp_path) -> None:
    run = places / "run"
    text = model_card(
        run, published_settings(run), name="a/b", probe=scored(places, tmp_path), licence="MIT"
    )
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["license"], header["library_name"]) == ("mit", "slimp")
    for stated in (
        *("clinic A", "CC-BY-NC-4.0", "Doe 2026.", "`f00d`", "not for diagnosis"),
        *("MAE ViT-B/16", sha256_of(run / "model.safetensors"), "| sex: female | 10 |"),
        *("CAUTION", "fewer than 10 patients: 1", 'from_pretrained("a/b")'),
    ):
        assert stated in text, stated
    assert "sex: male" not in text
    assert str(places) not in text
    assert "None were given" in model_card(run, {})
    assert "does not say what it learned from" in model_card(run, {})
    assert "Not known" in model_card(run, {})
    assert "started at random" in model_card(run, {"pretrain": {}, "data": DATA})


def test_the_card_of_a_run_without_patient_ids_counts_lesions(places) -> None:
    cohort = lesions_as_patients(Cohort.load(places / "cohort"), seed=0)
    cohort = replace(cohort, schema=replace(cohort.schema, patient=None))
    data = describe(Parts(train=cohort, validation=None, held_out=None))
    text = model_card(places / "run", {"pretrain": {}, "data": data})
    assert f"{len(cohort.lesions)} training lesions, {len(cohort)} images; 0 lesions" in text


def test_the_card_counts_images_and_patients_of_the_same_splits(places, tmp_path) -> None:
    """Two splits test more patients than either, on images of one of them."""
    said = pd.read_parquet(places / "probe" / "predictions.parquet")
    images = round(said.groupby("seed")["image_id"].nunique().mean())
    patients = said["patient_id"].nunique()
    assert patients > said.groupby("seed")["patient_id"].nunique().max()
    folder = scored(places, tmp_path)
    text = model_card(places / "run", {}, probe=folder)
    assert f"{images} test images in each of 2 splits, {patients} patients in all." in text
    found = read_json(folder / "metrics.json")
    one = {**found["balanced_accuracy"], "per_seed": [0.5]}
    unit = {"unit": "lesions", "n_test": patients}
    write_json(folder / "metrics.json", {**found, "balanced_accuracy": one, "resampling": unit})
    text = model_card(places / "run", {}, probe=folder)
    assert f"{images} test images of {patients} lesions." in text
    assert "bootstrap over lesions" in text
    assert "| group | lesions |" in text


def test_the_card_of_an_adapted_run_names_both_cohorts(places, tmp_path) -> None:
    settings = published_settings(places / "adapted")
    text = model_card(places / "adapted", settings)
    assert "clinic A" in text
    assert "clinic B" in text
    assert "MAE ViT-B/16" in text
    copied = tmp_path / "published"  # as it is once more read from where it was published
    Slimp.from_pretrained(places / "adapted").save_pretrained(copied)
    write_json(copied / "config.json", settings)
    assert published_settings(copied) == settings
    content = read_json(places / "adapted" / "config.json")
    content["from"]["run"] = str(tmp_path / "gone")
    write_json(copied / "config.json", content)
    text = model_card(copied, published_settings(copied))
    assert "no longer there" in text
    assert "Not known" in text
    start = {"run": "weights:panderm-base@128", "weights_sha256": ""}
    write_json(copied / "config.json", {"finetune": {}})  # as a fine-tuning leaves it
    assert "Not known" in model_card(copied, published_settings(copied))
    write_json(copied.parent / "config.json", {"finetune": {}, "from": start})
    assert "CC-BY-NC-ND-4.0" in model_card(copied, published_settings(copied))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"run": "/some/where/run"}, {"run": "run"}),
        ({"run": "runs\\mine"}, {"run": "mine"}),
        ({"x": ["C:\\data\\a.csv", "~/b", "../c/d"]}, {"x": ["a.csv", "b", "d"]}),
        ({"encoder_weights": "weights:/some/x.safetensors"}, {"encoder_weights": "x.safetensors"}),
        ({"unit": "mm/s", "missing": ["n/a", "."], "n": 3}, None),
    ],
)
def test_places_become_names(given, kept) -> None:
    assert without_places(given) == (given if kept is None else kept)


def test_a_dry_run_shows_all_and_asks_nothing(places, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    words = ["push", str(places / "run"), "clinic/mine", "--dry-run"]
    assert cli.main([*words, "--probe", str(scored(places, tmp_path))]) == 0
    shown = capsys.readouterr().out
    assert "model.safetensors: " in shown
    assert "# clinic/mine" in shown
    assert cli.main(words[:3]) == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert cli.main(["push", str(places / "run"), "mine", "--dry-run"]) == 2


def test_the_command_line_bundles_and_predicts(places, tmp_path, capsys) -> None:
    out = tmp_path / "mine.slimp"
    words = ["bundle", str(places / "run"), "--out", str(out), "--probe", str(places / "probe")]
    capsys.readouterr()
    assert cli.main(words) == 0
    assert f"next: slimp predict {out} IMAGES --metadata TABLE\n" in capsys.readouterr().out
    assert cli.main(words) == 2
    metadata_table(places).to_csv(tmp_path / "metadata.csv", index=False)
    found = tmp_path / "found.json"
    words = [
        "predict",
        str(out),
        str(places / "images"),
        "--metadata",
        str(tmp_path / "metadata.csv"),
    ]
    assert cli.main([*words, "--out", str(found), "--novelty", "0", "--accelerator", "cpu"]) == 0
    said = json.loads(found.read_text(encoding="utf-8"))["images"]
    assert {image["status"] for image in said} == {"predicted"}
    assert said[0]["nearest"][0]["patient_id"].startswith("patient-")
    words = ["bundle", str(places / "run"), "--out", str(tmp_path / "b"), "--probe"]
    assert cli.main([*words, str(places / "image")]) == 0
    assert f"next: slimp predict {tmp_path / 'b'} IMAGES\n" in capsys.readouterr().out


def test_an_encoder_that_lies_on_this_machine_is_not_published(places, tmp_path) -> None:
    Slimp.from_pretrained(places / "run").save_pretrained(tmp_path / "run")
    content = read_json(tmp_path / "run" / "model.json")
    content["config"]["encoder_options"]["pretrained_path"] = "/some/where.pth"
    write_json(tmp_path / "run" / "model.json", content)
    with pytest.raises(CheckpointError, match="place on this machine"):
        write_bundle(tmp_path / "run", tmp_path / "out")
