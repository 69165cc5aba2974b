"""From a run folder, a cohort and probes to the file: what is read, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slimp.data.cohort import Cohort
from slimp.data.files import write_json
from slimp.errors import UserError
from slimp.evaluation.linear_probe import linear_probe
from slimp.evaluation.result import ProbeResult
from slimp.features.embed import FeatureTable
from slimp.report import write_report
from slimp.report.gather import cohort_facts, gather, probe_facts
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize

DATE = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return synthesize(SyntheticConfig(patients=40, lesions=3, image_size=24))


@pytest.fixture(scope="module")
def table(cohort: Cohort) -> FeatureTable:
    """Features that betray the label a little."""
    rng = np.random.default_rng(0)
    codes = cohort.images["label"].map({c: k for k, c in enumerate(cohort.classes)})
    image = rng.normal(size=(len(cohort), 5)) + codes.to_numpy(dtype=float)[:, None]
    ids = cohort.images[["image_id", "lesion_id", "patient_id", "label"]]
    return FeatureTable(ids=ids, features={"image": image.astype(np.float32)})


@pytest.fixture(scope="module")
def result(table: FeatureTable) -> ProbeResult:
    return linear_probe(table, features="image", seeds=2, replicates=50)


@pytest.fixture
def run(tmp_path: Path, cohort: Cohort) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_json(
        folder / "config.json",
        {"pretrain": {"encoder": "vit_x", "epochs": 7}, "versions": {"slimp": "1.2.3"}},
    )
    rows = [{"kind": "step", "step": k, "epoch": 0, "loss": 2.0 / k} for k in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    part = ["train"] * 28 + ["validation"] * 4 + ["held_out"] * 8
    parts = pd.DataFrame({"patient_id": cohort.patients["patient_id"], "part": part})
    parts.to_parquet(folder / "patients.parquet")
    return folder


def everything(run: Path, cohort: Cohort, **changes: object):
    arguments = {
        **{"table": None, "probes": {}, "floors": {}, "similarity": {}, "title": "t"},
        **{"command": "", "date": DATE, "images": True, "seed": 0},
    }
    return gather(run, cohort, **{**arguments, **changes})


def test_a_report_is_written_and_repeats(tmp_path, run, cohort, table, result):
    target = tmp_path / "deep" / "report.html"
    arguments = {"run": run, "cohort": cohort, "table": table, "probes": {"image": result}}
    assert write_report(target, **arguments, date=DATE) == target
    first = target.read_bytes()
    write_report(target, **arguments, date=DATE)
    assert target.read_bytes() == first
    text = first.decode()
    assert f"{result.balanced_accuracy.mean:.3f}" in text
    assert "vit_x, pre-trained on 28 patients" in text
    assert text.count("data:image/jpeg") > 5
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_images_can_stay_at_home(tmp_path, run, cohort, result):
    target = write_report(
        tmp_path / "r.html", run=run, cohort=cohort, probes={"image": result}, images=False
    )
    assert "data:image" not in target.read_text(encoding="utf-8").replace("img-src data:", "")


def test_a_probe_in_memory_equals_its_folder(tmp_path, result):
    result.save(tmp_path / "probe")
    here, there = probe_facts("image", result), probe_facts("image", tmp_path / "probe")
    pd.testing.assert_frame_equal(here.predictions, there.predictions)
    for name in ("metrics", "class_recall", "classes", "split", "n_train", "n_test", "key"):
        assert getattr(here, name) == getattr(there, name)
    assert here.key.mean == result.balanced_accuracy.mean
    assert (here.key.low, here.key.high) == result.balanced_accuracy.ci95
    assert set(here.class_recall) == set(result.classes)


def test_settings_log_and_parts_come_from_the_run(run, cohort):
    inputs = everything(run, cohort)
    assert inputs.config == {"encoder": "vit_x", "epochs": 7}
    assert inputs.versions == {"slimp": "1.2.3"}
    assert inputs.log["loss"].tolist() == [2.0, 1.0, 2.0 / 3]
    assert inputs.cohort.parts["part"].tolist() == ["train", "validation", "held_out"]
    assert inputs.cohort.parts["patients"].tolist() == [28, 4, 8]
    assert inputs.cohort.parts["images"].sum() == len(cohort)
    assert inputs.seen_patients == set(cohort.patients["patient_id"][:32])


def test_the_map_shows_held_out_patients_where_there_are_any(run, cohort, table):
    inputs = everything(run, cohort, table=table)
    held_out = cohort.images["patient_id"].isin(cohort.patients["patient_id"][32:]).to_numpy()
    np.testing.assert_array_equal(inputs.embedding, table.features["image"][held_out])
    assert inputs.embedding_of == "held-out patients"
    assert inputs.embedding_labels == tuple(cohort.images["label"][held_out])
    (run / "patients.parquet").unlink()
    inputs = everything(run, cohort, table=table)
    assert len(inputs.embedding) == len(cohort)
    assert inputs.embedding_of == "all patients"


def test_the_parts_of_another_cohort_are_not_these_patients_parts(run, cohort):
    path = run / "patients.parquet"
    other = pd.read_parquet(path)
    other["patient_id"] = "other-" + other["patient_id"]
    other.to_parquet(path)
    inputs = everything(run, cohort)
    assert inputs.cohort.parts is None
    assert not inputs.seen_patients


def test_cohort_facts_count_what_is_there(cohort):
    facts = cohort_facts(cohort)
    assert (facts.patients, facts.lesions, facts.images) == (
        len(cohort.patients),
        len(cohort.lesions),
        len(cohort),
    )
    assert facts.classes["images"].sum() + facts.unlabelled == len(cohort)
    assert tuple(facts.classes["label"]) == cohort.classes
    missing = facts.features.set_index(["level", "feature"])["missing"]
    assert missing["patient", "age"] == pytest.approx(cohort.patients["age"].isna().mean())
    assert len(missing) == len(list(cohort.schema.features))


def test_a_bare_run_folder_is_enough(tmp_path, cohort):
    folder = tmp_path / "bare"
    folder.mkdir()
    inputs = everything(folder, cohort)
    assert inputs.log.empty
    assert inputs.config == {}
    assert "slimp" in inputs.versions


def test_an_unlabelled_cohort_is_reported(tmp_path, run, cohort):
    images = cohort.images.assign(label=pd.Series([None] * len(cohort), dtype="str"))
    plain = Cohort.from_tables(
        images, cohort.lesions, cohort.patients, schema=cohort.schema, store=cohort.store
    )
    text = write_report(tmp_path / "r.html", run=run, cohort=plain).read_text(encoding="utf-8")
    assert "The cohort has no labels." in text


def test_refusals(tmp_path, run, cohort, result):
    with pytest.raises(UserError, match="no such run folder"):
        everything(tmp_path / "nowhere", cohort)
    with pytest.raises(UserError, match=r"metrics\.json: no such file"):
        everything(run, cohort, probes={"image": tmp_path})
    result.save(tmp_path / "probe")
    (tmp_path / "probe" / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"predictions\.parquet: missing or damaged"):
        everything(run, cohort, probes={"image": tmp_path / "probe"})
    with pytest.raises(UserError, match="the predictions hold image 'strange'"):
        everything(run, cohort).read_image("strange")
