"""Weights moved to another schema: what both know computes what it did, the rest is told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import MODEL, VIT
from torch import Tensor, nn

from slimp.data.batches import Batch, LevelBatch
from slimp.data.encoding import Encoding, FittedFeature
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError
from slimp.models.adapt_model import Part, Policy, Transfer, embedding_names, transfer
from slimp.models.config import ModelConfig
from slimp.models.image_encoder import ImageEncoder
from slimp.models.losses import nested_loss
from slimp.models.nested import Slimp
from slimp.training.build_model import learning_names

CONFIG = ModelConfig(
    **{**MODEL, "encoder_options": {**VIT, "drop_path_rate": 0.2}, "tabular_dropout": 0.1}
)
AGE = FittedFeature(name="age", kind="continuous", columns=("age",), mean=50.0, std=10.0)
SIZE = FittedFeature(name="size", kind="continuous", columns=("size",), mean=5.0, std=2.0)
SITE = FittedFeature(name="site", kind="categorical", columns=("site",), categories=("ARM", "LEG"))
SEX = FittedFeature(name="sex", kind="categorical", columns=("sex",), categories=("F", "M"))
SIGNS = FittedFeature(name="signs", kind="checkbox", columns=("itch", "hurt"))
EXPOSURE = FittedFeature(name="exposure", kind="continuous", columns=("exposure",))
TABLES: dict[LevelName, pd.DataFrame] = {
    "image": pd.DataFrame({"exposure": [0.5, -1.0, np.nan, 0.1, 2.0, 0.0]}),
    "lesion": pd.DataFrame(
        {
            "size": [4.0, np.nan, 9.0, 2.0],
            "site": ["ARM", "LEG", None, "ARM"],
            "itch": pd.array([True, False, None, True], dtype="boolean"),
            "hurt": pd.array([False, True, None, True], dtype="boolean"),
            "depth": [1.0, 2.0, 3.0, np.nan],
        }
    ),
    "patient": pd.DataFrame({"age": [40.0, 70.0], "sex": ["F", "M"]}),
}
"""Six photographs of four lesions of two patients."""


def encoding(level: LevelName, *features: FittedFeature) -> Encoding:
    ordered = sorted(features, key=lambda feature: feature.kind != "continuous")
    return Encoding(level=level, features=tuple(ordered))


REFERENCE: dict[LevelName, Encoding] = {
    "lesion": encoding("lesion", SIZE, SITE, SIGNS),
    "patient": encoding("patient", AGE, SEX),
}
THREE: dict[LevelName, Encoding] = {"image": encoding("image", EXPOSURE), **REFERENCE}


def run(encodings: Mapping[LevelName, Encoding] = REFERENCE, config: ModelConfig = CONFIG) -> Slimp:
    """A model all of whose weights differ from a fresh one's, biases and norms included."""
    torch.manual_seed(1)
    model = Slimp(config, encodings)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def moved(
    cohort: Mapping[LevelName, Encoding],
    source: Slimp | None = None,
    *,
    train: Policy = "embeddings",
    rename: Mapping[str, str] | None = None,
    **changes: Any,
) -> Transfer:
    source = source or run()
    return transfer(source, cohort, replace(source.config, **changes), train=train, rename=rename)


def part(found: Transfer, name: str) -> Part:
    return next(x for x in found.parts if x.part == name)


def embedded(model: Slimp, level: LevelName, table: pd.DataFrame | None = None) -> Tensor:
    rows = model.encodings[level].encode(TABLES[level] if table is None else table)
    return model.eval().encode_rows(level, rows)


def batch(model: Slimp) -> Batch:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (2, 6, 3, 16, 16), dtype=np.uint8))
    parents = {"image": range(6), "lesion": [0, 0, 1, 2, 3, 3], "patient": [0, 0, 1, 1]}
    levels = [
        LevelBatch(
            name=name,
            rows=model.encodings[name].encode(TABLES[name]) if name in model.encodings else None,
            groups=None,
            parent=torch.tensor(list(parents[name])),
            count=len(TABLES[name]),
        )
        for name in LEVELS
        if name != "image" or "image" in model.encodings
    ]
    return Batch(pixels=pixels, levels=tuple(levels), image_rows=torch.arange(6))


