"""Splits, validation patients and the saved head of fine-tuned classifiers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from tiny import MODEL, tiny_cohort, with_images, with_tables

from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.evaluation.fine_tuning import (
    as_probe,
    fine_tune,
    fit_temperature,
    run_of,
    take_apart,
)
from slimp.evaluation.probe_config import FullFinetuneConfig
from slimp.evaluation.result import Predictions, make_task
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.training.finetune import Classifier


def config(**changes: Any) -> FullFinetuneConfig:
    settings = {"patients": 9, "epochs": 1, "workers": 0, "precision": "32", "accelerator": "cpu"}
    quick = {"seeds": 2, "replicates": 5, "folds": 2, "strengths": (0.01,)}
    return FullFinetuneConfig(**{**settings, **quick, **changes})


def cohort():
    """Two labels that any split can have in both parts."""
    found = tiny_cohort(patients=30)
    labels = ["naevus" if k % 3 else "melanoma" for k in range(len(found))]
    return with_images(found, label=labels)


def start() -> Slimp:
    torch.manual_seed(0)
    return Slimp(ModelConfig(**MODEL), {})


def test_validation_patients_come_from_the_training_part() -> None:
    task = make_task(cohort().images, config())
    for split in task.splits:
        parts = take_apart(cohort(), task, split, 0.3)
        assert parts.validation is not None
        tested = set(cohort().images["image_id"].iloc[split.test])
        assert set(parts.held_out.images["image_id"]) == tested
        learned = {*parts.train.images["image_id"], *parts.validation.images["image_id"]}
        assert learned == set(cohort().images["image_id"].iloc[split.train])
        assert 0.15 < len(parts.validation) / len(split.train) < 0.45
        assert set(parts.train.classes) == {"melanoma", "naevus"}


def test_a_class_of_one_training_patient_trains() -> None:
    task = make_task(cohort().images, config(seeds=1))
    split, patients = task.splits[0], task.groups
    own = patients == patients[task.splits[0].train[0]]
    images = cohort().images.assign(label=cohort().images["label"].mask(own, "rare"))
    task = replace(task, ids=images, y=np.unique(images["label"], return_inverse=True)[1])
    found = with_tables(cohort(), images=images)
    for seed in range(6):
        parts = take_apart(found, task, replace(split, seed=seed), 0.5)
        assert "rare" in parts.train.classes
    with pytest.raises(UserError, match="1 patient"):
        take_apart(found, task, replace(split, train=np.flatnonzero(own)), 0.5)
    # Two patients, each the only one of a class: neither can validate.
    two = own | (patients == patients[split.train[~own[split.train]][0]])
    task = replace(task, y=np.where(own, 0, 1))
    with pytest.raises(UserError, match="2 training patients are too few"):
        take_apart(found, task, replace(split, train=np.flatnonzero(two)), 0.5)


def test_the_head_is_saved_as_a_probe_of_the_models_features() -> None:
    task = make_task(cohort().images, config())
    parts = take_apart(cohort(), task, task.splits[0], 0.3)
    found = Classifier.of(start(), parts.train, "full", task.classes)
    found.begin(parts.train, 0)
    torch.nn.init.normal_(found.head.weight)
    probe = as_probe(found.eval(), parts.validation, config())
    frequency = parts.train.images["label"].value_counts(normalize=True)[list(probe.classes)]

    def logits(part: Cohort) -> np.ndarray:
        with torch.no_grad():
            return found.logits(found.features(part, 0)).numpy().astype(np.float64)

    truth = found.codes(parts.validation).numpy()
    balanced = softmax(logits(parts.validation), axis=1)
    temperature = fit_temperature(balanced, truth, frequency.to_numpy())
    z = logits(parts.held_out)
    expected = softmax(z / temperature + np.log(frequency.to_numpy()), axis=1)
    p = probe.predict_proba(embed(found.model, parts.held_out).design("full"))
    np.testing.assert_allclose(p, expected, atol=1e-4)
    np.testing.assert_array_equal(probe.decide(p), z.argmax(axis=1))


def test_every_split_has_a_run_whose_features_give_its_predictions(tmp_path: Path) -> None:
    task, how = make_task(cohort().images, config()), InferenceConfig()
    result = fine_tune(start(), cohort(), task, config(), tmp_path, how=how)
    assert result.predictions.groupby("seed").size().tolist() == [len(s.test) for s in task.splits]
    for split in task.splits:
        folder = run_of(tmp_path, split)
        assert not list(folder.glob("checkpoints")), "only an unfinished training needs them"
        model = Slimp.from_pretrained(folder)
        assert not model.aligned, "labels moved it away from the metadata"
        x = embed(model, cohort()).design("full")[split.test]
        rows = result.predictions[result.predictions["seed"] == split.seed]
        said = Predictions.of_rows(rows, task.classes)
        probe = type(result.probe).load(folder)
        np.testing.assert_allclose(said.probabilities, probe.predict_proba(x), atol=1e-5)
    again = fine_tune(start(), cohort(), task, config(epochs=50), tmp_path, how=how)
    assert again.predictions.equals(result.predictions), "finished splits are read"
    first, second = task.splits
    others = replace(task, splits=(replace(second, seed=first.seed),))
    with pytest.raises(UserError, match=r"patients\.parquet.*other patients"):
        fine_tune(start(), cohort(), others, config(), tmp_path, how=how)
    months = cohort().patients.assign(age=cohort().patients["age"] * 12)
    corrected = replace(cohort(), tables=replace(cohort().tables, patients=months))
    for done in (True, False):
        if not done:  # killed before its end
            (run_of(tmp_path, first) / "probe.json").unlink()
        with pytest.raises(UserError, match=r"config\.json.*other patients, metadata"):
            fine_tune(start(), corrected, task, config(), tmp_path, how=how)


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": "relative"},
        {"split": "lesion"},
        {"split": "image"},
        {"method": "knn"},
        {"seeds": 0},
    ],
)
def test_refusals(wrong) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        config(**wrong)
