"""Which rows train a probe and which test it: patient-disjoint unless leakage is to be measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from slimp.data.cohort import assign_groups, require_disjoint
from slimp.errors import UserError
from slimp.evaluation.probe_config import SplitMode

Array = np.ndarray[Any, np.dtype[Any]]

TEST_PARTS = ("held_out", "test")
"""Names of parts that test; rows of any other named part train."""
ATTEMPTS = 20
"""Deals per seed until every class is in both parts."""


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
    meet test patients while it trains; they exist so that this leak can be measured.

    Args:
        ids: `image_id lesion_id patient_id label`, a row per image.
        mode: what must not be in both parts.
        seeds: of the random deal, one split each.
        test_fraction: share of the labelled rows to test on, in (0, 1).

    Raises:
        UserError: fewer than two classes, or a class that cannot be in both parts.
    """
    if not 0 < test_fraction < 1:
        raise UserError(f"test_fraction must be in (0, 1), got {test_fraction}.")
    rows = labelled_rows(ids)
    known = ids.iloc[rows]
    labels = known["label"].to_numpy(dtype=str)
    groups = known[f"{mode}_id"].to_numpy(dtype=str)
    _require_two_groups(labels, groups, mode)
    splits = []
    for seed in seeds:
        train, test = _deal(labels, groups, mode, test_fraction, seed)
        splits.append(Split(seed=seed, train=rows[train], test=rows[test]))
    if mode == "patient":
        for split in splits:
            _require_patient_disjoint(ids, split)
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
    here = names.iloc[rows]
    tests = here.isin(TEST_PARTS).to_numpy()
    trains = here.notna().to_numpy() & ~tests
    for part, mask in (("train", trains), ("test", tests)):
        if not mask.any():
            found = ", ".join(sorted({str(name) for name in names.dropna()})) or "none"
            raise UserError(
                f"no labelled image is in the {part} part; the parts found are: {found}. "
                f"{' or '.join(TEST_PARTS)} test, every other named part trains."
            )
    split = Split(seed=seed, train=rows[trains], test=rows[tests])
    _require_patient_disjoint(ids, split)
    labels = ids["label"].iloc[rows].to_numpy(dtype=str)
    if missing := _missing_class(labels, trains, tests):
        label, part = missing
        count = int((labels == label).sum())
        raise UserError(
            f"class '{label}' ({count} images) is not in the {part} part of the given split, so "
            "it can be neither learned nor tested. Drop its rows, merge it with another class, "
            "or let patients be split anew (split 'patient')."
        )
    return split


def official_parts(ids: pd.DataFrame) -> list[object]:
    """The part of each image in the cohort's own split; None where it has none.

    Raises:
        UserError: the cohort has no split column, or no image of it is to test or to train.
    """
    if "split" not in ids:
        raise UserError(
            "split 'official' needs a column that says which images test, but the cohort has no "
            "'split' column. Name it in the schema (split = \"...\") and import again, or use "
            "split 'patient'."
        )
    parts = ids["split"].astype("object")
    return parts.where(parts.notna(), None).tolist()


def grouped_folds(labels: Array, groups: Array, folds: int, *, seed: int) -> Int[Array, " n"]:
    """(rows,) fold 0..k-1 of each row, stratified; no group is in two folds.

    There are at most as many folds as groups.

    Raises:
        UserError: there is only one group.
    """
    folds = min(folds, len(np.unique(groups)))
    if folds < 2:
        raise UserError(
            "cross-validation needs at least 2 training patients, but there is only 1. "
            "Add patients."
        )
    names = {str(fold): 1 / folds for fold in range(folds)}
    return assign_groups(labels, groups, names, seed=seed).astype(np.int64)


def labelled_rows(ids: pd.DataFrame) -> Int[Array, " n"]:
    """Rows whose label is known.

    Raises:
        UserError: fewer than two classes are left.
    """
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


def _deal(
    labels: Array, groups: Array, mode: SplitMode, test_fraction: float, seed: int
) -> tuple[Array, Array]:
    """Masks of train and test, dealt anew until every class is in both."""
    parts = {"train": 1 - test_fraction, "test": test_fraction}
    for attempt in range(ATTEMPTS):
        part = assign_groups(labels, groups, parts, seed=seed + 1_000_003 * attempt)
        train, test = part == "train", part == "test"
        missing = _missing_class(labels, train, test)
        if missing is None:
            return train, test
    assert missing is not None
    label, lacking = missing
    raise UserError(
        f"class '{label}' ({_size(labels, groups, label, mode)}) could not be dealt to both parts: "
        f"it is never in the {lacking} part. Add {mode}s with it, merge it with another class, or "
        "change test_fraction."
    )


def _require_two_groups(labels: Array, groups: Array, mode: SplitMode) -> None:
    for label in np.unique(labels):
        if len(np.unique(groups[labels == label])) < 2:
            raise UserError(
                f"class '{label}' ({_size(labels, groups, label, mode)}) cannot be in both the "
                f"training and the test part. Add {mode}s with it, merge it with another class, "
                "or drop its rows."
            )


def _size(labels: Array, groups: Array, label: str, mode: SplitMode) -> str:
    hit = labels == label
    return f"{hit.sum()} image(s) of {len(np.unique(groups[hit]))} {mode}(s)"


def _missing_class(labels: Array, train: Array, test: Array) -> tuple[str, str] | None:
    for part, mask in (("train", train), ("test", test)):
        if missing := set(labels) - set(labels[mask]):
            return str(min(missing)), part
    return None


def _require_patient_disjoint(ids: pd.DataFrame, split: Split) -> None:
    patients = ids["patient_id"].to_numpy()
    require_disjoint(train=patients[split.train], test=patients[split.test])
