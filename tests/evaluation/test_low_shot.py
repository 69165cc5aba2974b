"""Few labels: who is drawn, that draws nest, and what a class out of reach does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from tables import ids_of

from slimp.evaluation.linear_probe import probe
from slimp.evaluation.low_shot import draw_fraction, draw_shots, low_shot
from slimp.evaluation.probe_config import ProbeConfig, ProtocolConfig
from slimp.evaluation.result import make_task
from slimp.features.feature_table import FeatureTable

SEEDS = st.integers(0, 10**6)
QUICK = ProbeConfig(seeds=2, folds=3, strengths=(0.01, 0.1), replicates=40)


def rows_of(seed: int, patients: int = 40, k: int = 4):
    """Class and patient per row; classes of unequal size, a patient may have several."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(patients, size=3 * patients)
    y = np.minimum(rng.geometric(0.45, size=len(groups)) - 1, k - 1)
    return y, np.array([f"p{g}" for g in groups])


def make_table(seed: int = 0, *, rare: int = 4, signal: float = 1.5) -> FeatureTable:
    """Three classes, the last one of few patients, two images each."""
    rng = np.random.default_rng(seed)
    label_of = np.concatenate([np.zeros(40), np.ones(30), np.full(rare, 2)]).astype(int)
    patient = np.arange(len(label_of)).repeat(2)
    y = label_of[patient]
    x = rng.normal(size=(len(y), 8)) + signal * rng.normal(size=(3, 8))[y]
    ids = ids_of(np.array(["a", "b", "c"])[y], patient)
    return FeatureTable(ids=ids, features={"image": x.astype(np.float32)})


def curve(table: FeatureTable, config: ProbeConfig = QUICK, **low):
    task = make_task(table.ids, config)
    whole = probe(table, config)
    return low_shot(table.design("image"), task, ProtocolConfig(**low), whole), task


@settings(max_examples=20)
@given(seed=SEEDS, small=st.floats(0.01, 1), large=st.floats(0.01, 1))
def test_fractions_nest_and_take_whole_patients(seed, small, large):
    y, groups = rows_of(seed)
    small, large = sorted((small, large))
    few, many = (draw_fraction(y, groups, f, seed=[seed, 0]) for f in (small, large))
    assert set(few) <= set(many)
    assert set(few) == set(np.flatnonzero(np.isin(groups, groups[few])))
    assert len(few) > 0
    everyone = draw_fraction(y, groups, 1.0, seed=[seed, 0])
    np.testing.assert_array_equal(everyone, np.arange(len(y)))


@settings(max_examples=20)
@given(seed=SEEDS, small=st.integers(1, 30), large=st.integers(1, 30))
def test_shots_nest_and_no_patient_gives_a_class_twice(seed, small, large):
    y, groups = rows_of(seed)
    small, large = sorted((small, large))
    few, many = (draw_shots(y, groups, k, seed=[seed, 0]) for k in (small, large))
    assert set(few) <= set(many)
    for c in np.unique(y):
        own = groups[few][y[few] == c]
        assert len(own) == len(np.unique(own))
        assert len(own) == min(small, len(np.unique(groups[y == c])))


def test_a_fraction_is_stratified_and_right_on_average():
    """Each class gives its share, rounded up or down, and exactly its share over many draws."""
    y = np.concatenate([np.zeros(100), np.ones(37), np.full(7, 2)]).astype(int)
    groups = np.arange(len(y)).astype(str)
    counts = np.array(
        [
            np.bincount(y[draw_fraction(y, groups, 0.1, seed=[0, d])], minlength=3)
            for d in range(900)
        ]
    )
    assert set(counts[:, 0]) == {10}
    assert set(counts[:, 1]) == {3, 4}
    assert set(counts[:, 2]) == {0, 1}
    assert counts.mean(axis=0) == pytest.approx([10, 3.7, 0.7], abs=0.06)


def test_a_patient_counts_for_the_rarest_of_its_classes():
    """Five patients have both classes, so a fifth of the patients brings one image of the rare."""
    y = np.array([0] * 50 + [1] * 5)
    groups = np.array([f"p{i}" for i in range(50)] + [f"p{i}" for i in range(5)])
    for draw in range(20):
        rows = draw_fraction(y, groups, 0.2, seed=[1, draw])
        assert (y[rows] == 1).sum() == 1
        assert len(np.unique(groups[rows])) == 10


