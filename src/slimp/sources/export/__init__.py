"""A cohort in the formats of other tools: WebDataset tar shards, Hugging Face Parquet shards."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from slimp.data.cohort import Cohort
from slimp.data.files import check_output, new_folder, write_json
from slimp.sources.export.describe import write_card, write_croissant
from slimp.sources.export.shards import WITHOUT, ExportOptions, plan_shards
from slimp.sources.export.write import unreviewed_columns, write_parquet, write_tar

__all__ = ["ExportOptions", "Format", "export_cohort"]

Format = Literal["webdataset", "hf"]
HF_WITHOUT = "train"
"""The split of a Hugging Face dataset whose cohort has none, as its users expect."""
LICENCE = re.compile(r"licen[cs]e|copyright|attribution", re.IGNORECASE)
"""Names of published columns that must go wherever an image goes."""


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
    if format == "hf" and {shard.split for shard in shards} == {WITHOUT}:
        shards = [replace(shard, split=HF_WITHOUT) for shard in shards]
    with new_folder(out, overwrite=overwrite) as folder:
        if format == "hf":
            files = write_parquet(cohort, shards, folder, progress)
            write_card(cohort, [shard.split for shard in shards], folder / "README.md")
        else:
            files = write_tar(cohort, shards, folder, progress)
        write_croissant(cohort, files, folder)
        splits: dict[str, int] = {}
        for shard in shards:
            splits[shard.split] = splits.get(shard.split, 0) + len(shard.rows)
        metrics = {
            "images": len(cohort),
            "lesions": len(cohort.lesions),
            "patients": len(cohort.patients),
            "shards": len(shards),
            "splits": splits,
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
    stay = [name for name in unreviewed_columns(cohort) if not LICENCE.search(name)]
    tables = replace(cohort.tables, images=cohort.images.drop(columns=stay))
    return replace(cohort, tables=tables)


def _without_examples(report: Any) -> Any:
    """An import report of the same fields whose examples are empty."""
    if isinstance(report, Mapping):
        return {
            key: type(value)()
            if key.endswith(("example", "examples"))
            else _without_examples(value)
            for key, value in report.items()
        }
    return [_without_examples(x) for x in report] if isinstance(report, list | tuple) else report
