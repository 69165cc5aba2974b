"""Features per image: each from its own image, lesion and patient, whatever runs the encoders."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from tiny import (
    MODEL,
    SIZE,
    fitted,
    grid_cohort,
    with_feature,
    with_features,
    with_images,
    with_tables,
)

from slimp.data.cohort import Cohort, Tables
from slimp.data.encoding import Encoding, FittedFeature
from slimp.data.images import image_batches
from slimp.data.schema import LEVELS, Feature
from slimp.errors import UserError
from slimp.features import encode as features
from slimp.features.design import RawTable, metadata_encoder
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig, cohort_levels, embed_images, encode_table
from slimp.features.feature_table import FeatureTable
from slimp.features.pseudo_metadata import PseudoMetadata, fingerprint
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp

WIDTH, TABULAR = 16, 8
COMPARED = ("relative", "outlier")
"""What a table has of the patient's other lesions."""
openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="needs pip install 'slimp[openvino]'"
)


def make_cohort(**options) -> Cohort:
    """Two patients with two lesions each, two images per lesion, interleaved in the table."""
    whole, order = grid_cohort([2, 2], 2, **options), [0, 4, 2, 6, 1, 5, 3, 7]
    tables = Tables(
        images=whole.images.iloc[order].reset_index(drop=True),
        lesions=whole.lesions.iloc[[2, 3, 0, 1]].reset_index(drop=True),
        patients=whole.patients.iloc[::-1].reset_index(drop=True),
    )
    return replace(whole, tables=tables, positions=whole.positions[order])


def make_model(cohort: Cohort, levels=LEVELS, **changes) -> Slimp:
    torch.manual_seed(0)
    encodings = {name: x for name, x in fitted(cohort).items() if name in levels}
    return Slimp(ModelConfig(**MODEL, **changes), encodings).eval()


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return make_cohort()


@pytest.fixture(scope="module")
def model(cohort) -> Slimp:
    return make_model(cohort)


@pytest.fixture(scope="module")
def plain(model, cohort) -> FeatureTable:
    """The features as they are by default."""
    return embed(model, cohort)


def make_table(n: int = 5) -> FeatureTable:
    rng = np.random.default_rng(0)
    ids = pd.DataFrame({f"{level}_id": [f"{level}{i}" for i in range(n)] for level in LEVELS})
    ids["label"] = pd.Series([*("ab" * n)[: n - 1], None], dtype="str")
    widths = {"image": 4, "lesion": 2, "patient": 3}
    blocks = {name: rng.normal(size=(n, d)).astype(np.float32) for name, d in widths.items()}
    return FeatureTable(ids=ids, features=blocks)


def test_each_image_gets_its_own_lesion_and_patient(cohort, model):
    table = embed(model, cohort, InferenceConfig(batch_size=3))
    with torch.no_grad():
        for i, image in cohort.images.iterrows():
            pixels = next(image_batches(cohort.select(np.arange(8) == i), SIZE))[0]
            wanted = {"image": model.encode_images(pixels)}
            for level in ("lesion", "patient"):
                rows = cohort.tables.of_level(level)
                own = rows[rows[f"{level}_id"] == image[f"{level}_id"]]
                wanted[level] = model.encode_rows(level, model.encodings[level].encode(own))
            for name, values in wanted.items():
                np.testing.assert_allclose(table.features[name][i], values[0], atol=1e-5)
    ids = ["image_id", "lesion_id", "patient_id", "label"]
    pd.testing.assert_frame_equal(table.ids, cohort.images[ids])


def test_batch_size_and_workers_change_nothing_and_the_model_is_left_as_it_was(cohort, plain):
    model, told = make_model(cohort).train(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for how in (InferenceConfig(batch_size=3), InferenceConfig(batch_size=8, workers=1)):
        found = embed(model, cohort, how, progress=lambda *done: told.append(done))
        np.testing.assert_allclose(found.features["image"], plain.features["image"], atol=1e-5)
    assert told == [(3, 8), (6, 8), (8, 8), (8, 8)]
    assert model.training
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])
    # Parameters must still be trainable: no inference tensor may stay behind.
    model.encode_images(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)).sum().backward()


def test_bf16_is_near_and_stored_as_float32(cohort, model, plain):
    rough = embed(model, cohort, InferenceConfig(precision="bf16"))
    for name in ("image", "lesion", "patient"):
        assert rough.features[name].dtype == np.float32
        np.testing.assert_allclose(plain.features[name], rough.features[name], atol=0.1)


