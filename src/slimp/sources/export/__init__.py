"""A cohort in the formats of other tools: WebDataset tar shards, Hugging Face Parquet shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from slimp.data.cohort import Cohort
from slimp.data.files import check_output, new_folder, write_json
from slimp.sources.export.hugging_face import write_hugging_face
from slimp.sources.export.plan import WITHOUT, ExportOptions, Shard, plan_shards
from slimp.sources.export.release import released
from slimp.sources.export.web import write_webdataset

__all__ = ["ExportOptions", "Format", "export_cohort"]

Format = Literal["webdataset", "hf"]
WRITERS: Mapping[Format, Callable[..., None]] = {
    "webdataset": write_webdataset,
    "hf": write_hugging_face,
}
HF_WITHOUT = "train"
"""The split of a Hugging Face dataset whose cohort has none, as its users expect."""


def export_cohort(
    cohort: Cohort,
    out: str | Path,
    format: Format,
    *,
    options: ExportOptions | None = None,
    overwrite: bool = False,
    record: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """What was written to `out`, which is `metrics.json` there: counts, bytes, what stayed home.

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
    cohort = released(cohort, options)
    shards = plan_shards(cohort, options)
    if format == "hf" and {shard.split for shard in shards} == {WITHOUT}:
        shards = [replace(shard, split=HF_WITHOUT) for shard in shards]
    with new_folder(out, overwrite=overwrite) as folder:
        WRITERS[format](cohort, shards, folder, progress or (lambda done, total: None))
        metrics = {
            "images": len(cohort),
            "lesions": len(cohort.lesions),
            "patients": len(cohort.patients),
            "shards": len(shards),
            "splits": _images_by_split(shards),
            "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "columns_left_out": sorted(everything - set(cohort.images.columns)),
        }
        settings = {"format": format, **asdict(options)}
        write_json(folder / "config.json", {"export": settings, **(record or {})})
        write_json(folder / "metrics.json", metrics)
    return metrics


def _images_by_split(shards: list[Shard]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for shard in shards:
        counts[shard.split] = counts.get(shard.split, 0) + len(shard.rows)
    return counts
