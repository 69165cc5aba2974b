"""Known datasets, and the one call that makes a cohort of any of them.

A public dataset is a reviewed TOML file, which says what each column is, where the data come from
and how they lie on disk (`recognise.Layout`). To add one, write the file and name it in `NAMES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimp.data.schema import Schema
from slimp.data.settings import as_table, read_toml
from slimp.errors import TableError, UserError
from slimp.sources.config import ImportOptions

if TYPE_CHECKING:
    from slimp.data.cohort import Cohort
    from slimp.data.in_order import Progress
    from slimp.sources.importer import RawTable
    from slimp.sources.layout import TableLayout
    from slimp.sources.recognise import Layout

NAMES = (
    *("slice3d", "pad-ufes-20", "hiba", "ham10000", "bcn20000", "isic"),
    *("csv", "webdataset", "synthetic"),
)
"""Public datasets, each `sources/NAME.toml`; anyone's own; an export of ours; what is drawn."""
TABLE, IMAGES = "metadata.csv", "images"
"""Where anyone's own table and images are, unless they are named."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset that can be imported, and what one must know before using it."""

    name: str
    """What the command line calls it."""
    title: str
    licence: str
    citation: str
    how_to_get: str
    homepage: str = ""
    collection: int | None = None
    """Its number in the ISIC Archive, from which `slimp data download` fetches it."""
    images: int | None = None
    """As published, like the next two; None if that depends or is unknown."""
    lesions: int | None = None
    patients: int | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    """Label -> images, as published."""
    is_published: bool
    """It is a public dataset, which somebody hands out in known layouts."""
    schema_file: Path | None = None
    """None for `csv`, whose schema the user writes, and `webdataset`, which brings its own."""

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """In which it is recognised; none, unless it is a public dataset."""
        from slimp.sources.recognise import layouts_of

        return layouts_of(read_toml(self.schema_file)) if self.schema_file else ()

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
    return {name: _source(name) for name in NAMES}


def get_source(name: str) -> Source:
    """The source of that name.

    Raises:
        UserError: there is none; lists those there are.
    """
    if name not in NAMES:
        raise UserError(f"no source '{name}'. Known sources: {', '.join(NAMES)}.")
    return sources()[name]


@dataclass(frozen=True, kw_only=True)
class RawFiles:
    """Which files in RAW hold what, where it is not as the source has it."""

    table: str | None = None
    """The table, as a path from RAW on."""
    images: str | None = None
    """The folder, zip or HDF5 file of the images, as a path from RAW on."""
    schema: Schema | None = None
    """Of the table of source `csv`; the others have their own."""
    layout: TableLayout | None = None
    """Of that table too; None: columns are taken as they are."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """`licence` and `citation` of these data, where the source has none of its own."""

    @classmethod
    def from_toml(cls, file: Path, **files: str | None) -> RawFiles:
        """With what a schema file says of the columns, of the table and of the data.

        Raises:
            UserError: the file is at fault.
        """
        from slimp.sources.layout import TableLayout

        content = read_toml(file)
        try:
            schema = Schema.from_dict(content)
            layout = TableLayout.from_dict(content.get("table", {}))
            about = as_table(content.get("dataset", {}), "[dataset]")
        except TableError as error:
            raise TableError(f"{file}: {error}") from None
        facts = {key: about[key] for key in ("licence", "citation") if key in about}
        for key, value in facts.items():
            if not isinstance(value, str):
                raise TableError(f"{file}: {key} under [dataset] must be a text, got {value!r}.")
        return cls(schema=schema, layout=layout, facts=facts, **files)


def import_source(
    name: str,
    raw: str | Path,
    target: str | Path,
    *,
    files: RawFiles | None = None,
    options: ImportOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Cohort:
    """The cohort made of the dataset in `raw`, written to `target`.

    Args:
        name: of the source.
        raw: folder or zip file that holds the data as published.
        target: cohort folder to write; complete or not there at all.
        files: what is elsewhere than the source has it, and the schema of source `csv`.
        options: image size and limits.
        overwrite: replace what is in `target`.
        progress: called with the number of rows done and the number in all.

    Raises:
        UserError: the data, the schema or the target is at fault.
    """
    from slimp.data.cohort import CohortInfo
    from slimp.sources.importer import import_cohort
    from slimp.sources.webdataset import import_webdataset

    source, raw, target = get_source(name), Path(raw), Path(target)
    files = files or RawFiles()
    how: dict[str, Any] = {"options": options, "overwrite": overwrite, "progress": progress}
    if name == "webdataset":
        if files != RawFiles():
            raise UserError(
                "source 'webdataset' brings its own schema and tables: leave --schema, --table "
                "and --images out."
            )
        return import_webdataset(raw, target, **how)
    if name == "synthetic":
        raise UserError(
            f"source '{name}' is generated, not read: slimp data import {name} - COHORT."
        )
    if files.schema is not None and source.schema_file is not None:
        raise UserError(
            f"source '{name}' has a reviewed schema of its own. To use another one, import "
            "the table as source 'csv' with --schema FILE."
        )
    found, schema = _read(source, raw, files)
    info = CohortInfo(
        name=raw.resolve().name if name == "csv" else name,
        source=name,
        licence=files.facts.get("licence", source.licence),
        citation=files.facts.get("citation", source.citation),
    )
    with closing(found):
        whole = replace(found, published=source.images)
        return import_cohort(whole, schema, target, info=info, **how)


def _read(source: Source, raw: Path, files: RawFiles) -> tuple[RawTable, Schema]:
    """The rows as published, and what their columns are."""
    from slimp.sources.layout import TableLayout
    from slimp.sources.read_source import read_source
    from slimp.sources.recognise import Layout, Rows

    layouts, table, folder = source.layouts, files.table, None
    if source.name == "csv":
        table, folder, own = table or TABLE, IMAGES, files.layout or TableLayout()
        layouts = (Layout(name="", rows=(Rows(file=(table,)),), table=own),)
    schema = files.schema or source.schema()
    return read_source(layouts, schema, raw, table=table, images=files.images, folder=folder)


def _source(name: str) -> Source:
    file = Path(__file__).with_name(f"{name.replace('-', '_')}.toml")
    content = read_toml(file)
    facts = {key: value for key, value in content["dataset"].items() if key != "layout"}
    return Source(
        name=name,
        schema_file=file if "image" in content else None,
        is_published="layout" in content["dataset"],
        **facts,
    )
