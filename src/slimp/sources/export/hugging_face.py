"""Hugging Face `datasets`: Parquet shards that say what their columns are, and a dataset card.

Written without that package; `datasets.load_dataset(FOLDER)` reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from slimp.data.cohort import Cohort
from slimp.data.schema import Kind
from slimp.sources.export.plan import Shard
from slimp.sources.export.release import unreviewed_columns
from slimp.sources.export.web import ending

TYPES: dict[Kind, tuple[str, pa.DataType]] = {
    "continuous": ("float64", pa.float64()),
    "categorical": ("string", pa.string()),
    "checkbox": ("bool", pa.bool_()),
}
"""Kind of a feature -> its type there, and in Parquet."""
ROWS = 100
"""In a row group, as `datasets` writes them for images; a column of one holds up to 2 GiB."""
LICENCES = {
    *("cc0-1.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0"),
    *("cc-by-3.0", "cc-by-nc-3.0", "cc-by-2.0", "apache-2.0", "mit"),
}
"""Of those that the hub knows by name, the ones that occur here."""


def write_hugging_face(
    cohort: Cohort, shards: Sequence[Shard], folder: Path, progress: Callable[[int, int], None]
) -> None:
    """Writes `data/SPLIT-00000-of-00001.parquet` and so on, and `README.md`, the dataset card.

    A row per image: the image, ids, label, split, the metadata of all levels, and the published
    columns that go along. Nothing is missing otherwise than as null.
    """
    schema = arrow_schema(cohort)
    (folder / "data").mkdir()
    done = 0
    for shard in shards:
        name = f"{shard.split}-{shard.number:05d}-of-{shard.of:05d}.parquet"
        with pq.ParquetWriter(folder / "data" / name, schema) as writer:
            for batch in _batches(cohort, shard, schema):
                writer.write_batch(batch)
                done += len(batch)
                progress(done, len(cohort))
    splits = list(dict.fromkeys(shard.split for shard in shards))
    (folder / "README.md").write_text(card(cohort, splits), encoding="utf-8")


def arrow_schema(cohort: Cohort) -> pa.Schema:
    """The columns, and under the key `huggingface` what `datasets` takes them for."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns: dict[str, tuple[pa.DataType, dict[str, Any]]] = {"image": (image, {"_type": "Image"})}
    text = (pa.string(), _value("string"))
    columns |= dict.fromkeys(("image_id", "lesion_id", "patient_id"), text)
    label = {"names": list(cohort.classes), "_type": "ClassLabel"}
    columns["label"] = (pa.int64(), label) if cohort.classes else text
    if "split" in cohort.images:
        columns["split"] = text
    for feature in cohort.schema.features:
        there, arrow = TYPES[feature.kind]
        columns |= {_free(column, columns): (arrow, _value(there)) for column in feature.columns}
    for column in unreviewed_columns(cohort):
        columns[_free(column, columns)] = text
    features = {name: entry for name, (_, entry) in columns.items()}
    return pa.schema(
        [(name, arrow) for name, (arrow, _) in columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def card(cohort: Cohort, splits: Sequence[str]) -> str:
    """The dataset card: licence, citation, what each column is, and what must not be an input."""
    info, schema = cohort.info, cohort.schema
    plain = re.sub(r"\s+", "-", info.licence.strip().lower())
    known = plain if plain in LICENCES else "other"
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    header = {
        "license": known,
        **({"license_name": plain[:80] or "unknown"} if known == "other" else {}),
        "task_categories": ["image-classification"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    lines = [f"---\n{yaml}\n---\n", f"# {info.name}\n"]
    lines.append(
        f"{len(cohort):,} images of {len(cohort.lesions):,} lesions of {len(cohort.patients):,} "
        f"patients. Licence: {info.licence}. Source: {info.source}.\n"
    )
    if info.citation:
        lines.append(f"Cite: {info.citation}\n")
    lines.append("For research; not a medical device. No patient is in two shards.\n")
    lines += ["| column | level | kind | unit |", "| --- | --- | --- | --- |"]
    for level in schema.levels:
        for feature in level.features:
            lines += [
                f"| `{column}` | {level.name} | {feature.kind} | {feature.unit or ''} |"
                for column in feature.columns
            ]
    there = set(unreviewed_columns(cohort))
    refused = {name: why for name, why in schema.refused.items() if name in there}
    if refused:
        lines += ["\nNever inputs of a model:\n"]
        lines += [f"- `{name}`: {why}" for name, why in refused.items()]
    return "\n".join(lines) + "\n"


def _batches(cohort: Cohort, shard: Shard, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """A shard's rows, as many at a time as memory is to hold."""
    of_lesion, of_patient = cohort.lesion_of_image, cohort.patient_of_lesion
    codes = {label: code for code, label in enumerate(cohort.classes)}
    for start in range(0, len(shard.rows), ROWS):
        rows = shard.rows[start : start + ROWS]
        places = {"image": rows, "lesion": of_lesion[rows], "patient": of_patient[of_lesion[rows]]}
        own = cohort.images.iloc[rows]
        encoded = [cohort.read_image(int(row)) for row in rows]
        names = [
            f"{key}.{ending(image)}" for key, image in zip(own["image_id"], encoded, strict=True)
        ]
        columns: list[Any] = [
            [{"bytes": image, "path": name} for image, name in zip(encoded, names, strict=True)]
        ]
        columns += [own[name] for name in ("image_id", "lesion_id", "patient_id")]
        columns.append(own["label"].map(codes).astype("Int64") if codes else own["label"])
        columns += [own["split"]] if "split" in own else []
        for level in cohort.schema.levels:
            table = cohort.tables.of_level(level.name)
            columns += [table[name].iloc[places[level.name]] for name in level.columns]
        columns += [own[name] for name in unreviewed_columns(cohort)]
        arrays = [_array(x, field.type) for x, field in zip(columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(values: Any, type_: pa.DataType) -> pa.Array:
    if isinstance(values, pd.Series):
        return pa.array(values.reset_index(drop=True), type=type_, from_pandas=True)
    return pa.array(values, type=type_)


def _value(dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "_type": "Value"}


def _free(name: str, taken: Any) -> str:
    """The name, or with `_` behind it where the export has a column of that name already."""
    while name in taken:
        name += "_"
    return name
