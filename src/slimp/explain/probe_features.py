"""What metadata and images are worth to a linear probe: per image, and over its test patients.

Axis names: n = rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from slimp.errors import UserError
from slimp.evaluation.blocks import SMALLEST
from slimp.evaluation.bootstrap import Estimate, bootstrap
from slimp.evaluation.logistic import LinearProbe
from slimp.evaluation.result import Predictions, codes_of
from slimp.explain.columns import feature_tables
from slimp.explain.explain import Explanation
from slimp.features.design import Design
from slimp.features.feature_sets import FeatureSet
from slimp.features.feature_table import FeatureTable

Array = np.ndarray[Any, np.dtype[Any]]
REPEATS = 5
"""Permutations of each feature, as is scikit-learn's default."""
TOLERANCE = 1e-3
"""Of probabilities that should be the same."""
IMAGE, METADATA = "image", "all metadata"
"""What is permuted as one, beside each metadata feature."""


def with_probe_features(
    found: Explanation,
    probe: LinearProbe,
    label: str | None,
    table: FeatureTable,
    predictions: pd.DataFrame,
) -> Explanation:
    """The explanation of a probe's class with what its metadata and images are worth.

    Args:
        found: by `explain`, of the cohort of `table`.
        probe: what was explained.
        label: the class; None: the one that each image has.
        table: features of the whole cohort.
        predictions: of the probe; the permutations are over the rows that its first split tests.

    Raises:
        UserError: the probe predicts otherwise for these images than it did.
    """
    design = table.design(cast("FeatureSet", probe.features))
    labels = found.by_image["label"].tolist() if label is None else [label] * len(found.rows)
    worth = {"fall": falls(probe, design[found.rows], labels)}
    features, cells = feature_tables(found.by_image, worth)
    first = predictions[predictions["seed"] == predictions["seed"].iloc[0]]
    if "fold" in first:
        first = first[first["fold"] == first["fold"].iloc[0]]
    first = first[first["image_id"].isin(table.ids["image_id"])]
    if len(first):
        rows = pd.Index(table.ids["image_id"]).get_indexer(pd.Index(first["image_id"]))
        tested, y = design[rows], codes_of(first["label"], probe.classes)
        before = first[[f"p_{name}" for name in probe.classes]].to_numpy(dtype=float)
        if not np.allclose(probe.predict_proba(tested), before, atol=TOLERANCE):
            raise UserError(
                "the probe does not predict of this cohort what it did when it was made. Pass the "
                "cohort that it was made with, or make the probe again."
            )
        patients = first["patient_id"].to_numpy(dtype=str)
        of = permutation_importance(probe, tested, y, patients)
        own = pd.DataFrame(
            [[name, e.mean, *e.ci95] for name, e in of.items()],
            columns=["feature", *(f"permutation{end}" for end in ("", "_low", "_high"))],
        )
        features = features.merge(own, how="outer", on="feature")
        features = features.sort_values("permutation", ascending=False, ignore_index=True)
    return replace(found, features=features, cells=cells)


def falls(probe: LinearProbe, design: Design, labels: Sequence[str]) -> pd.DataFrame:
    """How much each row's log-odds of its label fall when a feature is hidden; NaN where missing.

    Against the mean class, as in `LogOdds`; a column per metadata feature that the probe reads.
    """
    at = [probe.classes.index(label) for label in labels]

    def log_odds(of: Design) -> Float[Array, " n"]:
        found = np.log(np.maximum(probe.predict_proba(of), SMALLEST))
        return np.asarray(found[np.arange(len(at)), at] - found.mean(axis=1))

    whole, nothing, out = log_odds(design), np.full(len(design), -1), {}
    for name, columns in _features_of(design).items():
        assert design.table is not None
        known = design.table.frame[columns].notna().any(axis=1)
        fall = whole - log_odds(_with_columns_of(design, columns, nothing))
        out[name] = np.where(known, fall, np.nan)
    return pd.DataFrame(out, index=range(len(design)))


def permutation_importance(
    probe: LinearProbe,
    design: Design,
    y: Int[Array, " n"],
    patients: Shaped[Array, " n"],
    *,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Fall of the balanced accuracy when patients swap a feature, with 95 % intervals over them.

    Permutation importance (Breiman, Machine Learning 45, 2001), mean of `REPEATS` permutations;
    not scikit-learn's, which moves rows one by one: here all rows of a patient take the values of
    one other patient (repeated where those are fewer), so what a patient has in common stays so.

    Args:
        probe: a fitted probe.
        design: rows that did not fit it.
        y: class per row, by its position in the probe's classes.
        patients: patient per row.
        seed: of the permutations.
    """
    rng = np.random.default_rng(seed)
    donors = [_donors(patients, rng) for _ in range(REPEATS)]

    def said(of: Design) -> Predictions:
        p = probe.predict_proba(of)
        return Predictions(y=y, patients=patients, probabilities=p, predicted=probe.decide(p))

    columns = _features_of(design)
    if columns:
        columns = {METADATA: [c for own in columns.values() for c in own], **columns}
    answers = {
        name: [said(_with_columns_of(design, own, rows)) for rows in donors]
        for name, own in columns.items()
    }
    for_images = [{**design.blocks, IMAGE: design.blocks[IMAGE][rows]} for rows in donors]
    answers[IMAGE] = [said(replace(design, blocks=blocks)) for blocks in for_images]
    whole = said(design)

    def statistic(repeat: int, weights: Array) -> dict[str, Array]:
        before = whole.balanced_accuracy(weights)
        return {
            name: before - of[repeat].balanced_accuracy(weights) for name, of in answers.items()
        }

    found = bootstrap([patients] * REPEATS, statistic, seed=seed)
    return {name: one.of_patients(patients) for name, one in found.items()}


def _features_of(design: Design) -> dict[str, list[str]]:
    """Metadata feature -> its columns; none where imputed ones cannot be embedded anew."""
    if design.table is None or not design.can_blank:
        return {}
    levels = (design.table.schema.level(name) for name in design.levels)
    return {feature.name: [*feature.columns] for level in levels for feature in level.features}


def _with_columns_of(design: Design, columns: Sequence[str], rows: Int[Array, " n"]) -> Design:
    """The design with these columns as in other rows; missing where that is row -1."""
    assert design.table is not None
    frame = design.table.frame.copy()
    for column in columns:
        values = frame[column].iloc[rows].set_axis(frame.index)
        frame[column] = values.mask(rows < 0)
    return design.with_table(replace(design.table, frame=frame))


def _donors(patients: Shaped[Array, " n"], rng: np.random.Generator) -> Int[Array, " n"]:
    """For each row that of the patient whose values it takes; each patient gives to one."""
    names, owner = np.unique(patients, return_inverse=True)
    rows = [np.flatnonzero(owner == k) for k in range(len(names))]
    out = np.empty(len(owner), dtype=np.int64)
    for own, giver in zip(rows, rng.permutation(len(names)), strict=True):
        out[own] = np.resize(rows[giver], len(own))
    return out
