"""Known datasets, and the one call that makes a cohort of any of them.

A source is a reviewed TOML file, which says what each column is, where the data come from and how
they lie on disk (`recognise.Layout`), and a reader of a few lines. To add one, write the two and
name it in `READERS`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from slimp.cohort import Cohort, CohortInfo
from slimp.errors import UserError
from slimp.schema import Schema
from slimp.sources import bcn20000, csv_folder, ham10000, hiba, isic, pad_ufes_20, slice3d
from slimp.sources.importing import ImportOptions, Progress, import_cohort
from slimp.sources.layout import TableLayout
from slimp.sources.raw import Reader
from slimp.sources.recognise import fitted, layouts_of
from slimp.sources.webdataset import import_webdataset

READERS: dict[str, Reader | None] = {
    "slice3d": slice3d.read,
    "pad-ufes-20": pad_ufes_20.read,
    "hiba": hiba.read,
    "ham10000": ham10000.read,
    "bcn20000": bcn20000.read,
    "isic": isic.read,
    "csv": csv_folder.read,
    "webdataset": None,
    "synthetic": None,
}
"""Source -> its reader; None for what is no published table: an export of ours
(`sources/webdataset.py`), and what is generated (`sources/synthetic.py`)."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset that can be imported, and what one must know before using it."""

    name: str
    """What the command line calls it."""
    title: str
    licence: str
    citation: str
    homepage: str = ""
    collection: int | None = None
    """Its number in the ISIC Archive, from which `slimp data download` fetches it."""
    how_to_get: str = ""
    images: int | None = None
    """As published; None if that depends."""
    lesions: int | None = None
    patients: int | None = None
    """As published; None if unknown."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Label -> images, as published."""
    layouts: tuple[str, ...] = ()
    """In which it is recognised: each one's name, and its tables."""
    schema_file: Path | None = None
    """None for `csv`, whose schema the user writes, and `webdataset`, which brings its own."""
    read: Reader | None = None
    """None for `webdataset`, which is no table, and `synthetic`, which is generated."""

    def schema(self) -> Schema:
        """What its columns are.

        Raises:
            UserError: the source is `csv`.
        """
        if self.schema_file is None:
            raise UserError(
                f"source '{self.name}' needs a schema file that says what each column is: pass "
                "--schema FILE. The format is in docs/schema.md."
            )
        return Schema.from_toml(self.schema_file)


@lru_cache(maxsize=1)
def sources() -> dict[str, Source]:
    """All known sources by name."""
    return {name: _source(name) for name in READERS}


def get_source(name: str) -> Source:
    """The source of that name.

    Raises:
        UserError: there is none; lists those there are.
    """
    if name not in READERS:
        raise UserError(f"no source '{name}'. Known sources: {', '.join(READERS)}.")
    return sources()[name]


def import_source(
    name: str,
    raw: str | Path,
    target: str | Path,
    *,
    schema: Schema | None = None,
    layout: TableLayout | None = None,
    table: str | None = None,
    images: str | None = None,
    options: ImportOptions | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Cohort:
    """The cohort made of the dataset in `raw`, written to `target`.

    Args:
        name: of the source.
        raw: folder or zip file that holds the data as published.
        target: cohort folder to write; complete or not there at all.
        schema: of the source `csv`; the others have their own.
        layout: of the table of source `csv`; None: all of it is detected.
        table: the table, from `raw` on, if it is not where the source has it.
        images: the image folder, from `raw` on, if it is not where the source has it.
        options: image size and limits.
        overwrite: replace what is in `target`.
        resume: continue an import to `target` that was interrupted, if there is one.
        progress: called with the number of rows done and the number in all.

    Raises:
        UserError: the data, the schema or the target is at fault.
    """
    source = get_source(name)
    if name == "webdataset":
        if schema or layout or table or images:
            raise UserError(
                "source 'webdataset' brings its own schema and tables: leave --schema, --table "
                "and --images out."
            )
        return import_webdataset(
            Path(raw),
            Path(target),
            options=options,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )
    if source.read is None:
        raise UserError(
            f"source '{name}' is generated, not read: slimp data import {name} - COHORT."
        )
    if schema is not None and source.schema_file is not None:
        raise UserError(
            f"source '{name}' has a reviewed schema of its own. To use another one, import the "
            "table as source 'csv' with --schema FILE."
        )
    schema = source.schema() if schema is None else schema
    raw = Path(raw)
    if name == "csv":
        published = csv_folder.read(
            raw, table=table, images=images, layout=layout, image=schema.image
        )
    else:
        published = source.read(raw, table=table, images=images)
    schema, published = fitted(schema, published)
    info = CohortInfo(
        name=raw.resolve().name if name == "csv" else name,
        source=name,
        licence=source.licence,
        citation=source.citation,
    )
    try:
        return import_cohort(
            published,
            schema,
            Path(target),
            info=info,
            options=options,
            published=source.images,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )
    finally:
        published.close()


def _source(name: str) -> Source:
    if name == "csv":
        return Source(
            name=name,
            title="your own table and image folder",
            licence="unknown",
            citation="",
            how_to_get="a table with a row per image, a folder of images, and a schema file",
            read=READERS[name],
        )
    if name == "webdataset":
        return Source(
            name=name,
            title="tar shards of a cohort",
            licence="as exported",
            citation="",
            how_to_get="slimp data export COHORT --format webdataset --out RAW",
        )
    file = Path(__file__).with_name(f"{name.replace('-', '_')}.toml")
    facts = tomllib.loads(file.read_text(encoding="utf-8"))["dataset"]
    facts.pop("derive", None)
    facts["layouts"] = tuple(map(str, layouts_of({"layout": facts.pop("layout", ())})))
    facts.setdefault("title", facts.pop("name", name))
    facts.setdefault("how_to_get", f"generated: slimp data import {name} - COHORT")
    return Source(name=name, schema_file=file, read=READERS[name], **facts)
