"""Measures beside the probe: matching pairs, whole patients, retrieval; and who may train."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from tiny import tiny_cohort, tiny_config, with_tables

from slimp.errors import UserError
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Predictions, make_task
from slimp.experiments.asked import Asked
from slimp.experiments.levels import below_patients, matching, patients
from slimp.experiments.measures import retrieved
from slimp.experiments.stages import apart, joined
from slimp.features.embed import embed
from slimp.models.nested import Slimp
from slimp.retrieval.index import EmbeddedCohort
from slimp.sources.synthetic.people import CANCERS
from slimp.training.build_model import build_model

PROBE = ProbeConfig(seeds=1, test_fraction=0.4, folds=2, strengths=(0.1,))


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Asked:
    """An untrained model, asked about the patients of one split."""
    torch.manual_seed(0)
    cohort = tiny_cohort(patients=40, lesions=3, seed=5)
    run = tmp_path_factory.mktemp("run")
    build_model(cohort, tiny_config(pooling="attention")).eval().save_pretrained(run)
    return Asked(
        table=embed(Slimp.from_pretrained(run), cohort),
        task=make_task(cohort.images, PROBE),
        config=PROBE,
        cohort=cohort,
        run=run,
        features=("lesion", "patient"),
    )


def test_matching_pairs_are_those_of_a_loop(asked):
    found, model, cohort = matching(asked), Slimp.from_pretrained(asked.run), asked.cohort
    tested = asked.task.ids.iloc[asked.task.splits[0].test]
    assert set(found["patient_id"]) <= set(tested["patient_id"])
    own = found[found["features"] == "lesion"]
    table, level = cohort.lesions.set_index("lesion_id"), model.level("lesion")
    images = dict(zip(asked.task.ids["lesion_id"], asked.table.features["image"], strict=True))
    columns = list(cohort.schema.level("lesion").columns)
    with torch.no_grad():
        for row in own.sample(20, random_state=0).itertuples():
            a, b = row.image_id.split("/")
            rows = model.encodings["lesion"].encode(table.loc[[b]].reset_index())
            m = level.project_metadata(model.encode_rows("lesion", rows))
            query = level.project_below(torch.from_numpy(images[a])[None])
            cosine = float(F.cosine_similarity(query, m))
            assert row.p_matching == pytest.approx((1 + cosine) / 2, abs=1e-5)
            assert (row.label == "matching") == (a == b)
            assert a == b or not table.loc[a, columns].equals(table.loc[b, columns])
    assert not own["image_id"].duplicated().any()
    truth = own["label"] == "matching"
    assert own["median cosine, matching"].iloc[0] == pytest.approx(
        2 * own["p_matching"][truth].median() - 1, abs=1e-6
    )
    said = Predictions.of_rows(own, ("other", "matching"))
    auroc = said.metrics(np.ones((1, len(own))))["auroc_macro_ovr"][0]
    assert auroc == pytest.approx(roc_auc_score(truth, own["p_matching"]))


def test_metadata_that_are_the_same_for_all_match_nothing(asked):
    lesions, columns = asked.cohort.lesions, asked.cohort.schema.level("lesion").columns
    lesions = lesions.assign(**{c: lesions[c].iloc[0] for c in columns})
    cohort = with_tables(asked.cohort, lesions=lesions)
    with pytest.raises(UserError, match="at level lesion"):
        matching(replace(asked, cohort=cohort, features=("lesion",)))


def test_a_patient_is_what_the_model_pools_of_the_lesions(asked):
    model, cohort = Slimp.from_pretrained(asked.run), asked.cohort
    with torch.no_grad():
        found = torch.from_numpy(below_patients(model, cohort, asked.table.features["image"]))
        i = 7
        own = (cohort.images["patient_id"] == cohort.patients["patient_id"][i]).to_numpy()
        below = np.hstack([asked.table.features[name][own] for name in ("image", "lesion")])
        rows = torch.from_numpy(below)
        pool = model.level("patient").pool
        wanted = pool(rows, torch.zeros(len(rows), dtype=torch.long), 1)[0]
    torch.testing.assert_close(found[i], wanted)


def test_a_patient_is_malignant_if_any_lesion_is(asked):
    task = joined(asked.task, CANCERS)
    found = patients(Asked(**{**vars(asked), "task": task}))
    ill = (
        asked.cohort.images["label"].isin(CANCERS).groupby(asked.cohort.images["patient_id"]).any()
    )
    assert (found["label"] == "malignant").tolist() == ill[found["patient_id"]].tolist()
    tested = task.ids.iloc[task.splits[0].test]["patient_id"]
    assert sorted(found["patient_id"]) == sorted(set(tested))


def test_retrieved_metadata_are_those_of_the_reference_alone(asked):
    """Whatever the cohort's own are."""
    other = tiny_cohort(patients=30, lesions=2, seed=8)
    images = embed(Slimp.from_pretrained(asked.run), other).features["image"]
    known = {**vars(asked), "features": ("full",)}
    known["reference"] = EmbeddedCohort(cohort=other, images=images)

    lesions, columns = asked.cohort.lesions, list(asked.cohort.schema.level("lesion").columns)
    mixed = lesions[columns].iloc[::-1].reset_index(drop=True)
    cohort = with_tables(asked.cohort, lesions=lesions.assign(**mixed))
    first = retrieved(Asked(**known), route="ilp")
    pd.testing.assert_frame_equal(
        retrieved(Asked(**{**known, "cohort": cohort}), route="ilp"), first
    )
    assert not retrieved(Asked(**known), route="ilp", shuffled=True).equals(first)
    assert not retrieved(Asked(**known)).equals(first)


def test_what_may_train_beside_the_tests():
    rng = np.random.default_rng(0)
    lesion = rng.integers(40, size=150)
    images = pd.DataFrame(
        {"image_id": np.arange(150), "lesion_id": lesion, "patient_id": lesion // 3}
    )
    tests = rng.random(150) < 0.1
    units = ("image", "lesion", "patient")
    kept = {unit: apart(images, tests, unit, seed=1) for unit in (*units, "as few")}
    for unit in units:
        column = images[f"{unit}_id"]
        assert not set(column[kept[unit]]) & set(column[tests])
        assert set(column[~kept[unit]]) == set(column[tests])
    for finer, coarser in pairwise(units):
        assert (kept[coarser] <= kept[finer]).all()
    assert kept["as few"].sum() == kept["patient"].sum()
    assert not (kept["as few"] & tests).any()
