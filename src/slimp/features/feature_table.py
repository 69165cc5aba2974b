"""Features per image with their ids and metadata: a table, and its file.

Axis names: n = images, d = width, p = width of a projection.

Example:
    >>> ids = pd.DataFrame({name: ["a", "b"] for name in ID_COLUMNS})
    >>> table = FeatureTable(ids=ids, features={"image": np.zeros((2, 4), np.float32)})
    >>> table, table.matrix("image").shape
    (FeatureTable(2 images: image 4), (2, 4))
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32
from safetensors import SafetensorError
from safetensors.numpy import load, save

from slimp.data.files import new_file
from slimp.data.schema import Schema
from slimp.errors import UserError
from slimp.features.backends import Augmentation
from slimp.features.design import Design, MetadataEncoder, RawTable
from slimp.features.feature_sets import (
    FEATURE_SETS,
    IMAGE,
    RELATIVE_TABLE,
    TABLE,
    TABLE_LEVELS,
    FeatureSet,
)
from slimp.features.pseudo_metadata import read_lists, to_lists
from slimp.features.relative import PatientContext

Array = np.ndarray[Any, np.dtype[Any]]
ID_COLUMNS = ("image_id", "lesion_id", "patient_id", "label")
IMPUTED_KEY, SCHEMA_KEY, CONTEXT_KEY = b"slimp.imputed", b"slimp.schema", b"slimp.patient_context"
AUGMENTATION_KEY, PROJECTION_KEY = b"slimp.test_time_augmentation", b"slimp.projection"
"""Metadata of a features file: imputed features, schema, the space that compares lesions, the
positions in which images were embedded, and the heads of the image."""
RAW = "metadata."
"""Before the names of columns of metadata in a features file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureTable:
    """Features per image, ids beside them; an example stands at the head of the module."""

    ids: pd.DataFrame
    """`image_id lesion_id patient_id label [split]`, a row per image."""
    features: Mapping[str, Float32[Array, "n _"]]
    """`image`, where there are metadata `lesion`, `patient`, `image_metadata`, and the comparison
    with the patient's other lesions: `relative`, `outlier` (see `PatientContext`)."""
    imputed: tuple[str, ...] = ()
    """Features with rows that `slimp retrieve` imputed from other patients."""
    raw: RawTable | None = None
    """The metadata themselves, observed cells only."""
    encoder: MetadataEncoder | None = None
    """Embeds other metadata of the same columns; not saved."""
    context: PatientContext | None = None
    """What the comparison was made with."""
    test_time_augmentation: Augmentation = "none"
    """How `image` was made, see `InferenceConfig`."""
    projection: Float32[Array, "d p"] | None = None
    """Linear heads by which pre-training brought `image` near metadata (`Slimp.image_projection`):
    the probe weighs their directions by themselves. None: there are none, or not linear ones."""

    def __post_init__(self) -> None:
        if self.test_time_augmentation not in get_args(Augmentation):
            raise UserError(
                f"feature table: made with the test-time augmentation "
                f"'{self.test_time_augmentation}', which this version does not know. Embed again."
            )
        if missing := [name for name in ID_COLUMNS if name not in self.ids]:
            raise UserError(f"feature table: the column '{missing[0]}' is missing.")
        if self.projection is not None and IMAGE in self.features:
            head, width = len(self.projection), self.features[IMAGE].shape[1]
            if head != width:
                raise UserError(
                    f"feature table: its heads read {head} columns, images have {width}."
                )
        for name, values in self.features.items():
            if len(values) != len(self.ids):
                raise UserError(
                    f"feature table: '{name}' has {len(values)} rows, the ids {len(self.ids)}."
                )
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                raise UserError(
                    f"feature table: '{name}' of image '{self.ids['image_id'].iloc[bad[0]]}' is "
                    f"not finite ({len(bad)} image(s) in all). Was training stable?"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"FeatureTable({len(self)} images: {self.widths})"

    def to_frame(self) -> pd.DataFrame:
        """Ids, then a column per number: `image_0`, ..., `lesion_0`, ..."""
        frames = (pd.DataFrame(x).add_prefix(f"{name}_") for name, x in self.features.items())
        return pd.concat([self.ids.reset_index(drop=True), *frames], axis=1)

    @property
    def widths(self) -> str:
        """The features with their widths, marked where imputed."""
        return ", ".join(
            f"{name} {values.shape[1]}{' (imputed)' if name in self.imputed else ''}"
            for name, values in self.features.items()
        )

    def design(self, features: FeatureSet) -> Design:
        """The blocks of a set, and the raw metadata of its levels where there are any.

        `full` is all there are of the image itself. `image+lesion` needs metadata below the
        patient, `relative` a table with `with_context`.

        Raises:
            UserError: there is no such set, or the table lacks what it needs.
        """
        if features not in FEATURE_SETS:
            raise UserError(f"features '{features}' is not one of {', '.join(FEATURE_SETS)}.")
        found = self._found(features)
        if features == "relative" and "relative" not in found.blocks:
            raise UserError(
                "features 'relative' need the comparison with the patient's other lesions, which "
                "this table lacks. Embed again, or add it with table.with_context()."
            )
        if "image" not in found.blocks or (features == "image+lesion" and len(found.parts) < 2):
            lacking = "lesion" if "image" in found.blocks else "image"
            raise UserError(
                f"features '{features}' need '{lacking}' features, but this table has only: "
                f"{', '.join(self.features) or 'none'}. The model or the cohort has no metadata "
                "at that level; choose another feature set."
            )
        return found

    def parts(self, features: FeatureSet) -> tuple[str, ...]:
        """What there is of a set: blocks, and columns of raw metadata."""
        return self._found(features).parts

    def _found(self, features: FeatureSet) -> Design:
        names, levels = FEATURE_SETS[features], TABLE_LEVELS[features]
        raw = self.raw if TABLE in names else None
        if raw is not None and not any(raw.schema.level(name).features for name in levels):
            raw = None
        found = {name: self.features[name] for name in names if name in self.features}
        if raw is not None and RELATIVE_TABLE in names and (own := raw.relative(self.ids)).size:
            found[RELATIVE_TABLE] = own
        return Design(
            blocks=found,
            table=raw,
            levels=levels,
            encoder=self.encoder,
            projection=self.projection if IMAGE in found else None,
        )

    def matrix(self, features: FeatureSet) -> Float32[Array, "n d"]:
        """The embeddings of a set side by side: image, lesion, patient; raises as `design`."""
        return np.hstack([*self.design(features).blocks.values()])

    def select(self, mask: Bool[Array, " n"] | pd.Series) -> FeatureTable:
        """The images where `mask` is true."""
        keep = np.asarray(mask, dtype=bool)
        return replace(
            self,
            ids=self.ids[keep].reset_index(drop=True),
            features={name: values[keep] for name, values in self.features.items()},
            raw=None if self.raw is None else self.raw[keep],
        )

    def with_context(self, context: PatientContext | None = None) -> FeatureTable:
        """The table with the comparison of each lesion with the patient's others.

        Lesions of a patient that are not in the table cannot be compared with. `context`: of the
        table that a probe was fitted on; None: fitted on this one, without labels.
        """
        context = context or PatientContext.fit(self.features, self.ids)
        compared = context.relative(self.features, self.ids)
        return replace(self, features={**self.features, **compared}, context=context)

    def save(self, path: str | Path) -> None:
        """Writes a parquet file, atomically: ids, metadata, and a fixed-size list per embedding."""
        scalars, notes = self.ids, {IMPUTED_KEY: json.dumps(self.imputed).encode()}
        notes[AUGMENTATION_KEY] = self.test_time_augmentation.encode()
        if self.raw is not None:
            own = self.raw.frame.add_prefix(RAW).set_axis(self.ids.index, axis="index")
            scalars = pd.concat([self.ids, own], axis=1)
            notes[SCHEMA_KEY] = json.dumps(self.raw.schema.to_dict()).encode()
        table = pa.Table.from_pandas(scalars, preserve_index=False)
        for name, values in self.features.items():
            table = table.append_column(name, to_lists(values))
        if self.context is not None:
            notes[CONTEXT_KEY] = self.context.to_text().encode()
        if self.projection is not None:
            head = {IMAGE: np.ascontiguousarray(self.projection)}
            notes[PROJECTION_KEY] = base64.b64encode(save(head))
        notes = {**(table.schema.metadata or {}), **notes}
        table = table.replace_schema_metadata(notes)
        with new_file(Path(path)) as partial:
            pq.write_table(table, partial)

    @classmethod
    def load(cls, path: str | Path) -> FeatureTable:
        """The inverse of `save`.

        Raises:
            UserError: the file is missing, damaged, or not a table of features.
        """
        remedy = "Make one with: slimp embed."
        try:
            table = pq.ParquetFile(path).read()  # of a folder, read_table takes all files
            names = [name for name in FEATURE_SETS["relative"] if name in table.column_names]
            read = {name: read_lists(table[name]) for name in names}
            notes = table.schema.metadata or {}
            projection = PROJECTION_KEY in notes and load(base64.b64decode(notes[PROJECTION_KEY]))
        except (pa.ArrowException, SafetensorError, OSError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: missing, damaged or no features ({reason}). {remedy}"
            ) from None
        if not read or not all(known.all() for _, known in read.values()):
            raise UserError(f"{path}: holds no features, or not of every image. {remedy}")
        context = notes.get(CONTEXT_KEY) and PatientContext.from_text(notes[CONTEXT_KEY])
        features = {name: values for name, (values, _) in read.items()}
        ids, raw = table.drop_columns(names).to_pandas(), None
        if SCHEMA_KEY in notes:
            own = [name for name in ids if name.startswith(RAW)]
            frame = ids[own].rename(columns=lambda name: name.removeprefix(RAW))
            raw = RawTable(schema=Schema.from_dict(json.loads(notes[SCHEMA_KEY])), frame=frame)
            ids = ids.drop(columns=own)
        try:
            return cls(
                ids=ids,
                features=features,
                imputed=tuple(json.loads(notes.get(IMPUTED_KEY, b"[]"))),
                raw=raw,
                context=context,
                test_time_augmentation=notes.get(AUGMENTATION_KEY, b"none").decode(),
                projection=projection[IMAGE] if projection else None,
            )
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
