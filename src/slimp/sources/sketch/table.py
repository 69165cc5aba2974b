"""The one call that proposes a schema file for a table."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.arrange import arrange
from slimp.sources.image_files import is_image_file
from slimp.sources.layout import TableLayout
from slimp.sources.level_tables import ASSUMED, type_rows
from slimp.sources.read_parquet import EMBEDDED
from slimp.sources.read_table import read_table
from slimp.sources.sketch.columns import Column, describe
from slimp.sources.sketch.features import propose, with_doubts
from slimp.sources.sketch.image_columns import ImageColumns, find_image_columns, image_files
from slimp.sources.sketch.roles import Roles, find_roles, is_row_counter
from slimp.sources.sketch.schema_text import Line, render
from slimp.sources.words import hints_at

ROWS = 20_000
"""Rows that are looked at; more say nothing new."""
NEAR = 200
"""Files in a folder near the table, at most, among which images are looked for unasked."""
ENDINGS = {".csv", ".tsv", ".tab", ".txt", ".parquet", ".xlsx"}
TABLES, BYTES = 12, 64 << 20
"""Further tables beside the table that are looked at, and how large each may be, at most."""
SHARED = 0.5
"""Share of the rows that must find their id in a further table."""


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
    stops: str = ""
    """Why an import by it would be refused; the name of the schema file completes the clause."""

    def schema(self) -> Schema:
        """The proposed schema."""
        return Schema.from_dict(tomllib.loads(self.text))

    def layout(self) -> TableLayout:
        """The proposed layout of the table."""
        return TableLayout.from_dict(tomllib.loads(self.text).get("table", {}))

    def doubt(self, file: Path) -> str:
        """What to see in that file before the import, as a parenthesis; '' if nothing is known."""
        return f" ({self.stops} {file})" if self.stops else ""

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
    rows, embedded = published.iloc[:ROWS], published.attrs.get(EMBEDDED)
    columns = [describe(rows[name]) for name in rows]
    if images is None and embedded is None:
        images = _images_beside(table.parent)
    files = [] if images is None else image_files(images)
    pictures = ImageColumns(columns=(str(embedded),))
    if embedded is None:
        pictures = find_image_columns(rows, columns, files)
    joined, join, notes = _label_beside(table, rows, columns)
    columns += [describe(joined[name]) for name in joined]
    roles = find_roles(columns, pictures.columns)
    _refuse_wide(columns, roles, pictures, table)
    sections, alone = _sections(columns, roles, pictures), _without_patient(columns, roles)
    sections["table"][:0] = _layout_lines(layout, published.attrs.get(ASSUMED, ()))
    sections["table.join"] += join
    head = [
        f"Proposed by slimp data sketch from {table.name}: {len(published)} rows, "
        f"{len(published.columns)} columns. Read and correct it; comments say what is in doubt.",
        *([f"Only the first {ROWS} rows were looked at."] if len(published) > ROWS else []),
        "The images lie in the table." if embedded else _images_said(pictures, images, files),
        *notes,
    ]
    beside = raw = table.parent.resolve()
    if images is not None:
        raw = Path(os.path.commonpath([beside, images.resolve()]))
    sketch = Sketch(
        text=render(head, sections),
        raw=table.parent if raw == beside else raw,
        table=(beside / table.name).relative_to(raw).as_posix(),
        images=None if images is None else images.resolve().relative_to(raw).as_posix(),
        embedded=embedded is not None,
        stops=f"{alone} row(s) have no patient id: see patient in" if alone else "",
    )
    problem = _dry_run(sketch, table.parent, rows, files)
    if problem is None:
        return sketch
    head.append(f"AN IMPORT WOULD STOP HERE, until table or schema are corrected: {problem}")
    return replace(
        sketch, text=render(head, sections), stops="an import would stop: see the top of"
    )


def _images_beside(folder: Path) -> Path | None:
    """The folder `images`; else the one beside, or around the table, that holds images."""
    if (folder / "images").is_dir():
        return folder / "images"
    beside = [path for path in islice(folder.iterdir(), NEAR) if path.is_dir()]
    holding = [path for path in beside if _holds_images(path.rglob("*"))]
    if len(holding) == 1:
        return holding[0]
    return folder if holding or _holds_images(folder.iterdir()) else None


def _holds_images(paths: Iterator[Path]) -> bool:
    return any(is_image_file(path) for path in islice(paths, NEAR) if path.is_file())


def _images_said(pictures: ImageColumns, images: Path | None, files: Sequence[str]) -> str:
    if images is None:
        return "No image folder was found (name it with --images): file endings were relied on."
    if not pictures.named:
        return f"{len(files)} images are in {images.name}; no column names them."
    return (
        f"{pictures.found} of the {pictures.named} images named are in {images.name}, which holds "
        f"{len(files)}."
    )


def _label_beside(
    table: Path, rows: pd.DataFrame, columns: Sequence[Column]
) -> tuple[pd.DataFrame, list[Line], list[str]]:
    """The label of a table beside, if there is none in this one, and what else lies there."""
    joined, lines, others = pd.DataFrame(index=rows.index), list[Line](), list[str]()
    has_label = bool(find_roles(columns, ()).label)
    for name, key, other in _tables_beside(table, rows):
        new = [str(column) for column in other if column not in rows]
        label = find_roles([describe(other[column]) for column in new], ()).label
        if label and not has_label and not lines:
            there = other.set_index(other[key].str.strip())[list(label)]
            there = there[(there.index != "") & ~there.index.duplicated(keep=False)]
            found = there.reindex(rows[key].str.strip()).fillna("")
            joined = found.set_axis(rows.index)
            entry = {"file": name, "on": key, "columns": list(label)}
            lines = [Line(doubts=("the label is in a table of its own.",))]
            lines += [Line(key=k, value=value) for k, value in entry.items()]
        elif new:
            more = ", ..." if len(new) > 3 else ""
            others.append(f"{name} (by {key}: {', '.join(new[:3])}{more})")
    note = f"Not joined, but with the same ids: {'; '.join(others)}. See [[table.join]]."
    return joined, lines, [note] if others else []


def _tables_beside(table: Path, rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """File, column of ids and content, of the tables in the same folder with the same ids."""
    beside = [p for p in sorted(table.absolute().parent.iterdir()) if p.suffix.lower() in ENDINGS]
    for path in [p for p in beside if p.name != table.name and p.is_file()][:TABLES]:
        try:
            other = read_table(path) if path.stat().st_size <= BYTES else pd.DataFrame()
        except TableError:
            continue
        for key in (str(name) for name in rows if name in other):
            ids = describe(other[key])
            is_key = ids.filled == ids.distinct > 0 and not is_row_counter(ids)
            if is_key and rows[key].str.strip().isin(list(ids.counts)).mean() >= SHARED:
                yield path.name, key, other
                break


def _refuse_wide(
    columns: Sequence[Column], roles: Roles, pictures: ImageColumns, table: Path
) -> None:
    """Refuses a row of several lesions, as in `lesion1_image lesion1_dx lesion2_image ...`."""
    forms = [re.sub(r"[0-9]+", "", name) for name in roles.label]
    labels = [c.name for c in columns if re.sub(r"[0-9]+", "", c.name) in forms]
    if len(roles.label) == 1 and len(labels) == len(pictures.columns) > 1:
        raise TableError(
            f"{table}: a row has images in {', '.join(pictures.columns)} and labels in "
            f"{', '.join(labels)}, so it is about several lesions. Make a row of each lesion, as "
            "pandas.wide_to_long does."
        )


def _sections(
    columns: Sequence[Column], roles: Roles, pictures: ImageColumns
) -> dict[str, list[Line]]:
    """All lines of the schema by their section."""
    ids, roles = (roles.patient, roles.lesion), with_doubts(columns, roles)
    by_name, doubts = {column.name: column for column in columns}, dict(roles.doubts)
    several, pattern = len(pictures.columns) > 1, pictures.pattern
    image, lesion = _free("photo", by_name), roles.lesion
    if len(pictures.columns) == 1:
        image = pictures.columns[0]
    elif not several and not pattern:
        image = max(columns, key=lambda c: (hints_at(c.name, "image"), c.distinct)).name
        doubts["image"] = (
            "NO COLUMN NAMES IMAGE FILES, so this is a mere guess. If names can be made of other "
            'columns, set image_names under [table], as in image_names = "{patient}/{lesion}.jpg"; '
            'if a cell names several images, set separator, as in separator = ";".'
        )
    table: dict[str, Any] = {"images": list(pictures.columns) if several else None}
    table |= {"image_names": pattern, "image_root": pictures.root}
    if lesion is None and (several or "*" in (pattern or "")):
        table["row_id"] = lesion = _free("row", by_name)
        doubts["lesion"] = "a row is taken for a lesion, its images for images of that."
    label: Any = roles.label[0] if len(roles.label) == 1 else None
    if len(roles.label) > 1:
        label = {"one_hot": list(roles.label)} | ({"unmarked": "other"} if roles.unmarked else {})
    own = [by_name[name] for name in (roles.patient, roles.lesion) if name is not None]
    top = {"image": image, "lesion": lesion, "patient": roles.patient, "label": label}
    top |= {"split": roles.split, "missing": [word for c in own for word in c.missing] or None}
    doubts["missing"] = "cells that are no ids; they are missing in every column."
    if alone := _without_patient(columns, roles):
        doubts["patient"] = (
            f"{doubts.get('patient', '')} Missing in {alone} row(s): an import stops, unless each "
            "lesion without one is of a person of its own (--missing-patient-id one-each)."
        )
    used = {*ids, roles.split, *roles.label, *pictures.columns, image}
    further = propose(columns, roles, used | set(re.findall(r"\{([^{}:]+)", pattern or "")))
    return {
        "": [_top_line(key, value, doubts.get(key, "")) for key, value in top.items()],
        "label_names": _label_names(by_name[roles.label[0]]) if len(roles.label) == 1 else [],
        "table": [Line(key=k, value=v) for k, v in table.items() if v] + further.pop("table"),
        "table.join": [],
        **further,
    }


def _without_patient(columns: Sequence[Column], roles: Roles) -> int:
    """Rows whose patient is in no row of their lesion either, as the import finds it."""
    if roles.patient is None:
        return 0
    values = {column.name: column.cells.where(column.cells != "") for column in columns}
    patients = values[roles.patient]
    if roles.lesion is not None:
        found = patients.groupby(values[roles.lesion])
        if found.nunique().max() <= 1:
            patients = patients.fillna(found.transform("first"))
    return int(patients.isna().sum())


def _top_line(key: str, value: Any, doubt: str) -> Line:
    if value is None:
        return Line(doubts=(f"{key}: {doubt}",) if doubt and key != "missing" else ())
    return Line(key=key, value=value, doubts=(doubt,))


def _label_names(label: Column) -> list[Line]:
    """Spellings of the label that mean the same, and those that mean none."""
    names = dict.fromkeys(label.missing, "")
    names |= label.settings.get("aliases", {}) if label.kind == "category" else {}
    said = Line(doubts=('published label -> the one to use; "" means that there is none.',))
    return [said, *(Line(key=key, value=value) for key, value in names.items())] if names else []


def _layout_lines(layout: TableLayout, assumed: Sequence[str]) -> list[Line]:
    given = {key: getattr(layout, key) for key in ("encoding", "delimiter", "header", "sheet")}
    lines = [Line(key=key, value=value) for key, value in given.items() if value is not None]
    return [Line(doubts=tuple(assumed)), *lines] if assumed else lines


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _dry_run(sketch: Sketch, folder: Path, rows: pd.DataFrame, files: Sequence[str]) -> str | None:
    """What an import of the table by this sketch would complain of."""
    try:
        schema, layout = sketch.schema(), sketch.layout()
        table = arrange(
            rows,
            layout,
            schema,
            read_join=lambda join: read_table(folder / join.file[0]),
            files=files,
        )
        type_rows(table, schema)
    except TableError as error:
        return str(error)
    return None
