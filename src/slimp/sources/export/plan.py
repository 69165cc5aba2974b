"""Which images go into which shard: by official split, whole patients, up to a size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slimp.data.cohort import Cohort
from slimp.errors import CohortError

WITHOUT = "images"
"""Name of shards of a cohort without official splits, or of images that are in none."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How an export is cut, and what goes with the images."""

    shard_mib: int = 256
    """A shard is closed before its images exceed this, MiB; a patient is never cut in two."""
    published: Literal["licence", "all"] = "licence"
    """Of the published columns that are no metadata, those that go along: licence: just those
    on licence, copyright and attribution; all: every one, be it a diagnosis or a name."""
    ignore_splits: bool = False
    """Mix the official splits in the shards; each sample still says which it is of."""

    def __post_init__(self) -> None:
        if self.shard_mib < 1:
            raise ValueError(f"shard_mib must be 1 or more, got {self.shard_mib}")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some images of a cohort, all of one split."""

    split: str
    number: int
    """Among the shards of its split, from 0."""
    of: int
    """How many those are."""
    rows: NDArray[np.int64]
    """(images of the shard,) rows of `cohort.images`, patient by patient."""


def plan_shards(cohort: Cohort, options: ExportOptions) -> list[Shard]:
    """Shards that hold each image once; patients in the order of their first image.

    Raises:
        CohortError: a patient has images in two official splits.
    """
    patients, names = pd.factorize(cohort.images["patient_id"])
    splits, split_names = np.zeros(len(cohort), dtype=np.int64), [WITHOUT]
    if "split" in cohort.images and not options.ignore_splits:
        splits, found = pd.factorize(cohort.images["split"], use_na_sentinel=False)
        split_names = _file_names(found)
        _require_one_split(patients, splits, names, found)
    lengths = np.array([len(cohort.read_image(row)) for row in range(len(cohort))])
    order = np.lexsort([np.arange(len(cohort)), patients, splits])
    shards: list[Shard] = []
    for number, name in enumerate(split_names):
        rows = order[splits[order] == number]
        cuts = _cuts(patients[rows], lengths[rows], options.shard_mib * 2**20)
        parts = np.split(rows, cuts)
        shards += [
            Shard(split=name, number=i, of=len(parts), rows=part) for i, part in enumerate(parts)
        ]
    return shards


def _cuts(patients: NDArray[Any], lengths: NDArray[Any], most: int) -> list[int]:
    """Where a new shard begins, among rows that are sorted by patient."""
    starts = np.flatnonzero(np.diff(patients, prepend=-1))
    sizes = np.add.reduceat(lengths, starts)
    cuts, filled = list[int](), 0
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        if filled and filled + size > most:
            cuts.append(start)
            filled = 0
        filled += size
    return cuts


def _file_names(splits: Any) -> list[str]:
    """A name of letters, digits and `_` for each split, no two alike but for case.

    Windows and macOS take `Train` and `train` for one file.
    """
    names: list[str] = []
    taken: set[str] = set()
    for split in splits:
        plain = WITHOUT if pd.isna(split) else re.sub(r"[^A-Za-z0-9]+", "_", str(split)).strip("_")
        plain = plain or "split"
        name, copies = plain, 1
        while name.casefold() in taken:
            copies += 1
            name = f"{plain}_{copies}"
        names.append(name)
        taken.add(name.casefold())
    return names


def _require_one_split(
    patients: NDArray[Any], splits: NDArray[Any], names: Any, split_names: Any
) -> None:
    pairs = np.unique(np.stack([patients, splits], axis=1), axis=0)
    twice = np.flatnonzero(np.diff(pairs[:, 0]) == 0)
    if len(twice):
        patient, one = pairs[twice[0]]
        other = pairs[twice[0] + 1, 1]
        raise CohortError(
            f"patient '{names[patient]}' has images in the official splits '{split_names[one]}' "
            f"and '{split_names[other]}', as have {len(np.unique(pairs[twice, 0]))} patient(s) in "
            "all: a model that learns from one set of shards would be tested on people it knows. "
            "Correct the splits, or pass --ignore-splits and split by patient yourself."
        )