@openvino
@pytest.mark.parametrize("batch_size", [None, 3])  # 3: in batches of 3, 3 and 2
def test_openvino_gives_the_features_of_torch(cohort, plain, batch_size):
    model = make_model(cohort).train()
    fast = embed(model, cohort, InferenceConfig(backend="openvino", batch_size=batch_size))
    for name, values in plain.features.items():
        np.testing.assert_allclose(fast.features[name], values, atol=1e-4)
    assert model.training


def test_an_accelerated_backend_is_compared_with_torch_first(cohort, model, monkeypatch):
    """On images of the cohort, and before any feature is kept; on CPUs only."""
    tried = []

    def wrong(encoder, batch_size, precision):
        def encode(batches):
            for pixels in batches:
                tried.append(len(pixels))
                yield np.ones((len(pixels), WIDTH), dtype=np.float32)

        return encode

    monkeypatch.setattr(features, "openvino_backend", wrong)
    with pytest.raises(UserError, match="differ from PyTorch's: cosine"):
        embed(model, cohort, InferenceConfig(backend="openvino"))
    assert tried == [8]
    with pytest.raises(UserError, match="'openvino' runs on CPUs, not on 'meta'"):
        embed(model, cohort, InferenceConfig(backend="openvino", device="meta"))


def test_image_level_metadata_count_with_the_lesion_and_levels_may_lack(cohort):
    pictured = make_cohort(camera=True)
    table = embed(make_model(pictured), pictured)
    assert list(table.features) == ["image", "image_metadata", "lesion", "patient", *COMPARED]
    parts = {"image": 0, "image+lesion": 2, "full": 3}
    widths = {name: WIDTH + count * TABULAR for name, count in parts.items()}
    assert {name: table.matrix(name).shape[1] for name in widths} == widths
    table = embed(make_model(cohort, levels=("lesion",)), cohort)
    assert list(table.features) == ["image", "lesion", *COMPARED]
    assert table.matrix("full").shape == table.matrix("image+lesion").shape


def without(cohort: Cohort, *columns: str) -> Cohort:
    """The cohort without some columns of lesions; without any metadata where none are named."""
    if not columns:
        return with_features(cohort)
    return with_features(cohort, lesion=sorted({"size", "site"} - {*columns}), patient=None)


def test_a_level_that_the_cohort_lacks_is_left_out_and_half_a_level_is_refused(cohort, model):
    table = embed(model, without(cohort, "size", "site"))
    assert list(table.features) == ["image", "patient", *COMPARED]
    with pytest.raises(UserError, match=r"no lesion-level column 'site' \(1 of the 2"):
        embed(model, without(cohort, "site"))
    hidden = with_tables(cohort, lesions=cohort.lesions.assign(site=pd.NA))
    np.testing.assert_array_equal(
        embed(model, without(cohort, "site"), lacking="missing").features["lesion"],
        embed(model, hidden).features["lesion"],
    )


def otherwise(cohort: Cohort, name: str, **changes: Any) -> Cohort:
    return replace(cohort, schema=with_feature(cohort.schema, name, **changes))


def test_a_column_in_another_unit_or_of_another_kind_is_not_the_one_that_is_read(cohort):
    """Ten millimetres are not ten centimetres, whatever the column is called."""
    own = otherwise(cohort, "size", unit="mm")
    model, other = make_model(own), otherwise(cohort, "size", unit="cm")
    np.testing.assert_array_equal(  # nobody says which unit it is
        embed(model, cohort).features["lesion"], embed(model, own).features["lesion"]
    )
    with pytest.raises(
        UserError, match=r"lesion-level column 'size' of kind continuous and unit mm"
    ):
        embed(model, other)
    with pytest.raises(UserError, match=r"column 'age' of kind continuous \(1 of the 1"):
        embed(model, otherwise(cohort, "age", kind="categorical"))
    lacking = embed(model, without(own, "size"), lacking="missing")
    found = embed(model, other, lacking="missing")
    np.testing.assert_array_equal(found.features["lesion"], lacking.features["lesion"])
    # What is embedded anew, and what a probe of the first cohort reads of the table.
    np.testing.assert_array_equal(found.encoder(found.raw)["lesion"], lacking.features["lesion"])
    encodings = RawTable.of(own).fit(("lesion",))
    (rows,) = found.design("full").encode(encodings)
    assert not rows.present[:, 0].any()
    assert rows.present[:, 1].all()
    levels = cohort_levels(model, other, torch.device("cpu"))
    assert not levels[1].rows.present[:, 0].any()


