"""Shards of images with their metadata: tar for WebDataset, Parquet for Hugging Face `datasets`.

Neither package is needed: tar files are Python's own, and what `datasets` wants beside Parquet is
one entry of metadata. The tests read what is written with both.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from slimp.data.cohort import Cohort
from slimp.data.files import sha256_of, write_json
from slimp.data.schema import LEVELS, Kind
from slimp.sources.export.shards import Shard
from slimp.sources.webdataset import FORMAT, SIDECAR, TABLES, key_of

Progress = Callable[[int, int], None]
TYPES: dict[Kind, tuple[pa.DataType, str]] = {
    "continuous": (pa.float64(), "float64"),
    "categorical": (pa.string(), "string"),
    "checkbox": (pa.bool_(), "bool"),
}
"""Kind of a feature -> its type in Parquet, and in `datasets`."""
ROWS = 100
"""In a row group of Parquet, as `datasets` writes them for images."""


def write_tar(
    cohort: Cohort, shards: Sequence[Shard], folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Writes `SPLIT-000000.tar` and so on, `tables/` and `export.json`; name and hash of each.

    A sample's key is its row in the cohort; `KEY.json` holds ids, label, split and metadata.
    """
    done, files = 0, list[dict[str, Any]]()
    for shard in shards:
        path = folder / f"{shard.split}-{shard.number:06d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row, sample in zip(shard.rows.tolist(), _samples(cohort, shard.rows), strict=True):
                encoded = cohort.read_image(row)
                text = json.dumps(sample, ensure_ascii=False, allow_nan=False)
                for name, content in ((_ending(encoded), encoded), ("json", text.encode())):
                    member = tarfile.TarInfo(f"{key_of(row)}.{name}")  # without date and owner
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                done += 1
                progress(done, len(cohort))
        files.append({"name": path.name, "images": len(shard.rows), "sha256": sha256_of(path)})
    (folder / TABLES).mkdir()
    for level in LEVELS:
        path = folder / TABLES / f"{level}s.parquet"
        cohort.tables.of_level(level).to_parquet(path, index=False)
        files.append({"name": f"{TABLES}/{path.name}", "sha256": sha256_of(path)})
    sidecar = {
        "format": FORMAT,
        "info": asdict(cohort.info),
        "classes": list(cohort.classes),
        "schema": cohort.schema.to_dict(),
        "files": files,
    }
    write_json(folder / SIDECAR, sidecar)
    return files


def write_parquet(
    cohort: Cohort, shards: Sequence[Shard], folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Writes `data/SPLIT-00000-of-00001.parquet` and so on; name and hash of each.

    A row per image: the image, ids, label, split, the metadata of all levels, and the published
    columns that go along. Missing is null.
    """
    types, features = _columns(cohort)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(list(types.items()), metadata=metadata)
    (folder / "data").mkdir()
    done, files = 0, list[dict[str, Any]]()
    for shard in shards:
        path = folder / "data" / f"{shard.split}-{shard.number:05d}-of-{shard.of:05d}.parquet"
        with pq.ParquetWriter(path, schema) as writer:
            for rows in np.split(shard.rows, range(ROWS, len(shard.rows), ROWS)):
                writer.write_batch(_batch(cohort, rows, schema))
                done += len(rows)
                progress(done, len(cohort))
        files.append({"name": f"data/{path.name}", "sha256": sha256_of(path)})
    return files


def unreviewed_columns(cohort: Cohort) -> list[str]:
    """Columns of `cohort.images` that are neither the cohort's own nor metadata."""
    own = {"image_id", "lesion_id", "patient_id", "label", "split"}
    own |= set(cohort.schema.level("image").columns)
    return [str(name) for name in cohort.images.columns if name not in own]


def _parts(cohort: Cohort, rows: NDArray[np.int64]) -> dict[str, pd.DataFrame]:
    """For these rows of `cohort.images`: ids, label and split; each level; published columns."""
    lesions = cohort.lesion_of_image[rows]
    places = {"image": rows, "lesion": lesions, "patient": cohort.patient_of_lesion[lesions]}
    ids = ["image_id", "lesion_id", "patient_id", "label"]
    ids += ["split"] * ("split" in cohort.images)
    parts = {"ids": cohort.images[ids].iloc[rows]}
    for level in LEVELS:
        columns = list(cohort.schema.level(level).columns)
        parts[level] = cohort.tables.of_level(level)[columns].iloc[places[level]]
    return parts | {"published": cohort.images[unreviewed_columns(cohort)].iloc[rows]}


def _samples(cohort: Cohort, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Ids, label, split, metadata and published columns of each row; None is missing."""
    dicts = {
        name: pa.Table.from_pandas(part, preserve_index=False).to_pylist()
        if len(part.columns)
        else [{} for _ in rows]
        for name, part in _parts(cohort, rows).items()
    }
    return [
        {
            **dicts["ids"][i],
            "metadata": {level: dicts[level][i] for level in LEVELS},
            "published": dicts["published"][i],
        }
        for i in range(len(rows))
    ]


def _columns(cohort: Cohort) -> tuple[dict[str, pa.DataType], dict[str, Any]]:
    """Column -> its type in Parquet, and what `datasets` takes it for."""
    types = {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    kinds: dict[str, Kind] = {c: f.kind for f in cohort.schema.features for c in f.columns}
    for name in (str(n) for part in _parts(cohort, np.arange(1)).values() for n in part):
        free = name
        while free in types:
            free += "_"
        types[free], dtype = TYPES[kinds.get(name, "categorical")]
        features[free] = {"dtype": dtype, "_type": "Value"}
    if cohort.classes:
        types["label"] = pa.int64()
        features["label"] = {"names": list(cohort.classes), "_type": "ClassLabel"}
    return types, features


def _batch(cohort: Cohort, rows: NDArray[np.int64], schema: pa.Schema) -> pa.RecordBatch:
    parts = _parts(cohort, rows)
    codes = {label: code for code, label in enumerate(cohort.classes)}
    if codes:
        label = parts["ids"]["label"].map(codes).astype("Int64")
        parts["ids"] = parts["ids"].assign(label=label)
    encoded = [cohort.read_image(int(row)) for row in rows]
    names = parts["ids"]["image_id"]
    columns: list[Any] = [
        [
            {"bytes": image, "path": f"{name}.{_ending(image)}"}
            for name, image in zip(names, encoded, strict=True)
        ]
    ]
    columns += [part[name].reset_index(drop=True) for part in parts.values() for name in part]
    arrays = [
        pa.array(x, type=y.type, from_pandas=True) for x, y in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _ending(encoded: bytes) -> str:
    """Of an image's file name."""
    return "png" if encoded.startswith(b"\x89PNG") else "jpg"
