"""The recursion over levels against loops over patients, lesions and images written out here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from slow import equal, slow_info_nce
from tiny import MODEL, SIZE, fitted, tiny_cohort, with_features
from torch import Tensor, nn

from slimp.data.batches import Batch, PatientBatches
from slimp.data.cohort import Cohort
from slimp.data.config import BatchConfig
from slimp.data.encoding import FittedFeature
from slimp.data.files import read_json
from slimp.data.schema import LEVELS
from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.losses import nested_loss
from slimp.models.nested import MetadataLevel, Slimp
from slimp.models.persistence import read_tensors
from slimp.models.pooling import AttentionPool, mean_pool
from slimp.models.recursion import NestedHeads

Case = dict[str, Any]
THREE: Case = {"features": dict.fromkeys(LEVELS)}
FEW: Case = {"features": {"lesion": ["elevated"], "patient": ["sex"]}}
CASES: dict[str, Case] = {
    "two levels, the paper": {},
    "one level, lesions": {"features": {"lesion": None}},
    "one level, patients": {"features": {"patient": None}},
    "one level, all weight on lesions": {"lesion_weight": 1.0, "patient_weight": 0.0},
    "three levels": THREE,
    "images and patients": {"features": {"image": None, "patient": None}},
    "flat": {"hierarchy": "flat"},
    "with views": {"view_weight": 0.5},
    "views alone": {"view_weight": 1.0, "lesion_weight": 0.0, "patient_weight": 0.0},
    "views of a lesion": {"view_weight": 0.5, "view_positives": "lesion"},
    "views of a patient": {**THREE, "view_weight": 0.5, "view_positives": "patient"},
    "three levels with views": {**THREE, "view_weight": 0.25},
    "equal rows positive": {**FEW, "duplicates": "positive"},
    "equal rows negative": {**FEW, "duplicates": "negative"},
    "similar rows positive": {**THREE, "duplicates": "soft"},
    "linear heads": {"projection_layers": 1},
}


def cohort_of(
    features: Mapping[str, list[str] | None] | None = None, *, patients: int = 5, lesions: int = 2
) -> Cohort:
    """A synthetic cohort with some features per level; None: all of a level."""
    cohort = tiny_cohort(
        patients=patients, lesions=lesions, images_per_lesion=2, image_metadata=True, seed=5
    )
    return with_features(cohort, **(features or {"lesion": None, "patient": None}))


def model_config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{**MODEL, "projection_width": 6, **changes})


def model_of(cohort: Cohort, **changes: Any) -> Slimp:
    torch.manual_seed(0)
    return Slimp(model_config(**changes), fitted(cohort))


def batch_of(model: Slimp, cohort: Cohort, **changes: Any) -> Batch:
    """All patients in one batch; undisturbed metadata, so that it can be found by id."""
    options = {"patients": 99, "images_per_lesion": 2, "feature_dropout": 0.0, **changes}
    views = 2 if model.config.view_weight else 1
    batches = PatientBatches(
        cohort,
        model.encodings,
        BatchConfig(**options),
        image_size=SIZE,
        augment=views == 2,
        views=views,
    )
    return batches[0, 0]


def made(case: Case, **changes: Any) -> tuple[Slimp, Cohort, Batch]:
    """Model in 64 bits, cohort and batch of a case."""
    case = {**case, **changes}
    cohort = cohort_of(case.pop("features", None))
    if case.get("hierarchy") == "flat":
        cohort = cohort.flatten()
    model = model_of(cohort, **case).double()
    for module in model.modules():
        if isinstance(module, AttentionPool):  # it starts as the mean, which would show nothing
            nn.init.normal_(module.score.weight)
    return model, cohort, batch_of(model, cohort)


def loss_of(model: Slimp, batch: Batch) -> Tensor:
    return nested_loss(model(batch), model.config.weights).total


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ------------------------------------------------------------------ the slow reference


def slow_parts(model: Slimp, cohort: Cohort, batch: Batch) -> dict[str, Tensor]:
    """Loss per level, by loops over ids; of the batch only the pixels are used."""
    embedded = {
        row: [slow_image(model, view[i]) for view in batch.pixels]
        for i, row in enumerate(batch.image_rows.tolist())
    }
    parts = {}
    if model.view is not None:
        views = [[slow_head(model.view.project, x) for x in pair] for pair in embedded.values()]
        owners = cohort.images[f"{model.config.view_positives}_id"].iloc[[*embedded]].tolist()
        parts["view"] = slow_info_nce(
            [first for first, _ in views],
            [second for _, second in views],
            model.view.temperature(),
            equal(owners),
        )
    images = cohort.images
    below: dict[str, list[tuple[str, Tensor]]] = {}  # id of the parent -> its children
    for row, pair in embedded.items():
        image = str(images["image_id"].iloc[row])
        below.setdefault(image, []).append((image, pair[0]))
    parent_of = {
        "image": images.set_index("image_id")["lesion_id"],
        "lesion": cohort.lesions.set_index("lesion_id")["patient_id"],
    }
    for name in LEVELS:
        anchors, targets, keys, above = [], [], [], {}
        rows: list[dict[str, Any]] = []
        for own_id, children in below.items():
            level = model.level(name) if name in model.encodings else None
            h = slow_pool(level, [vector for _, vector in children])
            if level is not None:
                table = cohort.tables.of_level(name)
                row = table[table[f"{name}_id"] == own_id]
                m = level.tabular(model.encodings[name].encode(row))[0]
                anchors.append(slow_head(level.project_below, h))
                targets.append(slow_head(level.project_metadata, m))
                rows.append(row.iloc[0].to_dict())
                keys.append(equality_key(row, cohort.schema.level(name).columns))
                h = torch.cat([h, m])
            if name != "patient":
                above.setdefault(str(parent_of[name][own_id]), []).append((own_id, h))
        if anchors:
            if model.config.duplicates == "negative":
                keys = list(map(str, range(len(keys))))
            temperature = model.level(name).temperature()
            weights = equal(keys)
            if model.config.duplicates == "soft":
                width, features = model.config.positive_temperature, model.encodings[name].features
                weights = [
                    [math.exp(-slow_disagreement(features, p, q) / width) for q in rows]
                    for p in rows
                ]
            parts[name] = slow_info_nce(anchors, targets, temperature, weights)
        below = above
    return parts


def slow_image(model: Slimp, pixels: Tensor) -> Tensor:
    spec = model.image_spec
    mean, std = (torch.tensor(x).double().view(3, 1, 1) for x in (spec.mean, spec.std))
    embedding: Tensor = model.image_encoder.model(((pixels.double() / 255 - mean) / std)[None])
    return embedding[0]


def slow_head(head: nn.Module, x: Tensor) -> Tensor:
    weights = list(head.parameters())
    if len(weights) == 1:
        return weights[0] @ x
    first, bias, last = weights
    hidden = first @ x + bias
    return last @ (0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)))


def slow_pool(level: MetadataLevel | None, children: list[Tensor]) -> Tensor:
    if level is None or not isinstance(level.pool, AttentionPool):
        return torch.stack(children).sum(dim=0) / len(children)
    pool, scores = level.pool, []
    for x in children:
        value = torch.tanh(pool.value.weight @ x + pool.value.bias)
        gate = torch.sigmoid(pool.gate.weight @ x + pool.gate.bias)
        scores.append(((pool.score.weight @ (value * gate)) + pool.score.bias).exp())
    total = torch.stack(scores).sum(dim=0)
    return torch.stack([s / total * x for s, x in zip(scores, children, strict=True)]).sum(dim=0)


def equality_key(row: pd.DataFrame, columns: tuple[str, ...]) -> str:
    return "|".join("" if pd.isna(value) else str(value) for value in row[list(columns)].iloc[0])


def slow_disagreement(
    features: tuple[FittedFeature, ...], p: dict[str, Any], q: dict[str, Any]
) -> float:
    """Of two rows, from their cells: the mean over the features."""
    found = []
    for feature in features:
        a, b = ([row[column] for column in feature.columns] for row in (p, q))
        known = [not all(map(pd.isna, cells)) for cells in (a, b)]
        if not any(known):
            found.append(0.0)
        elif feature.kind == "continuous":
            z = [0.0 if pd.isna(x) else (x - feature.mean) for x in (*a, *b)]
            found.append(abs(z[0] - z[1]) / feature.std + (not all(known)))
        elif not all(known):
            found.append(1.0)
        elif feature.kind == "categorical":
            found.append(float(a != b))
        else:
            ticked = [[not pd.isna(x) and bool(x) for x in cells] for cells in (a, b)]
            found.append(float(np.mean([x != y for x, y in zip(*ticked, strict=True)])))
    return sum(found) / len(found)


def test_a_lesion_s_context_is_the_images_of_its_patients_other_lesions():
    model, _, batch = made({}, context="patient")
    plain, _, _ = made({})
    same = {name: values for name, values in model.state_dict().items() if "siblings" not in name}
    plain.load_state_dict(same)
    torch.testing.assert_close(loss_of(model, batch), loss_of(plain, batch))  # it starts at zero
    level = model.level("lesion")
    assert level.project_siblings is not None
    nn.init.normal_(level.project_siblings.weight)
    images = model.encode_images(batch.pixels.flatten(0, 1))
    lesion, patient = next(b for b in batch.levels if b.name == "lesion"), batch.levels[-1]
    h = torch.stack([images[lesion.parent == k].mean(dim=0) for k in range(lesion.count)])
    anchors = model(batch)[0].anchor
    alone = 0
    for k in range(lesion.count):
        others = [x for j, x in enumerate(h) if j != k and patient.parent[j] == patient.parent[k]]
        apart = h[k] - torch.stack(others).mean(dim=0) if others else torch.zeros_like(h[k])
        alone += not others
        seen = h[k] + level.project_siblings.weight @ apart
        torch.testing.assert_close(anchors[k], slow_head(level.project_below, seen))
    assert 0 < alone < lesion.count


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("case", CASES)
def test_the_recursion_equals_loops_over_patients_lesions_and_images(
    case: str, pooling: str
) -> None:
    model, cohort, batch = made(CASES[case], pooling=pooling)
    embeddings = model(batch)
    loss = nested_loss(embeddings, model.config.weights)
    slow = slow_parts(model, cohort, batch)
    near = 1e-6 if model.config.duplicates == "soft" else 1e-9  # metadata are in 32 bits
    wanted = {name: slow[name] for name in slow if model.config.weights[name] > 0}
    assert loss.parts.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(loss.parts[name], value, rtol=near, atol=near, msg=name)
    total = sum(model.config.weights[name] * value for name, value in wanted.items())
    torch.testing.assert_close(loss.total, total, rtol=near, atol=near)


@pytest.mark.parametrize("case", ["two levels, the paper", "three levels with views"])
def test_the_gradient_is_that_of_the_loops(case: str) -> None:
    model, cohort, batch = made(CASES[case], pooling="attention")
    ours = gradients(model, loss_of(model, batch))
    slow = slow_parts(model, cohort, batch)
    wanted = gradients(
        model, cast("Tensor", sum(model.config.weights[n] * v for n, v in slow.items()))
    )
    assert ours.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


# ------------------------------------------------------------------ invariances


@pytest.mark.parametrize("case", ["two levels, the paper", "three levels", "flat"])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_the_order_of_patients_lesions_and_images_does_not_matter(case, pooling):
    model, cohort, batch = made(CASES[case], pooling=pooling)
    rng = np.random.default_rng(0)
    order = {name: rng.permutation(len(cohort.tables.of_level(name))) for name in LEVELS}
    tables = {
        f"{name}s": cohort.tables.of_level(name).iloc[order[name]].reset_index(drop=True)
        for name in LEVELS
    }
    shuffled = replace(
        cohort,
        tables=replace(cohort.tables, **tables),
        positions=cohort.positions[order["image"]],
    )
    other = batch_of(model, shuffled)
    assert not torch.equal(other.pixels, batch.pixels)
    torch.testing.assert_close(loss_of(model, other), loss_of(model, batch))


ragged = st.lists(st.integers(1, 4), min_size=1, max_size=6).flatmap(
    lambda sizes: st.permutations([p for p, size in enumerate(sizes) for _ in range(size)])
)


@settings(max_examples=50, deadline=None)
@given(ragged, st.integers(0, 99))
def test_ragged_means_equal_the_mean_of_each_parent(parents: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    x, parent, count = (
        torch.randn(len(parents), 3).double(),
        torch.tensor(parents),
        max(parents) + 1,
    )
    wanted = torch.stack([x[parent == p].mean(dim=0) for p in range(count)])
    torch.testing.assert_close(mean_pool(x, parent, count), wanted)
    pool = AttentionPool(3).double()
    torch.testing.assert_close(pool(x, parent, count), wanted)  # it starts as the mean


# ------------------------------------------------------------------ gradients


def test_a_level_of_weight_0_has_no_loss_but_learns_from_that_above() -> None:
    """Lambda = 0: the outer loss contrasts a lesion's metadata too, as at any smaller lambda."""
    model, _, batch = made({"lesion_weight": 0.0, "patient_weight": 0.1})
    found = gradients(model, loss_of(model, batch))
    lesion = [name for name in found if name.startswith("levels.lesion.")]
    assert lesion, "its metadata encoder learns"
    assert all(name.startswith("levels.lesion.tabular.") for name in lesion), "its heads do not"
    learned = {name.split(".")[0] for name in found}
    assert {"image_encoder", "levels"} <= learned
    width = model.image_encoder.embed_dim + model.config.tabular_width
    assert model.level("patient").project_below[0].in_features == width  # type: ignore[index]