def loss(model: Slimp) -> Mapping[str, float]:
    found = nested_loss(model.eval()(batch(model)), model.config.weights)
    return {"total": found.total.item(), **{k: v.item() for k, v in found.parts.items()}}


# ------------------------------------------------------------------ the function stays


@pytest.mark.parametrize("missing", ["zero", "mask", "learned"])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_same_schema_changes_nothing(missing: Any, pooling: Any, layers: Any) -> None:
    config = replace(
        CONFIG, missing=missing, pooling=pooling, projection_layers=layers, view_weight=0.5
    )
    source = run(THREE, config)
    found = moved(THREE, source, train="full")
    ours, theirs = found.model.state_dict(), source.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert loss(found.model) == loss(source)
    assert {x.status for x in found.parts} == {"kept"}


def test_the_decoder_of_hidden_cells_stays_behind() -> None:
    source = run(config=replace(CONFIG, reconstruction_weight=0.5))
    found = moved(REFERENCE, source, reconstruction_weight=0.0)
    assert not [name for name in found.model.state_dict() if "decoder" in name]
    assert loss(found.model) == loss(source)


def test_another_order_of_features_gives_the_same_embeddings() -> None:
    source = run({"lesion": encoding("lesion", SIZE, EXPOSURE, SITE, SIGNS)})
    turned = replace(SIGNS, columns=("hurt", "itch"))
    found = moved({"lesion": encoding("lesion", turned, EXPOSURE, SITE, SIZE)}, source)
    table = TABLES["lesion"].assign(exposure=[1.0, 2.0, np.nan, -1.0])
    torch.testing.assert_close(
        embedded(found.model, "lesion", table), embedded(source, "lesion", table)
    )


@pytest.mark.parametrize("missing", ["zero", "mask", "learned"])
def test_new_features_leave_the_tokens_of_shared_ones_as_they_were(missing: Any) -> None:
    config = replace(CONFIG, missing=missing)
    source = run(REFERENCE, config)
    depth = FittedFeature(name="depth", kind="continuous", columns=("depth",))
    kind = FittedFeature(name="kind", kind="categorical", columns=("kind",), categories=("a",))
    target: dict[LevelName, Encoding] = {
        "lesion": encoding("lesion", depth, SIZE, kind, SIGNS, SITE)
    }
    found = moved(target, source)
    table = TABLES["lesion"].assign(kind="a")
    level, old = found.model.encodings["lesion"], source.encodings["lesion"]
    tokens, _ = found.model.level("lesion").tabular.embed(level.encode(table))
    before, _ = source.level("lesion").tabular.embed(old.encode(table))
    names = [feature.name for feature in level.features]
    for token, feature in enumerate(old.features):
        torch.testing.assert_close(tokens[:, names.index(feature.name)], before[:, token])
    if missing == "mask":  # a new feature that is missing is not looked at
        empty = table.assign(depth=np.nan, kind=None)
        torch.testing.assert_close(
            embedded(found.model, "lesion", empty), embedded(source, "lesion")
        )
    assert {x.part: x.status for x in found.parts if x.part.startswith("lesion: ")}.items() >= {
        "lesion: depth": "new",
        "lesion: kind": "new",
        "lesion: size": "kept",
        "lesion: signs": "kept",
    }.items()


def test_a_dropped_feature_is_one_that_is_missing() -> None:
    source = run({"lesion": encoding("lesion", SIZE, EXPOSURE, SITE, SIGNS)})
    found = moved({"lesion": encoding("lesion", SIZE, SITE)}, source)
    nobody = pd.array([None] * 4, dtype="boolean")
    table = TABLES["lesion"].assign(exposure=np.nan, itch=nobody, hurt=nobody)
    torch.testing.assert_close(embedded(found.model, "lesion"), embedded(source, "lesion", table))
    dropped = [part(found, f"lesion: {name}") for name in ("exposure", "signs")]
    assert [(x.status, x.trained, x.parameters) for x in dropped] == [("dropped", False, 0)] * 2


