"""What an export is, for people (a dataset card) and for programs (Croissant 1.0)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimp.data.cohort import Cohort
from slimp.data.files import write_json
from slimp.data.schema import LEVELS
from slimp.sources.export.write import columns_of

LICENCES = {
    *("cc0-1.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc-by-nc-sa-4.0"),
    *("cc-by-3.0", "cc-by-nc-3.0", "cc-by-2.0", "apache-2.0", "mit"),
}
"""Of those that the hub knows by name, the ones that occur here."""
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{
        name: f"cr:{name}"
        for name in (
            *("citeAs", "column", "extract", "field", "fileObject", "fileSet"),
            *("includes", "recordSet", "source"),
        )
    },
}
DATA_TYPES = {"continuous": "sc:Float", "categorical": "sc:Text", "checkbox": "sc:Boolean"}


def write_card(cohort: Cohort, splits: Sequence[str], path: Path) -> None:
    """The dataset card: licence, citation, what each column is, and what must not be an input."""
    info = cohort.info
    files = [{"split": s, "path": f"data/{s}-*.parquet"} for s in dict.fromkeys(splits)]
    header = {
        **licence_header(info.licence),
        "task_categories": ["image-classification"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    columns = columns_of(cohort)
    there = {column.source for column in columns if column.group == "published"}
    refused = [f"- `{n}`: {why}" for n, why in cohort.schema.refused.items() if n in there]
    lines = [
        f"---\n{yaml}\n---\n\n# {info.name}\n\n{_summary(cohort)}\n",
        *([f"Cite: {info.citation}\n"] if info.citation else []),
        "| column | level | kind | unit |\n| --- | --- | --- | --- |",
        *(
            f"| `{c.source}` | {c.group} | {c.kind} | {c.unit} |"
            for c in columns
            if c.group in LEVELS
        ),
        *(["\nNever inputs of a model:\n", *refused] if refused else []),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def licence_header(licence: str) -> dict[str, str]:
    """A licence as the hub's front matter has it: one that it knows by name, or 'other'."""
    plain = re.sub(r"\s+", "-", licence.strip().lower())
    if plain in LICENCES:
        return {"license": plain}
    return {"license": "other", "license_name": plain[:80] or "unknown"}


def write_croissant(cohort: Cohort, files: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Writes `croissant.json`: the files with their hashes, and the columns with their types."""
    tables = [file["name"] for file in files if file["name"].endswith(".parquet")]
    formats = {".parquet": "application/x-parquet", ".tar": "application/x-tar"}
    images = [name for name in tables if name.startswith(("data/", "tables/images"))]
    types = {
        column.source: DATA_TYPES.get(column.kind, "sc:Text")
        for column in columns_of(cohort)
        if column.group in ("ids", "image") or (column.group in LEVELS and "data/" in images[0])
    }
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": cohort.info.name,
        "description": _summary(cohort),
        "license": cohort.info.licence,
        "citeAs": cohort.info.citation,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file["name"],
                "name": file["name"],
                "contentUrl": file["name"],
                "encodingFormat": formats[Path(file["name"]).suffix],
                "sha256": file["sha256"],
            }
            for file in files
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": name,
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"{name}/{column}",
                        "name": column,
                        "dataType": type_,
                        "source": {"fileObject": {"@id": name}, "extract": {"column": column}},
                    }
                    for column, type_ in types.items()
                ],
            }
            for name in images
        ],
    }
    write_json(folder / "croissant.json", content)


def _summary(cohort: Cohort) -> str:
    return (
        f"{len(cohort):,} images of {len(cohort.lesions):,} lesions of {len(cohort.patients):,} "
        f"patients. Licence: {cohort.info.licence}. Source: {cohort.info.source}. For research; "
        "not a medical device. No patient is in two shards."
    )
