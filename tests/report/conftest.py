"""A cohort and an assessment of it, for all pages."""

from __future__ import annotations

import pytest
from pages import assessed

from slimp.data.cohort import Cohort
from slimp.evaluation.probe_config import ProtocolConfig
from slimp.evaluation.protocol import Assessment
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize


@pytest.fixture(scope="session")
def cohort() -> Cohort:
    return synthesize(SyntheticConfig(patients=60, lesions=2, image_size=16))


@pytest.fixture(scope="session")
def found(cohort: Cohort) -> Assessment:
    protocols = ProtocolConfig(fractions=(0.5,), draws=2, leakage=True, subgroups=("sex",))
    return assessed(cohort, protocols)