def test_categories_that_are_all_unknown_are_told(cohort, model):
    """They count as missing: a clinic that codes sex as 1 and 2 would not see that it is gone."""

    def spelled(*names: str) -> Cohort:
        sites = cohort.lesions["site"].map(dict(zip("ab", names, strict=True)))
        return with_tables(cohort, lesions=cohort.lesions.assign(site=sites))

    with pytest.warns(
        UserWarning, match=r"column 'site', such as '.', the run knows none \(a, b\)"
    ):
        found = embed(model, spelled("1", "2"))
    hidden = embed(model, spelled(None, None))
    np.testing.assert_array_equal(found.features["lesion"], hidden.features["lesion"])
    embed(model, spelled("a", "2"))  # a new one among known ones is nothing to be told of


def test_a_column_outside_the_schema_is_not_read(cohort):
    """Nobody reviewed it: an import keeps such columns as text."""
    pictured = make_cohort(camera=True)
    model = make_model(pictured)
    aside = replace(pictured, schema=cohort.schema)
    assert list(embed(model, aside).features) == ["image", "lesion", "patient", *COMPARED]


def test_two_features_may_read_one_column_of_an_earlier_cohort():
    known = {"kind": "continuous", "mean": 1.0}
    renamed = FittedFeature(name="a", columns=("new",), also=(("age",),), **known)
    encoding = Encoding(
        level="patient", features=(renamed, FittedFeature(name="b", columns=("age",), **known))
    )
    rows = encode_table(encoding, pd.DataFrame({"age": [1.0, 2.0]}))
    assert rows.continuous.tolist() == [[0, 0], [1, 1]]


def test_a_flat_model_sees_all_metadata_at_the_lesion(cohort):
    model = make_model(cohort.flatten(), hierarchy="flat")
    table, flat = embed(model, cohort), embed(model, cohort.flatten())
    assert list(table.features) == ["image", "lesion", *COMPARED]
    np.testing.assert_allclose(table.features["lesion"], flat.matrix("full")[:, WIDTH:], atol=1e-6)


def test_a_flat_model_reads_of_an_image_its_own_cells_as_a_prediction_does(cohort):
    """Not those of another image of the lesion."""
    one, two, three = cohort.schema.levels
    sharp = Feature(name="sharp", kind="continuous", columns=("sharp",))
    data = with_images(cohort, sharp=np.arange(len(cohort), dtype=float))
    levels = (replace(one, features=(*one.features, sharp)), two, three)
    data = replace(data, schema=replace(data.schema, levels=levels))
    model = make_model(data.flatten(), hierarchy="flat")
    table = embed(model, data)
    wanted = metadata_encoder(model)(RawTable.of(data))["lesion"]
    np.testing.assert_allclose(table.features["lesion"], wanted, atol=1e-6)
    assert len(np.unique(wanted.round(5), axis=0)) > data.images["lesion_id"].nunique()


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
    head = np.arange(12, dtype=np.float32).reshape(4, 3)
    table, path = replace(make_table(), projection=head), tmp_path / "features.parquet"
    table.save(path)
    again = FeatureTable.load(path)
    np.testing.assert_array_equal(again.projection, head)
    pd.testing.assert_frame_equal(table.ids, again.ids)
    assert list(again.features) == list(table.features)
    for name, values in table.features.items():
        np.testing.assert_array_equal(values, again.features[name])
        np.testing.assert_array_equal(values, np.stack(pd.read_parquet(path)[name]))
    asked = f"select distinct len(image), list_sum(image) is null from '{path}'"
    assert duckdb.sql(asked).fetchall() == [(4, False)]