@pytest.mark.parametrize(
    ("weights", "pairs"),
    [
        ({}, ["lesion", "patient"]),
        ({"patient_weight": 0.0}, ["lesion"]),
        ({"view_weight": 1.0, "lesion_weight": 0.0, "patient_weight": 0.0}, ["view"]),
        ({"view_weight": 1.0, "patient_weight": 0.0}, ["view", "lesion"]),
    ],
)
def test_levels_above_the_last_weight_are_not_computed(
    weights: dict[str, float], pairs: list[str]
) -> None:
    model, _, batch = made(weights)
    assert [pair.name for pair in model(batch)] == pairs
    found = gradients(model, loss_of(model, batch))
    trained = {name.split(".")[1] for name in found if name.startswith("levels.")}
    assert trained == set(pairs) - {"view"}


# ------------------------------------------------------------------ temperature


def test_a_temperature_at_the_cap_can_rise_again() -> None:
    model, _, batch = made({})
    temperature = model.level("lesion").temperature
    with torch.no_grad():
        temperature.log_scale.fill_(9.0)
    model.cap_temperatures()
    assert temperature().item() == pytest.approx(0.01)
    assert model.level("patient").temperature().item() == pytest.approx(0.07)
    assert gradients(model, loss_of(model, batch))["levels.lesion.temperature.log_scale"] != 0


