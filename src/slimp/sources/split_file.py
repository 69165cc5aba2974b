"""A split in a file: the part or the fold of each image or patient, for probes and training.

A table (CSV, Parquet, spreadsheet) with the columns `image_id` or `patient_id`; `fold` or `part`;
and, of several splits, `seed`. A probe leaves its own split as such a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.splits import require_disjoint
from slimp.errors import CohortError, TableError
from slimp.sources.parse_cells import image_key
from slimp.sources.parse_ids import parse_splits
from slimp.sources.read_table import read_table

FOLD = re.compile(r"fold(\d+)")
"""A part that tests in its turn; group 1 is its number."""


def read_split_file(
    path: str | Path, images: pd.DataFrame, *, follow: bool = False
) -> pd.DataFrame:
    """(images, seeds) the part of each image, a column per seed; None where it is in none.

    Parts are `train`, `validation`, `test` or `fold<number>`, in any common spelling. Without a
    column `seed` there is a single split, of seed 0.

    Args:
        path: of the file.
        images: `image_id patient_id label`, a row per image of the cohort.
        follow: images without a row follow their patient, and train where it has none; otherwise
            they are in no part, like those whose cell is empty.

    Raises:
        TableError: the file is no such table, has a row twice, an id that the cohort has not, or
            no row for a labelled image; or a patient is in two parts.
    """
    table = read_table(Path(path))
    key, column = _columns(table, path)
    places = [f"{path}, row {row}" for _, row in table.index]
    table = table.reset_index(drop=True)
    own, ids = images[key].astype("str"), table[key].str.strip()
    if key == "image_id":  # file names are understood too
        ids = ids.where(ids.isin(own), ids.map(image_key))
    if (unknown := ~ids.isin(own)).any():
        raise TableError(
            f"{places[unknown.argmax()]}: the cohort has no {key} '{ids[unknown].iloc[0]}' "
            f"({unknown.sum()} such rows in all). Remove these rows, or correct the ids."
        )
    parts, _ = parse_splits(table[column], {}, places.__getitem__)
    said = table["seed"].str.strip() if "seed" in table else pd.Series("0", index=table.index)
    if (odd := ~said.str.fullmatch(r"[0-9]{1,9}")).any():
        raise TableError(
            f"{places[odd.argmax()]}, column 'seed': '{said[odd].iloc[0]}' is no whole number."
        )
    seeds = said.astype(int)  # 07 is 7
    if (twice := pd.DataFrame({"id": ids, "seed": seeds}).duplicated()).any():
        raise TableError(
            f"{places[twice.argmax()]}: a second row for {key} '{ids[twice].iloc[0]}'. Keep one "
            "of them, or tell several splits apart in a column 'seed'."
        )
    found = {}
    for seed, rows in parts.groupby(seeds):
        by_id = pd.Series(rows.to_numpy(dtype=object), index=ids[rows.index])
        _require_complete(own, by_id, images["label"], f"{path}, seed {seed}")
        named = own.map(by_id).astype("object")
        patients, listed = images["patient_id"], own.isin(by_id.index)
        _require_whole_patients(named, patients, path)
        if follow:
            theirs = patients.map(named.groupby(patients).first())
            theirs = theirs.where(patients.isin(patients[listed]), "train")
            named = named.where(listed, theirs)
        found[seed] = named.where(named.notna(), None).reset_index(drop=True)
    return pd.DataFrame(found)


def split_rows(ids: pd.DataFrame, parts: Mapping[int, pd.Series]) -> pd.DataFrame:
    """The rows of a split file: `image_id patient_id seed`, and `fold` or `part`.

    Args:
        ids: `image_id patient_id label`, a row per image; those without a label get no row.
        parts: seed -> part of each image, None where it is in none.
    """
    labelled, frames = ids["label"].notna().to_numpy(), []
    for seed, named in parts.items():
        folds = named.dropna().str.fullmatch(FOLD.pattern).all()
        cells = named.str.removeprefix("fold") if folds else named
        columns: dict[str, Any] = {"seed": seed, "fold" if folds else "part": cells.to_numpy()}
        frames.append(ids[["image_id", "patient_id"]].assign(**columns)[labelled])
    return pd.concat(frames, ignore_index=True)


def _columns(table: pd.DataFrame, path: str | Path) -> tuple[str, str]:
    """The names of the columns of ids and of parts."""
    keys = [name for name in ("image_id", "patient_id") if name in table]
    parts = [name for name in ("fold", "part") if name in table]
    if not keys or len(parts) != 1:
        raise TableError(
            f"{path}: has the columns {', '.join(map(str, table.columns))}; a split needs "
            "'image_id' or 'patient_id', and either 'fold' or 'part'."
        )
    return keys[0], parts[0]


def _require_complete(own: pd.Series, by_id: pd.Series, labels: pd.Series, where: str) -> None:
    lacking = (labels.notna() & ~own.isin(by_id.index)).to_numpy()
    if lacking.any():
        raise TableError(
            f"{where}: has no row for {own.name} '{own[lacking].iloc[0]}' ({lacking.sum()} "
            "labelled images in all). Add them; an empty cell leaves an image out."
        )


def _require_whole_patients(parts: pd.Series, patients: pd.Series, path: str | Path) -> None:
    ids = patients.to_numpy()
    try:
        require_disjoint(**{p: ids[(parts == p).to_numpy()] for p in sorted(set(parts.dropna()))})
    except CohortError as error:
        raise TableError(f"{path}: {error}") from None
