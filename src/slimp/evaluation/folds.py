"""Which rows train a probe and which test it: patient-disjoint unless leakage is to be measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from slimp.data.splits import assign_groups, require_disjoint
from slimp.errors import UserError
from slimp.evaluation.metrics import Array
from slimp.evaluation.probe_config import GROUPED_FOLDS, ProbeConfig, SplitMode
from slimp.sources.split_file import FOLD, read_split_file

TEST_PARTS = ("held_out", "test")
"""Names of parts that test; rows of any other named part train."""
ATTEMPTS = 20
"""Random splits per seed until every class is in both parts."""
Parts = Sequence[object] | Array | pd.Series | pd.DataFrame
"""The part of each image in a given split; of several splits, a column per seed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Rows of one train/test split; unlabelled rows are in neither part."""

    seed: int
    train: Int[Array, " n_train"]
    test: Int[Array, " n_test"]
    fold: int | None = None
    """The number of the test part, of a split into folds that test in turn."""


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


def parts_of_config(ids: pd.DataFrame, config: ProbeConfig) -> pd.DataFrame | None:
    """The parts in the file, the cohort's own split or the grouped folds that `config` asks for.

    None: it asks for random splits.
    """
    if config.split_file is not None:
        return read_split_file(config.split_file, ids)
    if config.split == "official":
        return one_split(official_parts(ids), config.seed)
    return grouped_parts(ids, config.split_seeds) if config.split == "grouped-5" else None


def grouped_parts(ids: pd.DataFrame, seeds: Iterable[int]) -> pd.DataFrame:
    """(images, seeds) `fold1` to `fold5` by scikit-learn's StratifiedGroupKFold over patients.

    As in github.com/life-ufes/metablock-se (benchmarks/pad20/preprocess/onehot.py), whose
    `random_state` is 42: the seed. None for images without a label. The order of the images does
    not matter; the version of scikit-learn does (its pull request 32540 changed the folds).
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rows = labelled_rows(ids)
    labels, groups = (ids[c].iloc[rows].to_numpy(dtype=str) for c in ("label", "patient_id"))
    own = pd.Series(groups).groupby(labels).nunique()
    if own.min() < GROUPED_FOLDS:
        raise UserError(
            f"class '{own.idxmin()}' has {own.min()} patient(s), too few for {GROUPED_FOLDS} "
            "folds. Add patients with it, merge it with another class, or drop its rows."
        )
    found = pd.DataFrame(None, index=range(len(ids)), columns=list(seeds), dtype="object")
    for seed in found:
        folds = StratifiedGroupKFold(GROUPED_FOLDS, shuffle=True, random_state=seed)
        for number, (_, tests) in enumerate(folds.split(rows, labels, groups), start=1):
            found.loc[rows[tests], seed] = f"fold{number}"
    return found


def given_splits(ids: pd.DataFrame, parts: Parts, *, seed: int = 0) -> tuple[Split, ...]:
    """The splits that parts name: official ones, those of a file, or patients a run never saw.

    Where the parts of a seed are folds, each tests in turn a probe of the others. Otherwise rows of
    part `test` or `held_out` test; rows of any other named part train, validation rows
    included, because the probe's strength is chosen by cross-validation. Rows without a part are
    left out. `parts` are per image, or a column of them per seed; `seed` is of those without one.

    Raises:
        UserError: the parts are of another length, share a patient, or a class is not in both.
    """
    table = parts if isinstance(parts, pd.DataFrame) else one_split(parts, seed)
    if len(table) != len(ids):
        raise UserError(f"{len(table)} parts for {len(ids)} images: one part per image is needed.")
    rows = labelled_rows(ids)
    labels, splits = ids["label"].iloc[rows].to_numpy(dtype=str), []
    for number in table:
        names = table[number].iloc[rows].reset_index(drop=True)
        folds: list[int | None] = [*_fold_numbers(names)]
        for fold in folds or [None]:
            tests = names.isin(TEST_PARTS) if fold is None else names == f"fold{fold}"
            masks = {"train": (names.notna() & ~tests).to_numpy(bool), "test": tests.to_numpy(bool)}
            own = {part: rows[mask] for part, mask in masks.items()}
            splits.append(Split(seed=int(str(number)), fold=fold, **own))
            _require_patient_disjoint(ids, splits[-1])
            _require_classes(labels, names, masks, fold)
    if len(counts := {len(_fold_numbers(table[number])) for number in table}) > 1:
        raise UserError(
            f"the seeds of a split have {min(counts)} to {max(counts)} folds: give each as many."
        )
    return tuple(splits)


def one_split(parts: Sequence[object] | Array | pd.Series, seed: int) -> pd.DataFrame:
    """The column of a single split."""
    return pd.DataFrame({seed: pd.Series(list(parts), dtype="object")})


def _fold_numbers(names: pd.Series) -> list[int]:
    """The folds, if there are two at least and nothing else."""
    found = [FOLD.fullmatch(str(name)) for name in names.dropna().unique()]
    numbers = sorted(int(match[1]) for match in found if match)
    return numbers if len(found) == len(numbers) > 1 else []


def _require_classes(
    labels: Array, names: pd.Series, masks: Mapping[str, Bool[Array, " n"]], fold: int | None
) -> None:
    """Refuses an empty part, and one that lacks a class."""
    for part, mask in masks.items():
        said = f"{part} part" if fold is None else f"{part} part of fold {fold}"
        if not mask.any():
            found = ", ".join(sorted({str(name) for name in names.dropna()})) or "none"
            raise UserError(
                f"no labelled image is in the {said}; the parts found are: {found}. "
                f"{' or '.join(TEST_PARTS)} test, every other named part trains; or all are folds."
            )
        if lacking := set(labels) - set(labels[mask]):
            label = min(lacking)
            raise UserError(
                f"class '{label}' ({(labels == label).sum()} images) is not in the {said} of "
                "the given split. Drop its rows, merge it with another class, or split at random "
                "(split 'patient')."
            )


def parts_of_splits(splits: Iterable[Split], images: int) -> dict[int, pd.Series]:
    """Seed -> part of each image, the inverse of `given_splits`."""
    found: dict[int, pd.Series] = {}
    for split in splits:
        parts = found.setdefault(split.seed, pd.Series(None, index=range(images), dtype="object"))
        parts.iloc[split.test] = "test" if split.fold is None else f"fold{split.fold}"
        if split.fold is None:
            parts.iloc[split.train] = "train"
    return found


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


def classes_of(ids: pd.DataFrame, config: ProbeConfig) -> tuple[str, ...]:
    """In alphabetical order, but for the positive one of two, which is last.

    Raises:
        UserError: there are fewer than two, or `config` names another positive one.
    """
    names = sorted(set(ids["label"].iloc[labelled_rows(ids)]))
    if config.positive is not None:
        if len(names) != 2 or config.positive not in names:
            raise UserError(
                f"positive='{config.positive}' must be one of exactly two classes; "
                f"the classes are: {', '.join(names)}."
            )
        names.sort(key=lambda name: name == config.positive)
    return tuple(names)


def _require_patient_disjoint(ids: pd.DataFrame, split: Split) -> None:
    patients = ids["patient_id"].to_numpy()
    require_disjoint(train=patients[split.train], test=patients[split.test])
