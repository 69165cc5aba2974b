"""Two passes against one graph over the whole batch: the same gradient, in 64 bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import SIZE, SMALL_RESNET, VIT, fitted, tiny_cohort, tiny_config, with_features
from torch import Tensor

from slimp.data.batches import Batch, PatientBatches
from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import mixes_rows
from slimp.models.losses import NestedLoss, nested_loss
from slimp.models.nested import ROWS_ON_CPU, Slimp
from slimp.models.precision import compile_encoder
from slimp.training import gradient_cache, memory
from slimp.training.chunk_size import free_bytes, rows_that_fit, saved_bytes
from slimp.training.config import part_of
from slimp.training.gradient_cache import backward, seed_dropout

CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "the paper": (("lesion", "patient"), {}),
    "lesions only": (("lesion",), {"patient_weight": 0.0, "lesion_weight": 1.0}),
    "patients only": (("patient",), {}),
    "three levels": (("image", "lesion", "patient"), {}),
    "attention": (("image", "lesion", "patient"), {"pooling": "attention"}),
    "views": (("lesion", "patient"), {"view_weight": 0.5}),
    "views alone": (
        ("lesion", "patient"),
        {"view_weight": 1.0, "lesion_weight": 0.0, "patient_weight": 0.0},
    ),
    "duplicates": (("lesion", "patient"), {"duplicates": "positive"}),
    "soft positives": (("lesion", "patient"), {"duplicates": "soft"}),
    "hidden cells": (("image", "lesion", "patient"), {"reconstruction_weight": 0.5}),
    "views of patients": (("lesion",), {"view_weight": 0.5, "view_positives": "patient"}),
    "context": (("image", "lesion", "patient"), {"context": "patient"}),
    "learned missing": (("lesion", "patient"), {"missing": "learned"}),
    "checkpointed encoder": (("lesion", "patient"), {"gradient_checkpointing": True}),
}


DROPPING = {**VIT, "drop_path_rate": 0.4, "proj_drop_rate": 0.3}
"""An encoder in training mode that drops units."""


def cohort() -> Cohort:
    return tiny_cohort(patients=5, lesions=3, images_per_lesion=2, image_metadata=True, seed=2)


def made(levels: tuple[str, ...], **changes: Any) -> tuple[Slimp, Batch]:
    """A model in 64 bit, in training mode, and a ragged batch."""
    config = tiny_config(**{"projection_width": 6, "images_per_lesion": 2, **changes})
    whole = cohort()
    kept = whole.images["patient_id"] != whole.patients["patient_id"].iloc[0]
    kept.iloc[0] = True  # a patient with one image among others with six
    some = with_features(whole.select(kept), **dict.fromkeys(levels))
    encodings = fitted(some)
    torch.manual_seed(0)
    model = Slimp(part_of(config, ModelConfig), encodings).double().train()
    for name, parameter in model.named_parameters():
        if "siblings" in name:  # it starts at zero, which would show little
            torch.nn.init.normal_(parameter, std=0.1)
    if config.gradient_checkpointing:
        model.image_encoder.set_gradient_checkpointing(True)
    views = 2 if config.view_weight else 1
    return model, PatientBatches(some, encodings, config, image_size=SIZE, views=views)[0, 0]


def gradients(model: Slimp, run: Callable[[], NestedLoss]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = run()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.total.item(), found


def plainly(model: Slimp, batch: Batch) -> NestedLoss:
    loss = nested_loss(model(batch), model.config.weights)
    loss.total.backward()
    return loss


def cached(
    model: Slimp,
    batch: Batch,
    chunk: int,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> NestedLoss:
    return backward(model, batch, chunk=chunk, autocast=autocast, seed=(3, 1))


def assert_same(
    found: tuple[float, dict[str, Tensor]], wanted: tuple[float, dict[str, Tensor]]
) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-12)
    assert found[1].keys() == wanted[1].keys()
    largest = max(gradient.abs().max().item() for gradient in wanted[1].values())
    for name, gradient in wanted[1].items():
        error = (found[1][name] - gradient).abs().max().item()
        assert error <= 1e-10 * max(gradient.abs().max().item(), 1e-3 * largest), name


@pytest.mark.parametrize("chunk", [1, 8, 1000])
@pytest.mark.parametrize("case", CASES)
def test_chunks_give_the_gradient_of_the_whole_batch(case: str, chunk: int) -> None:
    levels, changes = CASES[case]
    model, batch = made(levels, **changes)
    wanted = gradients(model, partial(plainly, model, batch))
    assert_same(gradients(model, partial(cached, model, batch, chunk)), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("chunk", [8, 1000])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_gives_the_gradient_of_the_cpu(compiled: bool, chunk: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    model, batch = made(("image", "lesion", "patient"), view_weight=0.5)
    wanted = gradients(model, partial(plainly, model, batch))
    model.to(device)
    if compiled:
        compile_encoder(model.image_encoder, device)
    loss, found = gradients(model, partial(cached, model, batch.to(device), chunk))
    assert_same((loss, {name: gradient.cpu() for name, gradient in found.items()}), wanted)


def test_images_learn_from_hidden_cells() -> None:
    """The whole batch's loss: of the level's pair, and, by its weight, of its cells."""
    model, batch = made(("lesion", "patient"), reconstruction_weight=0.5)
    loss, (with_cells, found) = (
        plainly(model, batch),
        gradients(model, partial(plainly, model, batch)),
    )
    names = ["lesion", "patient"]
    assert list(loss.parts) == [*names, *(f"reconstruction_{name}" for name in names)]
    model.config = replace(model.config, reconstruction_weight=0.0)
    without, other = gradients(model, partial(plainly, model, batch))
    cells = sum(loss.parts[f"reconstruction_{name}"].item() for name in names)
    assert with_cells == pytest.approx(without + 0.5 * cells)
    name = next(name for name in found if name.startswith("image_encoder."))
    assert not torch.allclose(found[name], other[name])
    shown = tuple(replace(level, rows=level.whole, original=None) for level in batch.levels)
    assert list(plainly(model, replace(batch, levels=shown)).parts) == names


def test_both_passes_drop_the_same_units() -> None:
    """Against one graph over all chunks, each drawn as the cache draws it."""
    model, batch = made(("lesion", "patient"), tabular_dropout=0.4, encoder_options=DROPPING)

    def in_one_graph() -> NestedLoss:
        embedded: dict[str, list[Tensor]] = {}
        for piece in gradient_cache._chunks(model, batch, 2, (3, 1)):
            seed_dropout(piece.seed)
            embedded.setdefault(piece.encoder, []).append(piece.embed())
        whole = {name: torch.cat(parts) for name, parts in embedded.items()}
        h = whole.pop("pixels")
        loss = nested_loss(model.relate(h, whole, batch), model.config.weights)
        loss.total.backward()
        return loss

    wanted = gradients(model, in_one_graph)
    assert_same(gradients(model, partial(cached, model, batch, 6)), wanted)
    torch.manual_seed(99)  # what was drawn before has no influence
    torch.rand(7)
    assert_same(gradients(model, partial(cached, model, batch, 6)), wanted)
    without = gradients(model.eval(), partial(plainly, model, batch))
    assert without[0] != pytest.approx(wanted[0], rel=1e-6)


@pytest.mark.parametrize("chunk", [3, 7, 8])
def test_processes_with_shards_on_both_sides_of_a_chunk_drop_the_same_units(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 7 images one process has 3 and one 4: the smaller would take the direct way."""
    whole = cohort()
    some = whole.select(whole.images.index < 7)
    config = tiny_config(tabular_dropout=0.4, view_weight=1.0, images_per_lesion=2, patients=9)
    found = []
    for process in (0, 1):
        torch.manual_seed(0)
        model = Slimp(part_of(config, ModelConfig), fitted(some)).train()
        batches = PatientBatches(some, model.encodings, config, image_size=SIZE, views=2)
        batch = batches.of_process(process, 2)[0, 0]
        monkeypatch.setattr(gradient_cache, "process_and_count", lambda p=process: (p, 2))
        monkeypatch.setattr(model, "objective", lambda _, metadata, __: found.append(metadata))
        with pytest.raises(AttributeError):  # there is no loss
            backward(model, batch, chunk=chunk, autocast=nullcontext, seed=(3, 1))
    assert found[0].keys() == found[1].keys() != set()
    for name, embedded in found[0].items():
        assert torch.equal(embedded, found[1][name]), name


