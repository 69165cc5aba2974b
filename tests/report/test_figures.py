"""Figures, the map and example lesions: what is shown is what was given."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from slimp.evaluation.metrics import ece, reliability
from slimp.evaluation.similarity import similarity
from slimp.report import figures
from slimp.report.examples import PER_CLASS, SIDE, draw_examples, thumbnail
from slimp.report.figures import (
    curve_figures,
    draw_rows,
    low_shot_figure,
    map_figure,
    project,
    reliability_figure,
    similarity_figure,
)


def make_log(**columns: list[float]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"kind": "step", "step": range(1, count + 1), **columns})


def make_similarity():
    image, noise = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0))
    return similarity(image, image + noise)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def alt(svg: str) -> str:
    return ElementTree.fromstring(svg).attrib["aria-label"]


def labels_of(count: int, classes: int) -> pd.Series:
    codes = np.arange(count) % (classes + 1)
    return pd.Series([f"class {k}" if k < classes else None for k in codes], dtype="str")


def test_all_colours_are_the_pages_own(found):
    before = dict(mpl.rcParams)
    points = np.random.default_rng(0).normal(size=(80, 2))
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=80)
    figures = [
        *curve_figures(make_log(loss=[3.0, 2.0, 1.0])),
        similarity_figure("lesion", make_similarity()),
        map_figure(points, labels_of(80, 10)),
        reliability_figure(reliability(np.arange(80) % 3, p)),
        low_shot_figure(found.low_shot),
    ]
    for svg in figures:
        assert not re.search(r"#[0-9a-f]{6}", svg)
        assert "var(--" in svg
        assert "font-family" not in svg
        assert "http" not in svg
        assert "<style" not in svg
    assert dict(mpl.rcParams) == before, "matplotlib is left as it was"


def test_text_is_text_and_is_not_parsed_as_mathematics():
    """Also of a script that matplotlib's font lacks."""
    svg = similarity_figure("$\\frac{<b>&黒子", make_similarity())
    assert "$\\frac{<b>&黒子 level" in [text.replace("\u00a0", " ") for text in texts(svg)]


def test_the_map_has_a_mark_per_class_and_grey_beyond_the_eighth():
    points = np.random.default_rng(0).normal(size=(100, 2))
    svg = map_figure(points, labels_of(100, 9))
    named = {f"class {k} (10)" for k in range(9)} | {"no label (10)"}
    assert named <= {text.replace("\u00a0", " ") for text in texts(svg)}
    assert svg.count("<use") == 100 + len(named)
    assert svg.count("var(--series-other)") >= 20
    for k in range(1, 9):
        assert f"var(--series-{k})" in svg


def test_panels_appear_where_their_columns_do():
    assert curve_figures(pd.DataFrame()) == []
    empty = make_log(loss=[2.0, 1.0], learning_rate=[float("nan")] * 2)
    assert len(curve_figures(empty)) == 1
    log = make_log(loss=[2.0, 1.0], loss_lesion=[1.0, 0.5], learning_rate=[0.1, 0.2])
    epochs = {"kind": ["epoch"], "step": [2], "validation_loss": [1.5], "recall_at_5": [0.25]}
    log = pd.concat([log, pd.DataFrame(epochs)])
    found = curve_figures(log)
    titles = ("Loss", "Loss per level", "Recall at k, image to metadata", "Learning rate")
    for svg, title in zip(found, titles, strict=True):
        assert title in texts(svg)
    assert "training from 2 to 1; validation from 1.5 to 1.5" in alt(found[0])


def test_curves_of_fractions_start_at_zero_beside_chance():
    epochs = {"kind": ["epoch"] * 2, "step": [2, 4], "recall_at_5": [0.25, 0.30]}
    [svg] = curve_figures(pd.DataFrame(epochs), {"recall_at_5": 0.125})
    assert "from 0.25 to 0.3 (by chance 0.125)" in alt(svg)
    ticks = [float(t) for t in texts(svg) if re.fullmatch(r"0\.\d+", t)]
    assert min(ticks) == 0
    assert max(ticks) < 1


