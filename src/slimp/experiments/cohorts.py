"""The cohorts of experiments: published ones where their data are here, drawn ones, any folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from slimp.data.cohort import Cohort
from slimp.data.files import sha256_of
from slimp.data.schema import LEVELS, Level
from slimp.errors import UserError
from slimp.experiments.cells import Cell
from slimp.sources import get_source, import_source, sources
from slimp.sources.synthetic.cohort import synthesize
from slimp.sources.synthetic.config import SyntheticConfig
from slimp.sources.synthetic.people import CANCERS

DATA, BESIDE = "SLIMP_TEST_DATA", ("data", "../shared/data")
"""Where published data are looked for, each in a folder of its source's name: the folder that this
variable of the environment names, or the first of these that has it."""
DRAWN = {
    "synthetic": SyntheticConfig(patients=400, lesions=4),
    "synthetic-clinic": SyntheticConfig(
        patients=300, lesions=2, seed=1, nuisance_columns=2, clinic_cast=0.12
    ),
    # Wide: the pigment shows in the noted colour, patterns do not.
    "ducklings": SyntheticConfig(
        patients=250, lesions=10, ugly_duckling=0.8, signature_spread=0.35
    ),
    "no-ducklings": SyntheticConfig(patients=250, lesions=10, signature_spread=0.35),
    "three-levels": SyntheticConfig(
        patients=250, lesions=3, images_per_lesion=3, image_metadata=True
    ),
    "drowned": SyntheticConfig(patients=160, lesions=14),
}
"""The reference; a clinic with other people, cameras and columns; cohorts with and without
melanomas that nothing but the patient's other lesions gives away; one with metadata of each image;
and one where half of the patients have one cancer among many benign lesions, the others none."""
OTHER = {
    "pad-ufes-20": "ham10000",
    "ham10000": "pad-ufes-20",
    "synthetic": "synthetic-clinic",
    "synthetic-clinic": "synthetic",
}
"""Cohort -> the one that arms pre-trained elsewhere learn from."""
SAME = {
    ("ham10000", "pad-ufes-20"): {"gender": "sex", "region": "localization"},
    ("pad-ufes-20", "ham10000"): {"sex": "gender", "localization": "region"},
}
"""(source, target) -> features that both hold under different names: target's -> source's."""
MALIGNANT: dict[str, tuple[str, ...]] = {
    "pad-ufes-20": ("BCC", "MEL", "SCC"),  # its authors' cancers; Bowen's disease counts as SCC
    "ham10000": ("akiec", "bcc", "mel"),  # why akiec: docs/datasets/ham10000.md
    **dict.fromkeys(DRAWN, CANCERS),
}
"""Cohort -> its labels that are malignant."""


def place_of(name: str) -> Path | None:
    """Where the data of a published source or a cohort folder are; None: not here, or drawn."""
    if _is_published(name):
        roots = [os.environ[DATA]] if os.environ.get(DATA) else BESIDE
        return next((Path(root) / name for root in roots if (Path(root) / name).is_dir()), None)
    return Path(name) if (Path(name) / "cohort.json").is_file() else None


def is_here(name: str) -> bool:
    """Whether an experiment can run on it now."""
    return name in DRAWN or place_of(name) is not None


def cohort_cell(name: str) -> Cell:
    """The cell that makes a cohort, named by its data.

    Raises:
        UserError: they are not here.
    """
    if name in DRAWN:
        settings: dict[str, Any] = {"drawn": asdict(DRAWN[name])}
        settings |= {"drowned": True} if name == "drowned" else {}
        return Cell(stage="cohort", settings=settings, words=f"draw {name}")
    place = place_of(name)
    if place is None and _is_published(name):
        raise UserError(
            f"the data of {name} are not here: neither in ${DATA} nor in "
            f"{' or '.join(f'{root}/{name}' for root in BESIDE)}. {get_source(name).how_to_get}"
        )
    if place is None:
        raise UserError(
            f"{name}: no cohort folder, and no cohort of that name. Names are "
            f"{', '.join({**DRAWN, **MALIGNANT})}; make a folder with: slimp data import."
        )
    key, published = hashlib.sha256(), _is_published(name)
    for path in sorted(place.rglob("*")):
        if path.is_file():
            # The images of a published data set are many: their names and sizes have to do.
            whole = not published or path.suffix in (".csv", ".json", ".parquet", ".toml")
            size, changed = path.stat().st_size, path.stat().st_mtime_ns
            content = _content(path, size, changed) if whole else str(size)
            key.update(f"{path.relative_to(place).as_posix()} {content}\n".encode())
    settings = {"source": name if published else "folder", "files": key.hexdigest()}
    words = f"import {name}" if published else f"read {name}"
    return Cell(stage="cohort", settings=settings, words=words, place=str(place))


@cache
def _content(path: Path, size: int, changed: int) -> str:
    """Of a file, read once by a process that makes several plans."""
    return sha256_of(path)


def is_folder(cell: Cell) -> bool:
    """Whether a cohort stays where it is."""
    return cell.settings.get("source") == "folder"


def make_cohort(cell: Cell, cells: Path) -> None:
    """Draws or imports the cohort of a cell; one that is a folder already stays where it is."""
    target = cell.folder(cells) / "cohort"
    if "drawn" in cell.settings:
        config = SyntheticConfig(**cell.settings["drawn"])
        drawn = synthesize(config)
        drawn = drown(drawn, config.seed) if cell.settings.get("drowned") else drawn
        drawn.save(target, overwrite=True)
    elif not is_folder(cell):
        import_source(cell.settings["source"], cell.place, target, overwrite=True)
    else:
        Cohort.load(cell.place)


def cohort_of(cell: Cell, cells: Path) -> Cohort:
    """The cohort that a cell rests on."""
    own = cell.of("cohort")
    assert own is not None
    return Cohort.load(own.place if is_folder(own) else own.folder(cells) / "cohort")


def shuffle_metadata(cohort: Cohort, seed: int) -> Cohort:
    """Each patient with the metadata of another: a control whose images say nothing of them.

    The rows of all levels come from the same other patient, repeated or left out where that one
    has fewer or more of them; images, labels and the hierarchy stay.
    """
    order = np.random.default_rng(seed).permutation(cohort.patients["patient_id"].to_numpy())
    other = dict(zip(order, np.roll(order, 1), strict=True))
    tables = {}
    for name in LEVELS:
        table, columns = cohort.tables.of_level(name).copy(), [*cohort.schema.level(name).columns]
        rows = table.groupby("patient_id", sort=False).indices
        taken = np.empty(len(table), dtype=np.int64)
        for patient, own in rows.items():
            taken[own] = np.resize(rows[other[patient]], len(own))
        table[columns] = table[columns].iloc[taken].set_axis(table.index)
        tables[f"{name}s"] = table
    return replace(cohort, tables=replace(cohort.tables, **tables))


def shuffle_patients(cohort: Cohort, seed: int) -> Cohort:
    """Each lesion with another patient, who keeps the number of lesions and the metadata."""
    rng = np.random.default_rng(seed)
    return _with_patients(cohort, rng.permutation(cohort.lesions["patient_id"].to_numpy()))


def lesions_as_patients(cohort: Cohort, seed: int) -> Cohort:
    """Each lesion as a patient of its own with that patient's metadata: a data set without ids."""
    patients = cohort.patients.iloc[cohort.patient_of_lesion].reset_index(drop=True)
    ids = patients_of_lesions(cohort.lesions["lesion_id"])
    return _with_patients(cohort, ids.to_numpy(), patients=patients.assign(patient_id=ids))


