from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    recall_score,
    roc_auc_score,
)
from tables import ids_of

from slimp.data.schema import Schema
from slimp.errors import UserError
from slimp.evaluation.folds import make_splits
from slimp.evaluation.linear_probe import linear_probe
from slimp.evaluation.logistic import LinearProbe
from slimp.evaluation.metrics import brier, ece
from slimp.evaluation.probe_config import FullProbeConfig
from slimp.evaluation.result import codes_of
from slimp.features.design import RawTable
from slimp.features.feature_table import FeatureTable

FAST = {"replicates": 50, "seeds": 2, "strengths": (1e-3, 1e-1)}


def make_table(
    seed: int = 0,
    *,
    classes: str = "abc",
    patients: int = 60,
    per_patient: int = 3,
    signal: float = 2.0,
    identity: float = 0.0,
    width: int = 32,
) -> FeatureTable:
    """Features that hold the class (`signal`) and who the patient is (`identity`), and noise.

    All images of a patient have one class, as repeated photographs of a lesion do.
    """
    rng = np.random.default_rng(seed)
    label_of = np.arange(patients) % len(classes)
    patient = np.arange(patients).repeat(per_patient)
    y = label_of[patient]
    n = len(patient)
    x = rng.normal(size=(n, width))
    x += signal * rng.normal(size=(len(classes), width))[y]
    x += identity * rng.normal(size=(patients, width))[patient]
    ids = ids_of(np.array(list(classes))[y], patient)
    return FeatureTable(ids=ids, features={"image": x.astype(np.float32)})


@pytest.mark.parametrize("method", ["logistic", "knn"])
def test_leak_shows_in_the_image_split_and_not_in_the_patient_split(method):
    """Features that tell patients apart and nothing else: honest score is chance, 1/3."""
    table = make_table(signal=0.0, identity=2.0, width=128)
    options = {**FAST, "method": method, "neighbours": 2}
    leaking = linear_probe(table, split="image", **options)
    by_lesion = linear_probe(table, split="lesion", **options)
    honest = linear_probe(table, split="patient", **options)
    assert leaking.balanced_accuracy.mean > 0.7
    assert honest.balanced_accuracy.mean < 0.5
    assert by_lesion.balanced_accuracy.mean < 0.5  # here each patient has one lesion
    low, high = honest.balanced_accuracy.ci95
    assert low - 0.05 <= 1 / 3 <= high + 0.05


def test_a_class_written_in_the_features_is_read():
    found = linear_probe(make_table(), **FAST)
    assert found.balanced_accuracy.mean == 1.0
    assert found.balanced_accuracy.ci95 == (1.0, 1.0)
    assert (found.confusion == np.diag(np.diag(found.confusion))).all()
    assert found.converged


@pytest.mark.parametrize("method", ["logistic", "boosting", "knn"])
def test_full_reads_the_raw_table_and_image_does_not(method):
    """The class is a category of the table; the embeddings are noise."""
    table = make_table(signal=0.0, patients=30)
    lesion = {"lesion_metadata": {"site": {"kind": "categorical"}}}
    schema = Schema.from_dict({"image": "image_id", **lesion})
    site = "site " + table.ids["label"].astype(str)
    raw = RawTable(schema=schema, frame=pd.DataFrame({"site": site}))
    known = replace(table, raw=raw)
    full, image = (
        linear_probe(known, features=name, method=method, folds=2, **FAST)
        for name in ("full", "image")
    )
    assert full.balanced_accuracy.mean > (0.8 if method == "knn" else 0.99)
    assert image.balanced_accuracy.mean < 0.6
    assert (full.probe is not None) == (method == "logistic")


@pytest.mark.slow
def test_both_methods_are_averaged():
    table = make_table(signal=0.3, patients=30)
    one, two, both = (
        linear_probe(table, method=method, **FAST)
        for method in ("logistic", "boosting", "logistic+boosting")
    )
    p = [result.predictions[["p_a", "p_b", "p_c"]].to_numpy() for result in (one, two, both)]
    np.testing.assert_allclose(p[2], (p[0] + p[1]) / 2)
    assert set(both.settings[0]) == {"image", "leaves", "trees"}
    assert both.probe is None


