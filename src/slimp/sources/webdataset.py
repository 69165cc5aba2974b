"""Tar shards as `slimp data export --format webdataset` wrote them, back to the same cohort.

Nothing is unpacked to the disk: images are read at their place in the shard. A shard that holds
anything but the plain files of an export is refused.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

from slimp.data.cohort import Cohort
from slimp.data.cohort_files import CohortInfo, CohortWriter, Tables, check_types, read_parquet
from slimp.data.files import ImagesInMemory, read_json, sha256_of
from slimp.data.in_order import Progress
from slimp.data.schema import LEVELS, Schema
from slimp.errors import TableError, UserError
from slimp.sources.config import ImportOptions
from slimp.sources.decode_image import CHANGES
from slimp.sources.importer import RawTable, collect_images

FORMAT = 1
"""Version of an export's layout, in its sidecar."""
SIDECAR, TABLES = "export.json", "tables"
MEMBER = re.compile(r"([0-9]{8})\.(?:jpg|png|json)")
"""A file of a shard: the row of the cohort, and what it is."""
Places: TypeAlias = dict[int, tuple[Path, int, int]]
"""Row of each image -> where it lies: shard, offset, bytes."""


def import_webdataset(
    raw: Path,
    target: Path,
    *,
    options: ImportOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Cohort:
    """The cohort that was exported to `raw`, written to `target`.

    Every image is decoded once more. Tables, schema, licence and the first import's report are
    those that were exported; what happened to images on the way is added to the report.

    Raises:
        UserError: `raw` is no such export, is incomplete or was changed; or as `import_cohort`.
    """
    options = options or ImportOptions()
    with CohortWriter.open(target, overwrite=overwrite) as writer:
        names, info, schema = _sidecar(raw)
        try:
            tables = Tables(**{f"{x}s": read_parquet(raw / TABLES, f"{x}s") for x in LEVELS})
            check_types(tables, schema, raw / TABLES)
        except (TypeError, ValueError) as error:  # CohortError, or ids that are no text
            raise TableError(f"{raw / TABLES}: {error} Copy the export again.") from None
        cells = tables.images["image_id"].astype("str").tolist()
        places = _places([raw / name for name in names if name.endswith(".tar")], len(cells))
        if missing := set(range(len(cells))) - set(places):
            raise TableError(
                f"{raw}: {len(missing)} of {len(cells)} images are in no shard, such as "
                f"{key_of(min(missing))}. Export the cohort again."
            )
        row_of = {cell: row for row, cell in enumerate(cells)}

        def open_image(cell: str) -> bytes | None:
            path, offset, size = places[row_of[cell]]
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(size)

        source = RawTable(table=tables.images, open_image=open_image, looked_in=str(raw))
        found, kept = collect_images(cells, source, writer, options, progress)
        if any((counts := found.to_dict()).values()):
            report = {**info.import_report, "options": asdict(options)}
            for name, count in counts.items():  # an image that is changed again is one image
                before = report.get(name, type(count)())
                report[name] = max(before, count) if name in CHANGES else before + count
            info = replace(info, import_report=report)
        if not kept.all():
            store = ImagesInMemory([b""] * len(cells))
            whole = Cohort.from_tables(**vars(tables), schema=schema, store=store)
            tables = whole.select(kept).tables
        writer.finish(tables, schema, info)
    return Cohort.load(target)


def key_of(row: int) -> str:
    """What a shard calls the sample of a row."""
    return f"{row:08d}"


def _sidecar(raw: Path) -> tuple[list[str], CohortInfo, Schema]:
    """The files that `export.json` names, which are as exported, and what it says of the cohort."""
    path = raw / SIDECAR
    if not path.is_file():
        raise TableError(
            f"{raw}: holds no {SIDECAR}. This source reads what slimp data export --format "
            "webdataset wrote; for other data, write a table and use source csv."
        )
    content: Any = read_json(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise TableError(f"{path}: export format {found!r}, this version reads {FORMAT}.")
    try:
        info, schema = CohortInfo(**content["info"]), Schema.from_dict(content["schema"])
        hashes = {str(entry["name"]): str(entry["sha256"]) for entry in content["files"]}
    except (UserError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"{path}: damaged ({error}). Copy the export again.") from None
    known = re.compile(rf"{TABLES}/\w+\.parquet|\w+-[0-9]+\.tar")
    if strange := [name for name in hashes if not known.fullmatch(name)]:
        raise TableError(f"{path}: names a file '{strange[0]}', which no export has.")
    for name in hashes | dict.fromkeys(f"{TABLES}/{level}s.parquet" for level in LEVELS):
        file = raw / name
        if not file.is_file() or file.is_symlink() or sha256_of(file) != hashes.get(name):
            what = "was changed since the export" if file.is_file() else "is missing"
            raise TableError(f"{file}: {what}. Copy the export again, all of it.")
    return list(hashes), info, schema


def _places(shards: list[Path], rows: int) -> Places:
    places: Places = {}
    for path in shards:
        try:
            with tarfile.open(path, "r:") as tar:
                members = tar.getmembers()
        except tarfile.TarError as error:
            raise TableError(f"{path}: is no readable tar file ({error}).") from None
        for member in members:
            if not (member.isreg() and not member.issparse() and MEMBER.fullmatch(member.name)):
                raise TableError(
                    f"{path}: holds '{member.name}', which no export has (a link, a device, a "
                    "path, or a file of another kind or name). Nothing of it was used."
                )
            row = int(member.name[:8])
            if row >= rows or (row in places and not member.name.endswith(".json")):
                raise TableError(
                    f"{path}: the image '{member.name}' is one too many. Export it again."
                )
            if not member.name.endswith(".json"):
                places[row] = path, member.offset_data, member.size
    return places
