"""The claim of the paper, where it is known to hold: the synthetic cohort's hierarchy is real."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from slimp.data.cohort import Cohort
from slimp.evaluation.linear_probe import linear_probe
from slimp.features.embed import embed
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize
from slimp.training.config import PretrainConfig
from slimp.training.loop import pretrain

FLAT = {"hierarchy": "flat", "lesion_weight": 1.0, "patient_weight": 0.0}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nested_image_features_beat_flat_ones_by_three_points_over_three_seeds(tmp_path):
    gains = []
    for seed in range(3):
        cohort = synthesize(SyntheticConfig(patients=240, lesions=4, seed=seed))
        nested = image_score(cohort, tmp_path / f"nested{seed}", seed)
        flat = image_score(cohort, tmp_path / f"flat{seed}", seed, **FLAT)
        gains.append(nested - flat)
    assert np.mean(gains) >= 0.03, gains


def image_score(cohort: Cohort, run, seed: int, **changes: object) -> float:
    """Balanced accuracy of image-only features on patients that pre-training never saw."""
    config = PretrainConfig.from_preset(
        "tiny", seed=seed, epochs=30, validation_fraction=0.0, held_out_fraction=0.3, **changes
    )
    model = pretrain(cohort, config, run)
    parts = pd.read_parquet(run / "patients.parquet").set_index("patient_id")["part"]
    column = cohort.images["patient_id"].map(parts).tolist()
    result = linear_probe(embed(model, cohort), features="image", parts=column, replicates=10)
    return result.balanced_accuracy.mean