def test_a_stated_rule_decides():
    table = make_table(signal=0.25)
    rare = table.ids["label"].ne("c") | (np.arange(len(table)) % 4 == 0)
    table = table.select(rare)
    balanced, likeliest = (
        linear_probe(table, decision=r, **FAST) for r in ("balanced", "likeliest")
    )
    assert balanced.balanced_accuracy.mean > likeliest.balanced_accuracy.mean
    assert balanced.metrics["accuracy"].mean < likeliest.metrics["accuracy"].mean
    assert balanced.metrics["brier"] == likeliest.metrics["brier"]
    assert likeliest.to_dict()["decision"] == "likeliest"
    p = likeliest.predictions[["p_a", "p_b", "p_c"]].to_numpy()
    np.testing.assert_array_equal(
        np.array(["a", "b", "c"])[p.argmax(axis=1)], likeliest.predictions["predicted"]
    )


def test_metrics_are_those_of_the_saved_predictions_of_the_splits():
    """Recomputed with scikit-learn, seed by seed, from what `predictions.parquet` holds."""
    table = make_table(signal=0.3)
    found, splits = linear_probe(table, **FAST), make_splits(table.ids, seeds=range(2))
    p = [f"p_{c}" for c in "abc"]
    columns = ["image_id", "patient_id", "seed", "label", "predicted", "decision", *p]
    assert list(found.predictions.columns) == columns
    for i, (_, rows) in enumerate(found.predictions.groupby("seed")):
        assert list(rows["image_id"]) == list(table.ids["image_id"].iloc[splits[i].test])
        one, y = np.ones((1, len(rows))), codes_of(rows["label"], found.classes)
        wanted = {
            "balanced_accuracy": balanced_accuracy_score(rows["label"], rows["predicted"]),
            "auroc_macro_ovr": roc_auc_score(rows["label"], rows[p], multi_class="ovr"),
            "ece": ece(y, rows[p].to_numpy(), one)[0],
            "brier": brier(y, rows[p].to_numpy(), one)[0],
        }
        for name, value in wanted.items():
            assert found.metrics[name].per_seed[i] == pytest.approx(value), name
        recalls = recall_score(rows["label"], rows["predicted"], average=None)
        for name, recall in zip(found.classes, recalls, strict=True):
            assert found.recall[name].per_seed[i] == pytest.approx(recall)
    np.testing.assert_array_equal(found.splits[0].train, splits[0].train)
    np.testing.assert_array_equal(
        found.confusion,
        confusion_matrix(found.predictions["label"], found.predictions["predicted"]),
    )
    assert found.n_train + found.n_test == len(table)
    assert found.n_test_patients == found.predictions["patient_id"].nunique()
    tested = found.predictions["image_id"].nunique()
    assert f" {tested} test images of {found.n_test_patients} patients" in repr(found)
    assert [list(chosen) for chosen in found.settings] == [["image"]] * 2
    assert set(found.predictions["decision"]) == {"balanced"}


@pytest.mark.parametrize("method", ["logistic", "knn"])
def test_order_of_the_images_does_not_matter(method):
    table = make_table(signal=0.3)
    order = np.random.default_rng(1).permutation(len(table))
    shuffled = FeatureTable(
        ids=table.ids.iloc[order].reset_index(drop=True),
        features={"image": table.features["image"][order]},
    )
    first, second = (linear_probe(t, method=method, **FAST) for t in (table, shuffled))
    for name, estimate in first.metrics.items():
        assert second.metrics[name].mean == pytest.approx(estimate.mean, abs=2e-3), name


def test_the_test_labels_are_never_looked_at():
    """Swapping the labels of test rows changes the score and not one prediction."""
    table = make_table(signal=0.5)
    parts = np.where(table.ids["patient_id"].isin([f"p{i}" for i in range(12)]), "test", "train")
    first = linear_probe(table, parts=parts, **FAST)
    ids = table.ids.copy()
    test = parts == "test"
    ids.loc[test, "label"] = np.roll(ids.loc[test, "label"], 3)
    second = linear_probe(FeatureTable(ids=ids, features=table.features), parts=parts, **FAST)
    shares = ["p_a", "p_b", "p_c"]
    np.testing.assert_array_equal(first.predictions[shares], second.predictions[shares])
    assert first.balanced_accuracy.mean > second.balanced_accuracy.mean


def test_unlabelled_images_are_left_out_and_counted():
    table = make_table()
    ids = table.ids.copy()
    ids.loc[:6, "label"] = None
    found = linear_probe(FeatureTable(ids=ids, features=table.features), **FAST)
    assert found.n_unlabelled == 7
    assert found.n_train + found.n_test == len(table) - 7


