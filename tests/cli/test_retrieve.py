"""The whole command line: metadata are retrieved, then used by embed and probe."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from tiny import MODEL, fitted

from slimp.cli import main as cli
from slimp.data.cohort import Cohort
from slimp.features.embed import embed
from slimp.features.feature_table import FeatureTable
from slimp.features.pseudo_metadata import PseudoMetadata
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic
from slimp.training.parts import Parts


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with a reference of 24 patients (12 unseen), and 16 more patients without metadata."""
    root = tmp_path_factory.mktemp("retrieve")
    write_synthetic(root / "all", SyntheticConfig(patients=40, lesions=2, image_size=24))
    everyone = Cohort.load(root / "all")
    ids = sorted(everyone.patients["patient_id"])
    reference, target = everyone.select_patients(ids[:24]), everyone.select_patients(ids[24:])
    reference.save(root / "reference")
    target.save(root / "known")
    without_metadata(target).save(root / "target")
    train = reference.select_patients(ids[:12])
    torch.manual_seed(0)
    Slimp(ModelConfig(**MODEL), fitted(train)).save_pretrained(root / "run")
    parts = Parts(train=train, validation=None, held_out=reference.select_patients(ids[12:24]))
    parts.save(root / "run" / "patients.parquet")
    names = ("run", "reference", "known", "target")
    return {"root": root, **{name: root / name for name in names}}


def without_metadata(cohort: Cohort) -> Cohort:
    levels = tuple(replace(level, features=()) for level in cohort.schema.levels)
    tables = replace(
        cohort.tables,
        lesions=cohort.lesions[["lesion_id", "patient_id"]],
        patients=cohort.patients[["patient_id"]],
    )
    return replace(cohort, schema=replace(cohort.schema, levels=levels), tables=tables)


def retrieve(places: dict[str, Path], target: str, out: Path, *flags: str) -> int:
    paths = [str(places["run"]), "--reference", str(places["reference"])]
    paths += ["--target", str(places[target]), "--out", str(out)]
    few = ["--workers", "0", "--replicates", "20", "--accelerator", "cpu"]
    return cli.main(["retrieve", *paths, *few, *flags])


@pytest.fixture(scope="module")
def retrieved(places: dict[str, Path]) -> Path:
    out = places["root"] / "retrieved"
    assert retrieve(places, "target", out, "--k", "2") == 0
    return out


def test_the_folder_holds_what_the_contract_names(places, retrieved):
    assert {path.name for path in retrieved.iterdir()} == {
        *("config.json", "metrics.json", "pseudo.parquet", "report.html")
    }
    metrics = json.loads((retrieved / "metrics.json").read_text())
    assert metrics["imputed"] == ["lesion", "patient"]
    assert {"median_matching", "median_nonmatching", "overlap", "abstention_rate"} <= set(metrics)
    assert "image_to_metadata_recall_at_1" in metrics["similarity"]["lesion"]
    assert metrics["abstention"]["calibration_patients"] == 12
    assert metrics["abstention"]["calibrated_on_unseen_patients"]
    assert metrics["agreement"] == []  # the target knows nothing
    assert metrics["agreement_on_reference"]
    assert metrics["shared_patients"] == 0
    config = json.loads((retrieved / "config.json").read_text())
    assert (config["retrieve"]["k"], config["retrieve"]["route"]) == (2, "ilp")
    folders = {name: str(places[name]) for name in ("run", "reference", "target")}
    assert {name: config[name] for name in folders} == folders
    assert "torch" in config["versions"]
    table = pd.read_parquet(retrieved / "pseudo.parquet")
    target = Cohort.load(places["target"])
    assert table["image_id"].tolist() == np.repeat(target.images["image_id"], 2).tolist()
    columns = "image_id route rank reference_image_id reference_patient_id lesion_similarity"
    assert set(f"{columns} patient_similarity abstained".split()) <= set(table)