@pytest.mark.parametrize("trained", [["lesion", "patient"], ["lesion"], ["patient"]])
def test_the_linear_heads_are_those_of_the_levels_with_a_weight(trained):
    """Of images that are a lesion and a patient each: the pairs' anchors, but for metadata."""
    alone = grid_cohort([1, 1, 1], 1)
    weights = {f"{level}_weight": 0.5 * (level in trained) for level in ("lesion", "patient")}
    model = make_model(alone, ("lesion", "patient"), projection_layers=1, **weights)
    table, levels = embed(model, alone), cohort_levels(model, alone, torch.device("cpu"))
    images, nothing = torch.from_numpy(table.features["image"]), torch.zeros(3, TABULAR)
    anchors = {pair.name: pair.anchor for pair in model.climb(images, levels, lambda *_: nothing)}
    want = torch.cat([anchors[level] for level in trained], dim=1).detach().numpy()
    np.testing.assert_allclose(table.features["image"] @ table.projection, want, atol=1e-5)
    assert table.design("full").projection is table.projection


@pytest.mark.parametrize(
    "changes", [{"projection_layers": 2}, {"projection_layers": 1, "context": "patient"}]
)
def test_a_head_that_is_not_linear_in_the_image_is_none(cohort, changes):
    assert make_model(cohort, ("lesion", "patient"), **changes).image_projection() is None


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
    with pytest.raises(UserError, match="heads read 3 columns, images have 4"):
        replace(table, projection=np.ones((3, 2), np.float32))
    with pytest.raises(UserError, match=r"need 'image' features, but this table has only: lesion"):
        FeatureTable(ids=table.ids, features={"lesion": table.features["lesion"]}).matrix("full")


