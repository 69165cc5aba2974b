"""Baselines: their losses against loops, what learns, and the encoder that they leave."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import VIT, small_weights, tiny_cohort, tiny_config, with_images
from torch import Tensor, nn

from slimp.cli.flags import read_config
from slimp.data.batches import Batch, PatientBatches
from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding, FittedFeature
from slimp.data.files import read_json
from slimp.errors import CohortError, UserError
from slimp.experiments.baselines import clip_text, frozen, mae, supervised
from slimp.features.embed import embed
from slimp.models.config import ModelConfig
from slimp.models.losses import NestedLoss
from slimp.models.nested import Slimp
from slimp.training import loop
from slimp.training.adapt import stages_of, unrelated
from slimp.training.build_model import build_model
from slimp.training.config import PretrainConfig
from slimp.training.gradient_cache import backward
from slimp.training.loop import learn, pretrain
from slimp.training.optimizer import make_optimizer
from slimp.training.parts import PATIENTS, labels_known

UNDISTURBED: dict[str, Any] = {
    **{"crop_scale": 1.0, "flip": False, "rotate": "none", "colour": 0.0, "feature_dropout": 0.0},
    **{"held_out_fraction": 0.0, "validation_fraction": 0.0},
}
TRAINERS: dict[str, Callable[..., Slimp]] = {
    "supervised": supervised.train,
    "supervised with the table": partial(supervised.train, table=True),
    "masked autoencoder": mae.train,
    "sentences": clip_text.train,
}


QUICK = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "supervised" else [])
    for name in TRAINERS
]


def settings(**changes: Any) -> PretrainConfig:
    return tiny_config(**{**UNDISTURBED, "patients": 10, "lesions": 2, **changes})


@lru_cache
def labelled() -> Cohort:
    """With labels that nothing can tell but by heart, and images without one.

    A split of its own would set patients aside, were it heeded.
    """
    cohort = tiny_cohort()
    labels = np.random.default_rng(0).choice(["a", "b", "c"], size=len(cohort)).tolist()
    labels[3] = None
    split = np.where(
        cohort.images["patient_id"].isin(cohort.patients["patient_id"][:5]), "test", "train"
    )
    return with_images(cohort, label=labels, split=pd.Series(split, dtype="str"))


def start_of(
    trainer: Callable[..., Slimp], cohort: Cohort, config: PretrainConfig, monkeypatch: Any
) -> tuple[Slimp, Cohort]:
    """The model that a baseline begins with, and the images that it learns from."""
    learned_from: list[Cohort] = []

    def started(cohort: Cohort, config: PretrainConfig, _: Path, build: Any, **what: Any) -> Any:
        learned_from.append(cohort.flatten() if config.hierarchy == "flat" else cohort)
        torch.manual_seed(config.seed)
        return build(learned_from[0], config)

    for module in (supervised, mae, clip_text):
        monkeypatch.setattr(module, "learn", started)
    return trainer(cohort, config, Path("nowhere")), learned_from[0]


def batch_of(model: Slimp, cohort: Cohort, config: PretrainConfig) -> Batch:
    data = PatientBatches(cohort, model.encodings, config, image_size=16, augment=False)
    return data[0, 0]


def loss_of(model: Slimp, batch: Batch) -> NestedLoss:
    metadata = {name: model.encode_rows(name, rows) for name, rows in model.inputs(batch).items()}
    images = model.encode_images(batch.pixels[0])
    return model.objective(images, metadata, batch)


@pytest.mark.parametrize("name", QUICK)
def test_each_leaves_an_encoder_that_learned_and_that_can_be_embedded(name, tmp_path):
    config = settings(epochs=1, learning_rate=3e-3)
    model = TRAINERS[name](labelled(), config, tmp_path / "run")
    assert type(model) is Slimp
    assert not model.training
    model.save_pretrained(tmp_path / "kept")
    found = embed(Slimp.from_pretrained(tmp_path / "kept"), labelled())
    assert found.features["image"].shape == (len(labelled()), VIT["embed_dim"])
    # No metadata encoder that nothing trained: `full` has the raw table beside the images.
    encoded = {"lesion", "patient"} & {*found.design("full").blocks}
    assert bool(encoded) == ("table" in name)
    assert found.design("full").table is not None
    learned = pd.read_parquet(tmp_path / "run" / PATIENTS)
    assert set(learned["part"]) == {"train"}
    whose = labelled().images.dropna(subset=["label"] if "supervised" in name else [])
    assert set(learned["patient_id"]) == set(whose["patient_id"])
    before = build_model(labelled(), config).image_encoder.model.blocks[0].mlp.fc1.weight
    assert not torch.equal(before, model.image_encoder.model.blocks[0].mlp.fc1.weight)
    again = TRAINERS[name](labelled(), config, tmp_path / "run")  # goes on: there is nothing to do
    assert equal_weights(again, model)
    with pytest.raises(UserError, match="trainer="):
        pretrain(labelled(), again_settings(tmp_path / "run"), tmp_path / "run", resume=True)
    run = tmp_path / "run"
    known = set(pd.read_parquet(run / PATIENTS)["patient_id"]) if "supervised" in name else set()
    assert labels_known(run) == known
    (stage,) = stages_of(run, model)
    assert not stage.weights
    assert "baseline" in str(unrelated(run))
    assert Slimp.from_pretrained(tmp_path / "kept").aligned == ()
    with pytest.raises(UserError, match=r"config.json: is of baseline"):
        read_config(run / "config.json", PretrainConfig, section="pretrain")


def equal_weights(a: Slimp, b: Slimp) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def again_settings(run: Path) -> PretrainConfig:
    """Those of a run."""
    return PretrainConfig(**read_json(run / "config.json")["pretrain"])


def test_an_interrupted_baseline_ends_with_the_bits_of_one_that_was_not(tmp_path, monkeypatch):
    """Of masked patches drawn at random, which must be drawn as they would have been."""
    config = settings(epochs=2, checkpoint_every_steps=1)
    whole = mae.train(labelled(), config, tmp_path / "whole")
    original, steps = loop.learn, iter([None] * 2)

    def stop_at_the_third(*args: Any, **kwargs: Any) -> dict[str, float]:
        if next(steps, 0) == 0:
            raise RuntimeError("the power went out")
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "learn", stop_at_the_third)
    with pytest.raises(RuntimeError, match="power"):
        mae.train(labelled(), config, tmp_path / "run")
    monkeypatch.undo()
    assert any((tmp_path / "run" / "checkpoints").iterdir())
    assert equal_weights(mae.train(labelled(), config, tmp_path / "run"), whole)
    with pytest.raises(UserError, match=r"masked=0.75, not 0.5"):
        mae.train(labelled(), config, tmp_path / "run", masked=0.5)
    with pytest.raises(UserError, match="trainer='mae', not 'supervised'"):
        supervised.train(labelled(), config, tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"held_out_fraction": 0.1},
        {"validation_fraction": 0.1},
        {"validation_fraction": 0.1, "monitor": "validation_loss"},
    ],
)
@pytest.mark.parametrize("name", TRAINERS)
def test_patients_set_aside_are_refused(name, changes, tmp_path):
    """Validation would measure SLIMP's loss."""
    with pytest.raises(UserError, match="validation_fraction=0"):
        TRAINERS[name](labelled(), settings(**changes), tmp_path / "run")


