"""What a probe's features are worth: against loops over tables and patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_cohort

from slimp.data.cohort import Cohort
from slimp.evaluation.linear_probe import probe_design
from slimp.evaluation.logistic import LinearProbe
from slimp.evaluation.metrics import Array
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import make_task
from slimp.explain.probe_features import _donors, falls, permutation_importance
from slimp.explain.targets import LogOdds
from slimp.features.design import Design, RawTable

CONFIG = ProbeConfig(seeds=1, malignant=("melanoma",))


@pytest.fixture(scope="module")
def fitted() -> tuple[Cohort, LinearProbe, Design, Array]:
    """A probe of noise beside a table, in which the class shows in one column alone."""
    cohort = tiny_cohort(patients=40)
    task = make_task(cohort.images, CONFIG)
    age = pd.Series(np.where(task.y == 1, 70.0, 30.0))
    raw = RawTable.of(cohort)
    assert raw is not None
    raw = replace(raw, frame=raw.frame.assign(age=age))
    noise = np.random.default_rng(0).normal(size=(len(cohort), 4))
    design = Design(blocks={"image": noise}, table=raw, levels=("lesion", "patient"))
    probe = probe_design(design, task, CONFIG, name="table").probe
    assert probe is not None
    return cohort, probe, design, task.y


def test_hiding_is_predicting_without_the_column(
    fitted: tuple[Cohort, LinearProbe, Design, Array],
) -> None:
    _, probe, design, y = fitted
    labels = [probe.classes[k] for k in y]
    found = falls(probe, design, labels)
    assert design.table is not None
    hidden = replace(design.table, frame=design.table.frame.assign(age=np.nan))
    both = [np.log(probe.predict_proba(d)) for d in (design, replace(design, table=hidden))]
    whole, without = ((p[np.arange(len(y)), y] - p.mean(axis=1)) for p in both)
    np.testing.assert_allclose(found["age"], whole - without)
    known = design.table.frame["elevated"].notna()
    np.testing.assert_array_equal(found["elevated"].notna(), known)
    assert found["age"].mean() > found["elevated"].abs().mean()
    slope = LogOdds.of(probe, labels).slope
    assert slope.shape == (len(y), 4)


def test_what_tells_the_class_is_worth_all_and_noise_nothing(
    fitted: tuple[Cohort, LinearProbe, Design, Array],
) -> None:
    cohort, probe, design, y = fitted
    patients = cohort.images["patient_id"].to_numpy(dtype=str)
    found = permutation_importance(probe, design, y, patients)
    assert max(found, key=lambda name: found[name].mean) in ("age", "all metadata")
    assert found["age"].ci95[0] > 0
    assert abs(found["image"].mean) < found["age"].mean / 2


def test_patients_move_as_wholes() -> None:
    patients = np.array(list("aabbbcd"))
    rows = _donors(patients, np.random.default_rng(1))
    givers = pd.Series(patients[rows]).groupby(patients).unique()
    assert all(len(of) == 1 for of in givers)
    assert sorted(of[0] for of in givers) == list("abcd")
    for name in "abcd":
        theirs = np.flatnonzero(patients == givers[name][0])
        np.testing.assert_array_equal(
            rows[patients == name], np.resize(theirs, (patients == name).sum())
        )
