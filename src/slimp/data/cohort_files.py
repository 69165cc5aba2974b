"""A cohort's folder: the tables that lie in it, how it is written, how it is read.

`cohort.json`, `images.parquet`, `lesions.parquet`, `patients.parquet` and `images.bin` (encoded
images end to end; image i occupies `byte_offset` to `byte_offset + byte_length`): pandas or
DuckDB can read it without this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from slimp.data.files import PackedImages, new_folder, read_json, write_json
from slimp.data.schema import LevelName, Schema
from slimp.errors import CohortError, UserError

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
    Ids are unique in the whole cohort. An index does not count, and is not kept.
    """

    images: pd.DataFrame
    lesions: pd.DataFrame
    patients: pd.DataFrame

    def __post_init__(self) -> None:
        for name, table in vars(self).copy().items():  # rows are known by their place alone
            object.__setattr__(self, name, table.reset_index(drop=True))
        for level, columns in _OWN_COLUMNS.items():
            if lacking := columns - set(self.of_level(level).columns):
                raise CohortError(f"{level}s.parquet: has no column '{min(lacking)}'.")
        _refuse_repeats(self.images["image_id"], "images.parquet")
        lesions = _rows_of_parents(self.images, self.lesions, "lesion_id", "images.parquet")
        patients = _rows_of_parents(self.lesions, self.patients, "patient_id", "lesions.parquet")
        owner = rows_of(self.images["patient_id"], self.patients["patient_id"])
        wrong = np.flatnonzero(owner != patients[lesions])
        if len(wrong):
            image = self.images.iloc[wrong[0]]
            raise CohortError(
                f"images.parquet: image '{image['image_id']}' is of patient "
                f"'{image['patient_id']}', its lesion '{image['lesion_id']}' of another."
            )

    def of_level(self, level: LevelName) -> pd.DataFrame:
        """The table of one level."""
        found: pd.DataFrame = getattr(self, f"{level}s")
        return found


class CohortWriter:
    """Writes a cohort folder: images one by one as they come, the tables last, then a rename."""

    def __init__(self, folder: Path, images: IO[bytes]) -> None:
        self._folder, self._images = folder, images
        self._lengths: list[int] = []
        self._finished = False

    @classmethod
    @contextmanager
    def open(cls, folder: Path, *, overwrite: bool = False) -> Iterator[CohortWriter]:
        """A writer; if the block fails or does not `finish`, nothing is left."""
        with new_folder(folder, overwrite=overwrite) as partial:
            with (partial / "images.bin").open("wb") as images:
                writer = cls(partial, images)
                yield writer
            if not writer._finished:
                raise CohortError("the cohort was not finished.")

    def add_image(self, encoded: bytes) -> None:
        """Appends the image of the next row of the images table."""
        self._images.write(encoded)
        self._lengths.append(len(encoded))

    def finish(self, tables: Tables, schema: Schema, info: CohortInfo) -> None:
        """Writes the tables; row i of `tables.images` is the i-th image added.

        Raises:
            CohortError: the number of rows is not the number of images added, or is 0; or a column
                has not the type that the schema says.
        """
        check_types(tables, schema, Path(info.name))
        lengths = np.array(self._lengths, dtype=np.int64)
        if len(tables.images) != len(lengths):
            raise CohortError(f"{len(tables.images)} image rows, {len(lengths)} images.")
        if not len(lengths):
            raise CohortError(f"cohort '{info.name}': no images, so there is nothing to write.")
        images = tables.images.assign(byte_offset=np.cumsum(lengths) - lengths, byte_length=lengths)
        frames = {"images": images, "lesions": tables.lesions, "patients": tables.patients}
        for name, frame in frames.items():
            frame.to_parquet(self._folder / f"{name}.parquet", index=False)
        content = {
            "format": FORMAT,
            "info": asdict(info),
            "classes": sorted(images["label"].dropna().unique().tolist()),
            "schema": schema.to_dict(),
        }
        write_json(self._folder / "cohort.json", content)
        self._finished = True


