"""The probe with metadata missing at test: the grid of rates, and what blanked copies are worth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tables import hinting_features

from slimp.data.cohort import Cohort
from slimp.errors import UserError
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.missing_grid import RATES, MissingGrid, MissingPoint, missing_grid
from slimp.evaluation.paired_bootstrap import Difference
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import make_task
from slimp.features.design import RawTable
from slimp.features.feature_table import FeatureTable
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize

QUICK = ProbeConfig(split="grouped-5", folds=2, strengths=(0.01, 1.0), replicates=20)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return synthesize(SyntheticConfig(patients=60, lesions=3, image_size=16))


@pytest.fixture(scope="module")
def table(cohort: Cohort) -> FeatureTable:
    """Image features that hint at the label, beside the cohort's metadata."""
    return replace(hinting_features(cohort), raw=RawTable.of(cohort))


@pytest.mark.slow
def test_without_blanked_cells_the_grid_is_the_probe_itself(table):
    task = make_task(table.ids, QUICK)
    found = missing_grid(table, task, QUICK, draws=2)
    assert [point.rate for point in found.points] == list(RATES)
    first = found.points[0].difference
    assert first.a == pytest.approx(probe(table, QUICK).balanced_accuracy.mean)
    alone = probe(table, replace(QUICK, features="image")).balanced_accuracy.mean
    assert [point.difference.b for point in found.points] == pytest.approx([alone] * len(RATES))
    again = missing_grid(table, task, QUICK, draws=2)
    assert again == found


def test_no_more_is_said_than_the_intervals_show():
    none = {"a": 0.5, "b": 0.5, "p_value": 1.0, "effect_size": 0.0}

    def said(*ends: tuple[float, float]) -> str:
        found = [Difference(difference=sum(ci95) / 2, ci95=ci95, **none) for ci95 in ends]
        points = (MissingPoint(rate=r, difference=d) for r, d in zip(RATES, found, strict=False))
        return MissingGrid(points=tuple(points), draws=1).sentence

    assert "no share" in said((0.1, 0.3), (-0.3, 0.1))
    assert said((0.1, 0.3), (-0.3, -0.1)).startswith("with 5% of cells missing the probe is below")


def test_features_without_metadata_are_refused(table):
    with pytest.raises(UserError, match="missing_grid"):
        missing_grid(table, make_task(table.ids, QUICK), replace(QUICK, features="image"), draws=1)
    unreadable = replace(table, features={**table.features, "lesion": table.features["image"]})
    with pytest.raises(UserError, match="without its model"):
        missing_grid(unreadable, make_task(table.ids, QUICK), QUICK, draws=1)
    bare, config = replace(unreadable, raw=None), replace(QUICK, features="full", blanked_copies=1)
    with pytest.raises(UserError, match="not imputed ones"):
        probe(bare, config)  # its metadata are embeddings alone, as where all are imputed
    found = probe(replace(bare, features={"image": table.features["image"]}), config).probe
    assert found is not None
    assert found.blanked_copies == 0


def test_the_probe_keeps_how_many_copies_it_learned_from_and_by_default_none(table):
    assert ProbeConfig().blanked_copies == 0
    for copies in (0, 1):
        config = replace(QUICK, split="patient", seeds=1, features="full", blanked_copies=copies)
        found = probe(table, config).probe
        assert found is not None
        assert found.blanked_copies == copies
