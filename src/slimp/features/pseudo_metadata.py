"""Pseudo-metadata: embeddings retrieved for images whose own metadata are not known.

`slimp retrieve` writes them; `embed` puts them where features of the real metadata would stand.
Axis names: n = images, m = images of some table, h = width of a tabular encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int64

from slimp.data.files import read_json
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError
from slimp.models.nested import Slimp

Array = np.ndarray[Any, np.dtype[Any]]
FILE = "pseudo.parquet"
MODEL_KEY = b"slimp.model"
"""Metadata of the file: `fingerprint` of the model whose embeddings it holds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PseudoMetadata:
    """Per level, what was retrieved for each image; the images in any order, each once."""

    image_ids: Array
    embeddings: Mapping[LevelName, Float32[Array, "n h"]]
    """Before any projection; 0 where an image has metadata of its own."""
    imputed: Mapping[LevelName, Bool[Array, " n"]]
    """Per level of `embeddings`: whether the image has no metadata of its own."""
    abstained: Bool[Array, " n"]
    """Nothing in the reference is near enough: these images keep missing metadata."""
    model: str
    """`fingerprint` of the model that the embeddings are of."""
    test_time_augmentation: str | None = None
    """Of the image features that neighbours were sought by; None: not known."""

    def rows_for(self, model: Slimp, image_ids: pd.Series) -> Int64[Array, " m"]:
        """The row of each of these images.

        Raises:
            UserError: an image is not among ours, or the model, to which the embeddings would
                mean nothing, is not the one that retrieved them.
        """
        if self.model != fingerprint(model):
            raise UserError(
                "pseudo-metadata: they are embeddings of another model, so they mean nothing to "
                "this one. Retrieve with the same run that embeds: slimp retrieve RUN."
            )
        rows = pd.Index(self.image_ids).get_indexer(pd.Index(image_ids))
        if (rows < 0).any():
            stranger = image_ids.iloc[int(np.argmax(rows < 0))]
            raise UserError(
                f"pseudo-metadata: there are none for image '{stranger}' ({(rows < 0).sum()} such "
                f"image(s) in all). Make them with: slimp retrieve --target COHORT."
            )
        return np.asarray(rows, dtype=np.int64)

    @classmethod
    def load(cls, folder: str | Path) -> PseudoMetadata:
        """What `slimp retrieve` left in a folder.

        Raises:
            UserError: the file is missing, damaged, or not of that kind.
        """
        path, record = Path(folder) / FILE, Path(folder) / "config.json"
        settings = read_json(record) if record.is_file() else {}
        try:
            table = pq.ParquetFile(path).read()
            table = table.take(np.flatnonzero(table["rank"].to_numpy() == 1))
            levels = [name for name in LEVELS if f"{name}_embedding" in table.column_names]
            read = {name: read_lists(table[f"{name}_embedding"]) for name in levels}
            return cls(
                image_ids=table["image_id"].to_pandas().to_numpy(),
                embeddings={name: values for name, (values, _) in read.items()},
                imputed={name: known for name, (_, known) in read.items()},
                abstained=np.asarray(table["abstained"].to_numpy(), dtype=bool),
                model=(table.schema.metadata or {}).get(MODEL_KEY, b"").decode(),
                test_time_augmentation=settings.get("test_time_augmentation"),
            )
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: missing, damaged, or not pseudo-metadata ({reason}). "
                "Make it anew with: slimp retrieve."
            ) from None


def fingerprint(model: Slimp) -> str:
    """A number for the weights of the tabular encoders: equal ones give equal embeddings."""
    digest = hashlib.sha256()
    for name, level in model.levels.items():
        for key, value in level.get_submodule("tabular").state_dict().items():
            digest.update(f"{name}.{key}".encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def to_lists(
    values: Float32[Array, "n h"], known: Bool[Array, " n"] | None = None
) -> pa.FixedSizeListArray:
    """A column of lists of fixed size; null where not known."""
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).ravel())
    mask = None if known is None else pa.array(~known)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def read_lists(column: pa.ChunkedArray) -> tuple[Float32[Array, "n h"], Bool[Array, " n"]]:
    """The rows of such a column, 0 where null; and where it is not null.

    Raises:
        TypeError: it holds something else.
    """
    lists = column.combine_chunks()
    if not (pa.types.is_fixed_size_list(lists.type) and lists.type.value_type == pa.float32()):
        raise TypeError(f"a column is {lists.type}, expected float32 lists of a fixed size")
    known = np.asarray(lists.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
    values = np.zeros((len(lists), lists.type.list_size), dtype=np.float32)
    filled = lists.drop_null().flatten().to_numpy(zero_copy_only=False)
    values[known] = filled.reshape(-1, lists.type.list_size)
    return values, known
