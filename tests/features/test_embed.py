from __future__ import annotations

import io
from dataclasses import replace
from importlib.util import find_spec

import duckdb
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding, FittedFeature
from slimp.data.files import ImagesInMemory
from slimp.data.images import image_batches
from slimp.data.schema import LEVELS, Feature, Schema
from slimp.errors import UserError
from slimp.features import encode as features
from slimp.features.embed import FeatureTable, embed
from slimp.features.encode import InferenceConfig, embed_images, encode_table
from slimp.features.pseudo_metadata import PseudoMetadata, fingerprint
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp

TINY = ModelConfig(
    encoder="vit_tiny_patch16_224",
    encoder_options={"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2},
    image_size=16,
    tabular_width=8,
    projection_width=8,
)


def encoded(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, size=(20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_cohort(*, image_level: bool = False) -> Cohort:
    """Two patients with two lesions each, two images per lesion, interleaved in the table."""
    content = {
        "image": "image_id",
        "lesion": "lesion_id",
        "patient": "patient_id",
        "label": "label",
        "lesion_metadata": {"size": {"kind": "continuous"}, "site": {"kind": "categorical"}},
        "patient_metadata": {"age": {"kind": "continuous"}},
    }
    if image_level:
        content["image_metadata"] = {"camera": {"kind": "categorical"}}
    places = [(p, k, i) for i in range(2) for k in range(2) for p in range(2)]
    images = pd.DataFrame(
        {
            "image_id": [f"p{p}l{k}i{i}" for p, k, i in places],
            "lesion_id": [f"p{p}l{k}" for p, k, _ in places],
            "patient_id": [f"p{p}" for p, _, _ in places],
            "label": ["ab"[k] if i == 0 else None for _, k, i in places],
            "camera": ["xy"[i] for *_, i in places],
        }
    )
    lesions = {
        "lesion_id": ["p1l0", "p1l1", "p0l0", "p0l1"],
        "patient_id": ["p1", "p1", "p0", "p0"],
    }
    values = {"size": [2.0, 4.0, 1.0, 3.0], "site": ["s", "t", "s", "t"]}
    return Cohort.from_tables(
        images,
        pd.DataFrame(lesions | values),
        pd.DataFrame({"patient_id": ["p1", "p0"], "age": [60.0, 20.0]}),
        schema=Schema.from_dict(content),
        store=ImagesInMemory([encoded(i) for i in range(len(images))]),
    )


def make_model(cohort: Cohort, config: ModelConfig = TINY, levels=LEVELS) -> Slimp:
    torch.manual_seed(0)
    encodings = {
        name: Encoding.fit(cohort.schema.level(name), cohort.tables.of_level(name))
        for name in levels
        if cohort.schema.level(name).features
    }
    return Slimp(config, encodings)


COMPARED = ("relative", "outlier")
"""What a table has of the patient's other lesions."""


def make_table(n: int = 5) -> FeatureTable:
    rng = np.random.default_rng(0)
    ids = pd.DataFrame(
        {
            **{f"{level}_id": [f"{level}{i}" for i in range(n)] for level in LEVELS},
            "label": pd.Series([*("ab" * n)[: n - 1], None], dtype="str"),
        }
    )
    features = {
        name: rng.normal(size=(n, d)).astype(np.float32)
        for name, d in (("image", 4), ("lesion", 2), ("patient", 3))
    }
    return FeatureTable(ids=ids, features=features)


def test_each_image_gets_its_own_lesion_and_patient():
    cohort = make_cohort()
    model = make_model(cohort).eval()
    table = embed(model, cohort, InferenceConfig(batch_size=3))
    with torch.no_grad():
        for i, image in cohort.images.iterrows():
            pixels = next(image_batches(cohort.select(np.arange(8) == i), 16))[0]
            wanted = {"image": model.encode_images(pixels)}
            for level in ("lesion", "patient"):
                rows = cohort.tables.of_level(level)
                own = rows[rows[f"{level}_id"] == image[f"{level}_id"]]
                wanted[level] = model.encode_rows(level, model.encodings[level].encode(own))
            for name, values in wanted.items():
                np.testing.assert_allclose(table.features[name][i], values[0], atol=1e-5)
    pd.testing.assert_frame_equal(
        table.ids, cohort.images[["image_id", "lesion_id", "patient_id", "label"]]
    )


def test_batch_size_and_workers_change_nothing_and_the_model_is_left_as_it_was():
    cohort, told = make_cohort(), []
    model = make_model(cohort).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    how = InferenceConfig(batch_size=3)
    first = embed(model, cohort, how, progress=lambda *done: told.append(done))
    second = embed(model, cohort, InferenceConfig(batch_size=8, workers=1))
    np.testing.assert_allclose(first.features["image"], second.features["image"], atol=1e-5)
    assert told == [(3, 8), (6, 8), (8, 8)]
    assert model.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])
    # Parameters must still be trainable: no inference tensor may stay behind.
    model.encode_images(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).sum().backward()


def test_bf16_is_near_and_stored_as_float32():
    cohort = make_cohort()
    model = make_model(cohort)
    exact, rough = embed(model, cohort), embed(model, cohort, InferenceConfig(precision="bf16"))
    for name in ("image", "lesion", "patient"):
        assert rough.features[name].dtype == np.float32
        np.testing.assert_allclose(exact.features[name], rough.features[name], atol=0.1)


def test_openvino_gives_the_features_of_torch_for_any_batch_size():
    if find_spec("openvino") is None:
        pytest.skip("needs pip install 'slimp[openvino]'")
    cohort = make_cohort()
    model = make_model(cohort).train()
    exact = embed(model, cohort)
    for batch_size in (None, 1, 3, 8):  # 3: in batches of 3, 3 and 2
        fast = embed(model, cohort, InferenceConfig(backend="openvino", batch_size=batch_size))
        for name, values in exact.features.items():
            np.testing.assert_allclose(fast.features[name], values, atol=1e-4)
    assert model.training


def test_an_accelerated_backend_is_compared_with_torch_first(monkeypatch):
    """On images of the cohort, and before any feature is kept."""
    cohort = make_cohort()
    tried = []

    def wrong(encoder, batch_size, precision):
        def encode(batches):
            for pixels in batches:
                tried.append(len(pixels))
                yield np.ones((len(pixels), 12), dtype=np.float32)

        return encode

    monkeypatch.setattr(features, "openvino_backend", wrong)
    with pytest.raises(UserError, match="differ from PyTorch's: cosine"):
        embed(make_model(cohort), cohort, InferenceConfig(backend="openvino"))
    assert tried == [8]


def test_an_accelerated_backend_for_cpus_refuses_other_devices():
    cohort, how = make_cohort(), InferenceConfig(backend="openvino", device="meta")
    with pytest.raises(UserError, match="'openvino' runs on CPUs, not on 'meta'"):
        embed(make_model(cohort), cohort, how)


def test_image_level_metadata_count_with_the_lesion_and_levels_may_lack():
    cohort = make_cohort(image_level=True)
    table = embed(make_model(cohort), cohort)
    assert list(table.features) == ["image", "image_metadata", "lesion", "patient", *COMPARED]
    widths = {"image": 12, "image+lesion": 12 + 8 + 8, "full": 12 + 8 + 8 + 8}
    assert {name: table.matrix(name).shape[1] for name in widths} == widths
    table = embed(make_model(cohort, levels=("lesion",)), cohort)
    assert list(table.features) == ["image", "lesion", *COMPARED]
    assert table.matrix("full").shape == table.matrix("image+lesion").shape


def test_a_level_that_the_cohort_lacks_is_left_out_and_half_a_level_is_refused():
    cohort = make_cohort()
    model = make_model(cohort)

    def without(*columns: str) -> Cohort:
        content = cohort.schema.to_dict()
        for column in columns:
            del content["lesion_metadata"][column]
        return Cohort.from_tables(
            cohort.images,
            cohort.lesions.drop(columns=list(columns)),
            cohort.patients,
            schema=Schema.from_dict(content),
            store=cohort.store,
        )

    table = embed(model, without("size", "site"))
    assert list(table.features) == ["image", "patient", *COMPARED]
    with pytest.raises(UserError, match=r"no lesion-level column 'site' \(1 of the 2"):
        embed(model, without("site"))

    hidden = replace(
        cohort, tables=replace(cohort.tables, lesions=cohort.lesions.assign(site=pd.NA))
    )
    np.testing.assert_array_equal(
        embed(model, without("site"), lacking="missing").features["lesion"],
        embed(model, hidden).features["lesion"],
    )


def test_two_features_may_read_one_column_of_an_earlier_cohort():
    known = {"kind": "continuous", "mean": 1.0}
    renamed = FittedFeature(name="a", columns=("new",), also=(("age",),), **known)
    encoding = Encoding(
        level="patient", features=(renamed, FittedFeature(name="b", columns=("age",), **known))
    )
    rows = encode_table(encoding, pd.DataFrame({"age": [1.0, 2.0]}))
    assert rows.continuous.tolist() == [[0, 0], [1, 1]]


def test_a_flat_model_sees_all_metadata_at_the_lesion():
    cohort = make_cohort()
    model = make_model(cohort.flatten(), replace(TINY, hierarchy="flat"))
    table = embed(model, cohort)
    assert list(table.features) == ["image", "lesion", *COMPARED]
    np.testing.assert_allclose(
        table.features["lesion"], embed(model, cohort.flatten()).matrix("full")[:, 12:], atol=1e-6
    )


def test_matrix_joins_in_order_and_select_takes_images():
    table = make_table()
    image, lesion, patient = (table.features[name] for name in ("image", "lesion", "patient"))
    np.testing.assert_array_equal(table.matrix("image"), image)
    np.testing.assert_array_equal(table.matrix("image+lesion"), np.hstack([image, lesion]))
    np.testing.assert_array_equal(table.matrix("full"), np.hstack([image, lesion, patient]))
    part = table.select(table.ids["label"].notna()).select(np.array([True, False, True, False]))
    assert part.ids["image_id"].tolist() == ["image0", "image2"]
    np.testing.assert_array_equal(part.features["patient"], patient[[0, 2]])


def test_saved_and_loaded_it_is_the_same_and_others_can_read_it(tmp_path):
    table = make_table()
    path = tmp_path / "features.parquet"
    table.save(path)
    again = FeatureTable.load(path)
    pd.testing.assert_frame_equal(table.ids, again.ids)
    assert list(again.features) == list(table.features)
    for name, values in table.features.items():
        np.testing.assert_array_equal(values, again.features[name])
        np.testing.assert_array_equal(values, np.stack(pd.read_parquet(path)[name]))
    (kind,) = duckdb.sql(
        f"select distinct len(image), list_sum(image) is null from '{path}'"
    ).fetchall()
    assert kind == (4, False)


def test_refusals():
    table = make_table()
    with pytest.raises(UserError, match="'lesion' has 5 rows, the ids 4"):
        FeatureTable(ids=table.ids[:4], features={"lesion": table.features["lesion"]})
    with pytest.raises(UserError, match="the column 'label' is missing"):
        FeatureTable(ids=table.ids.drop(columns="label"), features=table.features)
    broken = table.features["image"].copy()
    broken[2, 1] = np.nan
    with pytest.raises(UserError, match=r"'image' of image 'image2' is not finite \(1 image"):
        FeatureTable(ids=table.ids, features={"image": broken})
    with pytest.raises(UserError, match=r"need 'image' features, but this table has only: lesion"):
        FeatureTable(ids=table.ids, features={"lesion": table.features["lesion"]}).matrix("full")


@pytest.mark.parametrize(
    "kind", ["absent", "folder", "damaged", "cut", "no features", "other features"]
)
def test_files_that_are_no_feature_table(tmp_path, kind):
    path, table = tmp_path / "x.parquet", make_table()
    if kind == "folder":
        table.save(path / "y.parquet")
    elif kind == "damaged":
        path.write_bytes(b"PAR1 nonsense")
    elif kind == "cut":
        table.save(path)
        path.write_bytes(path.read_bytes()[:-30])
    elif kind != "absent":
        table.ids.assign(**({"image": 1.5} if kind == "other features" else {})).to_parquet(path)
    with pytest.raises(UserError, match=r"x\.parquet: .*slimp embed"):
        FeatureTable.load(path)


def pseudo_metadata(cohort: Cohort, model: Slimp, **changes) -> PseudoMetadata:
    """Random lesion and patient embeddings, for the images in another order than the cohort's."""
    rng, n = np.random.default_rng(3), len(cohort)
    content = {
        "image_ids": cohort.images["image_id"].to_numpy()[::-1],
        "embeddings": {
            name: rng.normal(size=(n, 8)).astype(np.float32) for name in ("lesion", "patient")
        },
        "imputed": dict.fromkeys(("lesion", "patient"), np.ones(n, dtype=bool)),
        "abstained": np.zeros(n, dtype=bool),
        "model": fingerprint(model),
    }
    return PseudoMetadata(**{**content, **changes})


def test_retrieved_embeddings_take_the_place_of_those_not_known():
    cohort = make_cohort()
    model = make_model(cohort).eval()
    bare_levels = tuple(replace(level, features=()) for level in cohort.schema.levels)
    bare = Cohort.from_tables(
        cohort.images,
        cohort.lesions[["lesion_id", "patient_id"]],
        cohort.patients[["patient_id"]],
        schema=replace(cohort.schema, levels=bare_levels),
        store=cohort.store,
    )
    pseudo = pseudo_metadata(cohort, model)
    table = embed(model, bare, pseudo=pseudo)
    assert table.imputed == ("lesion", "patient")
    assert "lesion 8 (imputed)" in repr(table)
    np.testing.assert_array_equal(table.features["lesion"], pseudo.embeddings["lesion"][::-1])
    np.testing.assert_array_equal(table.features["patient"], pseudo.embeddings["patient"][::-1])
    np.testing.assert_array_equal(
        table.features["image"], embed(model, bare).features["image"], strict=True
    )
    assert table.select(np.arange(8) < 3).imputed == table.imputed


def test_the_mean_over_symmetries_does_not_depend_on_how_a_picture_lies(tmp_path):
    cohort, how = make_cohort(), InferenceConfig(test_time_augmentation="dihedral", batch_size=3)
    model = make_model(cohort).eval()
    pixels = torch.cat([found for found, _ in image_batches(cohort, 16)])
    mean = 0
    for mirrored in (pixels, pixels.flip(2)):
        for turns in range(4):
            mean = mean + embed_images(model, [mirrored.rot90(turns, (3, 2))]) / 8
    table = embed(model, cohort, how)
    np.testing.assert_allclose(table.features["image"], mean, atol=1e-5)
    upright = embed(model, cohort)
    assert np.abs(upright.features["image"] - mean).max() > 1e-3
    ways = {"test_time_augmentation": "dihedral"}
    for position in (pixels.rot90(1, (2, 3)), pixels.flip(3), pixels.transpose(2, 3)):
        found = embed_images(model, [position], **ways)
        np.testing.assert_allclose(found, table.features["image"], atol=1e-5)
    table.save(tmp_path / "f.parquet")
    for same in (FeatureTable.load(tmp_path / "f.parquet"), table.select(np.arange(8) < 3)):
        assert same.test_time_augmentation == "dihedral"
    pseudo = embed(model, cohort, how, pseudo=pseudo_metadata(cohort, model))
    assert pseudo.test_time_augmentation == "dihedral"
    assert upright.test_time_augmentation == "none"


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs pip install 'slimp[openvino]'")
def test_symmetries_go_through_every_backend():
    cohort = make_cohort()
    model = make_model(cohort).eval()
    ours, theirs = (
        embed(model, cohort, InferenceConfig(backend=b, test_time_augmentation="dihedral"))
        for b in ("torch", "openvino")
    )
    np.testing.assert_allclose(ours.features["image"], theirs.features["image"], atol=1e-4)


def test_own_metadata_stay_and_abstention_gives_a_row_in_which_all_is_missing():
    cohort = make_cohort()
    model = make_model(cohort).eval()
    imputed, abstained = np.arange(8) % 2 == 0, np.arange(8) < 3
    pseudo = pseudo_metadata(
        cohort, model, imputed={"lesion": imputed, "patient": imputed}, abstained=abstained
    )
    own, table = embed(model, cohort), embed(model, cohort, pseudo=pseudo)
    blank = cohort.lesions.assign(size=np.nan, site=pd.Series([None] * 4, dtype="str"))
    with torch.no_grad():
        nothing = model.encode_rows("lesion", model.encodings["lesion"].encode(blank))[0].numpy()
    for i in range(8):
        j = 7 - i  # row of `pseudo`
        wanted = own.features["lesion"][i]
        if imputed[j]:
            wanted = nothing if abstained[j] else pseudo.embeddings["lesion"][j]
        np.testing.assert_allclose(table.features["lesion"][i], wanted, atol=1e-6)
    assert table.ids["abstained"].tolist() == abstained[::-1].tolist()


@pytest.mark.parametrize("hierarchy", ["nested", "flat"])
def test_metadata_that_count_as_unknown_are_not_in_the_raw_table(hierarchy):
    """Of a target cohort whose metadata are known: a probe would read the truth."""
    cohort = make_cohort()
    read = cohort.flatten() if hierarchy == "flat" else cohort
    model = make_model(read, replace(TINY, hierarchy=hierarchy)).eval()
    content, unknown = pseudo_metadata(cohort, model), np.arange(8) % 2 == 0
    names = ["lesion"] if hierarchy == "flat" else ["lesion", "patient"]
    pseudo = replace(
        content,
        embeddings={name: content.embeddings[name] for name in names},
        imputed=dict.fromkeys(names, unknown),
    )
    table, own = embed(model, cohort, pseudo=pseudo), embed(model, cohort)
    assert table.raw is not None
    assert own.raw is not None
    rows = unknown[::-1]
    assert table.raw.frame[rows].isna().all(axis=None)
    pd.testing.assert_frame_equal(table.raw.frame[~rows], own.raw.frame[~rows])
    assert (table.raw.frame.dtypes == own.raw.frame.dtypes).all()


def test_where_nothing_counts_as_known_no_level_is_left_in_the_raw_table():
    cohort = make_cohort()
    model = make_model(cohort, levels=("lesion",)).eval()  # knows nothing of patients
    raw = embed(model, cohort, pseudo=of_lesions(cohort, model)).raw
    assert raw is not None
    assert raw.frame.isna().all(axis=None)


def test_observed_columns_that_the_model_does_not_read_stay_in_the_raw_table():
    """Nothing known to the model was overruled, so what was observed is observed still."""
    cohort = make_cohort()
    model = make_model(cohort, levels=("lesion",)).eval()
    columns = [*cohort.schema.level("lesion").columns]
    other = Feature(name="scale", kind="categorical", columns=("scale",))
    empty = cohort.lesions.assign(**{c: cohort.lesions[c].mask([True] * 4) for c in columns})
    lesion, *others = (cohort.schema.level(name) for name in ("lesion", "patient"))
    levels = (
        cohort.schema.level("image"),
        replace(lesion, features=(*lesion.features, other)),
        *others,
    )
    target = replace(
        cohort,
        schema=replace(cohort.schema, levels=levels),
        tables=replace(cohort.tables, lesions=empty.assign(scale=["a", "b", "a", "b"])),
    )
    raw = embed(model, target, pseudo=of_lesions(cohort, model)).raw
    assert raw is not None
    assert raw.frame["scale"].notna().all()
    assert raw.frame[[*cohort.schema.level("patient").columns]].notna().any(axis=None)
    assert raw.frame[columns].isna().all(axis=None)


def of_lesions(cohort: Cohort, model: Slimp) -> PseudoMetadata:
    content = pseudo_metadata(cohort, model)
    return replace(
        content,
        embeddings={"lesion": content.embeddings["lesion"]},
        imputed={"lesion": np.ones(8, dtype=bool)},
    )


def test_a_file_remembers_what_is_imputed(tmp_path):
    cohort = make_cohort()
    model = make_model(cohort)
    embed(model, cohort, pseudo=pseudo_metadata(cohort, model)).save(tmp_path / "f.parquet")
    again = FeatureTable.load(tmp_path / "f.parquet")
    assert again.imputed == ("lesion", "patient")
    assert again.ids["abstained"].dtype == bool


def test_pseudo_metadata_must_fit_the_model_and_the_images():
    cohort = make_cohort()
    model = make_model(cohort)
    pseudo = pseudo_metadata(cohort, model)
    with pytest.raises(UserError, match="of another model"):
        embed(model, cohort, pseudo=replace(pseudo, model="0123"))
    stranger = np.array(["x", *pseudo.image_ids[1:]])
    with pytest.raises(UserError, match="none for image 'p1l1i1' \\(1 such"):
        embed(model, cohort, pseudo=replace(pseudo, image_ids=stranger))