def test_draws_differ_and_repeat_and_ignore_the_order_of_the_rows():
    table = make_table()
    found, _ = curve(table, shots=(3,), fractions=(0.3,), draws=3)
    again, _ = curve(table, shots=(3,), fractions=(0.3,), draws=3)
    pd.testing.assert_frame_equal(found.rows, again.rows)
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = FeatureTable(
        ids=table.ids.iloc[order].reset_index(drop=True),
        features={"image": table.features["image"][order]},
    )
    other, _ = curve(shuffled, shots=(3,), fractions=(0.3,), draws=3)
    keys = ["setting", "seed", "draw"]
    for (_, a), (_, b) in zip(found.rows.groupby(keys), other.rows.groupby(keys), strict=True):
        assert set(a["image_id"]) == set(b["image_id"])
    drawn = found.rows.groupby(keys)["image_id"].apply(frozenset)
    assert drawn.loc["shots 3"].nunique() == 2 * 3


def test_saved_rows_are_training_rows_and_give_the_score_back():
    """From the saved ids alone, with the probe's own fit, seed by seed."""
    table = make_table(signal=0.5)
    found, task = curve(table, shots=(4,), draws=2)
    test = {s.seed: set(table.ids["image_id"].iloc[s.test]) for s in task.splits}
    scores: dict[int, list[float]] = {0: [], 1: []}
    for (seed, _), rows in found.rows.groupby(["seed", "draw"]):
        assert not test[seed] & set(rows["image_id"])
        part = np.where(table.ids["image_id"].isin(rows["image_id"]), "train", None)
        part[table.ids["image_id"].isin(test[seed])] = "test"
        config = ProbeConfig(
            **{"seed": int(seed), "folds": 3, "strengths": QUICK.strengths, "replicates": 1}
        )
        alone = probe(table, config, parts=part).predictions
        scores[int(seed)].append(balanced_accuracy_score(alone["label"], alone["predicted"]))
    each = found.points[0].balanced_accuracy.per_seed
    assert each == pytest.approx([np.mean(scores[0]), np.mean(scores[1])])
    assert found.points[0].spread == pytest.approx(np.mean([np.std(scores[s]) for s in (0, 1)]))
    once, _ = curve(table, shots=(4,), draws=1)
    assert np.isnan(once.points[0].spread)  # of one draw nothing is known


def test_all_patients_are_the_whole_probe_and_more_labels_help():
    table = make_table()
    found, _ = curve(table, fractions=(1.0, 0.1), shots=(1,), draws=3)
    few, everyone, one = found.points
    assert [p.setting for p in found.points] == ["fraction 0.1", "fraction 1", "shots 1"]
    whole = probe(table, QUICK)
    assert everyone.balanced_accuracy == whole.balanced_accuracy
    assert everyone.n_images == whole.n_train
    assert everyone.auroc_macro_ovr == pytest.approx(whole.metrics["auroc_macro_ovr"].mean)
    assert few.balanced_accuracy.mean < everyone.balanced_accuracy.mean
    assert one.n_images == 3
    assert found.rows[found.rows["setting"] == "fraction 1"]["draw"].unique().tolist() == [0]


@pytest.mark.parametrize("method", ["logistic", "knn"])
def test_a_class_out_of_reach_is_said_and_counts_as_missed(method):
    """Features that give every class away: what is drawn is found, what is not is missed."""
    table = make_table(signal=30.0, rare=3)
    config = ProbeConfig(
        **{"seeds": 2, "folds": 3, "strengths": (0.01, 0.1), "replicates": 40, "method": method}
    )
    found, _ = curve(table, config, fractions=(0.1,), shots=(5,), draws=6)
    tenth, five = found.points
    assert 0 < tenth.unreached["c"] <= 1
    assert "fraction 0.1: draws without a class" in tenth.remark
    assert f"c in {100 * tenth.unreached['c']:.0f} %" in tenth.remark
    drawn = found.rows[found.rows["setting"] == "fraction 0.1"].merge(table.ids, on="image_id")
    classes = drawn.groupby(["seed", "draw"])["label"].nunique()
    wanted = classes.groupby("seed").mean() / 3
    assert tenth.balanced_accuracy.per_seed == pytest.approx(wanted.tolist(), abs=0.02)
    assert five.short == ("c",)
    assert "fewer patients than shots, so all of them are used: c" in five.remark


def test_a_single_class_or_patient_is_survived():
    found, _ = curve(make_table(), fractions=(0.001,), draws=4)
    assert found.points[0].n_patients == 1
    assert found.points[0].balanced_accuracy.mean == pytest.approx(1 / 3)
    assert found.points[0].auroc_macro_ovr == pytest.approx(0.5)
