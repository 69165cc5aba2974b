"""What `slimp pretrain --profile` measures."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from tiny import VIT, tiny_cohort, tiny_config

from slimp.data.batches import PatientBatches
from slimp.errors import UserError
from slimp.training.build_model import build_model
from slimp.training.profile import operations_of, profile

WIDTH, DEPTH, TOKENS = 16, 2, 4
SETTINGS = tiny_config(
    encoder_options={**VIT, "class_token": False, "global_pool": "avg"}, patients=6
)
COHORT = tiny_cohort(patients=24, seed=1)


@pytest.mark.parametrize(("chunk", "own"), [(1000, "backward"), (3, "encoders, with gradient")])
def test_every_second_of_a_step_is_accounted_for(
    chunk: int, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimp.training.profile.matmul_peak", lambda *_: 1e12)
    began = time.perf_counter()
    rows, summary = profile(COHORT, replace(SETTINGS, chunk=chunk), 1)
    parts = {name: float(ms) for name, ms, _ in rows}
    step = parts.pop("step")
    assert parts[own] > 0
    assert step == pytest.approx(sum(parts.values()), abs=0.1 * len(parts))
    assert step < 1e3 * (time.perf_counter() - began)
    assert sum(int(share.rstrip("%")) for _, _, share in rows) == pytest.approx(200, abs=len(rows))
    assert f"chunks of {chunk}" in summary
    assert "of the 1 that matrix products reach" in summary


def test_operations_are_those_of_the_formula() -> None:
    """Of a Transformer: 24 t w^2 for the matrices and 4 t^2 w for the attention of a layer."""
    model = build_model(COHORT, SETTINGS)
    batch = PatientBatches(COHORT, model.encodings, SETTINGS, image_size=16)[0, 0]
    layer = 24 * TOKENS * WIDTH**2 + 4 * TOKENS**2 * WIDTH
    patches = 2 * TOKENS * WIDTH * 3 * 8**2
    images = len(batch.image_rows) * (DEPTH * layer + patches)
    found = operations_of(model, batch)
    assert found > images
    for level in batch.levels:  # without the encoders of metadata
        model.levels.pop(level.name)
    assert operations_of(model, batch) == pytest.approx(images)


def test_what_pre_training_refuses_is_refused() -> None:
    with pytest.raises(UserError, match="always_include"):
        profile(COHORT, replace(SETTINGS, always_include="nothing"), 1)
