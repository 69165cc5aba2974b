"""Which columns name the image files, and how; or the table that folders of images stand for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import permutations, product, takewhile
from pathlib import Path

import pandas as pd

from slimp.data.schema import Schema
from slimp.errors import TableError
from slimp.sources.arrange import arrange
from slimp.sources.image_files import is_image_file, stem
from slimp.sources.layout import TableLayout
from slimp.sources.parse_cells import IMAGE_ENDING, NO_ENDING, fold, image_key, points_outside
from slimp.sources.parse_ids import SPLIT_WORDS
from slimp.sources.raw_files import Place
from slimp.sources.sketch.columns import Column
from slimp.sources.words import hints_at, plain

SOME = 0.5
"""Share of a column's cells that must name a file in the image folder, or end as one does."""
SAMPLE, TRIED = 1000, 4
"""Rows on which patterns of ids are tried, and columns of ids, at most, that make them up."""
CLASSES = 200
"""Folders of classes, at most."""
NO_SCHEMA = Schema.from_dict({"image": "\0"})
"""Of a table in which no column has the name of the images."""


@dataclass(frozen=True, kw_only=True)
class ImageColumns:
    """The image columns of a table."""

    columns: tuple[str, ...] = ()
    """Several: a row has an image in each. None: see `pattern`."""
    root: str | None = None
    """Start of the paths that stands for the image folder."""
    pattern: str | None = None
    """`image_names`, where no column names the images."""
    named: int = 0
    """Cells that name an image."""
    found: int = 0
    """Of these, those that name a file of the image folder."""


def image_files(images: Path) -> list[str]:
    """Paths of the images in a folder or zip file, from there on."""
    with closing(Place(images, holds="images")) as place:
        return [
            path
            for path in place.paths
            if IMAGE_ENDING.search(path)
            or (NO_ENDING.search(path) and (images.is_file() or is_image_file(images / path)))
        ]


def table_of_folders(folder: Path) -> pd.DataFrame:
    """A table with the columns `path`, `class` and, of `train/nevus/1.jpg`, `split`.

    Raises:
        TableError: the images are not in folders of classes.
    """
    files = sorted(image_files(folder))
    parts = [Path(file).parent.parts for file in files]
    has_split = bool(parts) and all(len(p) > 1 and plain(p[0]) in SPLIT_WORDS for p in parts)
    classes = [p[has_split] for p in parts if len(p) > has_split]
    if len(classes) < len(parts) or not 2 <= len(set(classes)) <= CLASSES:
        others = {p.name for p in folder.iterdir() if p.is_file() and p.name[0] != "."}
        tables = ", ".join(sorted(others - set(files))[:5])
        raise TableError(
            f"{folder}: is a folder, not a table, and its images do not lie in folders named after "
            f"their classes, as in train/nevus/1.jpg. Name a table{tables and f' in it: {tables}'}."
        )
    table = pd.DataFrame({"path": files, "class": classes})
    return table.assign(split=[p[0] for p in parts]) if has_split else table


def find_image_columns(
    table: pd.DataFrame, columns: Sequence[Column], files: Sequence[str]
) -> ImageColumns:
    """The image columns, by the paths of the files in the image folder or, without, by endings."""
    stems = set(map(stem, files))
    shares = {c.name: _share(list(c.counts), stems) for c in columns if c.counts}
    best = max(shares.values(), default=0.0)
    if best < SOME:
        return _named_by_ids(table, columns, files) if files else ImageColumns()
    chosen = dict[str, set[str]]()  # name -> stems; of columns that name the same files, one
    distinct = {c.name: c.distinct for c in columns}  # of numbers, those of patients recur
    for name in sorted(shares, key=lambda name: (not hints_at(name, "image"), -distinct[name])):
        own = {stem(cell) for cell in table[name] if cell.strip()}
        same = any(len(own & other) > 0.5 * len(own) for other in chosen.values())
        if shares[name] >= max(SOME, best - 0.3) and not same:
            chosen[name] = own
    names = tuple(str(name) for name in table if name in chosen)
    cells = [cell.strip() for name in names for cell in table[name] if cell.strip()]
    root = _root(cells)
    ends = [cell[len(root) + 1 :] for cell in cells] if root else cells
    return ImageColumns(
        columns=names, root=root, named=len(cells), found=_count(ends, _keys(files))
    )


