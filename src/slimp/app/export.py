"""Embeddings as the Parquet file that Embedding Atlas and FiftyOne read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from slimp.app.embeddings import Embedded
from slimp.data.cohort import Cohort
from slimp.data.files import new_file, sha256_of
from slimp.features.design import RawTable
from slimp.features.nearest import nearest
from slimp.features.pseudo_metadata import to_lists
from slimp.models.config import WEIGHTS
from slimp.sources.export.describe import types_of, write_card, write_croissant

OWN = ("embedding", "projection_x", "projection_y", "neighbors")
"""What is added to ids, label, published split and metadata. `neighbors` as Embedding Atlas defines
it: `{ids, distances}` with rows of this table from 0, and 1 - cosine; never the row itself."""


def write_atlas(
    path: Path, cohort: Cohort, embedded: Embedded, *, projection: str, neighbours: int, run: Path
) -> None:
    """Writes a row per image, in the order of the cohort, and beside it the files of `beside`.

    A metadata column that is called as another one gets `metadata.` in front.

    Args:
        path: Parquet file to write.
        cohort: whose images.
        embedded: their embeddings.
        projection: of the map.
        neighbours: nearest images of each, at most.
        run: the run that embedded them, which the card names.
    """
    ids = [
        n for n in ("image_id", "lesion_id", "patient_id", "label", "split") if n in cohort.images
    ]
    kept = cohort.images[[*dict.fromkeys([*ids, *cohort.schema.level("image").columns])]]
    cohort = replace(cohort, tables=replace(cohort.tables, images=kept))  # for the card
    frame, raw = kept[ids].reset_index(drop=True), RawTable.of(cohort)
    types = dict.fromkeys(ids, "sc:Text")
    if raw is not None:
        taken, known = {*ids, *OWN}, types_of(cohort)
        columns = map(str, raw.frame.columns)
        own = {name: f"metadata.{name}" if name in taken else name for name in columns}
        types |= {own[name]: known.get(name, "sc:Text") for name in own}
        frame = pd.concat([frame, raw.frame.rename(columns=own)], axis=1)
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
    types |= {"embedding": "sc:Float[]", "projection_x": "sc:Float", "projection_y": "sc:Float"}
    holds = (
        f"A row per image: ids, label, metadata, an embedding of {images.shape[1]} numbers, its "
        f"place on a map ({projection}), and the nearest images. Embedded by '{run.name}', weights "
        f"of SHA-256 {sha256_of(run / WEIGHTS)}."
    )
    card, croissant = beside(path)
    write_card(cohort, {"train": path.name}, card, holds=holds)
    files = [{"name": path.name, "sha256": sha256_of(path)}]
    write_croissant(cohort, files, {path.name: types}, croissant, holds=holds)


def beside(path: Path) -> tuple[Path, Path]:
    """The dataset card and the Croissant file of an export."""
    return path.with_suffix(".card.md"), path.with_suffix(".croissant.json")
