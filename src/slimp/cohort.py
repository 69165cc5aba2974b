"""The canonical dataset: patients, their lesions, their images, and typed metadata per level.

On disk a cohort is a folder that pandas or DuckDB can read without this package:
`cohort.json`, `images.parquet`, `lesions.parquet`, `patients.parquet` and `images.bin`
(encoded images end to end; image i occupies `byte_offset` to `byte_offset + byte_length`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from slimp.errors import CohortError, UserError
from slimp.parts import assign_groups, require_disjoint
from slimp.schema import LevelName, Schema
from slimp.storage import Images, PackedImages, new_folder, read_json, write_json

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Cohort", "CohortInfo", "CohortWriter", "Tables", "assign_groups", "require_disjoint"]

FORMAT = 1
"""Version of the folder's layout, in `cohort.json`."""
_OWN_COLUMNS: dict[LevelName, set[str]] = {
    "image": {"image_id", "lesion_id", "patient_id", "label"},
    "lesion": {"lesion_id", "patient_id"},
    "patient": {"patient_id"},
}


@dataclass(frozen=True, kw_only=True)
class CohortInfo:
    """What a cohort is and where it comes from."""

    name: str
    source: str = "tables"
    licence: str = "unknown"
    citation: str = ""
    import_report: Mapping[str, Any] = field(default_factory=dict)
    """What the import met and did: rows, absent and corrupt images, disagreements resolved."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """One typed table per level, rows in a fixed order.

    `images`: `image_id lesion_id patient_id label [split]` and image-level columns, a row per
    image, `label` missing where unknown. `lesions`: `lesion_id patient_id` and lesion-level
    columns. `patients`: `patient_id` and patient-level columns. Feature columns are typed:
    float64 (continuous), str (categorical), boolean (checkbox), missing as such. Published
    columns that the schema does not use are kept in `images` as text and never become inputs.
    Ids are unique in the whole cohort.
    """

    images: pd.DataFrame
    lesions: pd.DataFrame
    patients: pd.DataFrame

    def __post_init__(self) -> None:
        for level, columns in _OWN_COLUMNS.items():
            if lacking := columns - set(self.of_level(level).columns):
                raise CohortError(f"{level}s.parquet: has no column '{min(lacking)}'.")
        _refuse_repeats(self.images["image_id"], "images.parquet")
        lesions = _rows_of_parents(self.images, self.lesions, "lesion_id", "images.parquet")
        patients = _rows_of_parents(self.lesions, self.patients, "patient_id", "lesions.parquet")
        owner = _rows_of(self.images["patient_id"], self.patients["patient_id"])
        strays = np.flatnonzero(owner != patients[lesions])
        if len(strays):
            stray = self.images.iloc[strays[0]]
            raise CohortError(
                f"images.parquet: image '{stray['image_id']}' is of patient "
                f"'{stray['patient_id']}', its lesion '{stray['lesion_id']}' of another."
            )

    def of_level(self, level: LevelName) -> pd.DataFrame:
        """The table of one level."""
        tables = {"image": self.images, "lesion": self.lesions, "patient": self.patients}
        return tables[level]


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Tables, the schema that explains them, and the images. Immutable; `select` makes parts."""

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
        return (
            f"Cohort({self.info.name!r}: {len(self.tables.patients)} patients, "
            f"{len(self.tables.lesions)} lesions, {len(self)} images)"
        )

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
    def lesion_of_image(self) -> NDArray[np.int64]:
        """(images,) row of each image's lesion in `lesions`."""
        return _rows_of(self.images["lesion_id"], self.lesions["lesion_id"])

    @property
    def patient_of_lesion(self) -> NDArray[np.int64]:
        """(lesions,) row of each lesion's patient in `patients`."""
        return _rows_of(self.lesions["patient_id"], self.patients["patient_id"])

    def read_image(self, row: int) -> bytes:
        """The encoded image of row `row` of `images`."""
        return self.store.read(int(self.positions[row]))

    def select(self, mask: NDArray[np.bool_] | pd.Series) -> Cohort:
        """The images where `mask` is true, with just their lesions and patients.

        Raises:
            CohortError: nothing is left.
        """
        mask = np.asarray(mask, dtype=bool)
        images = self.images[mask].reset_index(drop=True)
        if images.empty:
            raise CohortError(f"cohort '{self.info.name}': no image is left after the selection.")
        lesions = np.unique(self.lesion_of_image[mask])
        patients = np.unique(self.patient_of_lesion[lesions])
        tables = Tables(
            images=images,
            lesions=self.lesions.iloc[lesions].reset_index(drop=True),
            patients=self.patients.iloc[patients].reset_index(drop=True),
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
        patient_columns = ["patient_id", *self.schema.level("patient").columns]
        lesions = self.lesions.merge(
            self.patients[patient_columns], on="patient_id", how="left", validate="many_to_one"
        )
        image_columns = list(self.schema.level("image").columns)
        if image_columns:
            first = self.images.groupby("lesion_id", sort=False)[image_columns].first()
            lesions = lesions.merge(first, left_on="lesion_id", right_index=True, how="left")
        tables = replace(self.tables, lesions=lesions)
        return replace(self, schema=self.schema.flatten(), tables=tables)

    def check(self) -> Any:
        """Everything that could spoil a result, as a `slimp.check.CheckReport`."""
        # By name: the checks stand on this module, not this module on them.
        return import_module("slimp.check").check_cohort(self)

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
        content = _read_content(folder / "cohort.json")
        frames = {name: _read_parquet(folder, name) for name in ("images", "lesions", "patients")}
        try:
            images = frames.pop("images")
            store = _open_images(folder / "images.bin", images)
            return cls(
                info=CohortInfo(**content["info"]),
                schema=Schema.from_dict(content["schema"]),
                tables=Tables(images=images, **frames),
                store=store,
                positions=np.arange(len(images), dtype=np.int64),
            )
        except CohortError:
            raise
        except (UserError, KeyError, TypeError, AttributeError) as error:
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
        with CohortWriter(Path(folder), overwrite=overwrite) as writer:
            for row in range(len(self)):
                writer.add_image(self.read_image(row))
            writer.finish(self.tables, self.schema, self.info)


class CohortWriter:
    """Writes a cohort folder: images one by one as they come, the tables last, then a rename.

    Used as a context manager. If the block fails or `finish` is not called, nothing is left.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self._folder: AbstractContextManager[Path] = new_folder(folder, overwrite=overwrite)
        self._lengths: list[int] = []
        self._finished = False

    def __enter__(self) -> CohortWriter:
        self._partial = self._folder.__enter__()
        self._file: IO[bytes] = (self._partial / "images.bin").open("wb")
        return self

    def add_image(self, encoded: bytes) -> None:
        """Appends the image of the next row of the images table."""
        self._file.write(encoded)
        self._lengths.append(len(encoded))

    def finish(self, tables: Tables, schema: Schema, info: CohortInfo) -> None:
        """Writes the tables; row i of `tables.images` is the i-th image added.

        Raises:
            CohortError: the number of rows is not the number of images added, or is 0.
        """
        if len(tables.images) != len(self._lengths):
            raise CohortError(f"{len(tables.images)} image rows, {len(self._lengths)} images.")
        if not self._lengths:
            raise CohortError(f"cohort '{info.name}': no images, so there is nothing to write.")
        lengths = np.array(self._lengths, dtype=np.int64)
        images = tables.images.assign(byte_offset=np.cumsum(lengths) - lengths, byte_length=lengths)
        images.to_parquet(self._partial / "images.parquet", index=False)
        tables.lesions.to_parquet(self._partial / "lesions.parquet", index=False)
        tables.patients.to_parquet(self._partial / "patients.parquet", index=False)
        classes = sorted(images["label"].dropna().unique().tolist())
        content = {
            "format": FORMAT,
            "info": asdict(info),
            "classes": classes,
            "schema": schema.to_dict(),
        }
        write_json(self._partial / "cohort.json", content)
        self._finished = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None and not self._finished:
            error = CohortError("the cohort was not finished.")
            kind = type(error)
            self._folder.__exit__(kind, error, None)
            raise error
        self._folder.__exit__(kind, error, trace)


def _rows_of(ids: pd.Series, table_ids: pd.Series) -> NDArray[np.int64]:
    """(ids,) row of each id in `table_ids`, the first where it repeats; -1 where it is none."""
    child, parent = (pa.array(x.astype("str"), pa.large_string()) for x in (ids, table_ids))
    rows = pc.index_in(child, value_set=parent).fill_null(-1)
    return np.asarray(rows, dtype=np.int64)


def _read_content(path: Path) -> dict[str, Any]:
    """What `cohort.json` says."""
    try:
        content = read_json(path)
    except UserError as error:
        raise CohortError(f"{error} Import the data again.") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise CohortError(
            f"{path.parent}: cohort format {found!r}, this version reads {FORMAT}. "
            "Import the data again."
        )
    return dict(content)


def _read_parquet(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.parquet"
    try:
        return pd.read_parquet(path, memory_map=True)
    except (OSError, ValueError) as error:
        raise CohortError(f"{path}: missing or damaged ({error}). Import the data again.") from None


def _open_images(path: Path, images: pd.DataFrame) -> PackedImages:
    """The images of a folder; takes their place in the file out of the table."""
    lengths = images.pop("byte_length").to_numpy(dtype=np.int64)
    offsets = images.pop("byte_offset").to_numpy(dtype=np.int64)
    bounds = np.append(0, np.cumsum(lengths))
    if not path.is_file():
        raise CohortError(f"{path}: missing. Import the data again.")
    if not len(images) or (bounds[:-1] != offsets).any():
        raise CohortError(f"{path}: does not fit images.parquet. Import the data again.")
    return PackedImages(path, bounds)


def _rows_of_parents(
    child: pd.DataFrame, parent: pd.DataFrame, key: str, where: str
) -> NDArray[np.int64]:
    """(rows of child,) row of each one's parent; refuses orphans and parents without a child."""
    rows = _rows_of(child[key], parent[key])
    barren = np.flatnonzero(np.bincount(rows + 1, minlength=len(parent) + 1)[1:] == 0)
    if len(barren):  # a parent that occurs twice is barren the second time
        _refuse_repeats(parent[key], f"{key.removesuffix('_id')}s.parquet")
    if (rows < 0).any():
        orphan = child[key].iloc[np.flatnonzero(rows < 0)[0]]
        raise CohortError(f"{where}: {key} '{orphan}' is not in the table of its level.")
    if len(barren):
        lonely = parent[key].iloc[barren[0]]
        raise CohortError(f"{where}: nothing belongs to {key} '{lonely}'. Drop that row.")
    return rows


def _refuse_repeats(ids: pd.Series, where: str) -> None:
    if len(ids) != ids.nunique(dropna=False):
        twice = ids[ids.duplicated()].iloc[0]
        raise CohortError(f"{where}: {ids.name} '{twice}' occurs twice.")
