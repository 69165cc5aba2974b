"""Validation during training: the same figures that one would compute by hand afterwards."""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_cohort, tiny_config, with_images, with_tables
from torch import Tensor
from torch.nn import functional as F

from slimp.data.batches import PatientBatches
from slimp.data.cohort import Cohort
from slimp.data.images import image_batches
from slimp.errors import CohortError
from slimp.features.knn import knn_balanced_accuracy
from slimp.models.losses import nested_loss
from slimp.models.nested import Slimp
from slimp.training import validation as online
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.validation import Validator


@lru_cache
def parts() -> tuple[Cohort, Cohort]:
    """Training and validation patients."""
    whole = tiny_cohort(patients=18)
    ids = whole.patients["patient_id"].to_numpy()
    return whole.select_patients(ids[:12]), whole.select_patients(ids[12:])


def config(**changes: Any) -> PretrainConfig:
    return tiny_config(**{"patients": 99, **changes})


CPU = torch.device("cpu"), nullcontext
"""Device and number format."""


def model_of(settings: PretrainConfig, train: Cohort | None = None) -> Slimp:
    torch.manual_seed(0)
    return build_model(train or parts()[0], settings)


def validate(
    settings: PretrainConfig, train: Cohort | None = None, validation: Cohort | None = None
) -> dict[str, float]:
    train, validation = train or parts()[0], validation or parts()[1]
    model = model_of(settings, train)
    return Validator(train, validation, model, settings)(model, *CPU)


# ------------------------------------------------------------------ figures


@torch.no_grad()
def by_hand(model: Slimp, settings: PretrainConfig) -> tuple[dict[str, float], Tensor, Tensor]:
    """Losses, and both sides of the lesion level, of all validation patients at once."""
    batches = PatientBatches(
        parts()[1], model.encodings, settings, image_size=settings.image_size, augment=False
    )
    pairs = model.eval()(batches[0, 0])
    loss = nested_loss(pairs, settings.weights)
    lesion = pairs[0]
    losses = {"validation_loss": loss.total, **loss.parts}
    return {name: value.item() for name, value in losses.items()}, lesion.anchor, lesion.target


def test_the_figures_are_those_of_the_undisturbed_validation_patients() -> None:
    settings = config(feature_dropout=0.9, feature_corruption=0.5)  # in training only
    losses, images, metadata = by_hand(model_of(settings), settings)
    found = validate(settings)
    assert found["validation_loss"] == pytest.approx(losses["validation_loss"])
    assert found["validation_loss_lesion"] == pytest.approx(losses["lesion"])
    assert found["validation_loss_patient"] == pytest.approx(losses["patient"])
    cosine = F.normalize(images, dim=1) @ F.normalize(metadata, dim=1).T
    rank = (cosine >= cosine.diagonal()[:, None]).sum(dim=1) - 1
    for k in (1, 5, 10):
        assert found[f"recall_at_{k}"] == pytest.approx((rank < k).float().mean().item())


def test_several_batches_count_by_their_lesions() -> None:
    settings = config(patients=2)
    model = model_of(settings)
    batches = PatientBatches(
        parts()[1], model.encodings, settings, image_size=settings.image_size, augment=False
    )
    total, lesions = 0.0, 0
    with torch.no_grad():
        for k in range(3):
            loss = nested_loss(model.eval()(batches[0, k]), settings.weights)
            total += loss.total.item() * batches[0, k].lesions
            lesions += batches[0, k].lesions
    found = validate(settings)
    assert lesions == len(parts()[1].lesions)
    assert found["validation_loss"] == pytest.approx(total / lesions)
    assert found["recall_at_5"] == validate(config())["recall_at_5"]  # over all of them


def test_a_batch_of_one_patient_says_nothing_of_the_loss_between_patients() -> None:
    whole = tiny_cohort(patients=18, lesions=4)
    several = whole.lesions["patient_id"].value_counts(sort=False).loc[lambda n: n > 1].index[:5]
    settings, few = config(patients=2), whole.select_patients(several)
    model = model_of(settings)
    batches = PatientBatches(few, model.encodings, settings, image_size=16, augment=False)
    with torch.no_grad():
        parts = [
            (nested_loss(model.eval()(batch), settings.weights).parts, batch.lesions)
            for batch in (batches[0, k] for k in range(3))
        ]
    of_patients = [(found["patient"].item(), n) for found, n in parts if "patient" in found]
    assert len(of_patients) == 2
    wanted = sum(loss * n for loss, n in of_patients) / sum(n for _, n in of_patients)
    assert validate(settings, validation=few)["validation_loss_patient"] == pytest.approx(wanted)


