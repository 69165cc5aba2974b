"""Which rows train a probe and which test it: patient-disjoint unless leakage is to be measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from slimp.data.cohort import assign_groups, require_disjoint
from slimp.errors import UserError
from slimp.evaluation.metrics import Array
from slimp.evaluation.probe_config import SplitMode

TEST_PARTS = ("held_out", "test")
"""Names of parts that test; rows of any other named part train."""
ATTEMPTS = 20
"""Random splits per seed until every class is in both parts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Rows of one train/test split; unlabelled rows are in neither part."""

    seed: int
    train: Int[Array, " n_train"]
    test: Int[Array, " n_test"]


def make_splits(
    ids: pd.DataFrame,
    mode: SplitMode = "patient",
    seeds: Iterable[int] = range(5),
    *,
    test_fraction: float = 0.2,
) -> tuple[Split, ...]:
    """A stratified split per seed, in which no patient (or lesion, or image) is in both parts.

    Only `patient` is an honest estimate for new patients. `lesion` and `image` let the probe
    train on test patients; they exist so that this leak can be measured.

    Raises:
        UserError: fewer than two classes, or a class that cannot be in both parts.
    """
    rows = labelled_rows(ids)
    labels = ids["label"].iloc[rows].to_numpy(dtype=str)
    groups = ids[f"{mode}_id"].iloc[rows].to_numpy(dtype=str)
    single = [c for c in np.unique(labels) if len(np.unique(groups[labels == c])) < 2]
    fractions = {"train": 1 - test_fraction, "test": test_fraction}
    splits = []
    for seed in seeds:
        for attempt in range(0 if single else ATTEMPTS):
            part = assign_groups(labels, groups, fractions, seed=seed + 1_000_003 * attempt)
            train, test = part == "train", part == "test"
            if not (lacking := set(labels) - (set(labels[train]) & set(labels[test]))):
                break
        else:
            own = labels == min(single or lacking)
            raise UserError(
                f"class '{labels[own][0]}' ({own.sum()} image(s) of "
                f"{len(np.unique(groups[own]))} {mode}(s)) cannot be split by {mode} into train "
                f"and test. Add {mode}s with it, merge it with another class, drop its rows, or "
                "change test_fraction."
            )
        splits.append(Split(seed=seed, train=rows[train], test=rows[test]))
        if mode == "patient":
            _require_patient_disjoint(ids, splits[-1])
    return tuple(splits)


def held_out_split(
    ids: pd.DataFrame, parts: Sequence[object] | Array | pd.Series, *, seed: int = 0
) -> Split:
    """The split that a column of parts names: an official one, or patients a run never saw.

    Rows of part `test` or `held_out` test; rows of any other named part train, validation rows
    included, because the probe's strength is chosen by cross-validation; rows without a part
    are left out.

    Raises:
        UserError: the parts are of another length, share a patient, or a class is not in both.
    """
    names = pd.Series(list(parts), dtype="object")
    if len(names) != len(ids):
        raise UserError(f"{len(names)} parts for {len(ids)} images: one part per image is needed.")
    rows = labelled_rows(ids)
    labels, named = ids["label"].iloc[rows].to_numpy(dtype=str), names.iloc[rows]
    tests = named.isin(TEST_PARTS).to_numpy()
    masks = {"train": named.notna().to_numpy() & ~tests, "test": tests}
    split = Split(seed=seed, train=rows[masks["train"]], test=rows[tests])
    _require_patient_disjoint(ids, split)
    for part, mask in masks.items():
        if not mask.any():
            found = ", ".join(sorted({str(name) for name in names.dropna()})) or "none"
            raise UserError(
                f"no labelled image is in the {part} part; the parts found are: {found}. "
                f"{' or '.join(TEST_PARTS)} test, every other named part trains."
            )
        if lacking := set(labels) - set(labels[mask]):
            label = min(lacking)
            raise UserError(
                f"class '{label}' ({(labels == label).sum()} images) is not in the {part} part of "
                "the given split. Drop its rows, merge it with another class, or split at random "
                "(split 'patient')."
            )
    return split


def official_parts(ids: pd.DataFrame) -> list[object]:
    """The part of each image in the cohort's own split; None where it has none."""
    if "split" not in ids:
        raise UserError(
            "split 'official' needs the cohort's own test part, but the cohort has no 'split' "
            'column. Name it in the schema (split = "...") and import again, or use '
            "split 'patient'."
        )
    parts = ids["split"].astype("object")
    return parts.where(parts.notna(), None).tolist()


def grouped_folds(labels: Array, groups: Array, folds: int, *, seed: int) -> Int[Array, " n"]:
    """(rows,) fold of each row, stratified; no group is in two, and no more folds than groups."""
    folds = min(folds, len(np.unique(groups)))
    if folds < 2:
        raise UserError(
            "cross-validation needs at least 2 training patients, but there is only 1. "
            "Add patients."
        )
    names = {str(fold): 1 / folds for fold in range(folds)}
    return assign_groups(labels, groups, names, seed=seed).astype(np.int64)


def labelled_rows(ids: pd.DataFrame) -> Int[Array, " n"]:
    """Rows whose label is known; refuses fewer than two classes."""
    rows = np.flatnonzero(ids["label"].notna().to_numpy())
    counts = ids["label"].iloc[rows].value_counts()
    if counts.empty:
        raise UserError("no image has a label, so nothing can be probed. Name the label column.")
    if len(counts) == 1:
        raise UserError(
            f"there is a single class, '{counts.index[0]}' ({counts.iloc[0]} images): "
            "a probe needs at least two."
        )
    return rows


def _require_patient_disjoint(ids: pd.DataFrame, split: Split) -> None:
    patients = ids["patient_id"].to_numpy()
    require_disjoint(train=patients[split.train], test=patients[split.test])