# ------------------------------------------------------------------ on disk


@pytest.mark.parametrize("case", ["two levels, the paper", "three levels with views", "flat"])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, case: str, pooling: str) -> None:
    cohort = cohort_of(CASES[case].get("features"))
    changes = {k: v for k, v in CASES[case].items() if k != "features"}
    cohort = cohort.flatten() if case == "flat" else cohort
    model = model_of(cohort, pooling=pooling, missing="learned", **changes)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    torch.manual_seed(99)
    back = Slimp.from_pretrained(tmp_path)
    assert not back.training
    assert (back.config, back.encodings) == (model.config, model.encodings)
    assert back.image_spec == model.image_spec
    state = model.state_dict()
    assert state.keys() == back.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in back.state_dict().items())
    batch = batch_of(model, cohort)
    for ours, theirs in zip(model.eval()(batch), back(batch), strict=True):
        assert torch.equal(ours.anchor, theirs.anchor)
        assert torch.equal(ours.target, theirs.target)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model_of(cohort_of()).save_pretrained(tmp_path)
    return tmp_path


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        Slimp.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.98])
def test_truncated_files_are_refused(saved: Path, name: str, share: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    refused(saved, name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "describes no model of slimp"),
        ({"format": None}, "model format None"),
        ({"format": 2}, "model format 2, this version reads 1"),
        ({"encodings": None}, "describes no model of slimp .*NoneType"),
        ({"encodings": {}}, r"describes no model of slimp .*metadata of \(\)"),
        ({"config": {"colour": "green"}}, "describes no model of slimp .*colour"),
        ({"config": {"encoder": "nonsense"}}, "describes no model of slimp .*Unknown model"),
        ({"config": {"tabular_width": 16}}, r"'levels\.lesion\..*' is .*, expected"),
        ({"image": {"mean": [0.1, 0.2]}}, r"no model of slimp .*\[0.1, 0.2\]"),
        ({"image": {"std": [0.1, 0.2, 0.0]}}, "no model .*standard deviations must be positive"),
    ],
)
def test_a_foreign_description_is_refused(saved, changes, message):
    path = saved / "model.json"
    content = read_json(path)
    for name, value in (changes or {}).items():
        content[name] = {**content[name], **value} if value and name != "format" else value
    path.write_text(json.dumps(content if changes else []), encoding="utf-8")
    refused(saved, message)