def last_of_first_loss(
    trainer: Callable[..., Slimp], config: PretrainConfig, rate: float, monkeypatch: Any
) -> float:
    """After the same step again and again, in which the same patches are masked."""
    few = labelled().select(np.arange(len(labelled())) < 12)
    model, cohort = start_of(trainer, few, config, monkeypatch)
    batch, optimizer = batch_of(model, cohort, config), make_optimizer(model, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
    losses = [learn(model, batch, optimizer, config, nullcontext, 0)["loss"] for _ in range(120)]
    return losses[-1] / losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_each_overfits_one_batch(name, monkeypatch):
    config = settings(chunk=1000, tabular_width=64, projection_width=64)
    rate = 3e-4 if name == "sentences" else 5e-3  # above, the last bit decides how it ends
    assert last_of_first_loss(TRAINERS[name], config, rate, monkeypatch) < 0.4


@pytest.mark.slow
def test_chunks_mask_the_same_patches_in_both_passes(monkeypatch):
    """Else the gradient would be noise."""
    assert last_of_first_loss(mae.train, settings(chunk=11), 5e-3, monkeypatch) < 0.6


@pytest.mark.parametrize("name", ["supervised with the table", "sentences"])
def test_chunks_give_the_same_gradient(name, monkeypatch):
    model, cohort = start_of(TRAINERS[name], labelled(), settings(), monkeypatch)
    batch, found = batch_of(model, cohort, settings()), []
    for chunk in (1000, 5):
        model.zero_grad()
        backward(model, batch, chunk=chunk, autocast=nullcontext)
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-4)
    assert any(name.startswith("training_only") for name in found[0])


