"""Scores per group equal those of the group's rows alone, and gaps are found and hedged."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score, roc_auc_score
from tables import cohort_of, ids_of

from slimp.data.cohort import Cohort
from slimp.evaluation.bootstrap import bootstrap
from slimp.evaluation.folds import Split
from slimp.evaluation.metrics import ece
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import ProbeResult, Task, codes_of, summarise
from slimp.evaluation.subgroups import UNKNOWN, subgroups


def make(
    sex: list[str | None], *, k: int = 2, per_patient: int = 2, skill: dict[str | None, float]
) -> tuple[Cohort, ProbeResult]:
    """A patient per entry of `sex`, right as often as `skill` says of its group; two seeds."""
    rng = np.random.default_rng(0)
    names = ("a", "b", "c", "d")[:k]
    patient = np.arange(len(sex)).repeat(per_patient)
    y = rng.integers(k, size=len(patient))
    ids = ids_of(np.array(names)[y], patient)
    cohort = cohort_of(ids, {}, {"sex": sex}, sex="categorical")
    splits, answers = [], []
    for seed in (0, 1):
        test = np.flatnonzero(rng.random(len(sex))[patient] < 0.7)
        right = rng.random(len(test)) < np.array([skill[sex[p]] for p in patient[test]])
        said = np.where(right, y[test], (y[test] + 1) % k)
        p = rng.dirichlet(np.ones(k), size=len(test)) + 1.5 * np.eye(k)[said]
        p /= p.sum(axis=1, keepdims=True)
        splits.append(Split(seed=seed, train=np.arange(0), test=test))
        answers.append({"probabilities": p, "predicted": said})
    task = Task(ids=ids, classes=names, y=y.astype(np.int64), splits=tuple(splits), split="patient")
    answers = [task.answer(split, **answer) for split, answer in zip(splits, answers, strict=True)]
    return cohort, summarise(task, answers, ProbeConfig(replicates=60), name="logistic")


def sex_of(cohort: Cohort) -> pd.Series:
    """By image."""
    return cohort.images.merge(cohort.patients, on="patient_id").set_index("image_id")["sex"]


SKILL: dict[str | None, float] = {"f": 0.95, "m": 0.55, None: 0.7, "x": 0.9}


@pytest.mark.parametrize("k", [2, 3])
def test_each_group_is_scored_as_its_rows_alone(k):
    cohort, result = make(["f", "m", None] * 20, k=k, skill=SKILL)
    found = subgroups(result, cohort, ["sex"])
    assert [group.group for group in found.groups] == ["f", "m", UNKNOWN]
    sex = sex_of(cohort)
    sex = sex.where(sex.notna(), UNKNOWN)
    for group in found.groups:
        rows = result.predictions[result.predictions["image_id"].map(sex) == group.group]
        assert group.n_patients == rows["patient_id"].nunique()
        assert group.n_images == rows["image_id"].nunique()
        for seed, own in rows.groupby("seed"):
            p = own[[f"p_{c}" for c in result.classes]].to_numpy()
            recall = recall_score(own["label"], own["predicted"], average=None)
            auroc = (
                roc_auc_score(own["label"], p[:, 1])
                if k == 2
                else roc_auc_score(own["label"], p, multi_class="ovr")
            )
            y = codes_of(own["label"], result.classes)
            wanted = {
                "balanced_accuracy": recall.mean(),
                "auroc_macro_ovr": auroc,
                "ece": ece(y, p, np.ones((1, len(y))))[0],
            }
            if k == 2:
                wanted |= {"specificity": recall[0], "sensitivity": recall[1]}
            for name, value in wanted.items():
                assert group.metrics[name].per_seed[int(seed)] == pytest.approx(value), name


def test_the_interval_is_that_of_a_bootstrap_with_the_group_cut_out():
    """A slow loop over replicates, each of which selects rows and scores them."""
    cohort, result = make(["f", "m"] * 15, skill=SKILL)
    found = subgroups(result, cohort, ["sex"]).groups[1]
    sex = sex_of(cohort)
    parts = [part for _, part in result.predictions.groupby("seed")]

    def slow(split: int, weights: np.ndarray) -> dict[str, np.ndarray]:
        part, out = parts[split], []
        own = (part["image_id"].map(sex) == "m").to_numpy()
        for w in weights:
            times = np.where(own, w, 0).astype(int)
            rows = part.iloc[np.repeat(np.arange(len(part)), times)]
            hit = rows["label"] == rows["predicted"]
            out.append(hit.groupby(rows["label"]).mean().mean() if len(rows) else np.nan)
        return {"x": np.array(out, dtype=float)}

    groups = [part["patient_id"].to_numpy(dtype=str) for part in parts]
    wanted = bootstrap(groups, slow, replicates=60, seed=0)["x"]
    assert found.metrics["balanced_accuracy"].mean == pytest.approx(wanted.mean)
    assert found.metrics["balanced_accuracy"].ci95 == pytest.approx(wanted.ci95)


def test_a_gap_is_between_known_groups_of_enough_patients():
    """The unknown and the three of 'x' are the extremes, and are passed over."""
    skill: dict[str | None, float] = {"f": 0.95, "m": 0.55, None: 0.05, "x": 1.0}
    cohort, result = make(["f", "m", None] * 40 + ["x"] * 3, skill=skill)
    (gap,) = subgroups(result, cohort, ["sex"]).gaps
    assert (gap.better, gap.worse) == ("f", "m")
    low, high = gap.difference.ci95
    assert 0 < low < gap.difference.mean < high
    assert gap.difference.mean == pytest.approx(0.4, abs=0.15)
    assert "largest gap by sex: 'f' is" in gap.sentence


def test_a_class_of_few_patients_in_a_group_does_not_enter_the_gap():
    """'m' has one patient of class c, always missed."""
    cohort, result = make(["f", "m"] * 40, k=3, skill={"f": 0.8, "m": 0.8})
    sex = sex_of(cohort)
    rows = result.predictions
    drop = (rows["label"] == "c") & (rows["image_id"].map(sex) == "m")
    keep = rows[~drop | (rows["patient_id"] == rows["patient_id"][drop].iloc[0])]
    object.__setattr__(result, "predictions", keep.reset_index(drop=True))
    (gap,) = subgroups(result, cohort, ["sex"]).gaps
    assert gap.classes == ("a", "b")


def test_few_patients_have_no_interval_and_nothing_undefined_reaches_the_file():
    cohort, result = make(["f"] * 30 + ["m"] * 4, skill=SKILL)
    few = subgroups(result, cohort, ["sex"]).groups[1]
    assert few.caution
    assert few.to_dict()["metrics"]["balanced_accuracy"]["ci95"] == [None, None]
    score = few.metrics["balanced_accuracy"]
    assert str(score) == f"{score.mean:.3f}"
    json.dumps(subgroups(result, cohort, ["sex"]).to_dict(), allow_nan=False)
    assert subgroups(result, cohort, ["sex"]).gaps == ()


def test_a_group_of_one_class_has_no_auroc():
    cohort, result = make(["f", "m"] * 20, skill=SKILL)
    sex = sex_of(cohort)
    rows = result.predictions
    keep = rows[(rows["label"] == "a") | (rows["image_id"].map(sex) == "f")]
    object.__setattr__(result, "predictions", keep.reset_index(drop=True))
    found = subgroups(result, cohort, ["sex"]).groups[1]
    assert found.classes == ("a",)
    assert str(found.metrics["auroc_macro_ovr"]) == "-"
    assert found.to_dict()["metrics"]["auroc_macro_ovr"]["mean"] is None
    assert str(found.metrics["sensitivity"]) == "-"
