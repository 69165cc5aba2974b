"""Probes of a run beside their baselines: whose patients test, and what is said about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from slimp.data.cohort import Cohort
from slimp.data.files import read_json
from slimp.errors import CheckpointError, UserError
from slimp.evaluation.baselines import metadata_table
from slimp.evaluation.paired_bootstrap import compare
from slimp.evaluation.probe_config import FullProbeConfig, ProbeConfig, ProtocolConfig
from slimp.evaluation.protocol import assess, require_possible
from slimp.evaluation.run_features import cached_features, parts_of_run, precision_of
from slimp.features.embed import FeatureTable
from slimp.sources import import_source
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize

QUICK = ProbeConfig(seeds=2, folds=2, strengths=(0.01, 1.0), replicates=20)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return synthesize(SyntheticConfig(patients=60, lesions=3, image_size=16))


@pytest.fixture(scope="module")
def table(cohort: Cohort) -> FeatureTable:
    """Image features that give the label away, and lesion features that say nothing."""
    rng = np.random.default_rng(0)
    labels = pd.Categorical(cohort.images["label"]).codes
    image = np.eye(labels.max() + 1)[labels] + 0.1 * rng.normal(
        size=(len(labels), labels.max() + 1)
    )
    noise = rng.normal(size=(len(labels), 3))
    return FeatureTable(
        ids=cohort.images[["image_id", "lesion_id", "patient_id", "label"]],
        features={"image": image.astype(np.float32), "lesion": noise.astype(np.float32)},
    )


@pytest.fixture(scope="module")
def run_parts(cohort: Cohort) -> dict[str, str]:
    parts = cohort.split({"train": 0.6, "validation": 0.1, "held_out": 0.3})
    return {
        patient: name for name, part in parts.items() for patient in part.patients["patient_id"]
    }


def test_held_out_patients_test(cohort, table, run_parts):
    result = assess(table, cohort, QUICK, run_parts=run_parts)
    tested = set(result.main.predictions["patient_id"])
    assert tested == {patient for patient, part in run_parts.items() if part == "held_out"}
    assert result.saw_test_patients is False
    assert "set aside" in result.tested_on
    for other in (*result.probes.values(), *result.baselines.values()):
        assert set(other.predictions["image_id"]) == set(result.main.predictions["image_id"])


def test_patients_dealt_anew_were_seen_and_that_is_said(cohort, table, run_parts):
    result = assess(table, cohort, QUICK, run_parts=run_parts, held_out=False)
    assert result.saw_test_patients is True
    assert result.tested_on == "in 2 random patient-disjoint splits"
    assert result.to_dict()["pretraining_saw_test_patients"] is True


@pytest.mark.parametrize(("parts", "seen"), [(None, None), ({}, False)])
def test_a_run_on_another_cohort_saw_nobody_and_a_silent_one_is_unknown(cohort, table, parts, seen):
    assert assess(table, cohort, QUICK, run_parts=parts).saw_test_patients is seen


def test_an_official_split_counts_where_the_run_has_none(cohort, table):
    split = np.where(np.arange(len(table)) % 1 == 0, "train", "")
    patients = sorted(cohort.patients["patient_id"])[:20]
    split = np.where(table.ids["patient_id"].isin(patients), "test", split)
    official = replace(table, ids=table.ids.assign(split=split))
    result = assess(official, cohort, QUICK, run_parts={})
    assert set(result.main.predictions["patient_id"]) == set(patients)
    assert "official" in result.tested_on


def test_every_feature_set_up_to_the_one_asked_for_is_probed_once(cohort, table):
    """There are no patient features here, so 'full' is 'image+lesion'."""
    assert list(assess(table, cohort, QUICK).probes) == ["image", "full"]
    smaller = assess(table, cohort, replace(QUICK, features="image"))
    assert list(smaller.probes) == ["image"]
    assert list(smaller.baselines) == ["majority", "metadata"]


def test_the_verdict_says_whether_the_baseline_is_beaten(cohort, table):
    found = assess(table, cohort, QUICK)
    assert "above the best baseline, 'metadata'" in found.verdict.sentence
    paired = compare(found.main.predictions, found.baselines["metadata"].predictions)
    assert found.verdict.difference == paired.differences["balanced_accuracy"]
    assert found.to_dict()["verdict"]["sentence"] == found.verdict.sentence
    constant = replace(table, features={"image": np.zeros((len(table), 2), dtype=np.float32)})
    lost = assess(constant, cohort, QUICK).verdict
    assert "below the best baseline, 'metadata'" in lost.sentence
    assert lost.difference.ci95[1] < 0


def test_without_patient_ids_no_figure_is_said_to_be_over_patients(cohort, table, monkeypatch):
    monkeypatch.setattr(Cohort, "has_patient_ids", property(lambda _: False))
    found = assess(table, cohort, QUICK)
    assert "patients" not in found.verdict.sentence
    assert found.to_dict()["resampling"] == {"unit": "lesions", "n_test": 20}


def test_a_class_that_no_held_out_patient_has_is_explained(cohort, table):
    rare = table.ids["label"].iloc[0]
    parts = {
        patient: "train" if (rows["label"] == rare).any() else "held_out"
        for patient, rows in table.ids.groupby("patient_id")
    }
    with pytest.raises(UserError, match=f"class '{rare}'.* Or pass --no-held-out"):
        assess(table, cohort, QUICK, run_parts=parts)


def test_metrics_hold_every_comparison(cohort, table, tmp_path):
    result = assess(table, cohort, QUICK)
    result.save(tmp_path / "probe")
    content = pd.read_json(tmp_path / "probe" / "metrics.json", typ="series")
    assert set(content["feature_sets"]) == {"image", "full"}
    assert set(content["baselines"]) == {"majority", "metadata"}
    assert content["balanced_accuracy"] == content["feature_sets"]["full"]["balanced_accuracy"]
    with pytest.raises(UserError, match="--overwrite"):
        result.save(tmp_path / "probe")


PROTOCOLS = ProtocolConfig(fractions=(0.5,), shots=(2,), draws=2, leakage=True)


def test_protocols_are_measured_on_the_same_test_rows_and_saved(cohort, table, run_parts, tmp_path):
    result = assess(table, cohort, QUICK, run_parts=run_parts, protocols=PROTOCOLS)
    result.save(tmp_path / "probe")
    content = read_json(tmp_path / "probe" / "metrics.json")
    assert [point["setting"] for point in content["low_shot"]["points"]] == [
        "fraction 0.5",
        "shots 2",
    ]
    drawn = pd.read_parquet(tmp_path / "probe" / "low_shot.parquet")
    assert list(drawn.columns) == ["setting", "seed", "draw", "image_id", "patient_id"]
    assert not set(drawn["patient_id"]) & set(result.main.predictions["patient_id"])
    # Leaking splits are dealt at random, so the honest one beside them is too.
    assert list(content["leakage"]) == ["patient", "lesion", "image"]
    assert len(content["leakage"]["patient"]["balanced_accuracy"]["per_seed"]) == QUICK.seeds
    assert content["subgroups"]["groups"]
    tested = result.main.predictions["patient_id"].nunique()
    by_column = pd.DataFrame(content["subgroups"]["groups"]).groupby("column")["n_patients"].sum()
    assert (by_column >= tested).all()  # lesions of a patient may be in several groups


def test_nothing_more_is_measured_unless_asked(cohort, table):
    assert not set(assess(table, cohort, QUICK).to_dict()) & {"low_shot", "leakage", "subgroups"}
    none = ProtocolConfig(subgroups=("none",))
    assert assess(table, cohort, QUICK, protocols=none).subgroups is None


def test_the_official_split_may_be_insisted_on(cohort, table, run_parts):
    patients = sorted(cohort.patients["patient_id"])[:20]
    split = np.where(table.ids["patient_id"].isin(patients), "test", "train")
    official = replace(table, ids=table.ids.assign(split=split))
    images = cohort.images.assign(split=split)
    named = replace(cohort, tables=replace(cohort.tables, images=images))
    config = replace(QUICK, split="official")
    result = assess(official, named, config, run_parts=run_parts, held_out=False)
    assert set(result.main.predictions["patient_id"]) == set(patients)
    assert "official" in result.tested_on
    assert result.saw_test_patients is True
    for baseline in result.baselines.values():
        assert set(baseline.predictions["patient_id"]) == set(patients)


def test_malignant_is_found_by_probe_and_baselines_alike(cohort, table):
    first = sorted(set(table.ids["label"]))[0]
    result = assess(table, cohort, replace(QUICK, malignant=(first,)))
    for one in (*result.probes.values(), *result.baselines.values()):
        assert one.classes == ("benign", "malignant")
        assert "sensitivity_at_95_specificity" in one.metrics


def test_what_is_impossible_is_refused_before_anything_slow(cohort):
    some = ProtocolConfig(subgroups=("nothing",))
    with pytest.raises(UserError, match="has no column 'nothing'"):
        require_possible(cohort, QUICK, some)
    with pytest.raises(UserError, match="is not a class here"):
        require_possible(cohort, replace(QUICK, malignant=("nothing",)), ProtocolConfig())
    with pytest.raises(UserError, match="has no 'split' column"):
        require_possible(cohort, replace(QUICK, split="official"), ProtocolConfig())
    require_possible(cohort, QUICK, PROTOCOLS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fractions": (0.1, 1.5)}, "fractions"),
        ({"shots": (0,)}, "shots"),
        ({"draws": 0}, "draws"),
        ({"subgroups": ("none", "x")}, "names of columns, auto, or none alone"),
    ],
)
def test_protocols_that_make_no_sense(changes, message):
    with pytest.raises(UserError, match=message):
        FullProbeConfig(**changes)


def test_parts_belong_to_their_cohort(cohort, run_parts, tmp_path):
    assert parts_of_run(tmp_path, cohort) is None
    path = tmp_path / "patients.parquet"
    pd.DataFrame({"patient_id": run_parts.keys(), "part": run_parts.values()}).to_parquet(path)
    assert parts_of_run(tmp_path, cohort) == run_parts
    some = cohort.select_patients(sorted(run_parts)[:9])
    assert parts_of_run(tmp_path, some) == run_parts
    strangers = [f"x{i}" for i in range(100)]
    few = sorted(run_parts)[:3]  # of many: another cohort, but what it saw is not kept quiet
    pd.DataFrame(
        {"patient_id": [*few, *strangers], "part": ["train", "train", *["held_out"] * 101]}
    ).to_parquet(path)
    assert parts_of_run(tmp_path, cohort) == dict.fromkeys(few[:2], "train")
    path.write_bytes(b"PAR1")
    with pytest.raises(CheckpointError, match=r"patients\.parquet: damaged"):
        parts_of_run(tmp_path, cohort)


def test_features_are_kept_until_the_run_or_the_cohort_changes(cohort, tmp_path, monkeypatch):
    made = []

    def count(model, cohort, **options):
        made.append(model)
        features = {"image": np.zeros((len(cohort), 2), dtype=np.float32)}
        return FeatureTable(ids=cohort.images.iloc[:, :4], features=features)

    monkeypatch.setattr("slimp.evaluation.run_features.embed", count)
    monkeypatch.setattr("slimp.evaluation.run_features.Slimp.from_pretrained", lambda run: run)
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(b"1")
    cohort.save(tmp_path / "cohort")
    first = cached_features(run, tmp_path / "cohort")
    again = cached_features(run, tmp_path / "cohort")
    assert len(made) == 1
    pd.testing.assert_frame_equal(first.ids, again.ids)
    (run / "model.safetensors").write_bytes(b"2")
    cached_features(run, tmp_path / "cohort")
    assert len(made) == 2
    cohort.select_patients(cohort.patients["patient_id"][:30]).save(
        tmp_path / "cohort", overwrite=True
    )
    cached_features(run, tmp_path / "cohort")
    assert len(made) == 3
    cached_features(run, tmp_path / "cohort", precision="bf16")
    cached_features(run, tmp_path / "cohort", backend="openvino")
    assert len(made) == 5
    cached_features(run, tmp_path / "cohort", precision="bf16")
    cached_features(run, tmp_path / "cohort")
    assert len(made) == 5


def test_auto_precision_is_measured_and_others_are_kept(monkeypatch):
    for speedup, expected in ((0.8, "32"), (4.0, "bf16")):
        monkeypatch.setattr("slimp.models.precision._bf16_speedup_on_cpu", lambda s=speedup: s)
        assert precision_of("auto", "cpu") == expected
        assert precision_of("32", "cpu") == "32"
        assert precision_of("bf16", "cpu") == "bf16"


@pytest.mark.real_data
def test_protocols_on_real_patients(real_data, tmp_path):
    """The published table one-hot, as if an encoder had made it: all protocols, two splits."""
    pad = import_source("pad-ufes-20", real_data / "pad-ufes-20", tmp_path / "pad")
    coded = pd.get_dummies(metadata_table(pad, ("lesion", "patient")).astype("object").astype(str))
    features = {"image": coded.to_numpy(dtype=np.float32)}
    known = FeatureTable(ids=pad.images.iloc[:, :4], features=features)
    config = replace(QUICK, replicates=100)
    protocols = ProtocolConfig(fractions=(0.01, 1.0), shots=(5,), leakage=True)
    found = assess(known, pad, config, protocols=protocols)
    assert found.main.metrics["brier_scaled"].mean < found.main.metrics["brier"].mean
    one, everyone, five = found.low_shot.points
    assert one.unreached["MEL"] > 0  # a hundredth of some thirty patients
    assert not five.unreached
    assert not five.short
    assert one.balanced_accuracy.mean < five.balanced_accuracy.mean
    assert five.balanced_accuracy.mean < everyone.balanced_accuracy.mean
    assert everyone.balanced_accuracy == found.main.balanced_accuracy
    names = {(group.column, group.group) for group in found.subgroups.groups}
    assert {("gender", "FEMALE"), ("gender", "MALE"), ("gender", "unknown")} <= names
    assert set(found.leakage.excess) == {"lesion", "image"}
