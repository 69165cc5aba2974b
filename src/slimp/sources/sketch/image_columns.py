"""Which columns name the image files, and how."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import pandas as pd

from slimp.errors import TableError
from slimp.sources.arrange import arrange
from slimp.sources.image_files import is_image_file
from slimp.sources.layout import Join, TableLayout
from slimp.sources.parse_cells import IMAGE_ENDING, NO_ENDING, fold, image_key, points_outside
from slimp.sources.raw_files import Place
from slimp.sources.sketch.columns import Column
from slimp.sources.sketch.words import hints_at

SOME = 0.5
"""Share of a column's cells that must name a file in the image folder, or end as one does."""
SEPARATORS = (";", "|", ",", "\n", " ")
SAMPLE, TRIED = 1000, 5
"""Rows on which patterns of ids are tried, and columns of ids, at most, that make them up."""


@dataclass(frozen=True, kw_only=True)
class ImageColumns:
    """The image columns of a table."""

    columns: tuple[str, ...] = ()
    """Several: a row has an image in each."""
    separator: str | None = None
    root: str | None = None
    """Start of absolute paths that stands for the image folder."""
    names: str | None = None
    """`image_names`, where no column has them."""
    found: int = 0
    """Cells that name a file of the image folder."""
    named: int = 0
    """Cells that name an image."""
    guessed: bool = False
    """Nothing speaks for the column; but a schema has to name one."""
    doubts: tuple[str, ...] = ()


def find_image_columns(
    table: pd.DataFrame, columns: Sequence[Column], files: Sequence[str], roots: Sequence[str]
) -> ImageColumns:
    """The image columns, by the files in the image folder or, without one, by their endings.

    Args:
        table: text cells.
        columns: what is in them.
        files: image files, as paths from the image folder on.
        roots: absolute paths of the image folder.
    """
    known = _Files(files)
    looks = ("code", "text", "category", "number")
    read = [_read(column, known, roots) for column in columns if column.look in looks]
    best = max((share for _, share in read), default=0.0)
    if best < SOME:
        ids = [c for c in columns if c.look in ("code", "number", "category") and _is_bare(c)]
        by_names = _named_by_ids(table, ids, files) if files else ImageColumns()
        if by_names.names is not None:
            return by_names
        best_column = max(columns, key=lambda c: (hints_at(c.name, "image"), c.distinct))
        return ImageColumns(columns=(best_column.name,), guessed=True)
    chosen = [found for found, share in read if share >= max(SOME, best - 0.3)]
    return _merged(chosen, table, known, roots)


def image_files(images: Path) -> list[str]:
    """Paths of the images in a folder or zip file, from there on."""
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


class _Files:
    """The files of a folder, by what a cell may call them."""

    def __init__(self, files: Sequence[str]) -> None:
        keys = [fold(image_key(file)) for file in files]
        self.paths = set(keys)
        self.stems = {key.rpartition("/")[2] for key in keys}

    def has(self, cell: str) -> bool:
        """Whether the cell names one of them; without files, whether it ends as images do."""
        if not self.paths:
            return IMAGE_ENDING.search(cell.strip()) is not None
        key = fold(image_key(cell))
        return key in self.paths or key.partition("/")[2] in self.paths or key in self.stems

    def share(self, cells: Sequence[str]) -> float:
        """Share of the cells that name one, or of the files that are named, if that is more.

        Often only a part of the images is there; then few cells name a file, but most files are
        named.
        """
        naming = [cell for cell in cells if self.has(cell)]
        named = {_stem(cell) for cell in naming} & self.stems
        return max(len(naming) / max(1, len(cells)), len(named) / max(1, len(self.stems)))


def _stem(cell: str) -> str:
    return fold(image_key(cell)).rpartition("/")[2]


def _read(column: Column, known: _Files, roots: Sequence[str]) -> tuple[ImageColumns, float]:
    """The best reading of one column as image names, and how much of it that explains."""
    cells, name = list(column.counts), (column.name,)
    if sum(map(points_outside, cells)) >= SOME * len(cells):
        paths = [cell.replace("\\", "/") for cell in cells]
        ends = [_below(path, roots) for path in paths]
        if sum(end != path for end, path in zip(ends, paths, strict=True)) >= SOME * len(paths):
            return ImageColumns(columns=name), known.share(ends)
        root, share = _root(paths, known)
        slash = "\\" if sum("\\" in cell for cell in cells) > len(cells) / 2 else "/"
        return ImageColumns(columns=name, root=root.replace("/", slash)), share
    readings = [(ImageColumns(columns=name), known.share(cells))]
    for separator in SEPARATORS:
        single = [part.strip() for cell in cells for part in cell.split(separator) if part.strip()]
        images = sum(bool(IMAGE_ENDING.search(part)) for part in single)
        if len(single) > len(cells) and (known.paths or images >= 0.9 * len(single)):
            found = ImageColumns(columns=name, separator=separator)
            readings.append((found, known.share(single) - 0.01))
    return max(readings, key=lambda reading: reading[1])


