"""Both routes against slow loops, and what must not change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import MODEL, fitted, with_features, with_tables

from slimp.data.cohort import Cohort
from slimp.data.files import ImagesInMemory
from slimp.data.schema import LEVELS, Schema
from slimp.errors import UserError
from slimp.features.encode import as_model_reads
from slimp.features.nearest import nearest
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.extrapolate import extrapolate
from slimp.retrieval.index import EmbeddedCohort, Index
from slimp.retrieval.pseudo_table import pseudo_table, retrieved_values
from slimp.retrieval.routes import Retrieved, retrieve

CONTENT = {
    "image": "image_id",
    "lesion": "lesion_id",
    "patient": "patient_id",
    "label": "label",
    "lesion_metadata": {"size": {"kind": "continuous"}, "site": {"kind": "categorical"}},
    "patient_metadata": {"age": {"kind": "continuous"}, "smokes": {"kind": "checkbox"}},
}


def make_cohort(prefix: str, patients: int, seed: int, *, camera: bool = False) -> Cohort:
    """Patients of one to three lesions with one or two images each; every value differs."""
    rng = np.random.default_rng(seed)
    people = pd.DataFrame({"patient_id": [f"{prefix}{p}" for p in range(patients)]})
    people["age"] = 20 + 60 * rng.random(patients)
    people["smokes"] = pd.array(rng.random(patients) < 0.5, dtype="boolean")
    lesions = people[["patient_id"]].loc[people.index.repeat(rng.integers(1, 4, size=patients))]
    number = lesions.groupby("patient_id").cumcount().astype(str)
    lesions = lesions.assign(lesion_id=lesions["patient_id"] + "l" + number)
    lesions["size"] = 1 + 9 * rng.random(len(lesions))
    lesions["site"] = rng.choice(["s", "t"], size=len(lesions))
    lesions = lesions.reset_index(drop=True)
    images = lesions[["lesion_id", "patient_id"]]
    images = images.loc[images.index.repeat(rng.integers(1, 3, size=len(images)))]
    number = images.groupby("lesion_id").cumcount().astype(str)
    images = images.assign(image_id=images["lesion_id"] + "i" + number, label="a")
    images["camera"] = rng.choice(["x", "y"], size=len(images))
    content = dict(CONTENT)
    if camera:
        content["image_metadata"] = {"camera": {"kind": "categorical"}}
    return Cohort.from_tables(
        images.sample(frac=1, random_state=seed).reset_index(drop=True),
        lesions,
        people,
        schema=Schema.from_dict(content),
        store=ImagesInMemory([b""] * len(images)),
    )


@pytest.fixture
def reference() -> Cohort:
    return make_cohort("r", 6, 0)


@pytest.fixture
def whole() -> Cohort:
    """A target with metadata."""
    return make_cohort("t", 4, 1)


@pytest.fixture
def bare(whole: Cohort) -> Cohort:
    """The same without."""
    return with_features(whole)


def make_model(cohort: Cohort, levels=("lesion", "patient"), **changes) -> Slimp:
    torch.manual_seed(1)
    encodings = {name: encoding for name, encoding in fitted(cohort).items() if name in levels}
    model = Slimp(ModelConfig(**MODEL, **changes), encodings).eval()
    for module in model.modules():
        if hasattr(module, "score"):  # attention pooling starts as the mean
            torch.nn.init.normal_(module.score.weight)
    return model


def embeddings(cohort: Cohort) -> np.ndarray:
    """Random ones, which follow the image and not its row."""
    seeds = ([5, *name.encode()] for name in cohort.images["image_id"])
    return np.stack([np.random.default_rng(s).normal(size=16) for s in seeds]).astype(np.float32)


def with_lesions(cohort: Cohort, **columns: pd.Series) -> Cohort:
    return with_tables(cohort, lesions=cohort.lesions.assign(**columns))


def renaming(cohort: Cohort, names: dict[str, str]) -> Cohort:
    """The cohort with other names for some of its columns."""

    def renamed(feature):
        new = names.get(feature.name, feature.name)
        return replace(feature, name=new, columns=(new,))

    levels = tuple(
        replace(level, features=tuple(map(renamed, level.features)))
        for level in cohort.schema.levels
    )
    tables = {f"{n}s": cohort.tables.of_level(n).rename(columns=names) for n in LEVELS}
    schema = replace(cohort.schema, levels=levels)
    return replace(cohort, schema=schema, tables=replace(cohort.tables, **tables))


def embedded(cohort: Cohort) -> EmbeddedCohort:
    return EmbeddedCohort(cohort=cohort, images=embeddings(cohort))


def retrieve_from(model, reference, target, hide=(), **settings) -> Retrieved:
    index, config = Index.build(model, embedded(reference)), RetrievalConfig(**settings)
    return retrieve(model, index, embedded(target), config, hide=hide)


def table_of(model, reference, target, abstained=None, **settings):
    index, target = Index.build(model, embedded(reference)), as_model_reads(model, target)
    found = retrieve(model, index, embedded(target), RetrievalConfig(**settings))
    nobody = np.zeros(len(target), dtype=bool)
    return found, pseudo_table(found, index, target, nobody if abstained is None else abstained)


def cosine(a, b) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def encode(model, cohort, level, row) -> torch.Tensor:
    table = cohort.tables.of_level(level).iloc[[row]]
    return model.encode_rows(level, model.encodings[level].encode(table))[0]


def pooled(model, level, rows) -> torch.Tensor:
    parent = torch.zeros(len(rows), dtype=torch.int64)
    return model.level(level).pool(torch.stack(rows), parent, 1)


@torch.no_grad()
def slow_ilp(model, reference, target, k, temperature):
    """image_id -> (neighbours, similarities, weights, embedding) per level, one by one."""

    def search(level, query):
        q = model.level(level).project_below(query)[0].numpy()
        table, scored = reference.tables.of_level(level), []
        for row in range(len(table)):
            m = encode(model, reference, level, row)
            scored.append((cosine(q, model.level(level).project_metadata(m[None])[0].numpy()), row))
        best = sorted(scored, key=lambda pair: -pair[0])[:k]
        weights = np.exp([s / temperature for s, _ in best])
        weights /= weights.sum()
        combined = sum(
            w * encode(model, reference, level, row)
            for w, (_, row) in zip(weights, best, strict=True)
        )
        return [row for _, row in best], [s for s, _ in best], weights, combined.float()

    h, found = embeddings(target), {}
    for patient in target.patients["patient_id"]:
        rows = []
        for lesion in target.lesions.loc[target.lesions["patient_id"] == patient, "lesion_id"]:
            own = np.flatnonzero(target.images["lesion_id"] == lesion)
            below = pooled(model, "lesion", [torch.from_numpy(h[i]) for i in own])
            level = search("lesion", below)
            rows.append(torch.cat([below[0], level[3]]))
            for i in own:
                found[target.images["image_id"][i]] = {"lesion": level}
        level = search("patient", pooled(model, "patient", rows))
        for i in np.flatnonzero(target.images["patient_id"] == patient):
            found[target.images["image_id"][i]]["patient"] = level
    return found


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("k", [1, 3])
def test_image_to_lesion_to_patient_is_the_slow_loop(reference, bare, k, pooling):
    target = bare
    model = make_model(reference, pooling=pooling)
    found = retrieve_from(model, reference, target, k=k, temperature=0.2)
    slow = slow_ilp(model, reference, target, k, 0.2)
    assert list(found.levels) == ["lesion", "patient"]
    for name, level in found.levels.items():
        assert level.imputed.all()
        for i, image in enumerate(target.images["image_id"]):
            neighbours, similarity, weights, embedding = slow[image][name]
            assert level.row[i].tolist() == neighbours
            np.testing.assert_allclose(level.similarity[i], similarity, atol=1e-5)
            np.testing.assert_allclose(level.weight[i], weights, atol=1e-5)
            np.testing.assert_allclose(level.embedding[i], embedding, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_image_to_image_gives_both_rows_of_the_nearest_image(reference, bare, k):
    target = bare
    model = make_model(reference)
    found = retrieve_from(model, reference, target, route="ii", k=k)
    theirs, ours = embeddings(reference), embeddings(target)
    rows = {
        "lesion": reference.lesion_of_image,
        "patient": reference.patient_of_lesion[reference.lesion_of_image],
    }
    for i in range(len(target)):
        scores = [cosine(ours[i], row) for row in theirs]
        best = np.argsort(scores)[::-1][:k]
        weights = np.exp(np.array(scores)[best] / 0.07)
        weights /= weights.sum()
        for name, level in found.levels.items():
            assert level.image[i].tolist() == best.tolist()
            assert level.row[i].tolist() == rows[name][best].tolist()
            with torch.no_grad():
                combined = sum(
                    w * encode(model, reference, name, row).numpy()
                    for w, row in zip(weights, rows[name][best], strict=True)
                )
            np.testing.assert_allclose(level.embedding[i], combined, atol=1e-5)


@pytest.mark.parametrize("route", ["ilp", "ii"])
def test_the_order_of_the_reference_changes_nothing(reference, bare, route):
    model, rng, both = make_model(reference), np.random.default_rng(2), []
    tables = {
        f"{name}s": (table := reference.tables.of_level(name))
        .iloc[rng.permutation(len(table))]
        .reset_index(drop=True)
        for name in LEVELS
    }
    for cohort in (reference, with_tables(reference, **tables)):
        index = Index.build(model, embedded(cohort))
        found = retrieve(model, index, embedded(bare), RetrievalConfig(route=route, k=2))
        nobody = np.zeros(len(bare), dtype=bool)
        both.append((found, pseudo_table(found, index, bare, nobody)))
    (a, one), (b, other) = both
    for name in a.levels:
        np.testing.assert_allclose(a.levels[name].embedding, b.levels[name].embedding, atol=1e-5)
    columns = one.columns.difference(["reference_image_id"])  # of a lesion's images the first
    pd.testing.assert_frame_equal(one[columns], other[columns], atol=1e-5)


def test_own_metadata_are_used_as_they_are_and_only_what_lacks_is_retrieved(reference, whole):
    model = make_model(reference)
    target = with_features(whole, lesion=None)
    found = retrieve_from(model, reference, target)
    assert list(found.levels) == ["patient"]
    with torch.no_grad():
        for patient in target.patients["patient_id"]:
            rows = []
            for lesion in np.flatnonzero(target.lesions["patient_id"] == patient):
                own = np.flatnonzero(target.lesion_of_image == lesion)
                images = [torch.from_numpy(embeddings(target)[i]) for i in own]
                below = pooled(model, "lesion", images)[0]
                rows.append(torch.cat([below, encode(model, target, "lesion", lesion)]))
            query = model.level("patient").project_below(pooled(model, "patient", rows))[0].numpy()
            metadata = [encode(model, reference, "patient", row) for row in range(6)]
            project = model.level("patient").project_metadata
            scores = [cosine(query, project(m[None])[0].numpy()) for m in metadata]
            for i in np.flatnonzero(target.images["patient_id"] == patient):
                assert found.levels["patient"].row[i, 0] == np.argmax(scores)


def test_rows_without_a_known_cell_are_imputed_beside_rows_that_have_some(reference, whole):
    empty = whole.lesions.index == 2
    gap = with_lesions(whole, **{c: whole.lesions[c].mask(empty) for c in ("size", "site")})
    found = retrieve_from(make_model(reference), reference, gap)
    assert list(found.levels) == ["lesion"]
    level, wants = found.levels["lesion"], whole.lesion_of_image == 2
    assert level.imputed.tolist() == wants.tolist()
    assert (level.row[~wants] == -1).all()
    assert np.isnan(level.similarity[~wants]).all()
    assert not level.embedding[~wants].any()


def test_hidden_levels_are_imputed_like_levels_that_are_not_there(reference, whole, bare):
    model = make_model(reference)
    wanted = retrieve_from(model, reference, bare)
    for found in (
        retrieve_from(model, reference, whole, hide=("lesion", "patient")),
        retrieve_from(model, reference, whole, impute="all"),
    ):
        for name, level in wanted.levels.items():
            np.testing.assert_array_equal(found.levels[name].row, level.row)
            np.testing.assert_array_equal(found.levels[name].embedding, level.embedding)
    assert not retrieve_from(model, reference, whole).levels


@pytest.mark.parametrize("k", [2, 50])
@pytest.mark.parametrize("route", ["ilp", "ii"])
def test_no_patient_is_his_own_neighbour_and_such_matches_are_counted(reference, route, k):
    target = with_features(reference.select_patients(["r1", "r4"]))
    found = retrieve_from(make_model(reference), reference, target, route=route, k=k)
    assert found.shared_patients == 2
    own = target.images["patient_id"].to_numpy()
    for name, level in found.levels.items():
        owners = reference.tables.of_level(name)["patient_id"].to_numpy()[level.row]  # (i, k)
        assert (owners != own[:, None])[level.row >= 0].all()
    if route == "ii":
        patients = reference.images["patient_id"].to_numpy()
        wanted = nearest(embeddings(target), embeddings(reference), k, exclude=(own, patients))
        np.testing.assert_array_equal(found.levels["lesion"].image, wanted.row)
        plain = nearest(embeddings(target), embeddings(reference), k)
        same = (plain.row >= 0) & (patients[plain.row] == own[:, None])
        assert found.excluded == same.sum() >= len(target)  # each image's nearest one is itself


@pytest.mark.parametrize("route", ["ilp", "ii"])
def test_fewer_neighbours_than_asked_for_weigh_all_the_same(bare, route):
    reference, target = make_cohort("r", 2, 0), bare
    model = make_model(reference)
    found, table = table_of(model, reference, target, route=route, k=40)
    for level in found.levels.values():
        np.testing.assert_allclose(level.weight.sum(axis=1), 1, atol=1e-6)
        assert ((level.row < 0) == (level.weight == 0)).all()
    most = len(reference) if route == "ii" else max(len(reference.lesions), 2)
    assert table.groupby("image_id").size().max() == most


def test_without_other_patients_nothing_is_found():
    reference = make_cohort("r", 1, 0)
    target = with_features(reference)
    found = retrieve_from(make_model(reference), reference, target)
    for level in found.levels.values():
        assert level.imputed.all()
        assert np.isnan(level.similarity).all()
        assert not level.embedding.any()


def test_a_model_or_a_reference_of_one_level_imputes_that_one(reference, bare):
    for level in ("lesion", "patient"):
        found = retrieve_from(make_model(reference, levels=(level,)), reference, bare)
        assert list(found.levels) == [level]
    untrained = make_model(reference, lesion_weight=0.0)
    assert list(retrieve_from(untrained, reference, bare).levels) == ["patient"]
    found = retrieve_from(make_model(reference), with_features(reference, lesion=None), bare)
    assert list(found.levels) == ["lesion"]


def test_three_levels():
    reference = make_cohort("r", 6, 0, camera=True)
    target = with_features(make_cohort("t", 4, 1, camera=True))
    found, table = table_of(make_model(reference, LEVELS, image_weight=0.5), reference, target)
    assert list(found.levels) == ["image", "lesion", "patient"]
    cameras = reference.images.set_index("image_id")["camera"]
    assert table["image.camera"].tolist() == cameras[table["reference_image_id"]].tolist()
    sizes = reference.lesions.set_index("lesion_id")["size"]
    assert table["lesion.size"].tolist() == sizes[table["reference_lesion_id"]].tolist()


def test_a_flat_model_gives_the_joined_row(reference, bare):
    flat = reference.flatten()
    model = make_model(flat, ("lesion",), hierarchy="flat")
    _, table = table_of(model, reference, bare)
    rows = flat.lesions.set_index("lesion_id").loc[table["reference_lesion_id"]]
    np.testing.assert_array_equal(table["lesion.age"], rows["age"])
    np.testing.assert_array_equal(table["lesion.size"], rows["size"])


def test_the_table_names_the_neighbours_and_what_was_published(reference, bare):
    target, model = bare, make_model(reference)
    _, table = table_of(model, reference, target, np.arange(len(target)) == 0, k=2)
    assert table["image_id"].tolist() == np.repeat(target.images["image_id"], 2).tolist()
    assert table["rank"].tolist() == [1, 2] * len(target)
    assert table["abstained"].tolist() == [True, True, *[False] * (2 * len(target) - 2)]
    lesions = reference.lesions.set_index("lesion_id").loc[table["reference_lesion_id"]]
    patients = reference.patients.set_index("patient_id").loc[table["reference_patient_id"]]
    np.testing.assert_array_equal(table["lesion.size"], lesions["size"])
    assert table["lesion.site"].tolist() == lesions["site"].tolist()
    np.testing.assert_array_equal(table["patient.age"], patients["age"])
    assert table["patient.smokes"].tolist() == patients["smokes"].tolist()
    shown = reference.images.set_index("image_id").loc[table["reference_image_id"]]
    assert shown["lesion_id"].tolist() == table["reference_lesion_id"].tolist()


def test_values_of_several_neighbours_are_combined_by_weight(reference, bare):
    target, sizes = bare, reference.lesions["size"]
    reference = with_lesions(reference, size=sizes.mask(sizes.index == 0))
    model = make_model(reference)
    index = Index.build(model, embedded(reference))
    found = retrieve(model, index, embedded(target), RetrievalConfig(k=4, temperature=1.0))
    values = retrieved_values(found, index)
    for level, column in (("lesion", "size"), ("lesion", "site"), ("patient", "smokes")):
        cells = reference.tables.of_level(level)[column]
        for i in range(len(target)):
            near = found.levels[level]
            pairs = [
                (float(w), cells[row])
                for w, row in zip(near.weight[i], near.row[i], strict=True)
                if pd.notna(cells[row])
            ]
            got, total = values[level][column][i], sum(w for w, _ in pairs)
            if column == "size":
                assert got == pytest.approx(sum(w * v for w, v in pairs) / total)
            elif column == "site":
                votes = {s: sum(w for w, v in pairs if v == s) for s in ("s", "t")}
                assert got == max(votes, key=lambda s: (votes[s], s == "s"))
            else:
                assert got == (sum(w for w, v in pairs if v) / total >= 0.5)


def adapted(model: Slimp) -> Slimp:
    """As `slimp adapt --rename` leaves it: a name of its own for each column, the earlier known."""

    def moved(feature):
        columns = tuple(f"new_{column}" for column in feature.columns)
        return replace(
            feature, name=f"new {feature.name}", columns=columns, also=(feature.columns,)
        )

    encodings = {
        name: replace(encoding, features=tuple(map(moved, encoding.features)))
        for name, encoding in model.encodings.items()
    }
    renamed = Slimp(model.config, encodings).eval()
    renamed.load_state_dict(model.state_dict())
    return renamed


@pytest.mark.parametrize("route", ["ilp", "ii"])
@pytest.mark.parametrize("hierarchy", ["nested", "flat"])
def test_a_reference_under_the_names_of_an_earlier_stage_gives_the_same(
    reference, whole, route, hierarchy
):
    target = with_features(whole, lesion=None)
    levels = {"nested": ("lesion", "patient"), "flat": ("lesion",)}[hierarchy]
    fitted = reference.flatten() if hierarchy == "flat" else reference
    model = make_model(fitted, levels, hierarchy=hierarchy)
    for some, hide in ((with_features(target), ()), (target, ()), (target, ("lesion",))):
        plain = retrieve_from(model, reference, some, route=route, hide=hide)
        again = retrieve_from(adapted(model), reference, some, route=route, hide=hide)
        assert plain.levels.keys() == again.levels.keys()
        for name, level in plain.levels.items():
            for field in ("row", "image", "similarity", "weight", "embedding"):
                np.testing.assert_array_equal(
                    getattr(level, field), getattr(again.levels[name], field)
                )
        index = Index.build(adapted(model), embedded(reference))
        for name, values in retrieved_values(again, index).items():
            assert values.notna().all(axis=None), name


def test_values_under_earlier_names_are_compared_with_the_target_s_own():
    reference, target = make_cohort("r", 12, 0), make_cohort("t", 6, 1)
    model = make_model(reference)
    columns = {"age": "new_age", "size": "new_size", "site": "new_site"}
    renamed = renaming(target, columns)
    settings = {"impute": "all", "replicates": 20}
    plain = extrapolate(model, embedded(reference), embedded(target), RetrievalConfig(**settings))
    same = {new: old for old, new in columns.items()}
    config = RetrievalConfig(rename=same, **settings)
    again = extrapolate(adapted(model), embedded(reference), embedded(renamed), config)
    for one, two in (
        (plain.agreement, again.agreement),
        (plain.reference_agreement, again.reference_agreement),
    ):
        figures = [{c.column: (c.n, str(c.figures)) for c in found} for found in (one, two)]
        assert figures[0] == figures[1]
        assert figures[0].keys() == {"age", "smokes", "size", "site"}


def test_refusals(reference, bare):
    with pytest.raises(UserError, match="relates images to no metadata"):
        retrieve_from(make_model(reference, levels=()), reference, bare)
    with pytest.raises(UserError, match="k must be positive, got 0"):
        RetrievalConfig(k=0)
    model = make_model(reference)
    with pytest.raises(UserError, match=r"none of its metadata at the level\(s\) lesion, patient"):
        retrieve_from(model, with_features(reference), bare)
    partial = with_features(reference, lesion=("size",), patient=None)
    with pytest.raises(UserError, match=r"no lesion-level column 'site' \(1 of the 2"):
        retrieve_from(model, partial, bare)