def test_a_box_that_goes_is_one_that_is_never_ticked() -> None:
    source = run()
    bleed = replace(SIGNS, columns=("bleed", "itch"))
    found = moved({"lesion": encoding("lesion", SIZE, SITE, bleed)}, source)
    unticked = pd.array([False] * 4, dtype="boolean")
    here = TABLES["lesion"].assign(bleed=unticked)
    there = TABLES["lesion"].assign(hurt=unticked)
    there.loc[2, "hurt"] = None  # nothing is known of the third lesion's signs
    here.loc[2, "bleed"] = None
    torch.testing.assert_close(
        embedded(found.model, "lesion", here), embedded(source, "lesion", there)
    )
    assert part(found, "lesion: signs").status == "extended"
    assert part(found, "lesion: signs").detail == "1 boxes shared, 1 added, 1 dropped"


def test_known_categories_embed_as_before_however_they_are_spelled() -> None:
    own = replace(SITE, categories=("Arm", "back", "leg"))
    found = moved({"lesion": encoding("lesion", SIZE, own, SIGNS)})
    before = embedded(run(), "lesion")
    spelled = TABLES["lesion"].assign(site=["Arm", "leg", None, "Arm"])
    for table in (spelled, TABLES["lesion"]):  # the reference's own spelling is still read
        torch.testing.assert_close(embedded(found.model, "lesion", table), before)
    merged = found.model.encodings["lesion"].features[1]
    assert merged.categories == ("ARM", "LEG", "back")
    row = part(found, "lesion: site")
    assert (row.status, row.detail) == ("extended", "2 categories shared, 1 added")


def test_vocabularies_grow_stage_by_stage() -> None:
    first = moved({"lesion": encoding("lesion", replace(SITE, categories=("arm", "back")))})
    sites = replace(SITE, categories=("Arm", "BACK", "chin"))
    again = moved({"lesion": encoding("lesion", sites)}, first.model)
    merged = again.model.encodings["lesion"].features[0]
    assert merged.categories == ("ARM", "LEG", "back", "chin")
    cells = pd.DataFrame({"site": ["ARM", "arm", "Arm", "back", "BACK", "LEG", "chin", "knee"]})
    codes = again.model.encodings["lesion"].encode(cells).categorical.flatten().tolist()
    assert codes == [1, 1, 1, 3, 3, 2, 4, 0]
    back = Encoding.from_dict(again.model.encodings["lesion"].to_dict())
    assert back == again.model.encodings["lesion"]


def test_a_renamed_feature_reads_the_columns_of_both_cohorts() -> None:
    gender = replace(SEX, name="gender", columns=("gender",), categories=("f", "m"))
    found = moved(
        {**REFERENCE, "patient": encoding("patient", AGE, gender)}, rename={"gender": "sex"}
    )
    here = TABLES["patient"].drop(columns="sex").assign(gender=["f", "m"])
    for table in (here, TABLES["patient"]):
        torch.testing.assert_close(
            embedded(found.model, "patient", table), embedded(run(), "patient")
        )
    assert part(found, "patient: gender").detail == "was 'sex', 2 categories shared"


def test_scale_and_unit_of_a_value_are_those_of_the_run() -> None:
    older = replace(AGE, mean=70.0, std=3.0, unit="years")  # the run does not know the unit
    found = moved({**REFERENCE, "patient": encoding("patient", older, SEX)})
    assert found.model.encodings["patient"].features[0] == replace(AGE, unit="years")
    assert part(found, "patient: age").status == "kept"


def test_a_column_without_spread_in_the_run_is_scaled_as_the_cohort_is() -> None:
    """Empty or of one value there: a mean of 0 would make an age of 55 a z of 55."""
    for unknown in (replace(AGE, mean=0.0, std=1.0), replace(AGE, mean=40.0, std=1.0)):
        source = run({**REFERENCE, "patient": encoding("patient", unknown, SEX)})
        found = moved({**REFERENCE, "patient": encoding("patient", AGE, SEX)}, source)
        assert found.model.encodings["patient"].features[0] == AGE
        assert part(found, "patient: age").status == "kept"