# ------------------------------------------------------------------ supervised


@pytest.mark.parametrize("hierarchy", ["nested", "flat"])
@pytest.mark.parametrize("table", [False, True])
def test_the_supervised_loss_is_that_of_a_loop_over_images(table, hierarchy, monkeypatch):
    config = settings(hierarchy=hierarchy)
    model, cohort = start_of(
        partial(supervised.train, table=table), labelled(), config, monkeypatch
    )
    batch = batch_of(model.eval(), cohort, config)
    labels, total, weights = cohort.images["label"], torch.zeros(()), 0.0
    for i, row in enumerate(batch.image_rows.tolist()):
        features = [model.encode_images(batch.pixels[0, i : i + 1])[0]]
        for level, encoding in model.encodings.items() if table else ():
            rows = cohort.tables.of_level(level)
            own = rows[rows[f"{level}_id"] == cohort.images[f"{level}_id"].iloc[row]]
            features.append(model.encode_rows(level, encoding.encode(own))[0])
        scores = torch.log_softmax(model.training_only(torch.cat(features)), dim=0)
        weight = len(labels) / (3 * int((labels == labels.iloc[row]).sum()))
        total = total - weight * scores["abc".index(labels.iloc[row])]
        weights += weight
    torch.testing.assert_close(loss_of(model, batch).total, total / weights)


@pytest.mark.parametrize("label", ["a", None])
def test_fewer_than_two_classes_are_refused(label, tmp_path):
    with pytest.raises(CohortError, match="at least 2"):
        supervised.train(with_images(labelled(), label=label), settings(), tmp_path)


# ------------------------------------------------------------------ masked autoencoder


def autoencoder(image_size: int = 32, **changes: Any) -> mae.MaskedAutoencoder:
    torch.manual_seed(0)
    config = ModelConfig(
        encoder="vit_tiny_patch16_224",
        encoder_options={**VIT, **changes.pop("options", {})},
        image_size=image_size,
    )
    return mae.MaskedAutoencoder(config, {}, **{"masked": 0.75, "depth": 1, **changes})


def test_the_masked_error_is_that_of_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 12, 12, generator=generator).double()
    predicted = torch.randn(3, 9, 48, generator=generator).double()
    masked = torch.stack([torch.randperm(9, generator=generator)[:7] for _ in range(3)])
    found = mae.masked_error(predicted, mae.to_patches(images, 4), masked)
    for i in range(3):
        errors = []
        for patch in masked[i].tolist():
            top, left = 4 * (patch // 3), 4 * (patch % 3)
            pixels = [
                float(images[i, colour, top + y, left + x])
                for y in range(4)
                for x in range(4)
                for colour in range(3)
            ]
            mean = sum(pixels) / 48
            variance = sum((p - mean) ** 2 for p in pixels) / 47
            for k, pixel in enumerate(pixels):
                wanted = (pixel - mean) / (variance + 1e-6) ** 0.5
                errors.append((float(predicted[i, patch, k]) - wanted) ** 2)
        assert float(found[i]) == pytest.approx(sum(errors) / len(errors), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"class_token": False, "global_pool": "avg"}])
