"""The generative cohort: reproducible in every part, with the dependences that it is made for."""

from __future__ import annotations

import io
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from tables import assert_same

from slimp.data.cohort import Cohort, CohortInfo
from slimp.errors import UserError
from slimp.sources.synthetic.cohort import (
    SyntheticConfig,
    synthesize,
    synthetic_mask,
    synthetic_schema,
    write_synthetic,
)
from slimp.sources.synthetic.people import (
    CANCERS,
    DIAGNOSES,
    draw_lesion,
    draw_patient,
)

SMALL = SyntheticConfig(patients=5, lesions=3, images_per_lesion=2, image_size=32, seed=4)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """Large enough for statistics, with small photographs."""
    return synthesize(SyntheticConfig(patients=120, lesions=5, image_size=32, seed=1))


def pixels_of(cohort: Cohort, row: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(cohort.read_image(row))), dtype=float)


def test_more_patients_start_with_the_same_ones():
    small, large = synthesize(SMALL), synthesize(replace(SMALL, patients=8))
    assert len(large) > len(small)
    assert_same(small, large.select_patients(small.patients["patient_id"]))


def test_streaming_to_disk_equals_the_cohort_in_memory(tmp_path):
    calls = []
    write_synthetic(tmp_path / "cohort", SMALL, lambda done, total: calls.append((done, total)))
    assert calls == [(k, SMALL.patients) for k in range(1, SMALL.patients + 1)]
    loaded, made = Cohort.load(tmp_path / "cohort"), synthesize(SMALL)
    assert_same(loaded, made)
    assert loaded.schema == made.schema
    assert made.images.groupby("lesion_id").size().max() == SMALL.images_per_lesion
    assert SyntheticConfig.of(loaded.info) == SMALL


def test_lesions_per_patient_are_ragged_around_the_mean(cohort):
    counts = cohort.lesions.groupby("patient_id").size()
    assert counts.min() == 1
    assert counts.max() > 9
    assert abs(counts.mean() - 5) < 0.8
    alone = synthesize(SyntheticConfig(patients=4, lesions=1, image_size=32))
    assert len(alone.lesions) == 4


def test_the_mask_is_where_the_lesion_is(cohort):
    config = SyntheticConfig.of(cohort.info)
    contrast, drift = [], []
    for row in range(0, 200, 2):
        mask = synthetic_mask(config, cohort.images["image_id"].iloc[row])
        pixels = pixels_of(cohort, row)
        assert 0.02 < mask.mean() < 0.7
        ring, halves = ~mask, np.arange(32) < 16
        contrast.append(np.abs(pixels[mask].mean(0) - pixels[ring].mean(0)).max())
        sides = [pixels[ring & side].mean(0) for side in (halves, ~halves)]
        drift.append(np.abs(sides[0] - sides[1]).max())
    assert np.median(contrast) > 2.5 * np.median(drift)
    assert np.mean(np.array(contrast) > 10) > 0.9


def test_image_size_changes_the_resolution_and_not_the_scene():
    small, large = (synthesize(replace(SMALL, patients=2, image_size=s)) for s in (32, 128))
    pd.testing.assert_frame_equal(small.images, large.images)
    for row, image_id in enumerate(small.images["image_id"]):
        masks = [synthetic_mask(replace(SMALL, image_size=s), image_id) for s in (32, 128)]
        shrunk = masks[1].reshape(32, 4, 32, 4).mean(axis=(1, 3)) > 0.5
        assert (shrunk & masks[0]).sum() / (shrunk | masks[0]).sum() > 0.9
        shrunk = pixels_of(large, row).reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - pixels_of(small, row)).mean() < 8


def test_cohorts_of_other_seeds_share_no_patient():
    other = replace(SMALL, seed=SMALL.seed + 1)
    cohort = synthesize(other)
    assert not set(cohort.patients["patient_id"]) & set(synthesize(SMALL).patients["patient_id"])
    assert synthetic_mask(other, cohort.images["image_id"].iloc[0]).any()


@pytest.mark.parametrize(
    "image_id",
    [
        *("S4P000006-L01-1", "S4P000000-L01-1", "S4P000001-L99-1", "S4P000001-L01-9", "P1"),
        *("S4P000001-L00-1", "S4P000001-L01-01", "S1P000001-L01-1"),
    ],
)
def test_a_mask_of_an_unknown_image_is_refused(image_id):
    with pytest.raises(UserError, match=f"no image '{image_id}'"):
        synthetic_mask(SMALL, image_id)


def test_metadata_carry_the_diagnosis_and_the_phenotype(cohort):
    table = cohort.images.merge(cohort.lesions, on=["lesion_id", "patient_id"])
    table = table.merge(cohort.patients, on="patient_id")
    of = dict(iter(table.groupby("label")))
    assert set(of) == set(DIAGNOSES)
    assert of["actinic"]["age"].mean() > of["nevus"]["age"].mean() + 5
    assert of["melanoma"]["changed"].mean() > of["nevus"]["changed"].mean() + 0.1
    assert of["nevus"]["duration_months"].median() > of["melanoma"]["duration_months"].median()
    dark = table["colour"].isin(["dark", "mixed"])
    assert dark[table["label"] == "melanoma"].mean() > dark[table["label"] == "nevus"].mean() + 0.2


