"""The canonical dataset: patients, their lesions, their images, and typed metadata per level.

How it lies on disk is in `slimp.data.cohort_files`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slimp.data.cohort_files import (
    CohortInfo,
    CohortWriter,
    Tables,
    check_types,
    open_images,
    read_content,
    read_parquet,
    rows_of,
)
from slimp.data.files import Images
from slimp.data.schema import LEVELS, LevelName, Schema
from slimp.data.splits import assign_groups
from slimp.errors import CohortError

__all__ = ["Cohort", "CohortInfo", "CohortWriter", "Tables"]


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Tables, the schema that explains them, and the images. Immutable; `select` makes parts.

    Example:
        >>> from slimp.sources.synthetic.cohort import example
        >>> cohort: Cohort = example(10)
        >>> len(cohort.split({"train": 0.7, "test": 0.3})["train"].patients)
        7
    """

    info: CohortInfo
    schema: Schema
    tables: Tables
    store: Images
    positions: NDArray[np.int64]
    """(images,) position in `store` of each row of `tables.images`."""

    def __post_init__(self) -> None:
        for level in self.schema.levels:
            if lacking := set(level.columns) - set(self.tables.of_level(level.name).columns):
                raise CohortError(
                    f"cohort '{self.info.name}': the schema has a column '{min(lacking)}' at the "
                    f"{level.name} level, but its table has not."
                )

    def __len__(self) -> int:
        return len(self.tables.images)

    def __repr__(self) -> str:
        patients = f"{len(self.patients)} patients" if self.has_patient_ids else "no patient ids"
        rest = f"{len(self.lesions)} lesions, {len(self)} images"
        return f"Cohort({self.info.name!r}: {patients}, {rest})"

    @property
    def images(self) -> pd.DataFrame:
        """A row per image; see `Tables`."""
        return self.tables.images

    @property
    def lesions(self) -> pd.DataFrame:
        """A row per lesion; see `Tables`."""
        return self.tables.lesions

    @property
    def patients(self) -> pd.DataFrame:
        """A row per patient; see `Tables`."""
        return self.tables.patients

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that occur, sorted."""
        return tuple(sorted(self.images["label"].dropna().unique().tolist()))

    @property
    def has_patient_ids(self) -> bool:
        """Whether patients are known; if not, each lesion counts as a patient of its own."""
        named = self.schema.patient not in (None, self.schema.lesion, self.schema.image)
        if len(self.patients) < len(self.lesions) or not named:
            return len(self.patients) < len(self.lesions)
        # In a public table the lesions may stand for patients (BCN20000), and images for lesions.
        lesions = self.lesions["lesion_id"].str.removeprefix("image:")
        return bool((self.lesions["patient_id"] != lesions).any())

    @property
    def unit(self) -> str:
        """What counts as a patient, in words: lesions where patients are not known."""
        return "patients" if self.has_patient_ids else "lesions"

    @property
    def lesion_of_image(self) -> NDArray[np.int64]:
        """(images,) row of each image's lesion in `lesions`."""
        return rows_of(self.images["lesion_id"], self.lesions["lesion_id"])

    @property
    def patient_of_lesion(self) -> NDArray[np.int64]:
        """(lesions,) row of each lesion's patient in `patients`."""
        return rows_of(self.lesions["patient_id"], self.patients["patient_id"])

    def read_image(self, row: int) -> bytes:
        """The encoded image of row `row` of `images`."""
        return self.store.read(int(self.positions[row]))

    def select(self, mask: NDArray[np.bool_] | pd.Series) -> Cohort:
        """The images where `mask` is true, with just their lesions and patients.

        Raises:
            CohortError: nothing is left.
        """
        mask = np.asarray(mask, dtype=bool)
        images = self.images[mask]
        if images.empty:
            raise CohortError(f"cohort '{self.info.name}': no image is left after the selection.")
        lesions = np.unique(self.lesion_of_image[mask])
        patients = np.unique(self.patient_of_lesion[lesions])
        tables = Tables(
            images=images,
            lesions=self.lesions.iloc[lesions],
            patients=self.patients.iloc[patients],
        )
        return replace(self, tables=tables, positions=self.positions[mask])

    def select_patients(self, patient_ids: Iterable[str]) -> Cohort:
        """The images of these patients.

        Raises:
            CohortError: a patient is not in the cohort, or nothing is left.
        """
        wanted = set(patient_ids)
        if unknown := wanted - set(self.patients["patient_id"]):
            raise CohortError(f"cohort '{self.info.name}' has no patient '{min(unknown)}'.")
        return self.select(self.images["patient_id"].isin(wanted))

    def fingerprint(self) -> str:
        """SHA-256 of schema, ids, labels and metadata, in any order of rows; not of pixels."""
        digest = hashlib.sha256(json.dumps(self.schema.to_dict(), sort_keys=True).encode())
        for level in LEVELS:
            table = self.tables.of_level(level)
            rows = pd.util.hash_pandas_object(table[sorted(map(str, table))], index=False)
            digest.update(np.sort(rows.to_numpy()).tobytes())
        return digest.hexdigest()

    def split(self, parts: Mapping[str, float], *, seed: int = 0) -> dict[str, Cohort]:
        """Patient-disjoint parts, stratified by label, as in `{"train": 0.8, "test": 0.2}`.

        Raises:
            CohortError: too few patients, or fractions that do not add up to 1.
        """
        labels = self.images["label"].astype("object").where(self.images["label"].notna(), "")
        part = assign_groups(
            labels.to_numpy(), self.images["patient_id"].to_numpy(), parts, seed=seed
        )
        return {name: self.select(part == name) for name in parts}

    def flatten(self) -> Cohort:
        """The same images with all metadata at the lesion level (the 'flat' ablation)."""
        columns = ["patient_id", *self.schema.level("patient").columns]
        lesions = self.lesions.merge(self.patients[columns], on="patient_id", how="left")
        if columns := list(self.schema.level("image").columns):
            first = self.images.groupby("lesion_id", sort=False)[columns].first()
            lesions = lesions.merge(first, left_on="lesion_id", right_index=True, how="left")
        tables = replace(self.tables, lesions=lesions)
        return replace(self, schema=self.schema.flatten(), tables=tables)

    @classmethod
    def load(cls, folder: str | Path) -> Cohort:
        """Opens a cohort folder; images stay on disk.

        Raises:
            CohortError: the folder is missing, of another format, or damaged.
        """
        folder = Path(folder)
        if not (folder / "cohort.json").is_file():
            raise CohortError(
                f"{folder}: not a cohort (no cohort.json). Make one with: slimp data import."
            )
        content = read_content(folder / "cohort.json")
        tables = {f"{level}s": read_parquet(folder, f"{level}s") for level in LEVELS}
        try:
            store = open_images(folder / "images.bin", tables["images"])
            cohort = cls.from_tables(
                **tables,
                schema=Schema.from_dict(content["schema"]),
                store=store,
                info=CohortInfo(**content["info"]),
            )
            check_types(cohort.tables, cohort.schema, folder)
            return cohort
        except CohortError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CohortError(f"{folder}: damaged ({error}). Import the data again.") from None

    @classmethod
    def from_tables(
        cls,
        images: pd.DataFrame,
        lesions: pd.DataFrame,
        patients: pd.DataFrame,
        *,
        schema: Schema,
        store: Images,
        info: CohortInfo | None = None,
    ) -> Cohort:
        """A cohort in memory from typed tables; row i of `images` is image i of `store`."""
        if len(images) != len(store):
            raise CohortError(f"{len(images)} image rows, but {len(store)} images.")
        return cls(
            info=info or CohortInfo(name="tables"),
            schema=schema,
            tables=Tables(images=images, lesions=lesions, patients=patients),
            store=store,
            positions=np.arange(len(images), dtype=np.int64),
        )

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Writes the cohort as a folder, atomically.

        Raises:
            UserError: the folder is not empty and `overwrite` is off.
        """
        with CohortWriter.open(Path(folder), overwrite=overwrite) as writer:
            for row in range(len(self)):
                writer.add_image(self.read_image(row))
            writer.finish(self.tables, self.schema, self.info)


def level_of_images(cohort: Cohort) -> dict[LevelName, NDArray[np.int64]]:
    """Per level, the row of its table to which each image belongs."""
    lesions = cohort.lesion_of_image
    return {
        "image": np.arange(len(cohort), dtype=np.int64),
        "lesion": lesions,
        "patient": cohort.patient_of_lesion[lesions],
    }
