"""The comparison of a lesion with its patient's others: against loops, and what it must not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from slimp.data.schema import Schema
from slimp.errors import UserError
from slimp.evaluation.probe_config import FullFinetuneConfig, ProbeConfig
from slimp.evaluation.protocol import _feature_sets
from slimp.features.design import RawTable
from slimp.features.feature_table import FeatureTable
from slimp.features.relative import OUTLIER, PRIOR, PatientContext, from_others

BLOCKS = ("relative", "outlier")


def make_table(patients: int = 12, seed: int = 0) -> FeatureTable:
    """Patient p has p % 5 + 1 lesions, every third lesion two images."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"P{p}", f"L{k}", f"P{p}-L{k}-{i}")
        for p in range(patients)
        for k in range(p % 5 + 1)
        for i in range(1 + (k % 3 == 2))
    ]
    ids = pd.DataFrame(rows, columns=["patient_id", "lesion_id", "image_id"])
    ids["label"] = np.where(rng.random(len(ids)) < 0.5, "nevus", "melanoma")
    own = rng.standard_normal((patients, 6))[ids["patient_id"].str[1:].astype(int)]
    image = 2 * own + rng.standard_normal((len(ids), 6))
    features = {"image": image, "lesion": rng.standard_normal((len(ids), 3))}
    return FeatureTable(ids=ids, features={k: x.astype(np.float32) for k, x in features.items()})


@pytest.fixture(scope="module")
def table() -> FeatureTable:
    return make_table().with_context()


def check_same(found: FeatureTable, expected: FeatureTable, rows: object = slice(None)) -> None:
    for name in BLOCKS:
        assert_allclose(found.features[name], expected.features[name][rows], atol=1e-4)  # type: ignore[call-overload]


def test_cells_minus_those_of_the_other_lesions_against_a_loop(table):
    rng = np.random.default_rng(4)
    cells = rng.normal(size=(len(table), 2))
    cells[rng.random(cells.shape) < 0.3] = np.nan
    found, ids = from_others(cells, table.ids), table.ids
    for i, (patient, lesion) in enumerate(zip(ids["patient_id"], ids["lesion_id"], strict=True)):
        others = pd.DataFrame(cells)[(ids["patient_id"] == patient) & (ids["lesion_id"] != lesion)]
        mean = others.groupby(ids["lesion_id"]).mean().mean()
        assert_allclose(found[i], (cells[i] - mean).fillna(0.0), atol=1e-6)


def test_raw_columns_of_lesions_are_compared_where_there_are_some(table):
    size = {"size": {"kind": "continuous"}, "site": {"kind": "categorical"}}
    age = {"age": {"kind": "continuous"}}
    schema = {"image": "image_id", "lesion_metadata": size, "patient_metadata": age}
    frame = pd.DataFrame({"size": 3.0, "site": "arm", "age": 40.0}, index=table.ids.index)
    frame.loc[4, "size"] = 5.0
    raw = RawTable(schema=Schema.from_dict(schema), frame=frame)
    blocks = replace(table, raw=raw).design("relative").blocks
    assert blocks["relative_table"].shape == (len(table), 1)
    patient = table.ids["patient_id"] == table.ids["patient_id"][4]
    assert set(np.flatnonzero(blocks["relative_table"])) <= set(np.flatnonzero(patient))
    assert blocks["relative_table"][4] == 2.0
    assert "relative_table" not in table.design("relative").blocks
    assert "relative_table" not in replace(table, raw=raw).design("full").blocks


def test_against_a_loop_over_lesions(table):
    context = table.context
    z = np.hstack([table.features["image"], table.features["lesion"]]) @ context.axes
    ids = table.ids

    def lesions_but(patient: str, lesion: str) -> list[str]:
        return sorted(set(ids["lesion_id"][ids["patient_id"] == patient]) - {lesion})

    def mean_of(patient: str, lesion: str) -> np.ndarray:
        return z[(ids["patient_id"] == patient) & (ids["lesion_id"] == lesion)].mean(axis=0)

    def off(x: np.ndarray, patient: str, lesion: str) -> np.ndarray:
        others = [mean_of(patient, other) for other in lesions_but(patient, lesion)]
        return (x - np.mean(others, axis=0)) * np.sqrt(len(others) / (len(others) + 1))

    for i, (patient, lesion) in enumerate(zip(ids["patient_id"], ids["lesion_id"], strict=True)):
        outlier = dict(zip(OUTLIER, table.features["outlier"][i, :4], strict=True))
        names = lesions_but(patient, lesion)
        if not names:
            assert not table.features["relative"][i].any()
            assert [*outlier.values()] == [0, 0, 0, 1]
            continue
        far = [np.linalg.norm(off(mean_of(patient, n), patient, n)) for n in names]
        ratio = np.median(far) / context.usual[0]
        free = len(names) - 1
        spread = np.sqrt((PRIOR + free * ratio**2) / (PRIOR + free))
        distance = np.linalg.norm(off(z[i], patient, lesion))
        nearest = min(np.linalg.norm(z[i] - mean_of(patient, n)) for n in names)
        apart = off(z[i], patient, lesion) / spread
        assert_allclose(table.features["relative"][i], apart, atol=1e-4)
        assert_allclose(table.features["outlier"][i, 4:], np.abs(apart), atol=1e-4)
        expected = {
            "distance": np.log(distance / context.usual[0] / spread),
            "nearest": np.log(nearest / context.usual[1] / spread),
            "log_others": np.log(1 + len(names)),
            "alone": 0,
        }
        assert outlier == pytest.approx(expected, abs=1e-4)