def test_only_visible_patches_have_an_influence_and_three_in_four_are_masked(options):
    model = autoencoder(options=options).train()  # 16 patches of 8 px
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    tokens: list[Tensor] = []
    model.training_only.register_forward_pre_hook(lambda _, inputs: tokens.extend(inputs))

    def encode(images: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        model.encode_images(images)
        return tokens[-2], tokens[-1]

    encoded, order = encode(pixels)
    assert encoded.shape[1] == 4 + (not options)  # and CLS
    changed = pixels.clone()
    for i in range(2):
        for patch in order[i, 4:].tolist():
            y, x = 8 * (patch // 4), 8 * (patch % 4)
            changed[i, :, y : y + 8, x : x + 8] = 7
    assert torch.equal(encode(changed)[0], encoded)
    top, left = 8 * int(order[0, 0] // 4), 8 * int(order[0, 0] % 4)
    changed[0, :, top, left] += 100
    assert not torch.equal(encode(changed)[0], encoded)
    model.eval()
    plain = model.image_encoder(pixels)
    assert torch.equal(model.encode_images(pixels), plain), "whole images when it is not training"


def test_the_decoder_puts_patches_back_where_they_were():
    """A decoder without layers predicts each patch from its own token and its place alone."""
    model = autoencoder(depth=0)
    decoder, dim = model.training_only, VIT["embed_dim"]
    tokens = torch.randn(1, 1 + 4, dim)
    orders = [torch.randperm(16)[None] for _ in range(2)]
    first, second = (decoder(tokens, order)[0] for order in orders)
    for k in range(4):
        places = [int(order[0, k]) for order in orders]
        position = decoder.position[places[1]] - decoder.position[places[0]]
        norm, leave = decoder.blocks[0], decoder.leave
        entered = decoder.enter(tokens[0, 1 + k]) + decoder.position[places[0]]
        torch.testing.assert_close(first[places[0]], leave(norm(entered)))
        torch.testing.assert_close(second[places[1]], leave(norm(entered + position)))


def test_what_cannot_be_masked_is_refused(tmp_path):
    with pytest.raises(UserError, match="resnet10t"):
        mae.train(tiny_cohort(), settings(encoder="resnet10t", encoder_options={}), tmp_path)
    with pytest.raises(UserError, match="train_encoder"):
        mae.train(tiny_cohort(), settings(train_encoder=0), tmp_path)
    with pytest.raises(UserError, match="masked"):
        mae.train(tiny_cohort(), settings(), tmp_path, masked=1.0)


# ------------------------------------------------------------------ sentences


AGE = FittedFeature(
    name="age", kind="continuous", columns=("age",), mean=50.0, std=10.0, unit="years"
)
SITE = FittedFeature(
    name="body_site", kind="categorical", columns=("body_site",), categories=("Upper arm", "LEG")
)
SIGNS = FittedFeature(name="signs", kind="checkbox", columns=("itch", "hurt"))
ENCODING = Encoding(level="lesion", features=(AGE, SITE, SIGNS))
TABLE = pd.DataFrame(
    {
        "age": [65.0, np.nan, 7.25, np.nan],
        "body_site": ["Upper arm", "LEG", None, None],
        "itch": pd.array([True, None, False, None], dtype="boolean"),
        "hurt": pd.array([False, None, None, None], dtype="boolean"),
    }
)


def test_sentences_say_what_is_known():
    assert clip_text.sentences(ENCODING, ENCODING.encode(TABLE)) == [
        "age 65 years, body_site Upper arm, itch yes, hurt no",
        "body_site LEG",
        "age 7.25 years, itch no, hurt no",
        "",
    ]
    assert clip_text.words_of("body_site Upper, -7.25") == (
        *("body", "site", "upper", ",", "-", "7", ".", "2", "5"),
    )


def text_encoder() -> clip_text.TextEncoder:
    torch.manual_seed(0)
    return clip_text.TextEncoder(ENCODING, width=8, depth=2, heads=2).eval()


def test_a_row_is_read_the_same_whatever_stands_beside_it():
    encoder, rows = text_encoder(), ENCODING.encode(TABLE)
    together = encoder(rows)
    for i in range(4):
        torch.testing.assert_close(encoder(rows[torch.tensor([i])])[0], together[i])
    assert encoder(rows[torch.zeros(0, dtype=torch.long)]).shape == (0, 8)
    assert not torch.isclose(together[0], together[2]).all()


def test_every_word_has_its_number_and_the_longest_sentence_fits():
    encoder = text_encoder()
    extreme = TABLE.assign(age=[-1.234567e-9, 1.2e30, 1.0, 2.0], body_site="Upper arm")
    for text in clip_text.sentences(ENCODING, ENCODING.encode(extreme)):
        words = clip_text.words_of(text)
        assert set(words) <= set(encoder.vocabulary)
        assert len(words) <= encoder.positions.num_embeddings


@pytest.mark.parametrize("contrast", ["softmax", "sigmoid"])
def test_the_loss_of_sentences_is_clips_or_siglips(contrast, monkeypatch):
    bias = {"sigmoid_bias": -3.0} if contrast == "sigmoid" else {}
    config = settings(patients=20, contrast=contrast, temperature=0.1, **bias)
    model, cohort = start_of(clip_text.train, labelled(), config, monkeypatch)
    batch = batch_of(model.eval(), cohort, config)
    (level,) = model.encodings
    images = model.level(level).project_below(model.encode_images(batch.pixels[0]))
    rows = batch.levels[0].rows
    assert rows is not None
    texts = model.level(level).project_metadata(model.training_only[level](rows))
    a, b = (nn.functional.normalize(x.double(), dim=1) for x in (images, texts))
    n, total = len(a), 0.0
    for i in range(n):
        logits = [(a[i] @ b[j]).item() / 0.1 for j in range(n)]
        back = [(a[j] @ b[i]).item() / 0.1 for j in range(n)]
        for j in range(n):
            if contrast == "sigmoid":
                sign = 1 if i == j else -1
                total += np.log1p(np.exp(-sign * (logits[j] - 3.0))) / n
        if contrast == "softmax":
            total -= sum(x[i] - np.log(np.exp(x).sum()) for x in (logits, back)) / (2 * n)
    assert loss_of(model, batch).total.item() == pytest.approx(total, rel=1e-6)


# ------------------------------------------------------------------ frozen


def test_a_frozen_encoder_is_the_published_one(tmp_path):
    path = tmp_path / "small.safetensors"
    small_weights(path)
    config = settings()
    model = frozen.train(tiny_cohort(), config, tmp_path / "run", weights=f"{path}@64")
    assert (model.image_spec.mean, model.image_spec.size) == ((0.2, 0.3, 0.4), 64)
    assert embed(model, tiny_cohort()).widths.startswith("image ")
    assert not model.encodings
    with pytest.raises(UserError, match="nowhere"):
        frozen.train(tiny_cohort(), config, tmp_path / "run", weights="nowhere")


@pytest.mark.slow
def test_simclr_and_its_kind_are_settings(tmp_path):
    """Views alone, views of a patient, and masked cells: `pretrain` itself."""
    alone = {"lesion_weight": 0.0, "patient_weight": 0.0, "view_weight": 1.0}
    flat = {"hierarchy": "flat", "lesion_weight": 1.0, "patient_weight": 0.0}
    for number, changes in enumerate(
        [
            alone,
            {**alone, "view_positives": "patient"},
            {**flat, "reconstruction_weight": 1.0, "feature_dropout": 0.3},
            {**flat, "contrast": "sigmoid", "temperature": 0.1, "sigmoid_bias": -3.0},
            {"tabular": "ft-transformer"},
        ]
    ):
        model = pretrain(tiny_cohort(), settings(epochs=1, **changes), tmp_path / str(number))
        assert embed(model, tiny_cohort()).features["image"].shape[1] == VIT["embed_dim"]