def rows_of(ids: pd.Series, table_ids: pd.Series) -> NDArray[np.int64]:
    """(ids,) row of each id in `table_ids`, the first where it repeats; -1 where it is none."""
    child, parent = (pa.array(x.astype("str"), pa.large_string()) for x in (ids, table_ids))
    rows = pc.index_in(child, value_set=parent).fill_null(-1)
    return np.asarray(rows, dtype=np.int64)


def read_content(path: Path) -> dict[str, Any]:
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


def read_parquet(folder: Path, name: str) -> pd.DataFrame:
    """One table of a folder, mapped into memory as far as its types allow."""
    path = folder / f"{name}.parquet"
    try:
        return pd.read_parquet(path, memory_map=True)
    except (OSError, ValueError) as error:
        raise CohortError(f"{path}: missing or damaged ({error}). Import the data again.") from None


def open_images(path: Path, images: pd.DataFrame) -> PackedImages:
    """The images of a folder; takes their place in the file out of the table."""
    lengths, offsets = images.pop("byte_length"), images.pop("byte_offset")
    if not path.is_file():
        raise CohortError(f"{path}: missing. Import the data again.")
    bounds = np.append(0, np.cumsum(lengths.to_numpy()))
    if bounds.dtype != np.int64 or not len(images) or (bounds[:-1] != offsets).any():
        raise CohortError(f"{path}: does not fit images.parquet. Import the data again.")
    return PackedImages(path, bounds)


def check_types(tables: Tables, schema: Schema, folder: Path) -> None:
    """Refuses tables whose columns are of another kind than the schema says.

    Raises:
        CohortError: names the file in `folder` and the column.
    """
    fits = {
        "text": pd.api.types.is_string_dtype,
        "continuous": pd.api.types.is_numeric_dtype,
        "categorical": pd.api.types.is_string_dtype,
        "checkbox": pd.api.types.is_bool_dtype,
    }
    for level in schema.levels:
        table, file = tables.of_level(level.name), folder / f"{level.name}s.parquet"
        wanted: dict[str, str] = dict.fromkeys(sorted(_OWN_COLUMNS[level.name]), "text")
        wanted |= {name: feature.kind for feature in level.features for name in feature.columns}
        for name, column in table.items():
            held = pd.api.types.infer_dtype(column) if column.dtype == object else "string"
            if held not in ("string", "empty", "boolean"):
                raise CohortError(
                    f"{file}: the column '{name}' holds {held}, but a cell is one text, number or "
                    "truth value. Import the data again."
                )
            kind = wanted.get(str(name))
            if kind and not fits[kind](column.dtype) and column.notna().any():
                raise CohortError(
                    f"{file}: the column '{name}' is {column.dtype}, but {kind} in the schema. "
                    "Convert it, or import the data again."
                )


def _rows_of_parents(
    child: pd.DataFrame, parent: pd.DataFrame, key: str, where: str
) -> NDArray[np.int64]:
    """(rows of child,) row of each one's parent; refuses orphans and parents without a child."""
    rows = rows_of(child[key], parent[key])
    childless = np.flatnonzero(np.bincount(rows + 1, minlength=len(parent) + 1)[1:] == 0)
    if len(childless):  # a parent that occurs twice is childless the second time
        _refuse_repeats(parent[key], f"{key.removesuffix('_id')}s.parquet")
    if (rows < 0).any():
        orphan = child[key].iloc[np.flatnonzero(rows < 0)[0]]
        raise CohortError(f"{where}: {key} '{orphan}' is not in the table of its level.")
    if len(childless):
        name = parent[key].iloc[childless[0]]
        raise CohortError(f"{where}: nothing belongs to {key} '{name}'. Drop that row.")
    return rows


def _refuse_repeats(ids: pd.Series, where: str) -> None:
    if len(ids) != ids.nunique(dropna=False):
        twice = ids[ids.duplicated()].iloc[0]
        raise CohortError(f"{where}: {ids.name} '{twice}' occurs twice.")
