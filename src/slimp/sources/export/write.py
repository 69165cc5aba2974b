"""Shards of images with their metadata: tar for WebDataset, Parquet for Hugging Face `datasets`.

Neither package is needed: tar files are Python's own, and what `datasets` wants beside Parquet is
one entry of metadata. The tests read what is written with both.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from slimp.data.cohort import Cohort, level_of_images
from slimp.data.files import sha256_of, write_json
from slimp.data.schema import LEVELS
from slimp.sources.webdataset import FORMAT, SIDECAR, TABLES, key_of

Progress = Callable[[int, int], None]
Shards = Mapping[str, Sequence[NDArray[np.int64]]]
TYPES = {"continuous": pa.float64(), "checkbox": pa.bool_(), "categorical": pa.string()}
"""Kind of a feature -> its type in Parquet; all else is text."""
NAMES = {pa.float64(): "float64", pa.bool_(): "bool", pa.string(): "string"}
"""What `datasets` calls these types."""
ROWS = 100
"""In a row group of Parquet, as `datasets` writes them for images."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of an export."""

    name: str
    """Unlike all others."""
    source: str
    """Its name in the cohort."""
    group: str
    """`ids` (with label and split), a level, or `published`: neither of these."""
    kind: str = "text"
    unit: str = ""


def columns_of(cohort: Cohort) -> list[Column]:
    """Ids, label and split; the metadata of all levels; the other columns of the images."""
    ids = ["image_id", "lesion_id", "patient_id", "label", "split"]
    found = [{"source": name, "group": "ids"} for name in ids if name in cohort.images]
    for level in cohort.schema.levels:
        for feature in level.features:
            about = {"group": level.name, "kind": feature.kind, "unit": feature.unit or ""}
            found += [{"source": name, **about} for name in feature.columns]
    known = {*ids, *cohort.schema.level("image").columns}
    others = [str(name) for name in cohort.images if name not in known]
    found += [{"source": name, "group": "published"} for name in others]
    columns: list[Column] = []
    for about in found:
        name = about["source"]
        while name in ("image", *(column.name for column in columns)):
            name += "_"
        columns.append(Column(name=name, **about))
    return columns


def _table(cohort: Cohort, columns: Sequence[Column]) -> pa.Table:
    """A row per image of the cohort; missing is null."""
    rows, cells = level_of_images(cohort), dict[str, pa.Array]()
    for column in columns:
        level = column.group if column.group in LEVELS else "image"
        values = cohort.tables.of_level(level)[column.source].array.take(rows[level])
        kind = TYPES.get(column.kind, pa.string())
        cells[column.name] = pa.array(values, from_pandas=True).cast(kind)
    return pa.table(cells)


def write_tar(
    cohort: Cohort, shards: Shards, folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Writes `SPLIT-000000.tar` and so on, `tables/` and `export.json`; name and hash of each.

    A sample's key is its row in the cohort; `KEY.json` holds ids, label, split and metadata.
    """
    columns = columns_of(cohort)
    table = _table(cohort, columns)
    done, files = 0, list[dict[str, Any]]()
    for path, rows in _named(shards, folder, lambda split, number, _: f"{split}-{number:06d}.tar"):
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row, record in zip(rows.tolist(), table.take(rows).to_pylist(), strict=True):
                encoded = cohort.read_image(row)
                text = json.dumps(_sample(columns, record), ensure_ascii=False, allow_nan=False)
                for name, content in ((_ending(encoded), encoded), ("json", text.encode())):
                    member = tarfile.TarInfo(f"{key_of(row)}.{name}")  # without date and owner
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                done += 1
                progress(done, len(cohort))
        files.append({"name": path.name, "images": len(rows), "sha256": sha256_of(path)})
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


def _sample(columns: Sequence[Column], record: Mapping[str, Any]) -> dict[str, Any]:
    """A row as `KEY.json` has it: ids, label and split; metadata by level; published columns."""
    groups: dict[str, dict[str, Any]] = {name: {} for name in ("ids", *LEVELS, "published")}
    for column in columns:
        groups[column.group][column.source] = record[column.name]
    levels = {level: groups[level] for level in LEVELS}
    return {**groups["ids"], "metadata": levels, "published": groups["published"]}


def write_parquet(
    cohort: Cohort, shards: Shards, folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Writes `data/SPLIT-00000-of-00001.parquet` and so on; name and hash of each.

    A row per image: the image, ids, label, split, the metadata of all levels, and the published
    columns that go along. Missing is null.
    """
    table = _table(cohort, columns_of(cohort))
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features |= {f.name: {"dtype": NAMES[f.type], "_type": "Value"} for f in table.schema}
    if cohort.classes:
        codes = cohort.images["label"].map({c: k for k, c in enumerate(cohort.classes)})
        labels = pa.array(codes.astype("Int64"), type=pa.int64(), from_pandas=True)
        table = table.set_column(table.schema.get_field_index("label"), "label", labels)
        features["label"] = {"names": list(cohort.classes), "_type": "ClassLabel"}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", kind), *table.schema], metadata=metadata)
    (folder / "data").mkdir()
    done, files = 0, list[dict[str, Any]]()
    name = "data/{}-{:05d}-of-{:05d}.parquet".format
    for path, shard in _named(shards, folder, name):
        with pq.ParquetWriter(path, schema) as writer:
            for rows in np.split(shard, range(ROWS, len(shard), ROWS)):
                part = table.take(rows)
                encoded = [cohort.read_image(row) for row in rows.tolist()]
                images = [
                    {"bytes": image, "path": f"{image_id}.{_ending(image)}"}
                    for image, image_id in zip(encoded, part["image_id"].to_pylist(), strict=True)
                ]
                part = part.add_column(0, schema.field("image"), pa.array(images, type=kind))
                writer.write_table(part.cast(schema))
                done += len(rows)
                progress(done, len(cohort))
        files.append({"name": f"data/{path.name}", "sha256": sha256_of(path)})
    return files


def _named(
    shards: Shards, folder: Path, name: Callable[[str, int, int], str]
) -> list[tuple[Path, NDArray[np.int64]]]:
    """The path and rows of each shard, named by its split, number and the number of all."""
    return [
        (folder / name(split, number, len(parts)), rows)
        for split, parts in shards.items()
        for number, rows in enumerate(parts)
    ]


def _ending(encoded: bytes) -> str:
    """Of an image's file name."""
    return "png" if encoded.startswith(b"\x89PNG") else "jpg"