@pytest.mark.parametrize(
    ("feature", "reason"),
    [
        (replace(SIZE, kind="checkbox"), "was continuous, is checkbox"),
        (replace(SIZE, unit="cm"), "was in mm, is in cm"),
        (replace(SITE, categories=("chin", "nose")), "no category in common"),
        (replace(SIGNS, columns=("bleed", "grew")), "no box in common"),
    ],
)
def test_what_is_not_the_same_starts_fresh_and_says_why(
    feature: FittedFeature, reason: str
) -> None:
    source = run({"lesion": encoding("lesion", replace(SIZE, unit="mm"), SITE, SIGNS)})
    found = moved({"lesion": encoding("lesion", feature)}, source)
    row = part(found, f"lesion: {feature.name}")
    assert (row.status, row.detail) == ("new", reason)


# ------------------------------------------------------------------ levels


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_new_level_below_leaves_the_heads_above_as_they_were(layers: Any, pooling: Any) -> None:
    source = run(config=replace(CONFIG, projection_layers=layers, pooling=pooling))
    found = moved(THREE, source)
    before, after = loss(source), loss(found.model)
    assert "image" in after
    for name in ("lesion", "patient"):
        assert after[name] == pytest.approx(before[name], rel=1e-5)
    assert part(found, "lesion: heads and temperature").status == "grown"
    assert part(found, "image: blocks and norms").status == "new"


def test_a_level_that_stands_below_the_cohorts_is_dropped() -> None:
    found = moved(REFERENCE, run(THREE))
    assert list(found.model.encodings) == ["lesion", "patient"]
    assert part(found, "image: level").status == "dropped"
    assert np.isfinite(loss(found.model)["total"])
    source, model = run(THREE).level("lesion"), found.model.level("lesion")
    old, new = source.project_below[0].weight, model.project_below[0].weight  # type: ignore[index]
    torch.testing.assert_close(new, old[:16, :16])


@pytest.mark.parametrize("cohort", [{}, {"lesion": REFERENCE["lesion"]}])
def test_levels_above_the_cohorts_stay_to_lend_and_do_not_learn(
    cohort: Mapping[LevelName, Encoding],
) -> None:
    found = moved(cohort, train="full", view_weight=1.0)
    assert loss(found.model)["patient"] == pytest.approx(loss(run())["patient"], rel=1e-6)
    asleep = [name for name in REFERENCE if name not in cohort]
    for name, parameter in found.model.named_parameters():
        assert parameter.requires_grad is not name.startswith(
            tuple(f"levels.{level}." for level in asleep)
        )
    statuses = {x.status for x in found.parts if x.part.startswith("patient: ")}
    assert statuses == {"unused"}


# ------------------------------------------------------------------ what learns

EXTENDED: dict[LevelName, Encoding] = {
    "lesion": encoding("lesion", SIZE, replace(SITE, categories=("ARM", "chin")), SIGNS),
    "patient": encoding("patient", AGE, SEX),
}


@pytest.mark.parametrize("train", ["embeddings", "heads", "full"])
def test_only_what_is_said_to_learn_moves(train: Policy) -> None:
    model = moved(EXTENDED, train=train).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2, weight_decay=0.1)
    model.train()
    for _ in range(3):
        nested_loss(model(batch(model)), model.config.weights).total.backward()
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    untouched = {"levels.lesion.tabular.embeddings.1.0.weight"}  # one box's second row may move
    assert frozen <= same
    assert same - frozen <= untouched
    assert bool(frozen) is (train != "full")


def test_the_policies_train_what_the_table_says() -> None:
    trained = {
        train: {x.part for x in moved(EXTENDED, train=train).parts if x.trained}
        for train in ("heads", "embeddings", "full")
    }
    heads = {"lesion: heads and temperature", "patient: heads and temperature"}
    assert trained["heads"] == heads | {"lesion: site"}  # its new row would be noise
    tokens = {"images: patch_embed", "images: pos_embed", "images: cls_token"}
    features = {"lesion: size", "lesion: signs", "patient: age", "patient: sex"}
    features |= {f"{level}: {x}" for level in REFERENCE for x in ("CLS", "all continuous")}
    assert trained["embeddings"] == trained["heads"] | tokens | features
    blocks = {"images: encoder", "lesion: blocks and norms", "patient: blocks and norms"}
    assert trained["full"] == trained["heads"] | features | blocks


