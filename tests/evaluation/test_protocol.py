"""Probes of a run and their baselines: which patients test, and what is reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tables import hinting_features

from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.data.files import read_json
from slimp.data.schema import Level
from slimp.errors import CheckpointError, UserError
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.paired_bootstrap import compare
from slimp.evaluation.probe_config import ProbeConfig, ProtocolConfig
from slimp.evaluation.protocol import Assessment, assess, require_possible
from slimp.evaluation.result import ProbeResult
from slimp.evaluation.run_features import cached_features
from slimp.features.design import RawTable
from slimp.features.encode import InferenceConfig
from slimp.features.feature_table import FeatureTable
from slimp.sources import import_source
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.training.parts import parts_of_run

QUICK = ProbeConfig(seeds=2, folds=2, strengths=(0.01, 1.0), replicates=20)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return synthesize(SyntheticConfig(patients=60, lesions=3, image_size=16))


@pytest.fixture(scope="module")
def table(cohort: Cohort) -> FeatureTable:
    """Image features that give the label away, and lesion features that say nothing."""
    found = hinting_features(cohort, noise=0.1)
    noise = np.random.default_rng(1).normal(size=(len(cohort), 3)).astype(np.float32)
    return replace(found, features={**found.features, "lesion": noise})


@pytest.fixture(scope="module")
def run_parts(cohort: Cohort) -> dict[str, str]:
    parts = cohort.split({"train": 0.6, "validation": 0.1, "held_out": 0.3})
    return {
        patient: name for name, part in parts.items() for patient in part.patients["patient_id"]
    }


PROTOCOLS = ProtocolConfig(fractions=(0.5,), shots=(2,), draws=2, leakage=True)


@pytest.fixture(scope="module")
def assessed(cohort: Cohort, table: FeatureTable) -> Assessment:
    """On random splits, of a run that does not say which patients it learned from."""
    return assess(table, cohort, QUICK, protocols=ProtocolConfig(leakage=True))


def all_results(found: Assessment) -> list[ProbeResult]:
    return [*found.probes.values(), *found.baselines.values()]


def test_held_out_patients_test_and_every_protocol_is_saved(cohort, table, run_parts, tmp_path):
    found = assess(table, cohort, QUICK, run_parts=run_parts, protocols=PROTOCOLS)
    held_out = {patient for patient, part in run_parts.items() if part == "held_out"}
    for result in all_results(found):
        assert set(result.predictions["patient_id"]) == held_out
    assert found.saw_test_patients is False
    assert "set aside" in found.tested_on
    assert found.main.split == "held_out"
    found.write(tmp_path)
    content = read_json(tmp_path / "metrics.json")
    points = [point["setting"] for point in content["low_shot"]["points"]]
    assert points == ["fraction 0.5", "shots 2"]
    drawn = pd.read_parquet(tmp_path / "low_shot.parquet")
    assert list(drawn.columns) == ["setting", "seed", "draw", "image_id", "patient_id"]
    assert not set(drawn["patient_id"]) & held_out
    # Leaking splits are random, so the one by patient that they are compared with is too.
    scores = content["leakage"]["balanced_accuracy"]
    assert list(scores) == ["patient", "lesion", "image"]
    assert len(scores["patient"]["per_seed"]) == QUICK.seeds
    by_column = pd.DataFrame(content["subgroups"]["groups"]).groupby("column")["n_patients"].sum()
    assert (by_column >= len(held_out)).all()  # lesions of a patient may be in several groups


def test_images_of_patients_whom_the_run_never_had_are_counted(cohort, table, run_parts):
    """They joined the cohort later, or were left out of pre-training as well."""
    learned = next(patient for patient, part in run_parts.items() if part == "train")
    less = {patient: part for patient, part in run_parts.items() if patient != learned}
    whole, part = (assess(table, cohort, QUICK, run_parts=x) for x in (run_parts, less))
    own = table.ids[table.ids["patient_id"] == learned]
    left = int(own["label"].notna().sum())
    assert left > 0
    assert part.main.n_train == whole.main.n_train - left
    assert f"; {left} labelled image(s)" in part.tested_on
    assert "left out" not in whole.tested_on


def test_random_splits_of_a_run_test_patients_that_it_saw(cohort, table, run_parts):
    found = assess(table, cohort, QUICK, run_parts=run_parts, held_out=False)
    assert found.to_dict()["pretraining_saw_test_patients"] is True
    assert found.to_dict()["run_knows_test_labels"] is False
    tested = set(found.main.predictions["patient_id"])
    learned = {patient for patient, part in run_parts.items() if part != "held_out"}
    assert found.leak.startswith(f"{len(tested & learned)} of {len(tested)} test patients")
    known = set(list(learned)[:9])
    told = assess(table, cohort, QUICK, run_parts=run_parts, labels_known=known, held_out=False)
    assert told.to_dict()["run_knows_test_labels"] is True
    assert replace(told, saw_test_patients=None).to_dict()["run_knows_test_labels"] is None
    assert told.leak.startswith(f"{len(tested & known)} of {len(tested)} test patients")
    assert found.tested_on == "in 2 random patient-disjoint splits"


def test_every_feature_set_up_to_the_one_asked_for_is_probed_once(cohort, table, assessed):
    """There are no patient features here, so 'full' is 'image+lesion'."""
    assert list(assessed.probes) == ["image", "full"]
    assert assessed.saw_test_patients is None
    content = assessed.to_dict()
    assert set(content["feature_sets"]) == {"image", "full"}
    assert set(content["baselines"]) == {"majority", "metadata"}
    assert content["balanced_accuracy"] == content["feature_sets"]["full"]["balanced_accuracy"]
    smaller = assess(table, cohort, replace(QUICK, features="image"), run_parts={})
    assert list(smaller.probes) == ["image"]
    assert smaller.saw_test_patients is False
    assert not set(smaller.to_dict()) & {"low_shot", "leakage", "subgroups"}


def test_the_baseline_of_the_metadata_knows_no_more_than_the_features(cohort, table):
    """Of a target whose metadata count as unknown (`--impute all`) it would read the truth."""
    raw = RawTable.of(cohort)
    assert raw is not None
    hidden = np.ones(len(table), dtype=bool)
    some, none = raw.without("lesion", hidden), raw
    for name in ("image", "lesion", "patient"):
        none = none.without(name, hidden)
    for features, varies in ((replace(table, raw=some), False), (table, True)):
        found = assess(features, cohort, QUICK).baselines["metadata"].predictions
        shown = found[[c for c in found if c.startswith("p_")]]
        spread = shown.groupby([found["seed"], found["patient_id"]]).std().max(axis=None)
        assert (spread > 1e-9) == varies, "what is known of a patient is alike for all lesions"
    assert set(assess(replace(table, raw=none), cohort, QUICK).baselines) == {"majority"}


def test_imputed_features_that_add_nothing_are_called_so(cohort, table):
    """The lesion features are noise beside images that give the label away."""
    found = assess(replace(table, imputed=("lesion",)), cohort, QUICK)
    assert found.imputed_worth is not None
    assert not found.imputed_worth.enough
    assert found.to_dict()["imputed_worth"]["without"] == found.imputed_worth.without
    assert any(str(found.imputed_worth) in caution for caution in found.cautions)
    image, lesion = table.features["image"], table.features["lesion"]
    swapped = {**table.features, "image": lesion, "lesion": image}
    useful = replace(table, features=swapped, imputed=("lesion",))
    assert assess(useful, cohort, QUICK).imputed_worth.enough
    assert assess(table, cohort, QUICK).imputed_worth is None


def test_the_probe_by_patient_is_not_repeated_for_the_leakage_table(assessed):
    assert assessed.leakage.balanced_accuracy["patient"] is assessed.main.balanced_accuracy


def test_the_verdict_is_that_of_slimp_compare(cohort, table, assessed):
    found = assessed.verdict
    assert "is above the best baseline, 'metadata'" in found.sentence
    paired = compare(assessed.main.predictions, assessed.baselines["metadata"].predictions)
    assert found.difference == paired.differences["balanced_accuracy"]
    assert assessed.to_dict()["verdict"]["sentence"] == found.sentence
    constant = replace(table, features={"image": np.zeros((len(table), 2), dtype=np.float32)})
    lost = assess(constant, cohort, QUICK).verdict
    assert "is below the best baseline, 'metadata'" in lost.sentence
    assert lost.difference.ci95[1] < 0


def test_without_patient_ids_no_figure_is_said_to_be_over_patients(cohort, table, monkeypatch):
    monkeypatch.setattr(Cohort, "has_patient_ids", property(lambda _: False))
    none = ProtocolConfig(subgroups=("none",))
    found = assess(table, cohort, replace(QUICK, method="knn"), protocols=none)
    assert "patients" not in found.verdict.sentence
    assert found.to_dict()["resampling"] == {"unit": "lesions", "n_test": 20}
    assert found.subgroups is None


def test_a_class_that_no_held_out_patient_has_is_explained(cohort, table):
    rare = table.ids["label"].iloc[0]
    parts = {
        patient: "train" if (rows["label"] == rare).any() else "held_out"
        for patient, rows in table.ids.groupby("patient_id")
    }
    with pytest.raises(UserError, match=f"class '{rare}'.* Or pass --no-held-out"):
        assess(table, cohort, QUICK, run_parts=parts)


@pytest.mark.parametrize("asked_for", [True, False])
def test_an_official_split_tests_where_asked_for_or_where_the_run_has_none(
    cohort, table, run_parts, asked_for
):
    patients = sorted(cohort.patients["patient_id"])[:20]
    split = np.where(table.ids["patient_id"].isin(patients), "test", "train")
    official = replace(table, ids=table.ids.assign(split=split))
    config = replace(QUICK, split="official") if asked_for else QUICK
    parts = run_parts if asked_for else {}
    found = assess(official, cohort, config, run_parts=parts, held_out=not asked_for)
    assert "official" in found.tested_on
    assert found.to_dict()["split"] == "official"
    assert found.saw_test_patients is asked_for
    for result in all_results(found):
        assert set(result.predictions["patient_id"]) == set(patients)


def test_malignant_is_found_by_probe_and_baselines_alike(cohort, table):
    first = sorted(set(table.ids["label"]))[0]
    for result in all_results(assess(table, cohort, replace(QUICK, malignant=(first,)))):
        assert result.classes == ("benign", "malignant")
        assert "sensitivity_at_95_specificity" in result.metrics


def test_what_is_impossible_is_refused_before_anything_slow(cohort):
    some = ProtocolConfig(subgroups=("nothing",))
    with pytest.raises(UserError, match="nothing"):
        require_possible(cohort, QUICK, some)
    with pytest.raises(UserError, match="malignant"):
        require_possible(cohort, replace(QUICK, malignant=("nothing",)), ProtocolConfig())
    with pytest.raises(UserError, match="positive"):
        require_possible(cohort, replace(QUICK, positive="nothing"), ProtocolConfig())
    with pytest.raises(UserError, match="split"):
        require_possible(cohort, replace(QUICK, split="official"), ProtocolConfig())
    require_possible(cohort, QUICK, PROTOCOLS)


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

    def count(model, cohort, how, **options):
        made.append(model)
        features = {"image": np.zeros((len(cohort), 2), dtype=np.float32)}
        return FeatureTable(ids=cohort.images.iloc[:, :4], features=features)

    monkeypatch.setattr("slimp.evaluation.run_features.embed", count)
    monkeypatch.setattr("slimp.evaluation.run_features.Slimp.from_pretrained", lambda run: run)
    read = "slimp.evaluation.run_features.read_description"
    monkeypatch.setattr(read, lambda run: (None, {}, None))
    run, folder = tmp_path / "run", tmp_path / "cohort"
    run.mkdir()
    (run / "model.safetensors").write_bytes(b"1")
    cohort.save(folder)

    def embedded(**options) -> int:
        """Times that images were embedded so far, after asking twice."""
        first, again = (cached_features(run, folder, **options) for _ in range(2))
        pd.testing.assert_frame_equal(first.ids, again.ids)
        return len(made)

    assert embedded() == 1
    (run / "model.safetensors").write_bytes(b"2")
    assert embedded() == 2
    cohort.select_patients(cohort.patients["patient_id"][:30]).save(folder, overwrite=True)
    assert embedded() == 3
    assert embedded(how=InferenceConfig(precision="bf16")) == 4
    assert embedded(how=InferenceConfig(backend="openvino")) == 5
    assert embedded(how=InferenceConfig(test_time_augmentation="dihedral")) == 6
    assert embedded() == 6
    sex = replace(cohort.schema.level("patient").features[1], categories=("1", "2"))
    strange = Encoding.fit(Level(name="patient", features=(sex,)), cohort.patients)
    monkeypatch.setattr(read, lambda run: (None, {"patient": strange}, None))
    with pytest.warns(UserWarning, match=f"column '{sex.columns[0]}'"):  # also of kept features
        cached_features(run, folder)


@pytest.mark.slow
@pytest.mark.real_data
def test_protocols_on_real_patients(real_data, tmp_path):
    """The published table one-hot, as if an encoder had made it: all protocols, two splits."""
    pad = import_source("pad-ufes-20", real_data / "pad-ufes-20", tmp_path / "pad")
    coded = pd.get_dummies(RawTable.of(pad).frame.astype("object").astype(str))
    features = {"image": coded.to_numpy(dtype=np.float32)}
    known = FeatureTable(ids=pad.images.iloc[:, :4], features=features)
    config = replace(QUICK, seeds=1)
    protocols = ProtocolConfig(fractions=(0.01, 1.0), shots=(5,), draws=3)
    found = assess(known, pad, config, protocols=protocols)
    one, everyone, five = found.low_shot.points
    assert one.unreached["MEL"] > 0  # a hundredth of some thirty patients
    assert not five.unreached
    assert not five.short
    assert one.balanced_accuracy.mean < five.balanced_accuracy.mean
    assert five.balanced_accuracy.mean < everyone.balanced_accuracy.mean
    assert everyone.balanced_accuracy == found.main.balanced_accuracy
    names = {(group.column, group.group) for group in found.subgroups.groups}
    assert {("gender", "FEMALE"), ("gender", "MALE"), ("gender", "unknown")} <= names


def test_grouped_folds_give_the_mean_over_folds_and_pooled_figures(cohort, table, tmp_path):
    config = replace(QUICK, features="image", split="grouped-5", seeds=None)
    few = ProtocolConfig(fractions=(0.5,), draws=1, subgroups=("sex",))
    found = assess(table, cohort, config, protocols=few)
    main, score = found.main, found.main.balanced_accuracy
    assert found.tested_on == "each in one of 5 folds"
    rows = main.predictions
    assert sorted(rows["image_id"]) == sorted(cohort.images["image_id"])
    assert set(rows["seed"]) == {42}
    recalls = [
        [(own["label"] == own["predicted"]).mean() for _, own in fold.groupby("label")]
        for _, fold in rows.groupby("fold")
    ]
    np.testing.assert_allclose(score.per_fold, np.mean(recalls, axis=1))
    assert [score.mean, *score.per_seed] == pytest.approx([np.mean(recalls)] * 2)
    assert score.ci95[0] <= score.mean <= score.ci95[1]
    together = [(own["label"] == own["predicted"]).mean() for _, own in rows.groupby("label")]
    assert main.pooled["balanced_accuracy"].mean == pytest.approx(np.mean(together))
    assert main.pooled.keys() == main.metrics.keys()
    content = found.to_dict()
    assert content["split"] == "grouped-5"
    assert len(content["balanced_accuracy"]["per_fold"]) == 5
    assert len(content["low_shot"]["points"][0]["balanced_accuracy"]["per_fold"]) == 5
    assert sorted(found.low_shot.rows["fold"].unique()) == [1, 2, 3, 4, 5]
    assert len(content["subgroups"]["groups"][0]["metrics"]["balanced_accuracy"]["ci95"]) == 2


def test_shuffles_of_the_folds_are_counted_as_seeds(table):
    config = replace(QUICK, features="image", split="grouped-5", seeds=2)
    result = probe(table, config)
    assert sorted(set(result.predictions["seed"])) == [42, 43]
    assert len(result.balanced_accuracy.per_seed) == 2
    assert len(result.balanced_accuracy.per_fold) == 10


def test_the_folds_of_a_cohort_are_those_that_test(cohort, table):
    folds = pd.DataFrame({"patient_id": cohort.patients["patient_id"]})
    folds["split"] = [f"fold{i % 3}" for i in range(len(folds))]
    ids = table.ids.merge(folds, on="patient_id", how="left")
    official = replace(table, ids=ids)
    for mode in ("patient", "official"):
        found = assess(official, cohort, replace(QUICK, features="image", split=mode))
        assert found.tested_on == "each in one of 3 folds"
        assert found.main.split == "official"
        by_image = dict(zip(ids["image_id"], ids["split"], strict=True))
        rows = found.main.predictions
        assert (rows["image_id"].map(by_image) == "fold" + rows["fold"].astype(str)).all()
