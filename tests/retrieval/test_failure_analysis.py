"""Where retrieval fails: groups, fifths of the similarity, and the worst cases."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from slimp.data.cohort import Cohort
from slimp.data.files import ImagesInMemory
from slimp.data.schema import Schema
from slimp.errors import UserError
from slimp.evaluation.groups import group_values
from slimp.retrieval.agreement import Column, Compared
from slimp.retrieval.failure_analysis import Failures


def failures(columns: Any, patients: Any) -> Failures:
    return Failures(compared=columns, patients=np.asarray(patients), replicates=30, seed=0)


def compared(agrees: list[float], level: str = "lesion") -> Compared:
    column = Column(level=level, name="site", kind="categorical")
    cells = pd.Series(["x"] * len(agrees), dtype="str")
    return Compared(
        imputed=column,
        true=column,
        given=cells,
        truth=cells,
        agrees=np.array(agrees, dtype=np.float64),
        known_to_reference=np.ones(len(agrees), dtype=bool),
        typical=np.nan,
    )


def make_cohort() -> Cohort:
    """Four patients with one image each."""
    ids = {"lesion_id": list("klmn"), "patient_id": list("pqrs")}
    images = pd.DataFrame(
        {
            "image_id": list("abcd"),
            **ids,
            "label": ["x", "y", "x", None],
            "modality": ["dermoscopic", "clinical", "clinical", "clinical"],
            "note": list("1234"),
            "same": ["z"] * 4,
        }
    )
    lesions = pd.DataFrame({**ids, "size": [1.0, 2.0, 3.0, 4.0]})
    patients = pd.DataFrame(
        {
            "patient_id": list("pqrs"),
            "skin": pd.Series(["I", "II", None, "I"], dtype="str"),
            "smokes": pd.Series([True, False, True, None], dtype="boolean"),
        }
    )
    schema = Schema.from_dict(
        {
            "image": "image_id",
            "lesion": "lesion_id",
            "patient": "patient_id",
            "lesion_metadata": {"size": {"kind": "continuous"}},
            "patient_metadata": {
                "skin": {"kind": "categorical"},
                "smokes": {"kind": "checkbox"},
            },
        }
    )
    store = ImagesInMemory([b""] * 4)
    return Cohort.from_tables(images, lesions, patients, schema=schema, store=store)


def test_groups_are_the_columns_with_a_few_values_used_or_not():
    found = group_values(make_cohort(), None)
    assert set(found) == {"label", "modality", "note", "skin"}
    assert found["skin"].tolist()[:2] == ["I", "II"]
    assert set(group_values(make_cohort(), ("auto",))) == {"skin"}
    assert set(group_values(make_cohort(), ("size:2.5", "skin"))) == {"size", "skin"}
    with pytest.raises(UserError, match="pet"):
        group_values(make_cohort(), ("pet",))


def test_bands_keep_their_order():
    patients = make_cohort().images["patient_id"]
    rows = failures([], patients).by_group(
        group_values(make_cohort(), ("size:1.5:2.5",)),
        np.zeros(4, np.float32),
        np.zeros(4, dtype=bool),
    )
    values = [row["value"] for row in rows if row["column"] == "size"]
    assert values == [v for v in ("< 1.5", "1.5 to < 2.5", ">= 2.5") if v in values]
    assert len(values) > 1


def test_a_group_has_its_own_images_only():
    cohort = make_cohort()
    columns = [compared([1, 0, 1, np.nan]), compared([0, 0, np.nan, np.nan], "patient")]
    rows = failures(columns, cohort.images["patient_id"]).by_group(
        {"skin": group_values(cohort, ["skin"])["skin"]},
        np.array([0.1, 0.2, 0.3, np.nan], np.float32),
        np.array([True, False, False, False]),
    )
    found = {(row["column"], row["value"]): row for row in rows}
    assert set(found) == {
        *(("(abstained)", "no"), ("(abstained)", "yes")),
        *(("skin", "I"), ("skin", "II")),
    }
    first = found["skin", "I"]
    assert (first["n"], first["n_patients"]) == (2, 2)
    assert first["mean_similarity"] == pytest.approx(0.1)
    assert first["abstained"].mean == pytest.approx(0.5)
    assert first["agreement"].mean == pytest.approx(0.5)  # of the image with a truth


def test_agreement_of_an_image_is_over_what_can_be_compared():
    columns = [compared([1, 0, np.nan]), compared([0, 0, np.nan]), compared([1, 1, 1], "patient")]
    found = failures(columns, list("abc"))
    np.testing.assert_allclose(found.agreement_per_image(), [2 / 3, 1 / 3, 1])
    np.testing.assert_array_equal(found.agreement_per_image("lesion"), [0.5, 0, np.nan])
    assert np.isnan(failures([], list("abc")).agreement_per_image()).all()


def test_fifths_go_from_far_to_near():
    rng = np.random.default_rng(0)
    similarity = rng.random(200).astype(np.float32)
    truth = (rng.random(200) < similarity).astype(float)
    found = failures([compared(truth.tolist())], np.arange(200))
    bins, rho = found.by_similarity({"lesion": similarity})
    assert [part["n"] for part in bins] == [40] * 5
    assert all(a["high"] <= b["low"] for a, b in pairwise(bins))
    assert bins[0]["agreement"].mean < 0.3 < 0.7 < bins[-1]["agreement"].mean
    assert rho["lesion"].ci95[0] > 0
    assert found.by_similarity({"patient": similarity}) == ([], {})


def test_the_worst_cases_are_near_and_wrong_one_per_patient():
    similarity = np.array([0.9, 0.8, 0.1, 0.95, 0.7], np.float32)
    found = failures([compared([0, 0, 0, 1, np.nan])], list("aabcd"))
    cases = found.worst_cases(similarity, np.arange(5))
    assert [case.image for case in cases] == [0, 3]
    assert (cases[0].similarity, cases[0].agreement) == (pytest.approx(0.9), 0)
    far = failures([], np.arange(5)).worst_cases(similarity, np.array([0, 1, 2, -1, 4]))
    assert [case.image for case in far] == [2, 4, 1, 0]