def test_axes_point_the_same_way_however_the_solver_turns_them(table, monkeypatch):
    context, solve = PatientContext.fit(table.features, table.ids), np.linalg.eigh
    assert (context.axes.max(axis=0) == np.abs(context.axes).max(axis=0)).all()
    monkeypatch.setattr(np.linalg, "eigh", lambda x: (solve(x)[0], -solve(x)[1]))
    np.testing.assert_array_equal(PatientContext.fit(table.features, table.ids).axes, context.axes)


def test_order_of_rows_makes_no_difference(table):
    order = np.random.default_rng(1).permutation(len(table))
    base = make_table()
    shuffled = FeatureTable(
        ids=base.ids.iloc[order].reset_index(drop=True),
        features={name: x[order] for name, x in base.features.items()},
    )
    check_same(shuffled.with_context(table.context), table, order)
    refitted = shuffled.with_context().context
    assert_allclose(refitted.usual, table.context.usual, rtol=1e-3)
    assert_allclose(refitted.axes, table.context.axes, rtol=1e-2, atol=1e-3)


def test_other_patients_make_no_difference_and_neither_do_labels(table):
    keep = (table.ids["patient_id"] == "P4") | (table.ids["patient_id"] == "P0")
    few = make_table().select(keep)
    few = FeatureTable(ids=few.ids.assign(label="unknown"), features=few.features)
    check_same(few.with_context(table.context), table, keep.to_numpy())


def test_a_second_copy_of_every_image_of_a_lesion_makes_no_difference(table):
    base = make_table()
    twice = (base.ids["patient_id"] == "P4") & (base.ids["lesion_id"] == "L2")
    rows = np.concatenate([np.arange(len(base)), np.flatnonzero(twice)])
    copies = FeatureTable(
        ids=base.ids.iloc[rows].reset_index(drop=True),
        features={name: x[rows] for name, x in base.features.items()},
    )
    check_same(copies.with_context(table.context), table, rows)


def test_a_lesion_that_is_unlike_its_patients_others_stands_out():
    """Of a patient with nevi of one style; as an image of the cohort it is ordinary."""
    rng = np.random.default_rng(0)
    style = np.repeat(rng.standard_normal((30, 4)) * 3, 8, axis=0)
    image = (style + 0.3 * rng.standard_normal((240, 4))).astype(np.float32)
    odd = np.arange(240) % 8 == 0
    image[odd] = image[np.roll(np.flatnonzero(odd), 1)]
    numbers = np.arange(240)
    ids = pd.DataFrame({"image_id": numbers.astype(str), "lesion_id": numbers.astype(str)})
    ids = ids.assign(patient_id=(numbers // 8).astype(str), label="nevus")
    found = FeatureTable(ids=ids, features={"image": image}).with_context()
    for score in found.features["outlier"][:, :2].T:
        assert np.median(score[odd]) > np.quantile(score[~odd], 0.95)


def test_where_no_patient_has_two_lesions_all_is_neutral():
    table = make_table(patients=12)
    table = FeatureTable(
        ids=table.ids.assign(patient_id=table.ids["image_id"]), features=table.features
    ).with_context()
    assert not table.features["relative"].any()
    assert (table.features["outlier"][:, :4] == [0, 0, 0, 1]).all()


def test_lesions_that_are_embedded_alike_are_finite():
    base = make_table()
    same = {name: np.ones_like(x) for name, x in base.features.items()}
    table = FeatureTable(ids=base.ids, features=same).with_context()
    assert np.isfinite(table.matrix("relative")).all()


def test_the_context_travels_with_the_file(tmp_path, table):
    table.save(tmp_path / "f.parquet")
    again = FeatureTable.load(tmp_path / "f.parquet")
    check_same(make_table().with_context(again.context), table)
    assert (again.matrix("relative") == table.matrix("relative")).all()


def test_a_probe_measures_the_smaller_sets_beside(table):
    names = _feature_sets(table, ProbeConfig(features="relative"))
    assert names == ["image", "image+lesion", "relative"]  # there are no patients' metadata


def test_fine_tuning_reads_one_image_at_a_time():
    with pytest.raises(UserError, match="relative"):
        FullFinetuneConfig(features="relative")


def test_a_table_without_the_comparison_is_refused():
    with pytest.raises(UserError, match="relative"):
        make_table().matrix("relative")