def _keys(files: Sequence[str]) -> set[str]:
    """What a cell may call the files: their paths and their names."""
    paths = {fold(image_key(file)) for file in files}
    return paths | {path.rpartition("/")[2] for path in paths}


def _count(cells: Sequence[str], keys: set[str]) -> int:
    return sum(fold(image_key(cell)) in keys for cell in cells)


def _share(cells: Sequence[str], stems: set[str]) -> float:
    """Share of the cells that name a file, or of the files that are named, if that is more.

    Often only a part of the images is there; then few cells name a file, but most files are named.
    """
    if not stems:
        return sum(bool(IMAGE_ENDING.search(cell)) for cell in cells) / len(cells)
    naming = [name for name in map(stem, cells) if name in stems]
    return max(len(naming) / len(cells), len(set(naming)) / len(stems))


def _root(cells: Sequence[str]) -> str | None:
    """The folder that all images lie in, if most cells are absolute paths."""
    if sum(map(points_outside, cells)) < SOME * len(cells):
        return None
    folders = [cell.lower().replace("\\", "/").split("/")[:-1] for cell in cells]
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return cells[0][: len("/".join(parts[0] for parts in common))] or None


def _named_by_ids(
    table: pd.DataFrame, columns: Sequence[Column], files: Sequence[str]
) -> ImageColumns:
    """The pattern of ids that most files' names follow, if half of them follow one."""
    ids = [c for c in columns if c.kind in ("code", "number", "category")]
    ids = [c for c in ids if not re.search(r"[{}!:.\[\]]", c.name)]
    ids.sort(key=lambda c: (not hints_at(c.name, "patient", "lesion", "image"), -c.distinct))
    some, keys, best = table.head(SAMPLE), _keys(files), ImageColumns()
    for pattern in _patterns(ids[:TRIED], files):
        names = _names(some, pattern, files)
        found = _count(names[~names.duplicated(keep=False)].tolist(), keys)
        if found > max(best.found, SOME * min(len(files), len(some))):
            best = ImageColumns(pattern=pattern, found=found)
        if found >= min(len(files), len(some)):
            break
    if best.pattern is None:
        return best
    cells = _names(table, best.pattern, files).tolist()
    return ImageColumns(pattern=best.pattern, named=len(cells), found=_count(cells, keys))


def _names(table: pd.DataFrame, pattern: str, files: Sequence[str]) -> pd.Series:
    """The images that the pattern finds; none if it does not fit the table."""
    try:
        layout = TableLayout(image_names=pattern)
        return arrange(table, layout, NO_SCHEMA, read_join=lambda join: None, files=files)["\0"]
    except TableError:
        return pd.Series(dtype="str")


def _patterns(ids: Sequence[Column], files: Sequence[str]) -> Iterator[str]:
    """Names made of one id or two; numbers also with leading zeros, as in `ISIC_{id:07}`."""
    stems = [re.fullmatch(r"(\D*)(\d+)(\D*)", image_key(file).rpartition("/")[2]) for file in files]
    forms = Counter((m[1], len(m[2]), m[3]) for m in stems if m).most_common(1)
    for column in (column for column in ids if column.is_whole):
        for (before, width, after), _ in forms:
            yield f"{before}{{{column.name}:0{width}}}{after}"
    names = [f"{{{column.name}}}" for column in ids]
    pairs = [mark.join(pair) for pair, mark in product(permutations(names, 2), ("/", "_", "-"))]
    yield from (name + end for name, end in product(names + pairs, ("/*", "_*", "-*", "*")))
