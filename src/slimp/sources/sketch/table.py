"""The one call that proposes a schema file for a table."""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.arrange import arrange
from slimp.sources.layout import Join, TableLayout
from slimp.sources.level_tables import ASSUMED, type_rows
from slimp.sources.parse_cells import IMAGE_ENDING, NO_ENDING, NUMERIC
from slimp.sources.raw_files import Place, is_image_file
from slimp.sources.read_table import read_table
from slimp.sources.sketch.facts import Facts, facts_of
from slimp.sources.sketch.pictures import Pictures, find_pictures
from slimp.sources.sketch.propose import Line, propose
from slimp.sources.sketch.roles import Roles, find_roles
from slimp.sources.sketch.write import render

Array = np.ndarray[Any, np.dtype[Any]]
ROWS = 20_000
"""Rows that are looked at; more say nothing new."""
DEPTH, FOLDERS = 3, 100
"""How far below the table, and through how many folders, images are looked for unasked."""


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

    def schema(self) -> Schema:
        """The proposed schema."""
        return Schema.from_dict(tomllib.loads(self.text))

    def layout(self) -> TableLayout:
        """The proposed layout of the table."""
        return TableLayout.from_dict(tomllib.loads(self.text).get("table", {}))

    def next_command(self, file: Path) -> str:
        """The import of the table by the schema in that file."""
        words = ["slimp", "data", "import", "csv", str(self.raw), "COHORT", "--schema", str(file)]
        words += ["--table", self.table, "--images", self.images or "DIR"]
        return shlex.join(words)


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
    assumed = list(published.attrs.get(ASSUMED, ()))
    rows = published.iloc[:ROWS]
    rows.attrs = published.attrs
    every, repeats = rows, _repeats_header(rows)
    rows = rows[~repeats]
    images = _images_beside(table) if images is None else images
    files = [] if images is None else _image_files(images)
    raw = _common_folder(table, images)
    numeric = published.attrs.get(NUMERIC, ())
    facts = [facts_of(rows[column]) for column in rows.columns]
    facts = [replace(fact, unclear=None) if fact.name in numeric else fact for fact in facts]
    roots = [] if images is None else [str(path) for path in (images.absolute(), images.resolve())]
    pictures = find_pictures(rows, facts, files, list(dict.fromkeys(roots)))
    roles = find_roles(facts, pictures.columns)
    proposal = propose(facts, roles, pictures.columns)
    top, settings = _roles_lines(rows, facts, roles, pictures)
    settings = [*_layout_lines(layout, assumed), *settings]
    top += _label_names(facts, roles)
    head = [
        f"Proposed by slimp data sketch from {table.name}: {len(published)} rows, "
        f"{len(published.columns)} columns. Read and correct it; it says below what is in doubt.",
        *([f"Only the first {ROWS} rows were looked at."] if len(published) > ROWS else []),
        *(f"Row {row} repeats the header: remove it." for _, row in every.index[repeats]),
        *_images_said(pictures, images, files),
    ]
    sketch = Sketch(
        text=render(top, settings, proposal, head),
        raw=raw,
        table=table.resolve().relative_to(raw.resolve()).as_posix(),
        images=None if images is None else images.resolve().relative_to(raw.resolve()).as_posix(),
    )
    problem = _dry_run(sketch, every, files, roots)
    if problem is None:
        return sketch
    head.append(f"AN IMPORT WOULD STOP HERE, until table or schema are mended: {problem}")
    return replace(sketch, text=render(top, settings, proposal, head))


def _repeats_header(rows: pd.DataFrame) -> Array:
    """(rows,) whether a row is the header once more, as where tables were put together."""
    cells = rows.apply(lambda column: column.str.split().str.join(" ") == column.name)
    same = cells.to_numpy(dtype=bool).sum(axis=1)
    repeats: Array = (same >= 2) & (same > rows.shape[1] / 2)
    return repeats if not repeats.all() else np.zeros(len(rows), dtype=bool)


def _images_beside(table: Path) -> Path | None:
    """The image folder that lies near the table; None if there is none, or one has to look far."""
    folder = table.absolute().parent
    if (folder / "images").is_dir():
        return table.parent / "images"
    found, seen = set[str](), 0
    for where, inside, names in os.walk(folder):
        inside[:] = [name for name in inside if not name.startswith(".")]
        below = Path(where).relative_to(folder)
        if len(below.parts) >= DEPTH:
            inside.clear()
        seen += len(inside)
        if seen > FOLDERS:  # somebody's home, or the like
            return None
        if any(is_image_file(Path(where, name)) for name in names if not name.startswith(".")):
            found.add(f"./{below.as_posix()}")
    return table.parent / os.path.commonpath(sorted(found)) if found else None