@pytest.mark.parametrize("train", ["embeddings", "heads", "full"])
@pytest.mark.parametrize("cohort", [REFERENCE, EXTENDED, THREE, {"lesion": EXTENDED["lesion"]}])
def test_the_table_counts_every_parameter_once(
    train: Policy, cohort: Mapping[LevelName, Encoding]
) -> None:
    config = replace(CONFIG, missing="learned", pooling="attention", view_weight=0.1)
    found = moved(cohort, run(config=config), train=train)
    sizes = [(p.numel(), p.requires_grad) for p in found.model.parameters()]
    assert found.parameters == sum(size for size, _ in sizes)
    assert found.trainable == sum(size for size, learns in sizes if learns)


def test_what_learns_besides_the_features() -> None:
    def rows(found: Transfer, start: str) -> set[tuple[str, bool]]:
        return {(x.status, x.trained) for x in found.parts if x.part.startswith(start)}

    idle = moved(REFERENCE, run(config=replace(CONFIG, patient_weight=0.0)), train="full")
    assert rows(idle, "patient: ") == {("kept", False)}, "a level without a weight does not learn"
    above = moved(REFERENCE, run({"lesion": REFERENCE["lesion"]}), train="heads")
    assert rows(above, "patient: ") == {("new", True)}
    viewed = run(config=replace(CONFIG, view_weight=1.0))
    assert rows(moved(REFERENCE, viewed), "views: ") == {("kept", True)}
    assert rows(moved(REFERENCE, view_weight=1.0), "views: ") == {("new", True)}
    assert rows(moved(REFERENCE, viewed, view_weight=0.0), "views: ") == {("dropped", False)}


def test_what_is_frozen_drops_nothing_at_random() -> None:
    model = moved(REFERENCE, train="embeddings").model.train()
    assert model.image_encoder.model.patch_embed.training
    assert not model.image_encoder.model.blocks[0].drop_path1.training
    layers: Any = model.level("lesion").tabular.encoder.transformer_encoder["layers"]
    assert not layers[0].dropout.training
    rows = model.encodings["lesion"].encode(TABLES["lesion"])
    assert torch.equal(model.encode_rows("lesion", rows), model.encode_rows("lesion", rows))


# ------------------------------------------------------------------ encoders and refusals


@pytest.mark.parametrize(
    ("encoder", "options", "found"),
    [
        ("vit_tiny_patch16_224", VIT, {"cls_token", "pos_embed", "patch_embed.proj.bias"}),
        ("resnet18", {}, {"conv1.weight", "bn1.weight", "bn1.bias"}),
        ("convnext_atto", {}, {"stem.0.weight", "stem.1.weight"}),
    ],
)
def test_embeddings_are_found_where_timm_says(
    encoder: str, options: dict[str, Any], found: set[str]
) -> None:
    size = 16 if encoder.startswith("vit") else 32
    model = ImageEncoder(replace(CONFIG, encoder=encoder, encoder_options=options, image_size=size))
    names = embedding_names(model, "")
    assert found <= names
    blocks = ("blocks", "layers", "stages", "layer", "denseblock", "features.denseblock")
    assert not [name for name in names if name.startswith(blocks)]


def test_an_encoder_that_does_not_tell_is_refused_for_embeddings_only() -> None:
    source = run()
    nothing = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 16))
    source.image_encoder.model = nothing
    with pytest.raises(UserError, match=f"'{source.image_encoder.name}'.*--train-encoder all"):
        learning_names(source, "embeddings")


@pytest.mark.parametrize(
    ("rename", "named"),
    [
        ({"weight": "age"}, "cohort.*'weight'"),
        ({"sex": "gender"}, "run.*'gender'"),
        (
            {"hurt": "age", "age": "hurt"},
            r"'hurt'.* lesion level.* patient level.*\[patient_metadata\].*import",
        ),
        ({"sex": "site"}, "both 'sex' and 'site'"),
    ],
)
def test_features_that_are_renamed_must_be_there(rename: dict[str, str], named: str) -> None:
    with pytest.raises(UserError, match=f"rename.*{named}"):
        moved(REFERENCE, rename=rename)