def test_the_page_says_first_whether_to_trust_it(retrieved):
    page = (retrieved / "report.html").read_text()
    head = page[: page.index('<section id="trust">')]
    assert "reference" in head
    assert "Nothing imputed" in head
    assert "cannot be measured here" in head
    assert re.search(r"\d+ of \d+ columns of held-out patients of the reference are", head)
    skills = re.findall(r'data-head="Kappa or skill">(-?[\d.]+)', page)
    assert [float(x) for x in skills] == sorted(map(float, skills), reverse=True)
    assert skills
    assert "<script" not in page
    assert page.count("data:image/jpeg") >= 2


def test_imputed_metadata_flow_into_embed_and_probe_and_are_marked(
    places, retrieved, tmp_path, capsys
):
    file = tmp_path / "features.parquet"
    paths = [str(places["run"]), str(places["target"]), "--pseudo", str(retrieved)]
    assert cli.main(["embed", *paths, "--out", str(file), "--workers", "0"]) == 0
    assert "imputed by retrieval, not observed: lesion, patient" in capsys.readouterr().out
    record = json.loads(file.with_name("features.config.json").read_text())
    assert (record["pseudo"], record["imputed"]) == (str(retrieved), ["lesion", "patient"])
    table = FeatureTable.load(file)
    assert table.imputed == ("lesion", "patient")
    pseudo = PseudoMetadata.load(retrieved)
    kept = ~pseudo.abstained
    assert kept.any()
    for level in ("lesion", "patient"):
        np.testing.assert_array_equal(
            table.features[level][kept], pseudo.embeddings[level][kept], strict=True
        )
    out = tmp_path / "probe"
    fast = ["--seeds", "1", "--folds", "2", "--replicates", "5", "--strengths", "0.1"]
    assert cli.main(["probe", *paths, "--out", str(out), "--workers", "0", *fast]) == 0
    said = "The features lesion, patient are imputed by retrieval, not observed"
    assert said in capsys.readouterr().out
    assert json.loads((out / "metrics.json").read_text())["imputed"] == ["lesion", "patient"]
    assert json.loads((out / "config.json").read_text())["pseudo"] == str(retrieved)
    page = (out / "report.html").read_text()
    assert said in page


def test_the_file_holds_the_weighted_mean_of_the_neighbours(places, retrieved):
    table = pq.read_table(retrieved / "pseudo.parquet").to_pandas()
    model = Slimp.from_pretrained(places["run"])
    reference = Cohort.load(places["reference"])
    rows = reference.lesions.set_index("lesion_id").loc[table["reference_lesion_id"]]
    encoding = model.encodings["lesion"]
    with torch.no_grad():
        m = model.encode_rows("lesion", encoding.encode(rows.reset_index())).numpy()
    weighted = (table["lesion_weight"].to_numpy()[:, None] * m).reshape(-1, 2, 8).sum(axis=1)
    first = table[table["rank"] == 1]
    np.testing.assert_allclose(np.stack(first["lesion_embedding"]), weighted, atol=1e-5)
    assert table.loc[table["rank"] == 2, "lesion_embedding"].isna().all()
    np.testing.assert_allclose(
        table["lesion_weight"].to_numpy().reshape(-1, 2).sum(axis=1), 1, atol=1e-5
    )


def test_known_metadata_serve_as_truth_when_all_is_imputed(places, retrieved, tmp_path, capsys):
    out = tmp_path / "judged"
    assert retrieve(places, "known", out, "--k", "2", "--impute", "all", "--no-report") == 0
    metrics = json.loads((out / "metrics.json").read_text())
    known = Cohort.load(places["known"]).schema
    assert {row["column"] for row in metrics["agreement"]} == {
        column for feature in known.features for column in feature.columns
    }
    assert not [caution for caution in metrics["cautions"] if "--rename" in caution]
    assert "retrieved against true metadata" in capsys.readouterr().out
    assert metrics["groups"]
    ours, theirs = (pd.read_parquet(x / "pseudo.parquet") for x in (out, retrieved))
    pd.testing.assert_frame_equal(ours, theirs)  # the truth played no part in retrieval
    table = embed(
        Slimp.from_pretrained(places["run"]), Cohort.load(places["known"]), pseudo=str(out)
    )
    np.testing.assert_array_equal(
        table.features["lesion"][~table.ids["abstained"]],
        PseudoMetadata.load(retrieved).embeddings["lesion"][~table.ids["abstained"]],
    )