def test_few_images_make_few_bins():
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=40)
    found = reliability(p.argmax(axis=1), p, bins=5)
    assert found["rows"].sum() == 40
    assert set((found["high"] - found["low"]).round(6)) == {0.2}


def test_a_long_log_is_thinned_to_means():
    rng = np.random.default_rng(0)
    [short] = curve_figures(make_log(loss=rng.random(100).tolist()))
    [long] = curve_figures(make_log(loss=rng.random(20_000).tolist()))
    assert len(long) < 3 * len(short)


def test_the_alternative_text_holds_the_figures(found):
    similar = make_similarity()
    assert f"matching {similar.median_matching:.3f}" in alt(similarity_figure("lesion", similar))
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(3), size=80), rng.integers(3, size=80)
    svg = reliability_figure(reliability(y, p))
    assert f"mean gap {ece(y, p, np.ones((1, 80)))[0]:.3f}" in alt(svg)
    scores = [f"{point.balanced_accuracy.mean:.3f}" for point in found.low_shot.points]
    svg = low_shot_figure(found.low_shot)
    assert f"fractions of the patients: from {scores[0]} to {scores[-1]}" in alt(svg)
    assert not [text for text in texts(svg) if "$" in text]


# The map


def test_separate_groups_stay_separate_and_a_seed_repeats():
    rng = np.random.default_rng(0)
    group = np.arange(90) % 3
    x = rng.normal(size=(3, 12))[group] * 5 + rng.normal(size=(90, 12)) * 0.3
    points = project(x.astype(np.float32), seed=0)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(axis=1)] == group).mean() > 0.95
    np.testing.assert_array_equal(project(x.astype(np.float32), seed=0), points)


@pytest.mark.parametrize("shape", [(10, 1), (10, 2), (12, 70)])
def test_narrow_wide_and_collapsed_embeddings(shape):
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    for embedding in (x, np.ones_like(x)):
        points = project(embedding, seed=0)
        assert points.shape == (shape[0], 2)
        assert np.isfinite(points).all()


def test_rows_are_drawn_once_and_in_order(monkeypatch):
    monkeypatch.setattr(figures, "MOST_ROWS", 10)
    np.testing.assert_array_equal(draw_rows(10, seed=0), np.arange(10))
    rows = draw_rows(100, seed=0)
    assert len(np.unique(rows)) == 10
    np.testing.assert_array_equal(rows, np.sort(rows))
    assert not np.array_equal(rows, draw_rows(100, seed=1))


# Example lesions


def test_examples_are_of_the_first_seed_and_of_different_patients(cohort, found):
    drawn = draw_examples(found.main, cohort, seed=0)
    table = found.main.predictions.query("seed == 0").set_index("image_id")
    assert list(drawn) == list(cohort.classes)
    ids = [e["image_id"] for groups in drawn.values() for group in groups.values() for e in group]
    assert table.loc[ids, "patient_id"].is_unique
    for label, groups in drawn.items():
        for heading, examples in groups.items():
            assert len(examples) <= PER_CLASS
            for e in examples:
                row = table.loc[e["image_id"]]
                assert row["label"] == label
                assert row["predicted"] == e["predicted"]
                assert (e["predicted"] == label) == (heading == "Found")
                assert e["probability"] == row[f"p_{e['predicted']}"]
    turned = replace(found.main, predictions=found.main.predictions.iloc[::-1])
    assert draw_examples(turned, cohort, seed=0) == drawn, "not by the order of rows"
    assert draw_examples(found.main, cohort, seed=1) != drawn


@pytest.mark.parametrize(
    ("mode", "size", "kind"),
    [
        ("RGB", (200, 90), "PNG"),
        ("L", (30, 300), "PNG"),
        ("RGBA", (50, 50), "PNG"),
        ("P", (50, 50), "GIF"),
    ],
)
def test_a_thumbnail_is_a_small_square_without_metadata(mode, size, kind):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    uri = thumbnail(file.getvalue())
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        assert (image.size, image.mode, image.format) == ((SIDE, SIDE), "RGB", "JPEG")
        assert not image.getexif()