def patients_of_lesions(lesion_ids: pd.Series) -> pd.Series:
    """Ids of lesions that stand for patients; a lesion and a patient may both be called 1."""
    return "lesion " + lesion_ids.astype(str)


def without_image_metadata(cohort: Cohort, _seed: int) -> Cohort:
    """Two levels: at weight 0 the image level's metadata would still be part of a lesion."""
    columns = cohort.schema.level("image").columns
    images = cohort.images.drop(columns=[*columns])
    levels = (Level(name="image"), *cohort.schema.levels[1:])
    schema = replace(cohort.schema, levels=levels)
    return replace(cohort, schema=schema, tables=replace(cohort.tables, images=images))


CHANGED: dict[str, Callable[[Cohort, int], Cohort]] = {
    "shuffled metadata": shuffle_metadata,
    "shuffled patients": shuffle_patients,
    "lesions as patients": lesions_as_patients,
    "without image metadata": without_image_metadata,
}
"""What an arm's training patients may be changed to, see `Arm.learns`."""


def _with_patients(cohort: Cohort, ids: np.ndarray[Any, Any], **tables: pd.DataFrame) -> Cohort:
    """The cohort with a patient for each row of its lesions, and with other tables."""
    tables["lesions"] = cohort.lesions.assign(patient_id=ids)
    tables["images"] = cohort.images.assign(patient_id=ids[cohort.lesion_of_image])
    return replace(cohort, tables=replace(cohort.tables, **tables))


def drown(cohort: Cohort, seed: int) -> Cohort:
    """Half of the patients with their first cancer alone, the others without; all else stays."""
    images, rng = cohort.images, np.random.default_rng(seed)
    ill = images["label"].isin(CANCERS)
    lesions = images[ill].drop_duplicates("patient_id")  # one of each patient who has any
    kept = lesions["lesion_id"][rng.random(len(lesions)) < 0.5]
    return cohort.select(~ill | images["lesion_id"].isin(kept))


def without_split(cohort: Cohort) -> Cohort:
    """The cohort without a split of its own, by which training would set patients aside."""
    images = cohort.images.drop(columns="split", errors="ignore")
    return replace(cohort, tables=replace(cohort.tables, images=images))


def images_in_epoch(name: str, lesions: int, images_per_lesion: int) -> int | None:
    """About how many images of a cohort an epoch draws, without reading it; None: not known.

    As many of a patient's lesions and of a lesion's images as are asked for, where it is known how
    many there are.
    """
    if name in DRAWN:
        config = DRAWN[name]
        per_lesion = min(images_per_lesion, (1 + config.images_per_lesion) / 2)
        return int(config.patients * min(lesions, config.lesions) * per_lesion)
    place = place_of(name)
    if place is not None and (place / "images.parquet").is_file():
        rows = {level: pq.read_metadata(place / f"{level}s.parquet").num_rows for level in LEVELS}
        drawn = min(rows["lesion"], lesions * rows["patient"])
        return int(min(rows["image"], drawn * images_per_lesion))
    if place is not None:
        return _pictures(place)
    return get_source(name).images if _is_published(name) else None


@cache
def _pictures(place: Path) -> int:
    found = (path for path in place.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return sum("masks" not in path.parts for path in found)


def _is_published(name: str) -> bool:
    return name in sources() and sources()[name].is_published
