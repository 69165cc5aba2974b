"""Embeddings as the Parquet file that Embedding Atlas and FiftyOne read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from slimp.app.embeddings import Embedded
from slimp.data.cohort import Cohort
from slimp.data.files import new_file
from slimp.features.design import RawTable
from slimp.features.nearest import nearest
from slimp.features.pseudo_metadata import to_lists

OWN = ("embedding", "projection_x", "projection_y", "neighbors")
"""What is added to ids, label, published split and metadata. `neighbors` as Embedding Atlas defines
it: `{ids, distances}` with rows of this table from 0, and 1 - cosine; never the row itself."""


def write_atlas(
    path: Path, cohort: Cohort, embedded: Embedded, *, projection: str, neighbours: int
) -> None:
    """Writes a row per image, in the order of the cohort.

    A metadata column that is called as another one gets `metadata.` in front.
    """
    ids = [
        n for n in ("image_id", "lesion_id", "patient_id", "label", "split") if n in cohort.images
    ]
    frame, raw = cohort.images[ids].reset_index(drop=True), RawTable.of(cohort)
    if raw is not None:
        taken = {*ids, *OWN}
        own = raw.frame.rename(columns=lambda name: f"metadata.{name}" if name in taken else name)
        frame = pd.concat([frame, own], axis=1)
    images, rows = np.asarray(embedded.spaces["image"]), np.arange(len(cohort))
    plane = embedded.projection(projection)
    found = nearest(images, images, min(neighbours, len(rows) - 1), exclude=(rows, rows))
    lists = [pa.array([*found.row]), pa.array([*(1 - found.similarity)])]
    near = pa.StructArray.from_arrays(lists, names=["ids", "distances"])
    table = pa.Table.from_pandas(frame, preserve_index=False)
    added = (to_lists(images), pa.array(plane[:, 0]), pa.array(plane[:, 1]), near)
    for name, column in zip(OWN, added, strict=True):
        table = table.append_column(name, column)
    with new_file(path) as partial:
        pq.write_table(table, partial)