def test_a_melanoma_stands_out_from_its_own_patients_nevi_and_less_so_from_all_nevi():
    config, rng = SyntheticConfig(ambiguity=0.0, spread=0.05), np.random.default_rng(0)
    pigment, signature, melanoma = [], [], []
    for patient in (draw_patient(config, rng) for _ in range(300)):
        for lesion in (draw_lesion(config, rng, patient) for _ in range(4)):
            name = DIAGNOSES[lesion.diagnosis]
            if name in ("nevus", "melanoma"):
                pigment.append(lesion.look.melanin)
                signature.append(patient.skin.mole_melanin)
                melanoma.append(name == "melanoma")
    relative = np.array(pigment) - np.array(signature)
    assert roc_auc_score(melanoma, relative) > 0.95
    assert roc_auc_score(melanoma, pigment) < 0.85


def test_an_ugly_duckling_differs_from_its_patients_nevi_and_from_no_others():
    config = SyntheticConfig(ugly_duckling=1.0, ambiguity=0.0)
    rng = np.random.default_rng(0)
    looks, off, metadata, melanoma = [], [], [], []
    for patient in (draw_patient(config, rng) for _ in range(2000)):
        lesion = draw_lesion(config, rng, patient)
        if (name := DIAGNOSES[lesion.diagnosis]) in ("nevus", "melanoma"):
            look, own, noted = lesion.look, patient.signature, lesion.metadata
            looks.append([look.melanin, look.pattern, look.lattice, look.veil])
            off.append(abs(look.melanin - own.pigment) + abs(look.pattern - own.pattern))
            metadata.append([noted["diameter_mm"] or 0, bool(noted["grew"])])
            melanoma.append(name == "melanoma")
    assert roc_auc_score(melanoma, off) > 0.97
    for column in (*np.array(looks).T, *np.array(metadata).T):  # one by one they are nevi
        assert 0.4 < roc_auc_score(melanoma, column) < 0.6


def test_ugly_ducklings_are_off_and_then_leave_no_trace():
    cohort = synthesize(SyntheticConfig(patients=2, lesions=2))
    assert "ugly_duckling" not in cohort.info.import_report["config"]
    ducklings = synthesize(SyntheticConfig(patients=2, lesions=2, ugly_duckling=0.5))
    assert SyntheticConfig.of(ducklings.info).ugly_duckling == 0.5


def test_photographs_of_a_patient_share_their_skin(cohort):
    corners = np.array([pixels_of(cohort, i)[:4, :4].mean(axis=(0, 1)) for i in range(len(cohort))])
    table = pd.DataFrame(corners).groupby(cohort.images["patient_id"].to_numpy())
    within = table.var().mean().mean()
    assert within < 0.35 * corners.var(axis=0).mean()


def test_the_questionnaire_is_missing_as_a_whole(cohort):
    always = ["patient_id", "age", "sex", "clinic"]
    asked = cohort.patients.drop(columns=always).isna()
    whole = asked.all(axis=1)
    assert abs(whole.mean() - 0.35) < 0.1
    assert asked[~whole].to_numpy().mean() < 0.06
    assert 0 < cohort.patients[always].isna().to_numpy().mean() < 0.06
    assert 0 < cohort.lesions.isna().to_numpy().mean() < 0.06
    full = synthesize(replace(SMALL, missing_block=0.0, missing_cells=0.0))
    assert not full.patients.isna().to_numpy().any()
    assert not full.lesions.isna().to_numpy().any()


def test_label_noise_changes_labels_and_nothing_else():
    clean, noisy = (
        synthesize(SyntheticConfig(patients=40, image_size=16, label_noise=share))
        for share in (0.0, 0.5)
    )
    pd.testing.assert_frame_equal(clean.lesions, noisy.lesions)
    changed = (clean.images["label"] != noisy.images["label"]).mean()
    assert 0.3 < changed < 0.5  # one redrawn label in five is the true one


def test_the_leaking_column_is_published_and_refused(cohort):
    assert "biopsied" not in [c for level in cohort.schema.levels for c in level.columns]
    cancer = cohort.images["label"].isin(CANCERS)
    assert set(cohort.images.loc[cancer, "biopsied"]) == {"True"}
    assert set(cohort.images.loc[~cancer, "biopsied"]) == {"True", "False"}


def test_nuisance_columns_are_as_many_as_asked_for():
    def columns(n: int) -> set[str]:
        return set(synthetic_schema(SyntheticConfig(nuisance_columns=n)).level("patient").columns)

    assert len(columns(10)) == len(columns(0)) + 10
    assert columns(1) - columns(0) == {"clinic"}
    made = synthesize(replace(SMALL, nuisance_columns=0))
    assert set(made.patients.columns) == columns(0) | {"patient_id"}


def test_a_configuration_is_only_read_from_a_synthetic_cohort(cohort):
    with pytest.raises(UserError, match="cohort 'ham' is not synthetic"):
        SyntheticConfig.of(CohortInfo(name="ham", source="ham10000"))
    old = replace(cohort.info, import_report={"config": {"patients": 3}})
    with pytest.raises(UserError, match="made by another version"):
        SyntheticConfig.of(old)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("patients", 0), ("lesions", 0), ("images_per_lesion", -1), ("image_size", 8)],
        *[("seed", -1), ("label_noise", 1.5), ("missing_block", -0.1), ("spread", -1.0)],
        *[("missing_cells", float("nan")), ("lighting", float("inf")), ("nuisance_columns", 11)],
        ("ugly_duckling", 2.0),
    ],
)
def test_nonsense_is_refused(name, value):
    with pytest.raises(UserError, match=f"{name} must be .*, got {value}"):
        SyntheticConfig(**{name: value})


def test_the_page_names_every_setting():
    page = Path(__file__).parents[2].joinpath("docs", "synthetic.md").read_text(encoding="utf-8")
    assert [f.name for f in fields(SyntheticConfig) if f"`{f.name}`" not in page] == []