@pytest.mark.parametrize(
    "kind", ["absent", "folder", "damaged", "cut", "heads", "no features", "other features"]
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
    elif kind == "heads":
        table.save(path)
        read = pq.read_table(path)
        notes = {**read.schema.metadata, b"slimp.projection": b"AAAA"}
        pq.write_table(read.replace_schema_metadata(notes), path)
    elif kind != "absent":
        table.ids.assign(**({"image": 1.5} if kind == "other features" else {})).to_parquet(path)
    with pytest.raises(UserError, match=r"x\.parquet: .*slimp embed"):
        FeatureTable.load(path)


# ------------------------------------------------------------------ pseudo-metadata


def pseudo_metadata(
    cohort: Cohort, model: Slimp, *names: str, imputed: object = True, **changes
) -> PseudoMetadata:
    """Random embeddings of levels, for the images in another order than the cohort's."""
    rng, n, names = np.random.default_rng(3), len(cohort), names or ("lesion", "patient")
    rows = {name: rng.normal(size=(n, TABULAR)).astype(np.float32) for name in names}
    content = {
        "image_ids": cohort.images["image_id"].to_numpy()[::-1],
        "embeddings": rows,
        "imputed": dict.fromkeys(names, np.ones(n, dtype=bool) & imputed),
        "abstained": np.zeros(n, dtype=bool),
        "model": fingerprint(model),
    }
    return PseudoMetadata(**{**content, **changes})


def test_retrieved_embeddings_take_the_place_of_those_not_known(cohort, model, plain, tmp_path):
    pseudo = pseudo_metadata(cohort, model)
    table = embed(model, without(cohort), pseudo=pseudo)
    assert "lesion 8 (imputed)" in repr(table)
    for level in ("lesion", "patient"):
        np.testing.assert_array_equal(table.features[level], pseudo.embeddings[level][::-1])
    np.testing.assert_array_equal(table.features["image"], plain.features["image"], strict=True)
    table.save(tmp_path / "f.parquet")
    for same in (table, table.select(np.arange(8) < 3), FeatureTable.load(tmp_path / "f.parquet")):
        assert same.imputed == ("lesion", "patient")
        assert same.ids["abstained"].dtype == bool


def test_the_mean_over_symmetries_does_not_depend_on_how_a_picture_lies(
    cohort, model, plain, tmp_path
):
    how = InferenceConfig(test_time_augmentation="dihedral", batch_size=3)
    pixels = torch.cat([found for found, _ in image_batches(cohort, SIZE)])
    mean = 0
    for mirrored in (pixels, pixels.flip(2)):
        for turns in range(4):
            mean = mean + embed_images(model, [mirrored.rot90(turns, (3, 2))]) / 8
    table = embed(model, cohort, how)
    np.testing.assert_allclose(table.features["image"], mean, atol=1e-5)
    assert np.abs(plain.features["image"] - mean).max() > 1e-3
    for position in (pixels.rot90(1, (2, 3)), pixels.flip(3), pixels.transpose(2, 3)):
        how = InferenceConfig(test_time_augmentation="dihedral")
        found = embed_images(model, [position], how)
        np.testing.assert_allclose(found, table.features["image"], atol=1e-5)
    table.save(tmp_path / "f.parquet")
    for same in (FeatureTable.load(tmp_path / "f.parquet"), table.select(np.arange(8) < 3)):
        assert same.test_time_augmentation == "dihedral"
    pseudo = embed(model, cohort, how, pseudo=pseudo_metadata(cohort, model))
    assert pseudo.test_time_augmentation == "dihedral"
    assert plain.test_time_augmentation == "none"


@openvino
def test_symmetries_go_through_every_backend(cohort, model):
    ours, theirs = (
        embed(model, cohort, InferenceConfig(backend=b, test_time_augmentation="dihedral"))
        for b in ("torch", "openvino")
    )
    np.testing.assert_allclose(ours.features["image"], theirs.features["image"], atol=1e-4)


def test_own_metadata_stay_and_abstention_gives_a_row_in_which_all_is_missing(cohort, model, plain):
    imputed, abstained = np.arange(8) % 2 == 0, np.arange(8) < 3
    pseudo = pseudo_metadata(cohort, model, imputed=imputed, abstained=abstained)
    table = embed(model, cohort, pseudo=pseudo)
    blank = cohort.lesions.assign(size=np.nan, site=pd.Series([None] * 4, dtype="str"))
    with torch.no_grad():
        nothing = model.encode_rows("lesion", model.encodings["lesion"].encode(blank))[0].numpy()
    for i in range(8):
        j = 7 - i  # row of `pseudo`
        wanted = plain.features["lesion"][i]
        if imputed[j]:
            wanted = nothing if abstained[j] else pseudo.embeddings["lesion"][j]
        np.testing.assert_allclose(table.features["lesion"][i], wanted, atol=1e-6)
    assert table.ids["abstained"].tolist() == abstained[::-1].tolist()


@pytest.mark.parametrize("hierarchy", ["nested", "flat"])
def test_metadata_that_count_as_unknown_are_not_in_the_raw_table(cohort, plain, hierarchy):
    """Of a target cohort whose metadata are known: a probe would read the truth."""
    flat, unknown = hierarchy == "flat", np.arange(8) % 2 == 0
    model = make_model(cohort.flatten() if flat else cohort, hierarchy=hierarchy)
    names = ["lesion"] if flat else ["lesion", "patient"]
    raw = embed(model, cohort, pseudo=pseudo_metadata(cohort, model, *names, imputed=unknown)).raw
    rows = unknown[::-1]
    assert raw.frame[rows].isna().all(axis=None)
    pd.testing.assert_frame_equal(raw.frame[~rows], plain.raw.frame[~rows])
    assert (raw.frame.dtypes == plain.raw.frame.dtypes).all()


def test_observed_columns_that_the_model_does_not_read_stay_in_the_raw_table(cohort):
    """Where nothing known to the model was overruled: what was observed is observed still."""
    model = make_model(cohort, levels=("lesion",))  # knows nothing of patients
    pseudo = pseudo_metadata(cohort, model, "lesion")
    assert embed(model, cohort, pseudo=pseudo).raw.frame.isna().all(axis=None)
    other = Feature(name="scale", kind="categorical", columns=("scale",))
    image, lesion, patient = cohort.schema.levels
    levels = (image, replace(lesion, features=(*lesion.features, other)), patient)
    empty = cohort.lesions.assign(**{c: cohort.lesions[c].mask([True] * 4) for c in lesion.columns})
    target = with_tables(cohort, lesions=empty.assign(scale=["a", "b", "a", "b"]))
    target = replace(target, schema=replace(cohort.schema, levels=levels))
    raw = embed(model, target, pseudo=pseudo).raw
    assert raw.frame["scale"].notna().all()
    assert raw.frame[[*patient.columns]].notna().any(axis=None)
    assert raw.frame[[*lesion.columns]].isna().all(axis=None)


def test_pseudo_metadata_must_fit_the_model_and_the_images(cohort, model):
    pseudo = pseudo_metadata(cohort, model)
    with pytest.raises(UserError, match="of another model"):
        embed(model, cohort, pseudo=replace(pseudo, model="0123"))
    stranger = np.array(["x", *pseudo.image_ids[1:]])
    with pytest.raises(UserError, match="none for image 'p1l1i1' \\(1 such"):
        embed(model, cohort, pseudo=replace(pseudo, image_ids=stranger))