def test_columns_of_the_target_that_the_reference_has_not_are_named(places, tmp_path):
    known, names = Cohort.load(places["known"]), {"site": "place", "age": "years"}

    def renamed(feature):
        new = names.get(feature.name)
        return feature if new is None else replace(feature, name=new, columns=(new,))

    levels = [replace(x, features=tuple(map(renamed, x.features))) for x in known.schema.levels]
    tables = replace(
        known.tables,
        lesions=known.lesions.rename(columns=names),
        patients=known.patients.rename(columns=names),
    )
    schema = replace(known.schema, levels=tuple(levels))
    replace(known, schema=schema, tables=tables).save(tmp_path / "other")
    others, flags = {**places, "other": tmp_path / "other"}, ("--impute", "all", "--no-report")
    for rename, said in (((), ["place", "years"]), (("--rename", "years=age"), ["place"])):
        out = tmp_path / "-".join(said)
        assert retrieve(others, "other", out, *flags, *rename) == 0
        metrics = json.loads((out / "metrics.json").read_text())
        (caution,) = [x for x in metrics["cautions"] if "--rename" in x]
        assert caution.startswith(f"{len(said)} of the ")
        assert f": {', '.join(said)}. Where only" in caution


def test_patients_of_both_cohorts_are_not_their_own_neighbours(places, tmp_path, capsys):
    both = {**places, "both": places["reference"]}
    out = tmp_path / "self"
    flags = ("--impute", "all", "--route", "ii", "--no-report")
    augmented = ("--test-time-augmentation", "dihedral")
    assert retrieve(both, "both", out, *flags, *augmented) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "24 patient(s) are in both cohorts" in said
    assert f"--pseudo {out} {' '.join(augmented)} --out FILE" in said
    paths = [str(places["run"]), str(places["reference"]), "--pseudo", str(out), "--workers", "0"]
    for more, status in (((), 2), (augmented, 0)):
        assert cli.main(["embed", *paths, *more, "--out", str(tmp_path / "f.parquet")]) == status
    assert "--test-time-augmentation dihedral, and these are of none" in capsys.readouterr().err
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["shared_patients"] == 24
    assert metrics["excluded_matches"] > 0
    table = pd.read_parquet(out / "pseudo.parquet")
    own = Cohort.load(places["reference"]).images.set_index("image_id")["patient_id"]
    assert (own[table["image_id"]].to_numpy() != table["reference_patient_id"].to_numpy()).all()


def test_what_weakens_the_result_is_said(places, tmp_path, capsys, monkeypatch):
    """A run that does not name its patients, and what the audit warns of in the reference."""
    monkeypatch.setattr("slimp.checks.report.cautions", lambda cohort: ["A column leaks."])
    run = tmp_path / "run"
    run.mkdir()
    for name in ("model.json", "model.safetensors"):
        (run / name).write_bytes((places["run"] / name).read_bytes())
    assert retrieve({**places, "run": run}, "target", tmp_path / "out", "--no-report") == 0
    out, err = capsys.readouterr()
    assert "CAUTION: The run does not say which patients" in out
    assert "CAUTION: A column leaks." in err


@pytest.mark.parametrize("content", [b"PAR1 cut", None])
def test_damaged_files_are_refused(places, tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "pseudo.parquet").write_bytes(content)
    paths = [str(places["run"]), str(places["target"]), "--pseudo", str(tmp_path)]
    assert cli.main(["embed", *paths, "--out", str(tmp_path / "f.parquet")]) == 2
    error = capsys.readouterr().err
    assert "slimp retrieve" in error
    assert error.count("\n") == 1