def _image_files(images: Path) -> list[str]:
    place = Place(images, holds="images")
    try:
        return [
            path
            for number, path in enumerate(place.paths)
            if IMAGE_ENDING.search(path)
            or (NO_ENDING.search(path) and place.inside_zip(number))
            or is_image_file(place.shown(number))
        ]
    finally:
        place.close()


def _common_folder(table: Path, images: Path | None) -> Path:
    beside = table.parent
    if images is None or images.resolve().is_relative_to(beside.resolve()):
        return beside
    return Path(os.path.commonpath([beside.resolve(), images.resolve()]))


def _roles_lines(
    rows: pd.DataFrame, facts: Sequence[Facts], roles: Roles, pictures: Pictures
) -> tuple[list[Line], list[Line]]:
    """The lines on top, and those of [table] that are about images."""
    settings: list[Line] = []
    taken = {str(column) for column in rows.columns}
    image = pictures.columns[0] if pictures.columns else _free("photo", taken)
    doubts = [f"{doubt}." for doubt in pictures.doubts]
    if pictures.guessed:
        doubts.append(
            "NO COLUMN NAMES IMAGE FILES, so this is a mere guess. If names can be made of other "
            'columns, set image_names under [table], as in image_names = "{patient}/{lesion}.jpg".'
        )
    if len(pictures.columns) > 1:
        image = _free("photo", taken)
        settings.append(Line(key="images", value=list(pictures.columns)))
    if pictures.separator is not None:
        settings.append(Line(key="separator", value=pictures.separator))
    if pictures.names is not None:
        settings.append(Line(key="image_names", value=pictures.names))
    if pictures.root is not None:
        settings.append(Line(key="image_root", value=pictures.root))
    several = len(pictures.columns) > 1 or pictures.separator or "*" in (pictures.names or "")
    lesion = roles.lesion
    said = dict(roles.doubts)
    if several and lesion is None:
        lesion = _free("row", taken)
        said["lesion"] = "a row is taken for a lesion, its images for images of that."
        settings.append(Line(key="row_id", value=lesion))
    top = [Line(key="image", value=image, doubts=tuple(doubts))]
    by_name = {fact.name: fact for fact in facts}
    for role, column in (
        ("lesion", lesion),
        ("patient", roles.patient),
        ("label", roles.label),
        ("split", roles.split),
    ):
        doubts = [said[role]] if role in said else []
        if column is None:
            if doubts:
                top.append(Line(key="", value=None, doubts=(f"{role}: {doubts[0]}",)))
            continue
        empty = len(rows) - by_name[column].filled if column in by_name else 0
        if role == "patient" and empty:
            doubts.append(
                f"empty in {empty} row(s): an import stops, unless told that each lesion without "
                "one is of a person of its own (--missing-patient-id one-each)."
            )
        top.append(Line(key=role, value=column, doubts=tuple(doubts)))
    return top, settings


def _label_names(facts: Sequence[Facts], roles: Roles) -> list[Line]:
    """Spellings of the label that mean the same, and those that mean none."""
    label = next((fact for fact in facts if fact.name == roles.label), None)
    if label is None:
        return []
    names = dict.fromkeys(label.missing, "") | (
        dict(label.aliases) if label.look == "category" else {}
    )
    doubt = 'published label -> the one to use; "" means that there is none.'
    return [Line(key="label_names", value=names, doubts=(doubt,))] if names else []


def _layout_lines(layout: TableLayout, assumed: Sequence[str]) -> list[Line]:
    given = {key: getattr(layout, key) for key in ("encoding", "delimiter", "header", "sheet")}
    lines = [Line(key=key, value=value) for key, value in given.items() if value is not None]
    if assumed and lines:
        lines[0] = replace(lines[0], doubts=tuple(assumed))
    elif assumed:
        lines.append(Line(key="", value=None, doubts=tuple(assumed)))
    return lines


def _images_said(pictures: Pictures, images: Path | None, files: Sequence[str]) -> list[str]:
    if images is None:
        return [
            "No image folder was found (name it with --images); images were told by their endings."
        ]
    if not pictures.named:
        return [f"{len(files)} images are in {images.name}; no column names them."]
    return [
        f"{pictures.found} of the {pictures.named} images named are in {images.name}, which holds "
        f"{len(files)}."
    ]


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _dry_run(
    sketch: Sketch, rows: pd.DataFrame, files: Sequence[str], roots: Sequence[str]
) -> str | None:
    """What an import of the table by this sketch would complain of."""
    try:
        schema, layout = sketch.schema(), sketch.layout()
        raw = [str(sketch.raw.absolute()), str(sketch.raw.resolve())]
        table = arrange(
            rows, layout, schema.image, read_join=_no_join, files=files, roots=[*roots, *raw]
        )
        type_rows(table, schema)
    except TableError as error:
        return str(error)
    return None


def _no_join(join: Join) -> pd.DataFrame:
    raise TableError(f"{join.file}: joins are not sketched.")
