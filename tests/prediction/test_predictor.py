"""Predictions on files equal the probe's own on the cohort; what is far or unfit is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from probes import make_probe, write_run
from raw_data import dicom
from tables import metadata_of

from slimp.data.cohort import Cohort
from slimp.errors import CheckpointError, TableError, UserError
from slimp.evaluation.logistic import LinearProbe
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig
from slimp.features.feature_table import FeatureTable
from slimp.models.nested import Slimp
from slimp.prediction.bundle import write_bundle
from slimp.prediction.config import PredictConfig
from slimp.prediction.novelty import Surroundings
from slimp.prediction.output import cautions, to_dict, to_frame
from slimp.prediction.predictor import Predictor
from slimp.prediction.result import Prediction
from slimp.sources import RawFiles, import_source
from slimp.sources.config import ImportOptions


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, a model of random weights, probes on it, and the cohort's images as files."""
    root = tmp_path_factory.mktemp("predict")
    table = write_run(root, patients=120)
    cohort = Cohort.load(root / "cohort")
    for features in ("image", "full", "relative"):
        make_probe(root / features, table, root, features)
    (root / "images" / "b").mkdir(parents=True)
    for row, name in enumerate(cohort.images["image_id"]):
        folder = root / "images" / ("b" if row % 2 else "")
        (folder / f"{name}.jpg").write_bytes(cohort.read_image(row))
    metadata_of(cohort).to_csv(root / "metadata.csv", index=False)
    return root


@pytest.fixture
def copied(places: Path, tmp_path: Path) -> Path:
    """A probe that a test may spoil."""
    shutil.copytree(places / "image", tmp_path / "probe")
    return tmp_path / "probe"


def images(places: Path) -> list[Path]:
    """In the cohort's order."""
    found = {path.stem: path for path in (places / "images").rglob("*.jpg")}
    return [found[name] for name in Cohort.load(places / "cohort").images["image_id"]]


