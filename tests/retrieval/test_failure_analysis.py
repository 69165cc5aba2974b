"""Where retrieval fails: groups, fifths of the similarity, and the worst cases."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

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


def test_a_group_has_its_own_images_only_in_the_order_of_the_bands() -> None:
    columns = [compared([1, 0, 1, np.nan]), compared([0, 0, np.nan, np.nan], "patient")]
    bands = ["< 1.5", ">= 1.5", "none"]
    size = pd.Series(pd.Categorical([">= 1.5", "< 1.5", None, ">= 1.5"], categories=bands))
    near = np.array([0.1, 0.2, 0.3, np.nan], np.float32)
    abstained = np.array([True, False, False, False])
    rows = list(failures(columns, list("pqrs")).by_group({"size": size}, near, abstained))
    assert [(row["column"], row["value"]) for row in rows] == [
        *(("(abstained)", "no"), ("(abstained)", "yes"), ("size", "< 1.5"), ("size", ">= 1.5"))
    ]
    band = rows[-1]
    assert (band["n"], band["n_patients"]) == (2, 2)
    assert band["mean_similarity"] == pytest.approx(0.1)
    assert band["abstained"].mean == pytest.approx(0.5)
    assert band["agreement"].mean == pytest.approx(0.5)  # of the image with a truth


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
    few = failures([compared(truth.tolist())], np.arange(200) % 9)
    bins, rho = few.by_similarity({"lesion": similarity})
    assert np.isnan([bins[0]["agreement"].ci95, rho["lesion"].ci95]).all()
    assert found.by_similarity({"patient": similarity}) == ([], {})


def test_the_worst_cases_are_near_and_wrong_one_per_patient():
    similarity = np.array([0.9, 0.8, 0.1, 0.95, 0.7], np.float32)
    found = failures([compared([0, 0, 0, 1, np.nan])], list("aabcd"))
    cases = found.worst_cases(similarity, np.arange(5))
    assert [case[:2] for case in cases] == [(0, 0), (3, 3)]
    assert cases[0][2] == pytest.approx(0.9)
    far = failures([], np.arange(5)).worst_cases(similarity, np.array([0, 1, 2, -1, 4]))
    assert [image for image, *_ in far] == [2, 4, 1, 0]
