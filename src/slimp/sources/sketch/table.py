"""The one call that proposes a schema file for a table."""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.arrange import arrange
from slimp.sources.image_files import is_image_file
from slimp.sources.layout import Join, TableLayout
from slimp.sources.level_tables import ASSUMED, type_rows
from slimp.sources.read_parquet import EMBEDDED
from slimp.sources.read_table import read_table
from slimp.sources.sketch.columns import Column, describe
from slimp.sources.sketch.further_tables import further_tables
from slimp.sources.sketch.image_columns import ImageColumns, find_image_columns, image_files
from slimp.sources.sketch.propose import Line, propose
from slimp.sources.sketch.roles import Roles, find_roles, has_unmarked
from slimp.sources.sketch.schema_text import render

ROWS = 20_000
"""Rows that are looked at; more say nothing new."""
NEAR = 100
"""Files and folders near the table, of each folder, among which images are looked for unasked."""


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A proposed schema file, and the folders that an import of it names."""

    text: str
    raw: Path
    """Holds table and images."""
    table: str
    """From `raw` on."""
    images: str | None
    """From `raw` on; None: there is no image folder."""
    embedded: bool
    """Whether the images lie in the table itself."""

    def schema(self) -> Schema:
        """The proposed schema."""
        return Schema.from_dict(tomllib.loads(self.text))

    def layout(self) -> TableLayout:
        """The proposed layout of the table."""
        content = tomllib.loads(self.text)
        return TableLayout.from_dict(content.get("table", {}), schema=content)

    def next_command(self, file: Path) -> str:
        """The import of the table by the schema in that file."""
        words = ["slimp", "data", "import", "csv", str(self.raw), "COHORT", "--schema", str(file)]
        words += ["--table", self.table]
        return shlex.join(words + ["--images", self.images or "DIR"] * (not self.embedded))


def sketch_table(
    table: Path, images: Path | None = None, layout: TableLayout | None = None
) -> Sketch:
    """A schema file proposed from the content of a table, with its doubts as comments.

    Args:
        table: text, Parquet or a spreadsheet; a row per image, or per lesion.
        images: folder or zip file of the images; None: the folder `images` beside the table, or
            the one in which all images near the table are.
        layout: encoding, delimiter, header and sheet, where they cannot be detected.

    Raises:
        TableError: the table cannot be read, or the image folder is not there.
    """
    layout = layout or TableLayout()
    published = read_table(table, layout=layout)
    every = published.iloc[:ROWS]
    rows = every[~(repeats := _repeats_header(every))]
    columns = [describe(rows[name]) for name in rows]
    join, joins, notes = _label_beside(table, rows, columns)
    if join is not None:
        rows = pd.concat([rows, join], axis=1)
        columns += [describe(join[name]) for name in join]
    embedded = published.attrs.get(EMBEDDED)
    images = _images_beside(table) if images is None and embedded is None else images
    files = [] if images is None else image_files(images)
    raw = _common_folder(table, images)
    roots = [] if images is None else [str(path) for path in (images.absolute(), images.resolve())]
    pictures = ImageColumns(columns=(str(embedded),))
    if embedded is None:
        pictures = find_image_columns(rows, columns, files, list(dict.fromkeys(roots)))
    roles = find_roles(columns, pictures.columns)
    top, settings = _top_lines(columns, roles, pictures)
    settings = [*_layout_lines(layout, published.attrs.get(ASSUMED, ())), *settings, *joins]
    head = [
        f"Proposed by slimp data sketch from {table.name}: {len(published)} rows, "
        f"{len(published.columns)} columns. Read and correct it; comments say what is in doubt.",
        *([f"Only the first {ROWS} rows were looked at."] if len(published) > ROWS else []),
        *(f"Row {row} repeats the header: remove it." for _, row in every.index[repeats]),
        "The images lie in the table." if embedded else _images_said(pictures, images, files),
        *notes,
    ]
    names = _label_names(columns, roles)
    rest = (top, settings, names | propose(columns, roles, pictures))
    sketch = Sketch(
        text=render(head, *rest),
        raw=raw,
        table=table.resolve().relative_to(raw.resolve()).as_posix(),
        images=None if images is None else images.resolve().relative_to(raw.resolve()).as_posix(),
        embedded=embedded is not None,
    )
    problem = _dry_run(sketch, every, files, roots)
    if problem is None:
        return sketch
    head.append(f"AN IMPORT WOULD STOP HERE, until table or schema are corrected: {problem}")
    return replace(sketch, text=render(head, *rest))


def _label_beside(
    table: Path, rows: pd.DataFrame, columns: Sequence[Column]
) -> tuple[pd.DataFrame | None, list[Line], list[str]]:
    """The label of a table beside, if there is none in this one, and what else lies there."""
    join, lines, others = None, list[Line](), list[str]()
    for further in further_tables(table, rows):
        if join is None and further.label and find_roles(columns, ()).label is None:
            join = further.cells
            doubt = f"the label is in a table of its own, with a row per {further.key}."
            entry = {"file": further.file, "on": further.key, "columns": list(further.label)}
            lines.append(Line(key="join", value=entry, doubts=(doubt,)))
        else:
            more = ", ..." if len(further.columns) > 3 else ""
            named = ", ".join(further.columns[:3])
            others.append(f"{further.file} (by {further.key}: {named}{more})")
    note = f"Not joined, but with the same ids: {'; '.join(others)}. See [[table.join]]."
    return join, lines, [note] if others else []


def _repeats_header(rows: pd.DataFrame) -> Any:
    """(rows,) whether a row is the header once more, as where tables were put together."""
    cells = rows.apply(lambda column: column.str.split().str.join(" ") == column.name)
    same = cells.to_numpy(dtype=bool).sum(axis=1)
    repeats = (same >= 2) & (same > rows.shape[1] / 2)
    return repeats & (not repeats.all())


def _images_beside(table: Path) -> Path | None:
    """The folder `images` beside the table; else the one beside, or around it, with images."""
    folder = table.parent
    if (folder / "images").is_dir():
        return folder / "images"
    beside = [path for path in islice(folder.iterdir(), NEAR) if path.is_dir()]
    holding = [path for path in beside if _holds_images(path)]
    if len(holding) == 1:
        return holding[0]
    return folder if holding or _holds_images(folder) else None


def _holds_images(folder: Path) -> bool:
    """Whether an image is among the first files of the folder, or of one in it."""
    inside = (p for p in folder.iterdir() if not p.name.startswith("."))
    near = (
        f for p in islice(inside, NEAR) for f in (islice(p.iterdir(), 9) if p.is_dir() else [p])
    )
    return any(is_image_file(file) for file in near if file.is_file())


def _common_folder(table: Path, images: Path | None) -> Path:
    beside = table.parent
    if images is None or images.resolve().is_relative_to(beside.resolve()):
        return beside
    return Path(os.path.commonpath([beside.resolve(), images.resolve()]))


def _top_lines(
    columns: Sequence[Column], roles: Roles, pictures: ImageColumns
) -> tuple[list[Line], list[Line]]:
    """The lines on top, and those of [table] that are about images."""
    by_name = {column.name: column for column in columns}
    image = pictures.columns[0] if len(pictures.columns) == 1 else _free("photo", by_name)
    doubts = [f"{doubt}." for doubt in pictures.doubts]
    if pictures.guessed:
        doubts.append(
            "NO COLUMN NAMES IMAGE FILES, so this is a mere guess. If names can be made of other "
            'columns, set image_names under [table], as in image_names = "{patient}/{lesion}.jpg".'
        )
    several = len(pictures.columns) > 1
    values: dict[str, Any] = {"images": list(pictures.columns) if several else None}
    values |= {"separator": pictures.separator, "image_names": pictures.names}
    values |= {"image_root": pictures.root}
    settings = [Line(key=key, value=value) for key, value in values.items() if value is not None]
    lesion, said = roles.lesion, dict(roles.doubts)
    if lesion is None and (several or pictures.separator or "*" in (pictures.names or "")):
        lesion = _free("row", by_name)
        said["lesion"] = "a row is taken for a lesion, its images for images of that."
        settings.append(Line(key="row_id", value=lesion))
    label: Any = roles.label
    if isinstance(label, tuple):
        label = {"one_hot": list(label)}
        if has_unmarked(columns, label["one_hot"]):
            label["unmarked"] = "other"
            said["label"] = "rows without a 1 are taken for a class of their own, 'other'."
    if roles.patient is not None and (empty := _empty(by_name[roles.patient])):
        said["patient"] = (
            f"{said.get('patient', '')} Missing in {empty} row(s): an import stops, unless each "
            "lesion without one is of a person of its own (--missing-patient-id one-each)."
        )
    top = [Line(key="image", value=image, doubts=tuple(doubts))]
    ids = {"lesion": lesion, "patient": roles.patient, "label": label, "split": roles.split}
    for role, value in ids.items():
        if value is not None:
            top.append(Line(key=role, value=value, doubts=(said[role],) if role in said else ()))
        elif role in said:
            top.append(Line(key="", doubts=(f"{role}: {said[role]}",)))
    return top, settings


def _empty(column: Column) -> int:
    return len(column.cells) - column.filled


def _label_names(columns: Sequence[Column], roles: Roles) -> dict[str, list[Line]]:
    """Spellings of the label that mean the same, and those that mean none."""
    label = next((c for c in columns if (c.name,) == roles.label_columns), None)
    names = {} if label is None else dict.fromkeys(label.missing, "")
    if label is not None and label.look == "category":
        names |= label.aliases
    said = Line(key="", doubts=('published label -> the one to use; "" means that there is none.',))
    lines = [Line(key=key, value=value) for key, value in names.items()]
    return {"label_names": [said, *lines]} if names else {}


def _layout_lines(layout: TableLayout, assumed: Sequence[str]) -> list[Line]:
    given = {key: getattr(layout, key) for key in ("encoding", "delimiter", "header", "sheet")}
    lines = [Line(key=key, value=value) for key, value in given.items() if value is not None]
    return [Line(key="", doubts=tuple(assumed)), *lines] if assumed else lines


def _images_said(pictures: ImageColumns, images: Path | None, files: Sequence[str]) -> str:
    if images is None:
        return "No image folder was found (name it with --images): file endings were relied on."
    if not pictures.named:
        return f"{len(files)} images are in {images.name}; no column names them."
    return (
        f"{pictures.found} of the {pictures.named} images named are in {images.name}, which holds "
        f"{len(files)}."
    )


def _free(name: str, taken: Iterable[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _dry_run(
    sketch: Sketch, rows: pd.DataFrame, files: Sequence[str], roots: Sequence[str]
) -> str | None:
    """What an import of the table by this sketch would complain of."""

    def read_join(join: Join) -> pd.DataFrame:
        return read_table((sketch.raw / sketch.table).parent / join.file[0])

    try:
        schema, layout = sketch.schema(), sketch.layout()
        raw = [str(sketch.raw.absolute()), str(sketch.raw.resolve())]
        table = arrange(
            rows, layout, schema.image, read_join=read_join, files=files, roots=[*roots, *raw]
        )
        type_rows(table, schema)
    except TableError as error:
        return str(error)
    return None