def test_foreign_weights_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    tensors = read_tensors(path)
    name = "levels.patient.temperature.log_scale"
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    refused(saved, f"'{name}' is missing")
    save_file({**tensors, name: torch.zeros(2)}, path)
    refused(saved, rf"'{name}' is \[2\], expected \[\]")
    save_file({**tensors, "more": torch.zeros(2)}, path)
    refused(saved, "'more'")


# ------------------------------------------------------------------ encoders of one's own

PLAIN: dict[str, Case] = {
    "two levels, the paper": {},
    "images and patients": {"features": {"image": None, "patient": None}},
    "three levels, attention": {**THREE, "pooling": "attention"},
    "equal rows positive": {"duplicates": "positive"},
    "linear heads, sigmoid": {"projection_layers": 1, "contrast": "sigmoid"},
    "context": {"context": "patient"},
}


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_it_is_the_loss_of_the_model(case: Case) -> None:
    model, _, batch = made(case)
    images = model.encode_images(batch.pixels[0]).detach().requires_grad_()
    rows = {name: model.encode_rows(name, own) for name, own in model.inputs(batch).items()}
    rows = {name: own.detach().requires_grad_() for name, own in rows.items()}
    widths = {name: own.shape[1] for name, own in rows.items()}
    heads = NestedHeads(images.shape[1], widths, model.config).double()
    shared = {name: x for name, x in model.levels.state_dict().items() if ".tabular." not in name}
    heads.levels.load_state_dict(shared)
    parents = {level.name: level.parent for level in batch.levels}
    groups = {level.name: level.groups for level in batch.levels if level.groups is not None}

    own = nested_loss(heads(images, rows, parents, groups), model.config.weights)
    theirs = model.objective(images, rows, batch)
    assert own.parts == theirs.parts
    inputs = (images, *rows.values())
    for ours, its in zip(
        *(torch.autograd.grad(x.total, inputs) for x in (own, theirs)), strict=True
    ):
        torch.testing.assert_close(ours, its)


