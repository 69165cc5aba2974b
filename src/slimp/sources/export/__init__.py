"""A cohort in the formats of other tools: WebDataset tar shards, Hugging Face Parquet shards."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from slimp.data.cohort import Cohort
from slimp.data.files import check_output, new_folder, write_json
from slimp.data.schema import LEVELS
from slimp.errors import CohortError
from slimp.sources.config import ExportOptions, Format
from slimp.sources.export.describe import IMAGE, types_of, write_card, write_croissant
from slimp.sources.export.write import columns_of, write_parquet, write_tar
from slimp.sources.webdataset import TABLES

LICENCE = re.compile(r"licen[cs]e|copyright|attribution", re.IGNORECASE)
"""Names of published columns that must go wherever an image goes."""
PATTERNS: dict[Format, str] = {"hf": "data/{}-*.parquet", "webdataset": "{}-*.tar"}
HOLDS = "Each shard holds whole patients: images, ids, labels, metadata."


def export_cohort(
    cohort: Cohort,
    out: str | Path,
    format: Format,
    *,
    options: ExportOptions | None = None,
    overwrite: bool = False,
    record: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """What was written to `out`, which is `metrics.json` there: counts, bytes, columns left out.

    The same cohort and options give the same bytes. No patient is in two shards.

    Args:
        cohort: what to export.
        out: folder to write; complete or not there at all.
        format: `webdataset` (tar; `slimp data import webdataset` reads it) or `hf` (Parquet).
        options: size of shards, and what goes with the images.
        overwrite: replace what is in `out`.
        record: what else `config.json` says, such as versions.
        progress: called with the number of images done and the number in all.

    Raises:
        UserError: `out` holds something and `overwrite` is off; or a patient has images in two
            official splits.
    """
    options, out = options or ExportOptions(), Path(out)
    check_output(out, overwrite=overwrite)
    everything = set(cohort.images.columns)
    cohort = _released(cohort, options)
    shards = plan_shards(cohort, options)
    if format == "hf" and list(shards) == ["images"]:  # as users of `datasets` expect
        shards = {"train": shards["images"]}
    with new_folder(out, overwrite=overwrite) as folder:
        if format == "hf":
            files = write_parquet(cohort, shards, folder, progress)
            label = {"label": "sc:Integer"} if cohort.classes else {}
            types = {"image": IMAGE, **types_of(cohort), **label}
            records = {file["name"]: types for file in files}
        else:
            files = write_tar(cohort, shards, folder, progress)
            records = {f"{TABLES}/{level}s.parquet": types_of(cohort, level) for level in LEVELS}
        patterns = {split: PATTERNS[format].format(split) for split in shards}
        write_card(cohort, patterns, folder / "README.md", holds=HOLDS)
        write_croissant(cohort, files, records, folder / "croissant.json", holds=HOLDS)
        metrics = {
            "images": len(cohort),
            "lesions": len(cohort.lesions),
            "patients": len(cohort.patients),
            "shards": sum(map(len, shards.values())),
            "splits": {split: sum(map(len, parts)) for split, parts in shards.items()},
            "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "columns_left_out": sorted(everything - set(cohort.images.columns)),
        }
        settings = {"format": format, **asdict(options)}
        write_json(folder / "config.json", {"export": settings, **(record or {})})
        write_json(folder / "metrics.json", metrics)
    return metrics


def _released(cohort: Cohort, options: ExportOptions) -> Cohort:
    """The cohort with those published columns that `options` let go along.

    Ids, labels, splits and the metadata of the schema always do; of the import report the counts
    do, and the examples do not: they name files and quote rows that may not be in the cohort.
    """
    report = _without_examples(cohort.info.import_report)
    cohort = replace(cohort, info=replace(cohort.info, import_report=report))
    if options.published == "all":
        return cohort
    published = [c.source for c in columns_of(cohort) if c.group == "published"]
    stay = [name for name in published if not LICENCE.search(name)]
    tables = replace(cohort.tables, images=cohort.images.drop(columns=stay))
    return replace(cohort, tables=tables)


def _without_examples(report: Any) -> Any:
    """An import report of the same fields whose examples are empty."""
    if isinstance(report, Mapping):
        return {
            key: type(value)() if "example" in key else _without_examples(value)
            for key, value in report.items()
        }
    return [_without_examples(x) for x in report] if isinstance(report, list | tuple) else report


def plan_shards(cohort: Cohort, options: ExportOptions) -> dict[str, list[NDArray[np.int64]]]:
    """Split -> rows of `cohort.images` per shard, patient by patient in order of the first image.

    Each image is in one shard. Shards of images without an official split are called `images`.

    Raises:
        CohortError: a patient has images in two official splits.
    """
    images = pd.DataFrame({"patient": cohort.images["patient_id"], "split": "images"})
    if "split" in cohort.images and not options.ignore_splits:
        images["split"] = cohort.images["split"].fillna("images")
        splits = images.drop_duplicates().groupby("patient", sort=False)["split"].agg(list)
        if len(mixed := splits[splits.map(len) > 1]):
            raise CohortError(
                f"patient '{mixed.index[0]}' has images in the official splits "
                f"'{mixed.iloc[0][0]}' and '{mixed.iloc[0][1]}', as have {len(mixed)} patient(s) "
                "in all: a model that learns from one set of shards would be tested on people it "
                "knows. Correct the splits, or pass --ignore-splits and split by patient yourself."
            )
    images["bytes"] = [len(cohort.read_image(row)) for row in range(len(cohort))]
    shards: dict[str, list[NDArray[np.int64]]] = {}
    for split, part in images.groupby("split", sort=False):
        groups, filled = list[list[int]](), 0
        for _, rows in part.groupby("patient", sort=False):
            size = int(rows["bytes"].sum())
            if not groups or filled + size > options.shard_mib * 2**20:
                groups.append([])
                filled = 0
            groups[-1] += rows.index.tolist()
            filled += size
        shards[_file_name(str(split), shards)] = [np.array(rows) for rows in groups]
    return shards


def _file_name(split: str, taken: Mapping[str, object]) -> str:
    """A name of letters, digits and `_` that is none of those taken, whatever their case.

    Windows and macOS take `Train` and `train` for one file.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "_", split).strip("_") or "split"
    while name.casefold() in map(str.casefold, taken):
        name += "_2"
    return name
