"""Which images go into which shard: by official split, whole patients, up to a size."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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
    images = pd.DataFrame({"patient": cohort.images["patient_id"], "split": WITHOUT})
    if "split" in cohort.images and not options.ignore_splits:
        images["split"] = cohort.images["split"].fillna(WITHOUT)
        splits = images.drop_duplicates().groupby("patient", sort=False)["split"].agg(list)
        if len(mixed := splits[splits.map(len) > 1]):
            raise CohortError(
                f"patient '{mixed.index[0]}' has images in the official splits "
                f"'{mixed.iloc[0][0]}' and '{mixed.iloc[0][1]}', as have {len(mixed)} patient(s) "
                "in all: a model that learns from one set of shards would be tested on people it "
                "knows. Correct the splits, or pass --ignore-splits and split by patient yourself."
            )
    images["bytes"] = [len(cohort.read_image(row)) for row in range(len(cohort))]
    names = _file_names(images["split"].unique())
    shards: list[Shard] = []
    for split, part in images.groupby("split", sort=False):
        groups, filled = list[list[int]](), options.shard_mib * 2**20
        for _, rows in part.groupby("patient", sort=False):
            size = int(rows["bytes"].sum())
            if not groups or filled + size > options.shard_mib * 2**20:
                groups.append([])
                filled = 0
            groups[-1] += rows.index.tolist()
            filled += size
        shards += [
            Shard(split=names[str(split)], number=i, of=len(groups), rows=np.array(rows))
            for i, rows in enumerate(groups)
        ]
    return shards


def _file_names(splits: Iterable[str]) -> dict[str, str]:
    """A name of letters, digits and `_` for each split, no two alike but for case.

    Windows and macOS take `Train` and `train` for one file.
    """
    names: dict[str, str] = {}
    for split in splits:
        plain = re.sub(r"[^A-Za-z0-9]+", "_", split).strip("_") or "split"
        name, copies = plain, 1
        while name.casefold() in {known.casefold() for known in names.values()}:
            copies += 1
            name = f"{plain}_{copies}"
        names[split] = name
    return names