def test_an_encoder_of_ones_own_learns_with_it() -> None:
    torch.manual_seed(0)
    signal = torch.randn(12, 8)  # of each lesion; its image and its metadata show it
    encoder, table = nn.Linear(8, 16), nn.Linear(8, 4)
    heads = NestedHeads(16, {"lesion": 4})
    modules = nn.ModuleList([encoder, table, heads])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        pairs = heads(encoder(signal), {"lesion": table(signal)}, {"lesion": torch.arange(12)})
        loss = nested_loss(pairs, {"lesion": 1.0}).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


IMAGES, ROWS = torch.randn(3, 4), {"lesion": torch.randn(2, 5), "patient": torch.randn(2, 6)}
PARENTS = {"lesion": torch.tensor([0, 0, 1]), "patient": torch.tensor([0, 1])}


@pytest.mark.parametrize(
    ("parents", "word"),
    [
        ({"lesion": torch.tensor([0, 1]), "patient": torch.tensor([0, 1])}, "3 rows below"),
        ({**PARENTS, "lesion": torch.tensor([0, 0, 0])}, "'lesion'"),  # a lesion without image
        ({**PARENTS, "patient": torch.tensor([0, 2])}, "'patient'"),
        ({**PARENTS, "lesion": torch.tensor([-1, 0, 1])}, "'lesion'"),
        ({"lesion": torch.tensor([0, 0, 1])}, "'patient'"),
        ({**PARENTS, "visit": torch.tensor([0, 1])}, "'visit'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(parents: dict[Any, Tensor], word: str) -> None:
    heads = NestedHeads(4, {"lesion": 5, "patient": 6})
    heads(IMAGES, ROWS, PARENTS)
    with pytest.raises(UserError, match=word):
        heads(IMAGES, ROWS, parents)


def test_similar_rows_are_refused_where_no_cells_are_seen() -> None:
    with pytest.raises(UserError, match="duplicates=positive"):
        NestedHeads(4, {"lesion": 5}, ModelConfig(duplicates="soft"))


def test_levels_without_metadata_only_group() -> None:
    heads = NestedHeads(4, {"patient": 6})
    (pair,) = heads(IMAGES, {"patient": ROWS["patient"]}, PARENTS)
    pooled = torch.stack([IMAGES[:2].mean(dim=0), IMAGES[2]])
    torch.testing.assert_close(pair.anchor, heads.level("patient").project_below(pooled))
