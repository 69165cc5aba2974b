"""Fine-tuning: what the classifier reads, what learns, and that a stop changes nothing."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import MODEL, log_without_pace, tiny_cohort, with_images, with_tables

from slimp.data.batches import PatientBatches
from slimp.data.cohort import Cohort
from slimp.data.splits import assign_groups
from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.models.persistence import read_tensors
from slimp.training import finetune as module
from slimp.training.config import FinetuneConfig
from slimp.training.finetune import BEST, Classifier, draw_hidden, finetune
from slimp.training.parts import Parts

CPU = torch.device("cpu")
EVERYTHING: Any = {"crop_scale": 1.0, "flip": False, "rotate": "none", "colour": 0.0}


def config(**changes: Any) -> FinetuneConfig:
    settings = {"patients": 5, "epochs": 3, "workers": 0, "precision": "32", "accelerator": "cpu"}
    return FinetuneConfig(**{**settings, **changes})


def start(**changes: Any) -> Slimp:
    torch.manual_seed(0)
    return Slimp(ModelConfig(**MODEL, **changes), {})


def parts() -> Parts:
    cohort = tiny_cohort()
    part = assign_groups(
        *(cohort.images[name].to_numpy() for name in ("label", "patient_id")),
        {"a": 0.7, "b": 0.3},
        seed=0,
    )
    return Parts(
        train=cohort.select(part == "a"), validation=cohort.select(part == "b"), held_out=None
    )


def classifier(features: Any = "full") -> Classifier:
    torch.manual_seed(1)
    found = Classifier.of(start(), parts().train, features, tiny_cohort().classes)
    found.begin(parts().train, 0)
    torch.nn.init.normal_(found.head.weight)
    return found.eval()


def whole_batch(found: Classifier, cohort: Cohort):
    """All images of a cohort as one batch, as they are."""
    encodings = {level: found.model.encodings[level] for level in found.levels}
    all_of_it = config(patients=100, lesions=100, images_per_lesion=100)
    return PatientBatches(cohort, encodings, all_of_it, image_size=16, augment=False)[0, 0]


@pytest.mark.parametrize("features", ["image", "image+lesion", "full"])
@torch.no_grad()
def test_a_batch_gets_the_logits_of_the_embedded_cohort(features) -> None:
    found, cohort = classifier(features), tiny_cohort()
    batch = whole_batch(found, cohort)
    nothing = torch.zeros(len(cohort), dtype=torch.long)
    expected = found.logits(found.features(cohort, 0))[batch.image_rows]
    torch.testing.assert_close(found(batch, nothing), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_is_hidden_has_no_influence() -> None:
    found, cohort = classifier(), tiny_cohort()
    batch = whole_batch(found, cohort)
    empty = with_tables(
        cohort,
        lesions=cohort.lesions.assign(**dict.fromkeys(cohort.schema.level("lesion").columns)),
        patients=cohort.patients.assign(**dict.fromkeys(cohort.schema.level("patient").columns)),
    )
    without = found.logits(found.features(empty, 0))[batch.image_rows]
    table, image = (torch.full((len(cohort),), which) for which in (1, 2))
    torch.testing.assert_close(found(batch, table), without, rtol=1e-4, atol=1e-4)
    black = replace(batch, pixels=torch.zeros_like(batch.pixels))
    assert torch.equal(found(batch, image), found(black, image))
    assert not torch.allclose(found(batch, table), found(black, table))


@torch.no_grad()
def test_in_bf16_neither_the_table_is_rounded_nor_what_stands_for_an_image(monkeypatch) -> None:
    found, cohort = classifier(), tiny_cohort()
    batch, hidden = whole_batch(found, cohort), torch.full((len(cohort),), 2)
    monkeypatch.setattr(found, "logits", lambda features: features)
    exact, encode = found(batch, hidden), found.model.encode_images
    # As a CNN under autocast; a ViT ends in a norm, whose output is in 32 bits.
    monkeypatch.setattr(found.model, "encode_images", lambda x: encode(x).bfloat16())
    torch.testing.assert_close(found(batch, hidden), exact, rtol=0, atol=0, equal_nan=True)


def test_how_often_something_is_hidden() -> None:
    half = config(modality_dropout=0.5)
    drawn = np.bincount(draw_hidden(classifier(), 4000, half, 0), minlength=3) / 4000
    np.testing.assert_allclose(drawn, [0.5, 0.25, 0.25], atol=0.03)
    assert not draw_hidden(classifier("image"), 100, half, 0).any()  # nothing would be left
    assert not torch.equal(*(draw_hidden(classifier(), 100, half, step) for step in (0, 1)))


@pytest.mark.slow
def test_everything_that_is_read_learns_and_the_table_is_learned(tmp_path: Path) -> None:
    """A label that follows from a column of the table, which the images do not show."""
    cohort = tiny_cohort(patients=60)
    female = cohort.patients.set_index("patient_id")["sex"] == "female"
    labels = cohort.images["patient_id"].map(female).map({True: "a", False: "b"})
    labelled = with_images(cohort, label=labels)
    names = cohort.patients["patient_id"].tolist()
    train, validation = (labelled.select_patients(some) for some in (names[:45], names[45:]))
    halves = Parts(train=train, validation=validation, held_out=None)
    found = Classifier.of(start(), halves.train, "full", ("a", "b"))
    before = {name: x.clone() for name, x in found.named_parameters()}
    finetune(
        found,
        halves,
        config(patients=45, epochs=30, patience=0, learning_rate=1e-2),
        tmp_path,
        device=CPU,
    )
    read = [n for n in before if n.startswith(("model.image_encoder", "head")) or ".tabular." in n]
    changed = {name for name, x in found.named_parameters() if not torch.equal(x, before[name])}
    assert {n.split(".")[1] for n in read} == {"image_encoder", "levels", "weight", "bias"}
    assert all(n in changed for n in read if not n.endswith("cls_token"))
    assert module.validate(found, halves.validation, 0)["validation_balanced_accuracy"] > 0.9


def trained(out: Path) -> Path:
    torch.manual_seed(2)
    begun = Classifier.of(start(), parts().train, "full", tiny_cohort().classes)
    finetune(begun, parts(), config(), out, device=CPU)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("step", [0, 4])
def test_a_stop_changes_nothing(step, whole, tmp_path, monkeypatch):
    learn, steps = module.learn, iter(range(100))

    def interrupted(*arguments: Any) -> float:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(*arguments)

    monkeypatch.setattr(module, "learn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path)
    best, again = (read_tensors(out / BEST) for out in (whole, trained(tmp_path)))
    assert all(torch.equal(x, again[name]) for name, x in best.items())
    assert log_without_pace(whole) == log_without_pace(tmp_path)


def test_the_best_epoch_is_kept_and_patience_ends(tmp_path: Path, monkeypatch) -> None:
    losses = iter([0.5, 0.4, 0.6, 0.45, 0.3])
    kept: list[torch.Tensor] = []

    def validate(found: Classifier, *_: object) -> dict[str, float]:
        kept.append(found.head.bias.detach().clone())
        return {"validation_loss": next(losses)}

    monkeypatch.setattr(module, "validate", validate)
    found = Classifier.of(start(), parts().train, "image", tiny_cohort().classes)
    finetune(found, parts(), config(epochs=9, patience=2), tmp_path, device=CPU)
    assert len(kept) == 4
    assert torch.equal(found.head.bias, kept[1])


def test_refusals(tmp_path: Path, monkeypatch) -> None:
    for wrong in ({"validation_fraction": 0.0}, {"modality_dropout": 1.0}, {"patience": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            config(**wrong)
    found = Classifier.of(start(), parts().train, "image", tiny_cohort().classes)
    finetune(found, parts(), config(epochs=1), tmp_path, device=CPU)
    swapped = replace(parts(), train=parts().validation, validation=parts().train)
    with pytest.raises(CheckpointError, match="other patients"):
        finetune(found, swapped, config(epochs=1), tmp_path, device=CPU)
