"""Figures: the page's colours, text as text, what is drawn is what was given."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch

from slimp.evaluation.bootstrap import Estimate
from slimp.evaluation.calibration import reliability
from slimp.evaluation.low_shot import LowShot, LowShotPoint
from slimp.evaluation.metrics import ece
from slimp.evaluation.similarity import similarity
from slimp.report.figures import (
    curve_figures,
    low_shot_figure,
    map_figure,
    reliability_figure,
    similarity_figure,
)
from slimp.report.svg import MARKERS


def make_log(**columns: list[float]) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"kind": "step", "step": range(1, count + 1), **columns})


def make_similarity():
    image, noise = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0))
    return similarity(image, image + noise)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_all_colours_are_the_pages_own():
    points = np.random.default_rng(0).normal(size=(80, 2))
    codes = np.arange(80) % 11 - 1
    figures = [
        *curve_figures(make_log(loss=[3.0, 2.0, 1.0])),
        similarity_figure("lesion", make_similarity()),
        map_figure(points, codes, [f"class {k}" for k in range(10)]),
    ]
    for svg in figures:
        assert not re.search(r"#[0-9a-f]{6}", svg)
        assert "var(--" in svg
        assert "font-family" not in svg
        assert "http" not in svg
        assert "<style" not in svg


def test_text_is_text_and_is_not_parsed_as_mathematics():
    svg = similarity_figure("$\\frac{<b>&", make_similarity())
    assert "$\\frac{<b>& level" in [text.replace("\u00a0", " ") for text in texts(svg)]


def test_a_script_that_the_font_lacks_draws_without_a_warning():
    assert any("黒子" in text for text in texts(similarity_figure("黒子", make_similarity())))


def test_a_class_beyond_the_eighth_shares_the_grey():
    points = np.random.default_rng(0).normal(size=(90, 2))
    codes = np.arange(90) % 9
    svg = map_figure(points, codes, [f"class {k}" for k in range(9)])
    assert len(MARKERS) == 8
    assert svg.count("<use") == 90
    assert svg.count("var(--series-other)") >= 10


def test_panels_appear_where_their_columns_do():
    assert curve_figures(pd.DataFrame()) == []
    assert len(curve_figures(make_log(loss=[2.0, 1.0]))) == 1
    log = make_log(loss=[2.0, 1.0], loss_lesion=[1.0, 0.5], learning_rate=[0.1, 0.2])
    titles = [texts(svg) for svg in curve_figures(log)]
    for title, wanted in zip(titles, ("Loss", "Loss per level", "Learning rate"), strict=True):
        assert wanted in title


def test_an_empty_column_is_no_panel():
    log = make_log(loss=[2.0, 1.0], learning_rate=[float("nan")] * 2)
    assert len(curve_figures(log)) == 1


def test_the_alternative_text_holds_the_figures():
    found = make_similarity()
    svg = similarity_figure("lesion", found)
    label = ElementTree.fromstring(svg).attrib["aria-label"]
    assert f"matching {found.median_matching:.3f}" in label
    [svg] = curve_figures(make_log(loss=[3.0, 2.0, 1.5]))
    assert "training from 3 to 1.5" in ElementTree.fromstring(svg).attrib["aria-label"]


def test_a_long_log_is_thinned_to_means():
    rng = np.random.default_rng(0)
    [short] = curve_figures(make_log(loss=rng.random(100).tolist()))
    [long] = curve_figures(make_log(loss=rng.random(20_000).tolist()))
    assert len(long) < 3 * len(short)


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    similarity_figure("lesion", make_similarity())
    assert dict(mpl.rcParams) == before


def make_estimate(mean: float) -> Estimate:
    return Estimate(mean=mean, ci95=(mean - 0.05, mean + 0.05), per_seed=(mean,))


def make_low_shot() -> LowShot:
    points = [
        LowShotPoint(
            setting=f"{kind} {value:g}",
            value=value,
            n_images=images,
            n_patients=images / 2,
            balanced_accuracy=make_estimate(score),
            auroc_macro_ovr=score + 0.1,
            spread=0.02,
            unreached={},
            short=(),
        )
        for kind, value, images, score in (
            ("fraction", 0.1, 20.0, 0.4123),
            ("fraction", 1.0, 200.0, 0.6789),
            ("shots", 1.0, 6.0, 0.3456),
        )
    ]
    return LowShot(points=tuple(points), draws=2, rows=pd.DataFrame())


def test_the_reliability_diagram_is_drawn_in_the_pages_colours_and_says_its_gaps():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=80)
    y = rng.integers(3, size=80)
    svg = reliability_figure({"before": reliability(y, p), "after": reliability(y, p**2)})
    assert not re.search(r"#[0-9a-f]{6}", svg)
    label = ElementTree.fromstring(svg).attrib["aria-label"]
    assert f"before: mean gap {ece(y, p, np.ones((1, 80)))[0]:.3f}" in label
    assert {"before", "after"} <= set(texts(svg))


def test_the_low_shot_curve_has_a_line_per_kind():
    svg = low_shot_figure(make_low_shot())
    assert not re.search(r"#[0-9a-f]{6}", svg)
    label = ElementTree.fromstring(svg).attrib["aria-label"]
    assert "fractions of the patients: from 0.412 to 0.679" in label
    assert "images per class: from 0.346 to 0.346" in label
    assert {"10", "100"} <= set(texts(svg))
    assert not [text for text in texts(svg) if "$" in text]