def _below(cell: str, roots: Sequence[str]) -> str:
    """The cell from the image folder on, if it is a path that begins with that."""
    path = cell.replace("\\", "/")
    return next((path.removeprefix(f"{r}/") for r in roots if path.startswith(f"{r}/")), cell)


def _root(paths: Sequence[str], known: _Files) -> tuple[str, float]:
    """The folder that most paths lie in such that what follows names files, and that share."""
    first = paths[0].split("/")
    best = ("", -1.0)
    for depth in range(1, len(first)):
        root = "/".join(first[:depth])
        ends = [p[len(root) + 1 :] for p in paths if p.lower().startswith(f"{root}/".lower())]
        exact = sum(fold(image_key(end)) in known.paths for end in ends) / len(paths)
        score = known.share(ends) * len(ends) / len(paths) + 0.1 * exact
        score += 0 if known.paths else 0.001 * depth
        if ends and score > best[1]:
            best = (root, score)
    return best[0], min(1.0, best[1])


def _merged(
    chosen: Sequence[ImageColumns], table: pd.DataFrame, known: _Files, roots: Sequence[str]
) -> ImageColumns:
    """One reading of them all: columns that name the same files are one, others are several."""

    def stems(found: ImageColumns) -> set[str]:
        return {_stem(cell) for cell in table[found.columns[0]].str.strip() if cell}

    kept: list[ImageColumns] = []
    for found in sorted(chosen, key=lambda f: (f.root is not None, not _is_image(f))):
        if not any(len(stems(found) & stems(other)) > 0.5 * len(stems(found)) for other in kept):
            kept.append(found)
    columns = [str(name) for name in table if str(name) in {f.columns[0] for f in kept}]
    starts = {found.root for found in kept}
    separators = {found.separator for found in kept if found.separator}
    root, separator = next(filter(None, starts), None), next(iter(separators), None)
    doubts = ["further columns name the same images"] * (len(kept) < len(chosen))
    if len(starts) > 1:
        doubts.append(f"paths begin in several ways: {', '.join(map(str, starts))}")
    cells = [cell for column in columns for cell in table[column].str.strip() if cell]
    ends = [cell[len(root) + 1 :] if root else _below(cell, roots) for cell in cells]
    if separator:
        ends = [part.strip() for end in ends for part in end.split(separator) if part.strip()]
    return ImageColumns(
        columns=tuple(columns),
        separator=separator,
        root=root,
        found=sum(map(known.has, ends)) if known.paths else 0,
        named=len(ends),
        doubts=tuple(doubts),
    )


def _is_image(found: ImageColumns) -> bool:
    return hints_at(found.columns[0], "image")


def _named_by_ids(table: pd.DataFrame, ids: list[Column], files: Sequence[str]) -> ImageColumns:
    """A pattern of ids that the files' names follow, if there is one."""
    topics = ("patient", "lesion", "image")
    named = {column.name for column in ids if any(hints_at(column.name, t) for t in topics)}
    ids.sort(key=lambda c: (c.name not in named, c.look != "code", -c.distinct))
    known, some, best = _Files(files), table.head(SAMPLE), ImageColumns()
    for pattern in _patterns(ids[:TRIED], files):
        found = _named_so(some, pattern, files, known)
        if found.found > max(best.found, SOME * min(len(files), len(some))):
            best = found
        if best.found >= min(len(files), len(some)):
            break
    return _named_so(table, best.names, files, known) if best.names is not None else best


def _named_so(
    table: pd.DataFrame, pattern: str, files: Sequence[str], known: _Files
) -> ImageColumns:
    """What a pattern of ids finds in the image folder; nothing if it does not fit the table."""
    try:
        layout = TableLayout(image_names=pattern)
        rows = arrange(table, layout, "\0", read_join=_no_join, files=files)
    except TableError:
        return ImageColumns()
    names = rows["\0"]
    found = sum(map(known.has, names[~names.duplicated(keep=False)]))
    return ImageColumns(names=pattern, found=found, named=len(rows))


def _is_bare(column: Column) -> bool:
    cells = list(column.counts)[:100]
    return not re.search(r"[{}!:.\[\]]", column.name) and not any(
        re.search(r"[{}\s]", cell) for cell in cells
    )


def _patterns(ids: Sequence[Column], files: Sequence[str]) -> Iterator[str]:
    """Names made of one id or two; numbers also with leading zeros, as in `ISIC_{id:07}`."""
    stems = [re.fullmatch(r"(\D*)(\d+)(\D*)", image_key(file).rpartition("/")[2]) for file in files]
    forms = Counter((m[1], len(m[2]), m[3]) for m in stems if m)
    for column in ids:
        if column.is_whole:
            for (before, width, after), _ in forms.most_common(2):
                yield f"{before}{{{column.name}:0{width}}}{after}"
        yield from (f"{{{column.name}}}{end}" for end in ("/*", "_*", "-*", "*"))
    for one, other in permutations([column.name for column in ids], 2):
        for mark in ("/", "_", "-"):
            yield from (f"{{{one}}}{mark}{{{other}}}{end}" for end in ("", "/*", "_*", "-*", "*"))


def _no_join(join: Join) -> pd.DataFrame:
    raise TableError(f"{join.file}: no further table is read here.")