def test_equal_metadata_count_as_found() -> None:
    """Nothing tells them apart, so no model could find the right one of them."""

    def of_equal_lesions(cohort: Cohort) -> Cohort:
        columns = cohort.schema.level("lesion").columns
        equal = {c: cohort.lesions[c].iloc[0] for c in columns}
        return with_tables(cohort, lesions=cohort.lesions.assign(**equal))

    found = validate(config(), *map(of_equal_lesions, parts()))
    assert found["recall_at_1"] == found["chance_recall_at_1"] == 1.0


def test_chance_is_of_the_lesions_that_are_drawn() -> None:
    cohort = parts()[1]
    drawn = cohort.lesions["patient_id"].value_counts().clip(upper=1).sum()
    assert drawn < len(cohort.lesions)
    found = validate(config(lesions=1), validation=cohort)
    assert found["chance_recall_at_1"] == pytest.approx(1 / drawn)


def test_the_neighbours_have_labels_and_are_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation = parts()
    even = np.arange(len(train)) % 2 == 0
    half = with_images(train, label=train.images["label"].where(even, None))
    monkeypatch.setattr(online, "KNN_IMAGES", 7)
    found = Validator(half, validation, model_of(config()), config()).neighbours
    assert found is not None
    assert len(found) == 7
    assert set(found.images["image_id"]) < set(train.images["image_id"][even])
    one = with_images(train, label="nevus")
    assert Validator(one, validation, model_of(config()), config()).neighbours is None


def test_the_knn_probe_asks_training_images_about_validation_images() -> None:
    settings = config()
    model = model_of(settings).eval()
    features, labels = [], []
    for part in parts():
        with torch.no_grad():
            chunks = [model.encode_images(pixels) for pixels, _ in image_batches(part, 16)]
        features.append(torch.cat(chunks))
        labels.append(part.images["label"].to_numpy(dtype=object))
    wanted = knn_balanced_accuracy(features[0], labels[0], features[1], labels[1])
    assert validate(settings)["knn_balanced_accuracy"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("changes", "losses", "recall"),
    [
        ({"view_weight": 0.5}, {"view", "lesion", "patient"}, True),
        ({"view_weight": 1.0, "lesion_weight": 0.0, "patient_weight": 0.0}, {"view"}, False),
        ({"lesion_weight": 0.0}, {"patient"}, False),
    ],
)
def test_only_trained_levels_are_judged(
    changes: dict[str, float], losses: set[str], recall: bool
) -> None:
    found = validate(config(**changes))
    assert {n.removeprefix("validation_loss_") for n in found if "loss_" in n} == losses
    assert ("recall_at_1" in found) is recall


def test_validation_is_repeatable_and_leaves_no_trace() -> None:
    settings = config(view_weight=0.5, patients=3)
    model = model_of(settings)
    validator = Validator(*parts(), model, settings)
    state, weights = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    first = validator(model, *CPU)
    assert first == validator(model, *CPU)
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, weights, model.parameters()))
    assert all(p.grad is None for p in model.parameters())


# ------------------------------------------------------------------ refusals


def test_too_few_validation_patients_are_refused_before_training_begins() -> None:
    train, validation = parts()
    one = validation.select(np.arange(len(validation)) == 0)
    message = r"validation part has 1 patient\(s\) with 1 image\(s\): too few to contrast"
    with pytest.raises(CohortError, match=message):
        validate(config(), train, one)
    patients = config(lesion_weight=0.0)
    one_patient = validation.select_patients(validation.patients["patient_id"][:1])
    with pytest.raises(CohortError, match="too few to contrast"):
        validate(patients, train, one_patient)


@pytest.mark.parametrize("unlabelled", ["train", "validation"])
def test_a_knn_monitor_needs_labels_on_both_sides(unlabelled: str) -> None:
    train, validation = parts()
    if unlabelled == "train":
        train = with_images(train, label=None)
    else:
        validation = with_images(validation, label=None)
    with pytest.raises(CohortError, match="knn_balanced_accuracy needs labels of two classes"):
        validate(config(monitor="knn_balanced_accuracy"), train, validation)


def test_a_recall_monitor_needs_a_trained_lesion_level() -> None:
    with pytest.raises(CohortError, match="recall_at_5 needs lesion metadata and a lesion weight"):
        validate(config(monitor="recall_at_5", lesion_weight=0.0))