def test_two_classes_have_a_positive_one_decided_on_from_its_share_upwards():
    table = make_table(classes="ab", signal=0.25)
    last = linear_probe(table, **FAST)
    first = linear_probe(table, positive="a", **FAST)
    assert (last.classes, first.classes) == (("a", "b"), ("b", "a"))
    assert last.metrics["auroc_macro_ovr"].mean == pytest.approx(
        first.metrics["auroc_macro_ovr"].mean, abs=1e-3
    )
    assert "pauc_above_80tpr" in last.metrics
    rows = last.predictions[last.predictions["seed"] == 0]
    assert last.probe is not None
    assert ((rows["predicted"] == "b") == (rows["p_b"] >= last.probe.priors[1])).all()


def test_files_are_those_of_the_contract(tmp_path):
    table = make_table(signal=0.5)
    found = linear_probe(table, features="full", **FAST)
    found.save(tmp_path / "probe")
    content = json.loads((tmp_path / "probe" / "metrics.json").read_text())
    for name in (
        *("balanced_accuracy", "accuracy", "auroc_macro_ovr", "f1_macro"),
        *("average_precision_macro", "ece"),
    ):
        assert set(content[name]) == {"mean", "ci95", "per_seed"}
        low, high = content[name]["ci95"]
        assert low <= high
    assert content["classes"] == ["a", "b", "c"]
    assert (content["split"], content["features"]) == ("patient", "full")
    assert content["settings"] == [dict(chosen) for chosen in found.settings]
    assert content["decision"] == "balanced"
    assert content["class_shares"] == pytest.approx(dict.fromkeys("abc", 1 / 3), abs=0.05)
    saved = pd.read_parquet(tmp_path / "probe" / "predictions.parquet")
    pd.testing.assert_frame_equal(saved, found.predictions)
    again = LinearProbe.load(tmp_path / "probe")
    rows = saved[saved["seed"] == 0]
    where = table.ids.set_index("image_id").index.get_indexer(rows["image_id"])
    decided = again.decide(again.predict_proba(table.design("full")[where]))
    np.testing.assert_array_equal(np.array(again.classes)[decided], rows["predicted"])
    with pytest.raises(UserError, match="is not empty"):
        found.save(tmp_path / "probe")
    linear_probe(table, method="knn", **FAST).save(tmp_path / "probe", overwrite=True)
    assert {path.name for path in (tmp_path / "probe").iterdir()} == {
        *("metrics.json", "predictions.parquet")  # and not the probe of before
    }


@pytest.mark.parametrize(
    "changes",
    [
        *({"features": "images"}, {"split": "clinic"}, {"method": "svm"}, {"seeds": 0}),
        *({"seed": -1}, {"test_fraction": 1.0}, {"folds": 1}, {"strengths": ()}),
        *({"malignant": ("a",), "positive": "a"}, {"fractions": (0.1, 1.5)}, {"shots": (0,)}),
        *({"draws": 0}, {"subgroups": ("none", "x")}),
    ],
)
def test_configurations_that_make_no_sense(changes):
    config = FullProbeConfig()
    for name, value in changes.items():  # past the type checks of the test run
        object.__setattr__(config, name, value)
    with pytest.raises(UserError, match=next(iter(changes))):
        config.__post_init__()


@pytest.mark.parametrize(
    ("ids", "options", "named"),
    [
        ({}, {"positive": "a"}, "positive='a'"),
        ({}, {"features": "image+lesion"}, "'lesion'"),
        ({}, {"malignant": ("a", "z")}, "malignant='z'.*: a, b, c"),
        ({}, {"malignant": ("a", "b", "c")}, "benign"),
        ({"split": "train"}, {"split": "official"}, "test part"),
        ({"split": ["test", *["train"] * 178, "test"]}, {"split": "official"}, "p0"),
    ],
)
def test_refusals(ids, options, named):
    table = make_table()
    changed = FeatureTable(ids=table.ids.assign(**ids), features=table.features)
    with pytest.raises(UserError, match=named):
        linear_probe(changed, **options, **FAST)


def test_several_labels_become_malignant_and_the_rest_benign():
    table = make_table(classes="abcd", signal=0.3)
    joined = linear_probe(table, malignant=("b", "d"), **FAST)
    assert joined.classes == ("benign", "malignant")
    by_hand = table.ids["label"].map({"a": "0", "b": "1", "c": "0", "d": "1"})
    two = FeatureTable(ids=table.ids.assign(label=by_hand), features=table.features)
    wanted = linear_probe(two, **FAST)
    for name, estimate in wanted.metrics.items():
        assert joined.metrics[name] == estimate, name
    assert {"pauc_above_80tpr", "sensitivity_at_90_specificity"} <= set(joined.metrics)
    assert set(joined.predictions["label"]) == {"benign", "malignant"}
