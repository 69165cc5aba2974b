"""What a leaking split adds: nothing where nothing leaks, and much where the patient is written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from slimp.evaluation.leakage import MODES, leakage
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.probe_config import ProbeConfig, SplitMode
from slimp.evaluation.result import ProbeResult
from slimp.features.embed import FeatureTable


def probes(identity: float, signal: float, *, lesions: int = 2) -> dict[str, ProbeResult]:
    """Features that say who (`identity`) and what (`signal`); a class per patient."""
    rng = np.random.default_rng(0)
    patient = np.arange(60).repeat(2 * lesions)
    y = patient % 3
    x = rng.normal(size=(len(y), 96))
    x += signal * rng.normal(size=(3, 96))[y] + identity * rng.normal(size=(60, 96))[patient]
    ids = pd.DataFrame(
        {
            "image_id": [f"i{i}" for i in range(len(y))],
            "lesion_id": [f"l{i // 2}" for i in range(len(y))],
            "patient_id": [f"p{p}" for p in patient],
            "label": np.array(["a", "b", "c"])[y],
        }
    )
    table = FeatureTable(ids=ids, features={"image": x.astype(np.float32)})
    made: dict[str, ProbeResult] = {}
    for mode in MODES:
        split: SplitMode = mode
        config = ProbeConfig(seeds=2, strengths=(1e-2,), replicates=100, split=split)
        made[mode] = probe(table, config)
    return made


def test_the_excess_is_the_difference_of_the_means_seed_by_seed():
    made = probes(identity=2.0, signal=0.0)
    found = leakage(made)
    for mode in ("lesion", "image"):
        ours, theirs = made[mode].balanced_accuracy, made["patient"].balanced_accuracy
        excess = found.excess[mode]
        assert excess.mean == pytest.approx(ours.mean - theirs.mean)
        each = np.subtract(ours.per_seed, theirs.per_seed)
        assert excess.per_seed == pytest.approx(each.tolist())
        assert excess.ci95[0] > 0.0  # who the patient is says what it has
    content = found.to_dict()
    assert "excess" not in content["patient"]
    assert content["image"]["excess"]["mean"] == pytest.approx(found.excess["image"].mean)


def test_where_nothing_leaks_zero_is_in_the_interval():
    found = leakage(probes(identity=0.0, signal=0.08))
    for excess in found.excess.values():
        assert excess.ci95[0] <= 0 <= excess.ci95[1]