@pytest.mark.slow
def test_a_compiled_encoder_drops_the_same_units_in_both_passes(tmp_path: Path) -> None:
    model, batch = made(("lesion", "patient"), encoder_options=DROPPING)
    wanted = gradients(model, partial(cached, model, batch, 6))
    names = [name for name, _ in model.named_parameters()]
    try:
        compile_encoder(model.image_encoder, torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))
    assert_same(gradients(model, partial(cached, model, batch, 6)), wanted)
    assert model.image_encoder.model._compiled_call_impl is not None
    model.save_pretrained(tmp_path)
    assert names == [name for name, _ in Slimp.from_pretrained(tmp_path).named_parameters()]


def test_in_bf16_the_chunks_come_as_close_as_the_whole_batch() -> None:
    """Weights rounded in the first pass must not be taken, without graph, for the second."""
    model, batch = made(("lesion", "patient"))
    exact = gradients(model, partial(plainly, model, batch))
    model.float()
    bf16 = partial(torch.autocast, "cpu", torch.bfloat16)
    errors = []
    for chunk in (1000, 4):
        _, found = gradients(model, partial(cached, model, batch, chunk, bf16))
        assert found.keys() == exact[1].keys()
        ours, theirs = (
            torch.cat([g[n].flatten().double() for n in exact[1]]) for g in (found, exact[1])
        )
        errors.append(((ours - theirs).norm() / theirs.norm()).item())
    assert errors[0] < 0.05
    assert errors[1] < 1.5 * errors[0]


