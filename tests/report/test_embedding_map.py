"""The map: neighbours stay neighbours, seeds repeat, awkward input passes."""

from __future__ import annotations

import numpy as np
import pytest

from slimp.report import embedding_map
from slimp.report.embedding_map import draw_rows, project


def test_separate_groups_stay_separate():
    rng = np.random.default_rng(0)
    group = np.arange(90) % 3
    x = rng.normal(size=(3, 12))[group] * 5 + rng.normal(size=(90, 12)) * 0.3
    points = project(x.astype(np.float32), seed=0)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(axis=1)] == group).mean() > 0.95


def test_a_seed_repeats():
    x = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    np.testing.assert_array_equal(project(x, seed=3), project(x, seed=3))


@pytest.mark.parametrize("shape", [(10, 1), (10, 2), (12, 70), (10, 60)])
def test_narrow_and_wide_embeddings(shape):
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    points = project(x, seed=0)
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()


def test_a_collapsed_embedding_is_no_crash():
    assert np.isfinite(project(np.ones((20, 5), np.float32), seed=0)).all()


def test_rows_are_drawn_once_and_in_order(monkeypatch):
    monkeypatch.setattr(embedding_map, "MOST_ROWS", 10)
    np.testing.assert_array_equal(draw_rows(10, seed=0), np.arange(10))
    rows = draw_rows(100, seed=0)
    assert len(np.unique(rows)) == 10
    np.testing.assert_array_equal(rows, np.sort(rows))
    assert not np.array_equal(rows, draw_rows(100, seed=1))
