"""The supervised baseline: the same encoders and batches, with labels instead."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slimp.data.batches import PatientBatches
from slimp.data.cohort import Cohort
from slimp.data.images import image_batches
from slimp.errors import CohortError
from slimp.models.nested import Slimp
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from supervised import Classifier, train_supervised

torch.set_num_threads(1)


@lru_cache
def cohort() -> Cohort:
    """With labels that nothing can tell but by heart."""
    made = synthesize(SyntheticConfig(patients=14, lesions=2, image_size=16, seed=3))
    return labelled(made, list(np.random.default_rng(0).choice(["a", "b", "c"], size=len(made))))


def labelled(cohort: Cohort, labels: list[str | None]) -> Cohort:
    images = cohort.images.assign(label=labels)
    return replace(cohort, tables=replace(cohort.tables, images=images))


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig(
        **{
            "encoder": "vit_tiny_patch16_224",
            "encoder_options": {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
            "image_size": 16,
            "tabular_width": 8,
            "projection_width": 8,
            "patients": 7,
            "lesions": 8,
            "epochs": 2,
            "learning_rate": 3e-3,
            "workers": 0,
            "accelerator": "cpu",
            "precision": "32",
            **changes,
        }
    )


def same(a: Slimp, b: Slimp) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def explained_by_label(model: Slimp, cohort: Cohort) -> float:
    """Share of the variance of the image features that lies between the classes."""
    with torch.no_grad():
        chunks = [model.eval().encode_images(pixels) for pixels, _ in image_batches(cohort, 16)]
    x, labels = torch.cat(chunks), cohort.images["label"].to_numpy()
    x = x - x.mean(dim=0)
    means = [x[labels == c].mean(dim=0) for c in cohort.classes]
    between = sum((labels == c).sum() * m.square().sum() for c, m in zip("abc", means, strict=True))
    return float(between / x.square().sum())


@pytest.mark.slow
def test_the_encoders_learn_the_labels() -> None:
    undisturbed = {"crop_scale": 1.0, "flip": False, "rotate": False, "colour": 0.0}
    settings = config(epochs=100, patients=14, **undisturbed)
    torch.manual_seed(0)
    assert explained_by_label(build_model(cohort(), settings), cohort()) < 0.3
    model = train_supervised(cohort(), settings)
    assert not model.training
    assert explained_by_label(model, cohort()) > 0.8


def test_labels_decide_and_nothing_else_is_random() -> None:
    first = train_supervised(cohort(), config())
    assert same(first, train_supervised(cohort(), config(workers=1)))
    shuffled = labelled(cohort(), cohort().images["label"].tolist()[::-1])
    assert not same(first, train_supervised(shuffled, config()))


def test_images_without_a_label_are_left_out() -> None:
    """A batch of none but such would have a loss of 0 / 0."""
    known = (cohort().images["patient_id"] <= "S3P000007").to_numpy()
    labels = cohort().images["label"].where(known, None).tolist()
    ours = train_supervised(labelled(cohort(), labels), config(patients=1))
    assert same(ours, train_supervised(cohort().select(known), config(patients=1)))
    assert all(p.isfinite().all() for p in ours.parameters())


def test_every_encoder_is_trained_whatever_its_weight_in_pre_training() -> None:
    settings = config(lesion_weight=1.0, patient_weight=0.0)
    torch.manual_seed(0)
    before = build_model(cohort(), settings).level("patient").tabular.state_dict()
    after = train_supervised(cohort(), settings).level("patient").tabular.state_dict()
    name = "encoder.transformer_encoder.layers.0.linear1.weight"
    assert not torch.equal(before[name], after[name])


@pytest.mark.parametrize("labels", [["a"], [None]])
def test_fewer_than_two_classes_are_refused(labels: list[str | None]) -> None:
    with pytest.raises(CohortError, match=r"class\(es\); supervised training needs at least 2"):
        train_supervised(labelled(cohort(), labels * len(cohort())), config())


# ------------------------------------------------------------------ the classifier


def classifier_of(cohort: Cohort, settings: PretrainConfig) -> tuple[Classifier, Tensor]:
    torch.manual_seed(0)
    model = build_model(cohort, settings).eval()
    labels = torch.tensor(["abc".index(label) for label in cohort.images["label"]])
    return Classifier(model, labels, 3), labels


@pytest.mark.parametrize("hierarchy", ["nested", "flat"])
def test_the_loss_is_that_of_a_loop_over_images(hierarchy: str) -> None:
    settings = config(hierarchy=hierarchy, patients=99)
    part = cohort().flatten() if hierarchy == "flat" else cohort()
    classifier, labels = classifier_of(part, settings)
    model = classifier.model
    batch = PatientBatches(part, model.encodings, settings, image_size=16, augment=False)[0, 0]
    ours = classifier(batch)

    counts = [int((labels == k).sum()) for k in range(3)]
    totals, weights = [torch.zeros(()), torch.zeros(())], 0.0
    for i, row in enumerate(batch.image_rows.tolist()):
        image = model.encode_images(batch.pixels[0, i : i + 1])[0]
        features = [image]
        for level, encoding in model.encodings.items():
            table = part.tables.of_level(level)
            own = table[table[f"{level}_id"] == part.images[f"{level}_id"].iloc[row]]
            features.append(model.encode_rows(level, encoding.encode(own))[0])
        label = int(labels[row])
        weight = len(labels) / (3 * counts[label])
        weights += weight
        heads = (classifier.image_head, image), (classifier.full_head, torch.cat(features))
        for k, (head, x) in enumerate(heads):
            totals[k] = totals[k] - weight * torch.log_softmax(head(x), dim=0)[label]
    torch.testing.assert_close(ours, (totals[0] + totals[1]) / weights)


def test_without_any_opinion_each_head_costs_log_k() -> None:
    settings = config(patients=99)
    classifier, _ = classifier_of(cohort(), settings)
    for head in (classifier.image_head, classifier.full_head):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    encodings = classifier.model.encodings
    batch = PatientBatches(cohort(), encodings, settings, image_size=16)[0, 0]
    assert classifier(batch).item() == pytest.approx(2 * math.log(3))