def test_frozen_encoders_are_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = made(("lesion", "patient"))
    model.image_encoder.requires_grad_(False)
    wanted = gradients(model, partial(plainly, model, batch))
    calls = []
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda x: calls.append(len(x)) or encode(x))
    assert_same(gradients(model, partial(cached, model, batch, 5)), wanted)
    assert sum(calls) == len(batch.image_rows)


def test_batch_normalisation_is_refused_in_chunks_only() -> None:
    config = {**SMALL_RESNET, "image_size": 32}
    model, batch = made(("lesion",), **config)
    batch = replace(batch, pixels=torch.zeros(*batch.pixels.shape[:3], 32, 32, dtype=torch.uint8))
    assert mixes_rows(model) == "image_encoder.model.conv1.1"
    cached(model, batch, 1000)
    with pytest.raises(UserError, match=r"batch normalisation \(image_encoder.model.conv1.1\)"):
        cached(model, batch, 4)


def test_frozen_statistics_stay_and_make_chunks_exact() -> None:
    config = {**SMALL_RESNET, "image_size": 32}
    model, batch = made(("lesion",), **config, batch_norm="frozen")
    seen = batch.pixels[..., :32, :32]
    batch = replace(batch, pixels=F.pad(seen, (0, 32 - seen.shape[-1], 0, 32 - seen.shape[-2])))
    before = {name: value.clone() for name, value in model.named_buffers()}
    wanted = gradients(model.train(), partial(plainly, model, batch))
    assert "image_encoder.model.conv1.1.weight" in wanted[1]  # what the statistics feed learns
    assert_same(gradients(model, partial(cached, model, batch, 4)), wanted)
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())


@pytest.mark.parametrize("count", [1, 5, ROWS_ON_CPU])
def test_filling_up_a_batch_changes_no_row_and_no_gradient(count: int) -> None:
    model, batch = made(("lesion", "patient"))
    pixels = batch.pixels[0, :count]
    weights = list(model.image_encoder.parameters())
    found = []
    for encode in (model.encode_images, model.image_encoder):
        embedded = encode(pixels)
        assert embedded.shape == (count, 16)
        found.append((embedded, *torch.autograd.grad(embedded.square().sum(), weights)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("chunk", "size"), [(24, 8), (100, 2 * ROWS_ON_CPU)])
def test_no_chunk_is_filled_up(chunk: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = made(("lesion", "patient"))
    pixels = batch.pixels.repeat(1, 20, 1, 1, 1)[:, : 8 * ROWS_ON_CPU]
    rows = torch.arange(pixels.shape[1]) % len(batch.image_rows)
    batch = replace(batch, pixels=pixels, image_rows=batch.image_rows[rows])
    seen = []
    encode = model.image_encoder.forward
    monkeypatch.setattr(model.image_encoder, "forward", lambda x: seen.append(len(x)) or encode(x))
    monkeypatch.setattr(
        model, "objective", lambda images, *_: NestedLoss(total=images.sum(), parts={})
    )
    cached(model, batch, chunk)
    assert seen == [size] * (2 * pixels.shape[1] // size)


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_job_s_limit_of_memory_counts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    unlimited = free_bytes(torch.device("cpu"))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("1000\n")
    assert free_bytes(torch.device("cpu")) < 1000 < unlimited


def test_what_fits_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = made(("lesion", "patient"))
    rows = model.inputs(batch)
    device = torch.device("cpu")
    per_image = saved_bytes(lambda: model.encode_images(batch.pixels[0, :8]), model) / 8
    for free in (10**7, 10**8):
        monkeypatch.setattr("slimp.training.chunk_size.free_bytes", lambda device, free=free: free)
        fit = rows_that_fit(model, rows, device, nullcontext)
        assert fit % 8 == 0
        assert 0.05 * free < fit * per_image < 0.25 * free
        shared = rows_that_fit(model, rows, device, nullcontext, sharing=2)
        assert shared == pytest.approx(fit / 2, abs=8)
    monkeypatch.setattr("slimp.training.chunk_size.free_bytes", lambda device: 10**3)
    assert rows_that_fit(model, rows, device, nullcontext) == 1
