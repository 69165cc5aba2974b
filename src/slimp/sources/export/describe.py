"""What an export is, for people (a dataset card) and for programs (Croissant 1.0)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimp.data.cohort import Cohort
from slimp.data.files import write_json
from slimp.data.schema import LEVELS, LevelName
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
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{key: {"@id": f"cr:{key}", "@type": "@json"} for key in ("data", "examples")},
    **{
        key: f"cr:{key}"
        for key in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject"),
            *("fileProperty", "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key"),
            *("md5", "parentField", "path", "recordSet", "references", "regex", "repeated"),
            *("replace", "samplingRate", "separator", "source", "subField", "transform"),
        )
    },
}
"""That of Croissant 1.0, whole: the library warns of any other."""
IMAGE = "sc:ImageObject"
DATA_TYPES = {"continuous": "sc:Float", "categorical": "sc:Text", "checkbox": "sc:Boolean"}


def write_card(cohort: Cohort, files: Mapping[str, str], path: Path, *, holds: str) -> None:
    """The dataset card: licence, citation, what each column is, and what must not be an input.

    `files`: split -> a pattern of its files, beside the card; `holds`: a sentence on them.
    """
    info = cohort.info
    entries = [{"split": split, "path": pattern} for split, pattern in files.items()]
    header = {
        **licence_header(info.licence),
        "task_categories": ["image-classification"],
        "configs": [{"config_name": "default", "data_files": entries}],
    }
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    columns = columns_of(cohort)
    there = {column.source for column in columns if column.group == "published"}
    refused = [f"- `{n}`: {why}" for n, why in cohort.schema.refused.items() if n in there]
    report = info.import_report
    changed = [f"{report[x]:,} {x}" for x in ("resized", "converted", "stripped") if report.get(x)]
    lines = [
        f"---\n{yaml}\n---\n\n# {info.name}\n\n{_summary(cohort)} {holds}\n",
        *([f"Cite: {info.citation}\n"] if info.citation else []),
        "| column | level | kind | unit |\n| --- | --- | --- | --- |",
        *(
            f"| `{c.source}` | {c.group} | {c.kind} | {c.unit} |"
            for c in columns
            if c.group in LEVELS
        ),
        *(["\nNever inputs of a model:\n", *refused] if refused else []),
        "\n## Before you pass it on\n",
        "- The licence binds you and whoever gets the data from you; where each image has its own, "
        "it stands in the image's row.",
        f"- Images that differ from those published: {', '.join(changed) or 'none'} (stripped: of "
        "EXIF and the like).",
        "- Ids are those of the import. They, labels, metadata, images and what was computed of an "
        "image are data of patients.",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def licence_header(licence: str) -> dict[str, str]:
    """A licence as the hub's front matter has it: one that it knows by name, or 'other'."""
    plain = re.sub(r"\s+", "-", licence.strip().lower())
    if plain in LICENCES:
        return {"license": plain}
    return {"license": "other", "license_name": plain[:80] or "unknown"}


def types_of(cohort: Cohort, level: LevelName | None = None) -> dict[str, str]:
    """Column -> its data type, of the exported rows, or of the cohort's own table of a level."""
    columns = columns_of(cohort)
    if level is None:
        return {c.name: DATA_TYPES.get(c.kind, "sc:Text") for c in columns}
    own = cohort.tables.of_level(level)
    kinds = {c.source: c.kind for c in columns if c.group in ("ids", "published", level)}
    return {name: DATA_TYPES.get(kinds[name], "sc:Text") for name in own if name in kinds}


def write_croissant(
    cohort: Cohort,
    files: Sequence[Mapping[str, Any]],
    records: Mapping[str, Mapping[str, str]],
    path: Path,
    *,
    holds: str,
) -> None:
    """Writes Croissant 1.0: the `name` and `sha256` of the files, and their columns' types.

    `records`: Parquet file -> column -> data type; one that ends in `[]` is of lists.
    """
    formats = {".parquet": "application/x-parquet", ".tar": "application/x-tar"}
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": cohort.info.name,
        "description": f"{_summary(cohort)} {holds}",
        "license": cohort.info.licence,
        "citeAs": cohort.info.citation,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": _id(file["name"]),
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
                "@id": f"rows/{_id(name)}",
                "name": name,
                "field": [
                    _field(name, number, *column) for number, column in enumerate(types.items())
                ],
            }
            for name, types in records.items()
        ],
    }
    write_json(path, content)


def _field(file: str, number: int, column: str, type_: str) -> dict[str, Any]:
    source: dict[str, Any] = {"fileObject": {"@id": _id(file)}, "extract": {"column": column}}
    if type_ == IMAGE:
        source["transform"] = {"jsonPath": "bytes"}
    return {
        "@type": "cr:Field",
        "@id": f"{_id(file)}/{number}/{_id(column)}",  # two may differ in a space alone
        "name": column,
        "dataType": type_.removesuffix("[]"),
        **({"repeated": True} if type_.endswith("[]") else {}),
        "source": source,
    }


def _id(name: str) -> str:
    """A name without spaces: these may not be in an identifier."""
    return re.sub(r"\s", "_", name)


def _summary(cohort: Cohort) -> str:
    return (
        f"{len(cohort):,} images of {len(cohort.lesions):,} lesions of {len(cohort.patients):,} "
        f"patients. Licence: {cohort.info.licence}. Source: {cohort.info.source}. For research; "
        "not a medical device."
    )