def picture(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def noise(path: Path, *, size: tuple[int, int]) -> Path:
    return picture(path, np.random.default_rng(0).integers(0, 256, size=(*size, 3)))


def pattern(path: Path, seed: int = 0) -> Path:
    """Patches of random colours, each of 8 px."""
    colours = np.random.default_rng(seed).integers(0, 256, size=(8, 8, 3))
    return picture(path, colours.repeat(8, axis=0).repeat(8, axis=1))


def probabilities(found: list[Prediction]) -> np.ndarray:
    return np.array([list(prediction.probabilities.values()) for prediction in found])


@pytest.mark.parametrize("features", ["image", "full"])
def test_images_of_the_cohort_get_the_probes_own_probabilities(places: Path, features) -> None:
    predictor = Predictor.load(places / features, PredictConfig(novelty=0.0, batch_size=50))
    metadata = places / "metadata.csv" if features == "full" else None
    found = predictor.predict(images(places), metadata)
    design = FeatureTable.load(places / "features.parquet").design(features)
    saved = LinearProbe.load(places / features)
    wanted = saved.predict_proba(design)
    np.testing.assert_allclose(probabilities(found), wanted, atol=1e-5)
    decided = saved.decide(wanted)
    assert [p.decision for p in found] == [saved.classes[c] for c in decided]
    assert all(p.decision in p.conformal_set for p in found)


@pytest.mark.slow
def test_lesions_of_a_patient_are_compared_with_each_other_where_a_table_says_so(
    places: Path,
) -> None:
    predictor = Predictor.load(places / "relative", PredictConfig(novelty=0.0, batch_size=7))
    saved, paths = LinearProbe.load(places / "relative"), images(places)
    table = FeatureTable.load(places / "features.parquet")
    metadata = pd.read_csv(places / "metadata.csv", dtype="str")
    owned = metadata.assign(
        patient=table.ids["patient_id"].to_numpy(), lesion=table.ids["lesion_id"].to_numpy()
    )
    for order in (np.arange(len(paths)), np.random.default_rng(0).permutation(len(paths))):
        found = predictor.predict([paths[i] for i in order], owned.iloc[order[::-1]])
        expected = saved.predict_proba(table.design("relative")[order])
        np.testing.assert_allclose(probabilities(found), expected, atol=1e-4)
    lesions = table.ids.groupby("patient_id")["lesion_id"].transform("nunique")
    assert [p.compared_with for p in found] == (lesions - 1).iloc[order].tolist()
    apart = dataclasses.replace(table, ids=table.ids.assign(patient_id=table.ids["image_id"]))
    neutral = saved.predict_proba(apart.with_context(table.context).design("relative"))
    for some in (predictor.predict(paths, metadata), predictor.predict(paths[:1], owned)):
        np.testing.assert_allclose(probabilities(some), neutral[: len(some)], atol=1e-4)
        assert {p.compared_with for p in some} == {0}


def test_images_are_embedded_as_the_probes_were(places: Path, tmp_path: Path) -> None:
    model, cohort = Slimp.from_pretrained(places / "run"), Cohort.load(places / "cohort")
    table = embed(model, cohort, InferenceConfig(test_time_augmentation="dihedral"))
    make_probe(tmp_path / "image", table, places, "image")
    some = images(places)[:9]
    found = Predictor.load(tmp_path / "image", PredictConfig(novelty=0.0)).predict(some)
    wanted = LinearProbe.load(tmp_path / "image").predict_proba(table.design("image")[np.arange(9)])
    np.testing.assert_allclose(probabilities(found), wanted, atol=1e-5)


def test_a_batch_equals_one_by_one_in_any_order_and_comes_when_it_is_read(places: Path) -> None:
    some = images(places)[:7]
    predictor = Predictor.load(places / "full", PredictConfig(batch_size=3, novelty=0.0))
    table = places / "metadata.csv"
    together = predictor.predict(some, table)
    backwards = predictor.predict(some[::-1], table)[::-1]
    alone = [predictor.predict([path], table)[0] for path in some]
    assert [p.image for p in together] == list(map(str, some))
    for other in (backwards, alone):
        np.testing.assert_allclose(probabilities(other), probabilities(together), atol=1e-6)
        assert [p.nearest[0].image_id for p in other] == [p.nearest[0].image_id for p in together]
        assert [p.conformal_set for p in other] == [p.conformal_set for p in together]
    paths = [*some[:3], places / "vanishes.jpg"]
    shutil.copy(paths[0], paths[3])
    stream = Predictor.load(places / "image", predictor.config).stream(paths, None)
    next(stream)
    paths[3].unlink()  # the second batch has not been read yet
    assert [p.status for p in stream][-1] == "unreadable"


def test_a_training_image_is_its_own_nearest_case(places: Path) -> None:
    predictor = Predictor.load(places / "image", PredictConfig(cases=2, novelty=0.0))
    reference = predictor.reference.ids
    path = next(p for p in images(places) if p.stem in set(reference["image_id"]))
    (first, second) = predictor.predict([path])[0].nearest
    row = reference[reference["image_id"] == path.stem].iloc[0]
    assert (first.image_id, first.patient_id, first.label) == (
        path.stem,
        row["patient_id"],
        row["label"],
    )
    assert first.similarity == pytest.approx(1.0, abs=1e-4)
    assert second.similarity < 1


def test_patterns_are_refused_and_unseen_lesions_are_not(places: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(places / "image")
    strange = predictor.predict([pattern(tmp_path / f"{i}.png", i) for i in range(5)])
    assert {p.status for p in strange} == {"refused"}
    assert all(p.reason.startswith("out of distribution") for p in strange)
    assert not any(p.probabilities or p.conformal_set or p.decision for p in strange)
    seen = set(predictor.reference.ids["image_id"])
    found = predictor.predict([path for path in images(places) if path.stem not in seen])
    assert np.mean([p.status == "refused" for p in found]) < 0.1


def test_novelty_0_refuses_only_what_is_no_picture(places: Path, tmp_path: Path) -> None:
    sizes = [(32, 32), (40, 70), (300, 500)]
    files = [noise(tmp_path / f"{w}.png", size=(h, w)) for h, w in sizes]
    files += [picture(tmp_path / "flat.png", np.full((40, 40, 3), 90)), tmp_path / "broken.jpg"]
    files[-1].write_bytes(b"no image")
    files += [pattern(tmp_path / "p.png"), images(places)[0]]
    found = Predictor.load(places / "image", PredictConfig(novelty=0.0)).predict(files)
    assert [p.status for p in found] == [*["refused"] * 4, "unreadable", *["predicted"] * 2]
    assert all(p.reason.startswith("the picture is noise") for p in found[:3])
    assert found[3].reason == "the picture is of one colour throughout"
    assert found[4].reason == "not an image"
    assert not any(p.probabilities for p in found[:5])


@pytest.mark.parametrize("shorter_side", ["320", "0"])
def test_what_was_imported_finds_itself(
    places: Path, tmp_path: Path, real_data: Path, shorter_side: str
) -> None:
    """Turned, transparent, 16-bit and DICOM images: import and prediction decode alike."""
    pytest.importorskip("pydicom", reason="needs the extra 'dicom'")
    raw = tmp_path / "raw"
    shutil.copytree(real_data / "cases" / "predict-as-import" / "raw", raw)
    table = pd.read_csv(raw / "metadata.csv")
    for row, path in enumerate(sorted((raw / "images").glob("plain*"))[:6]):
        pixels = np.asarray(Image.open(path).convert("RGB"))[::-1, :, ::-1]
        (raw / "images" / f"d{row}.dcm").write_bytes(dicom(pixels, "RGB"))
    more = table.head(6).assign(file=[f"d{row}.dcm" for row in range(6)])
    pd.concat([table, more]).to_csv(raw / "metadata.csv", index=False)
    cohort = import_source(
        "csv",
        raw,
        tmp_path / "cohort",
        files=RawFiles.from_toml(real_data / "cases" / "predict-as-import" / "schema.toml"),
        options=ImportOptions(shorter_side=int(shorter_side)),
    )
    predictor = Predictor.load(places / "image", PredictConfig(novelty=0.0, cases=1))
    reference = embed(predictor.model, cohort)
    patients = reference.ids["patient_id"].to_numpy(dtype=str)
    predictor = dataclasses.replace(
        predictor,
        reference=reference,
        surroundings=Surroundings.of(reference.features["image"], patients),
    )
    for found in predictor.predict([raw / "images"]):
        (nearest,) = found.nearest
        assert nearest.similarity >= 0.99, found.image
        assert nearest.image_id == Path(found.image).stem


def test_cautions_name_what_weakens_all_results(places: Path) -> None:
    predictor = Predictor.load(places / "image", PredictConfig(novelty=1e-4))
    assert not predictor.can_refuse
    assert ["--novelty 0.0001" in caution for caution in predictor.cautions()] == [True]
    leaking = {**predictor.record, "probe": {**predictor.record["probe"], "split": "image"}}
    assert "--split image" in dataclasses.replace(predictor, record=leaking).cautions()[0]


def test_lesions_that_stood_for_patients_are_called_so_of_a_bundle_too(places, copied) -> None:
    metrics = json.loads((copied / "metrics.json").read_text())
    content = {**metrics, "resampling": {"unit": "lesions", "n_test": 9}}
    (copied / "metrics.json").write_text(json.dumps(content))
    write_bundle(places / "run", copied.parent / "mine.slimp", probe=copied)
    assert not Predictor.load(places / "image").cautions()
    for place in (copied, copied.parent / "mine.slimp"):
        assert "no patient ids" in Predictor.load(place).cautions()[0]


def test_a_probe_that_learned_to_do_without_metadata_needs_none(
    places: Path, tmp_path: Path
) -> None:
    some = images(places)[:3]
    shutil.copytree(places / "full", tmp_path / "full")
    probe = dataclasses.replace(LinearProbe.load(tmp_path / "full"), blanked_copies=1)
    probe.save(tmp_path / "full")
    predictor = Predictor.load(tmp_path / "full", PredictConfig(novelty=0.0))
    found = predictor.predict(some)
    empty = predictor.predict(some, pd.DataFrame({"image": [path.stem for path in some]}))
    np.testing.assert_allclose(probabilities(found), probabilities(empty))
    for ours, theirs in zip(found, empty, strict=True):
        assert ours.metadata_known == theirs.metadata_known == 0
        assert ours.conformal_set == theirs.conformal_set == ()
        assert "no metadata" in ours.reason
        assert ours.metadata_features == theirs.metadata_features
    written = to_dict(predictor, found)
    assert written["conformal"] is None
    assert "3 image(s)" in written["cautions"][-1]
    known = predictor.predict(some, places / "metadata.csv")
    assert all(one.conformal_set and not one.reason for one in known)
    assert to_dict(predictor, [*found, *known])["conformal"]["verified"]
    assert cautions(predictor, known) == predictor.cautions()


def test_a_probe_of_imputed_metadata_gives_no_set_and_a_remedy_that_exists(places: Path) -> None:
    some = images(places)[:3]
    predictor = Predictor.load(places / "full", PredictConfig(novelty=0.0))
    reference = dataclasses.replace(predictor.reference, imputed=("lesion", "patient"))
    imputed = dataclasses.replace(predictor, reference=reference)
    with pytest.raises(UserError, match="--blanked-copies 1"):
        predictor.predict(some)
    with pytest.raises(UserError, match=r"imputed by retrieval, lesion, patient.*slimp retrieve"):
        imputed.predict(some)
    found = imputed.predict(some, places / "metadata.csv")
    known = predictor.predict(some, places / "metadata.csv")
    np.testing.assert_array_equal(probabilities(found), probabilities(known))
    for ours, theirs in zip(found, known, strict=True):
        assert theirs.conformal_set
        assert ours.conformal_set == ()
        assert "of imputed metadata" in ours.reason
    assert to_dict(imputed, found)["conformal"] is None


def test_an_image_without_a_row_is_refused_and_the_others_are_not(places: Path) -> None:
    some, table = images(places)[:3], pd.read_csv(places / "metadata.csv", dtype=str)
    table = table[table["image"] != some[1].stem]
    predictor = Predictor.load(places / "full", PredictConfig(novelty=0.0))
    found = predictor.predict(some, table)
    assert [p.status for p in found] == ["predicted", "refused", "predicted"]
    assert "no row for it" in found[1].reason
    with pytest.raises(UserError, match="no row of the metadata table is about any"):
        predictor.predict([some[1]], table)


def test_missing_columns_and_cells_and_unknown_categories_are_missing(places: Path) -> None:
    path, table = images(places)[0], pd.read_csv(places / "metadata.csv", dtype=str)
    predictor = Predictor.load(places / "full", PredictConfig(novelty=0.0))
    columns = [c for c in table if c != "image"]
    column = next(f for f in predictor.schema.features if f.kind == "categorical").columns[0]
    tables = (
        *(table, table.assign(**dict.fromkeys(columns, "")), table[["image"]].assign(site="")),
        *(table.assign(**{column: "martian"}), table.assign(**{column: ""})),
    )
    full, emptied, without, strange, empty = (predictor.predict([path], t)[0] for t in tables)
    np.testing.assert_allclose(probabilities([emptied]), probabilities([without]))
    assert np.abs(probabilities([full]) - probabilities([emptied])).max() > 1e-4
    assert emptied.metadata_known == 0 < full.metadata_known <= full.metadata_features
    assert (strange.unseen, empty.unseen) == ({column: "martian"}, {})
    assert strange.metadata_known == empty.metadata_known
    np.testing.assert_allclose(probabilities([strange]), probabilities([empty]))


def test_every_output_says_which_cells_count_as_missing(places: Path) -> None:
    paths, table = images(places), pd.read_csv(places / "metadata.csv", dtype=str)
    predictor = Predictor.load(places / "full", PredictConfig(novelty=0.0))
    column = next(f for f in predictor.schema.features if f.kind == "categorical").columns[0]
    metadata = predictor.metadata(table.assign(**{column: "martian"}), paths)
    found = list(predictor.stream(paths, metadata))
    (caution,) = to_dict(predictor, found, metadata)["cautions"][len(predictor.cautions()) :]
    assert f"'{column}': {len(paths)} of {len(paths)} cell(s)" in caution
    assert set(to_frame(predictor, found)["unseen"]) == {f"{column}: martian"}


def test_columns_that_the_probes_cohort_has_not_or_at_another_level_stay_missing(
    places: Path, tmp_path: Path
) -> None:
    """As of an adapted run, which reads columns of several cohorts."""
    whole = Cohort.load(places / "cohort")
    lesion, patient = whole.schema.level("lesion"), whole.schema.level("patient")
    gone, moved, *rest = lesion.features
    (moves,) = moved.columns
    levels = {"lesion": rest, "patient": [*patient.features, moved]}
    cells = whole.lesions.groupby("patient_id")[moves].first()
    found = [
        dataclasses.replace(x, features=tuple(levels.get(x.name, x.features)))
        for x in whole.schema.levels
    ]
    tables = dataclasses.replace(
        whole.tables,
        lesions=whole.lesions.drop(columns=[*gone.columns, moves]),
        patients=whole.patients.assign(**{moves: whole.patients["patient_id"].map(cells)}),
    )
    schema = dataclasses.replace(whole.schema, levels=tuple(found))
    cohort = dataclasses.replace(whole, schema=schema, tables=tables)
    table = embed(Slimp.from_pretrained(places / "run"), cohort, lacking="missing")
    for name, block in table.encoder(table.raw).items():
        np.testing.assert_allclose(block, table.features[name], atol=1e-5)
    make_probe(tmp_path / "full", table, places, "full")
    rewrite(tmp_path / "full", schema=cohort.schema.to_dict())
    predictor = Predictor.load(tmp_path / "full", PredictConfig(novelty=0.0))
    rows = metadata_of(cohort).assign(**metadata_of(whole)[[*gone.columns]])
    found = predictor.predict(images(places), rows)
    wanted = LinearProbe.load(tmp_path / "full").predict_proba(table.design("full"))
    np.testing.assert_allclose(probabilities(found), wanted, atol=1e-5)
    assert predictor.metadata(rows, images(places)).unread == gone.columns


def test_a_cell_that_is_no_number_is_refused_with_its_place(places: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(places / "full")
    table = pd.read_csv(places / "metadata.csv", dtype=str)
    column = next(f for f in predictor.schema.features if f.kind == "continuous").columns[0]
    table.loc[2, column] = "about 3"
    table.to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(TableError, match=rf"m.csv, row 4 .*'{column}': 'about 3' is not a number"):
        predictor.predict(images(places)[:1], tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "not the folder of a probe"),
        (lambda p: rewrite(p, probe={"method": "knn"}), "knn"),
        (lambda p: (p / "reference.parquet").unlink(), r"reference.parquet.*Make the probe again"),
        (lambda p: shutil.copy(p.parent / "other.json", p / "probe.json"), "belong together"),
        (lambda p: relabel(p / "predictions.parquet"), "not of this probe"),
    ],
)
def test_what_is_no_whole_linear_probe_is_refused(places, copied, spoil, message) -> None:
    shutil.copy(places / "full" / "probe.json", copied.parent / "other.json")
    spoil(copied)
    with pytest.raises(CheckpointError, match=message):
        Predictor.load(copied)


def rewrite(folder: Path, **changes) -> None:
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**record, **changes}))


def relabel(path: Path) -> None:
    pd.read_parquet(path).assign(label="other").to_parquet(path)


def test_a_run_that_moved_must_be_named_and_be_the_same(places: Path, copied: Path) -> None:
    rewrite(copied, run="gone")
    with pytest.raises(CheckpointError, match=r"'gone', which is not there. If it moved"):
        Predictor.load(copied)
    assert Predictor.load(copied, run=places / "run").predict(images(places)[:1])
    other = copied.parent / "other"
    model = Slimp.from_pretrained(places / "run")
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(other)
    with pytest.raises(CheckpointError, match="other weights than those"):
        Predictor.load(copied, run=other)


def test_sets_are_calibrated_on_the_first_seed_alone(places: Path) -> None:
    table = pd.read_parquet(places / "image" / "predictions.parquet")
    first = table[table["seed"] == table["seed"].iloc[0]]
    assert len(first) < len(table)
    predictor = Predictor.load(places / "image", PredictConfig(coverage=0.8))
    assert predictor.conformal.n == len(first) == predictor.verified.n
    assert predictor.verified.nominal == 0.8
