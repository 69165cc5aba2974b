"""Which columns name the image files, and how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import pandas as pd

from slimp.errors import TableError
from slimp.sources.arrange import arrange, fold
from slimp.sources.layout import Join, TableLayout
from slimp.sources.parse_cells import IMAGE_ENDING, image_key, points_outside
from slimp.sources.sketch.facts import Facts
from slimp.sources.sketch.words import hints_at

SOME = 0.5
"""Share of a column's cells that must name a file in the image folder, or end as one does."""
SEPARATORS = (";", "|", ",", "\n", " ")
SAMPLE = 1000
"""Rows on which patterns of ids are tried."""
TRIED = 5
"""Columns of ids, at most, from which names of images are made up."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
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


def find_pictures(
    table: pd.DataFrame, facts: Sequence[Facts], files: Sequence[str], roots: Sequence[str]
) -> Pictures:
    """The image columns, by the files in the image folder or, without one, by their endings.

    Args:
        table: text cells.
        facts: of its columns.
        files: image files, as paths from the image folder on.
        roots: absolute paths of the image folder.
    """
    known = _Known(files)
    scored = [
        (pictures, share)
        for fact in facts
        if fact.look in ("code", "text", "category", "number")
        for pictures, share in [_read(fact, known, roots)]
        if share >= SOME
    ]
    if not scored:
        made = _by_names(table, facts, files)
        return made if made.names is not None else _guess(facts)
    best = max(share for _, share in scored)
    chosen = [pictures for pictures, share in scored if share >= best - 0.3]
    return _of_one_row(chosen, table, known, roots)


class _Known:
    """The files of a folder, by what a cell may call them."""

    def __init__(self, files: Sequence[str]) -> None:
        keys = [fold(image_key(file)) for file in files]
        self.paths = set(keys)
        self.stems = {key.rpartition("/")[2] for key in keys}

    def names(self, cell: str) -> bool:
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
        naming = [cell for cell in cells if self.names(cell)]
        share = len(naming) / max(1, len(cells))
        if not self.paths:
            return share
        named = {fold(image_key(cell)).rpartition("/")[2] for cell in naming} & self.stems
        return max(share, len(named) / len(self.stems))


def _read(fact: Facts, known: _Known, roots: Sequence[str]) -> tuple[Pictures, float]:
    """The best reading of one column as image names, and how much of it that explains."""
    cells = list(fact.counts)
    column = (fact.name,)
    readings = [(Pictures(columns=column), known.share(cells))]
    for separator in SEPARATORS:
        single = [part.strip() for cell in cells for part in cell.split(separator) if part.strip()]
        if len(single) > len(cells):
            share = known.share(single) - 0.01
            images = sum(bool(IMAGE_ENDING.search(part)) for part in single)
            if known.paths or images >= 0.9 * len(single):
                readings.append((Pictures(columns=column, separator=separator), share))
    if sum(map(points_outside, cells)) >= SOME * len(cells):
        paths = [cell.replace("\\", "/") for cell in cells]
        inside = [p for p in paths if any(p.startswith(f"{root}/") for root in roots)]
        if len(inside) < SOME * len(paths):
            root, share = _root(paths, known)
            slash = "\\" if sum("\\" in cell for cell in cells) > len(cells) / 2 else "/"
            given = root.replace("/", slash)
            readings = [(Pictures(columns=column, root=given), share)]
        else:
            ends = [_below(path, roots) for path in paths]
            readings = [(Pictures(columns=column), known.share(ends))]
    return max(readings, key=lambda reading: reading[1])


def _below(cell: str, roots: Sequence[str]) -> str:
    """The cell from the image folder on, if it is a path that begins with that."""
    path = cell.replace("\\", "/")
    return next((path.removeprefix(f"{r}/") for r in roots if path.startswith(f"{r}/")), cell)


def _root(paths: Sequence[str], known: _Known) -> tuple[str, float]:
    """The folder that most paths lie in such that what follows names files, and that share."""
    first = paths[0].split("/")
    best = ("", -1.0)
    for depth in range(1, len(first)):
        root = "/".join(first[:depth])
        ends = [p[len(root) + 1 :] for p in paths if p.lower().startswith(f"{root}/".lower())]
        share = known.share(ends) * len(ends) / len(paths)
        exact = sum(fold(image_key(end)) in known.paths for end in ends) / len(paths)
        score = share + 0.1 * exact + (0 if known.paths else 0.001 * depth)
        if ends and score > best[1]:
            best = (root, score)
    return best[0], min(1.0, best[1])


def _of_one_row(
    chosen: Sequence[Pictures], table: pd.DataFrame, known: _Known, folders: Sequence[str]
) -> Pictures:
    """One reading of them all: columns that name the same files are one, others are several."""
    kept: list[Pictures] = []
    for pictures in chosen:
        keys = _stems(table, pictures)
        same = [other for other in kept if len(keys & _stems(table, other)) > 0.5 * len(keys)]
        if not same:
            kept.append(pictures)
        elif _rank(pictures) > _rank(same[0]):
            kept[kept.index(same[0])] = pictures
    doubts = []
    if len(kept) < len(chosen):
        doubts.append("further columns name the same images")
    roots = {pictures.root for pictures in kept}
    separators = {pictures.separator for pictures in kept if pictures.separator}
    if len(roots) > 1:
        doubts.append(f"paths begin in several ways: {', '.join(map(str, roots))}")
    columns = tuple(column for pictures in kept for column in pictures.columns)
    cells = [cell for column in columns for cell in table[column].str.strip() if cell != ""]
    root = next((root for root in roots if root is not None), None)
    ends = cells if root is None else [c[len(root) + 1 :] for c in cells]
    if separators:
        mark = next(iter(separators))
        ends = [part.strip() for end in ends for part in end.split(mark) if part.strip()]
    if root is None:
        ends = [_below(end, folders) for end in ends]
    return Pictures(
        columns=columns,
        separator=next(iter(separators), None),
        root=root,
        found=sum(map(known.names, ends)) if known.paths else 0,
        named=len(ends),
        doubts=tuple(doubts),
    )


def _rank(pictures: Pictures) -> tuple[bool, bool]:
    return pictures.root is None, hints_at(pictures.columns[0], "image")


def _stems(table: pd.DataFrame, pictures: Pictures) -> set[str]:
    cells = table[pictures.columns[0]].str.strip()
    return {fold(image_key(cell)).rpartition("/")[2] for cell in cells[cells != ""]}


def _guess(facts: Sequence[Facts]) -> Pictures:
    """The column called after images, else the one with most values."""
    best = max(facts, key=lambda fact: (hints_at(fact.name, "image"), fact.distinct))
    return Pictures(columns=(best.name,), guessed=True)


def _by_names(table: pd.DataFrame, facts: Sequence[Facts], files: Sequence[str]) -> Pictures:
    """A pattern of ids that the files' names follow, if there is one."""
    ids = [f for f in facts if f.look in ("code", "number", "category") and _is_bare(f)]
    named = {f.name for f in ids if hints_at(f.name, "patient") or hints_at(f.name, "lesion")}
    ids.sort(key=lambda fact: (fact.name not in named, fact.look != "code", -fact.distinct))
    known, some = _Known(files), table.head(SAMPLE)
    best = Pictures()
    for pattern in _patterns([fact.name for fact in ids[:TRIED]]) if files else ():
        found = _named_so(some, pattern, files, known)
        if found.found > max(best.found, SOME * min(len(files), len(some))):
            best = found
    return _named_so(table, best.names, files, known) if best.names is not None else best


def _named_so(table: pd.DataFrame, pattern: str, files: Sequence[str], known: _Known) -> Pictures:
    """What a pattern of ids finds in the image folder; nothing if it does not fit the table."""
    layout = TableLayout(image_names=pattern)
    try:
        rows = arrange(table, layout, "\0", read_join=_no_join, files=files)
    except TableError:
        return Pictures()
    names = rows["\0"]
    found = sum(map(known.names, names[~names.duplicated(keep=False)]))
    return Pictures(names=pattern, found=found, named=len(rows))


def _is_bare(fact: Facts) -> bool:
    return not any(re.search(r"[{}\s]", cell) for cell in list(fact.counts)[:100]) and not (
        re.search(r"[{}!:.\[\]]", fact.name)
    )


def _patterns(ids: Sequence[str]) -> Iterable[str]:
    for name in ids:
        yield from (f"{{{name}}}{end}" for end in ("/*", "_*", "-*", "*"))
    for one, other in permutations(ids, 2):
        for mark in ("/", "_", "-"):
            yield from (f"{{{one}}}{mark}{{{other}}}{end}" for end in ("", "/*", "_*", "-*", "*"))


def _no_join(join: Join) -> pd.DataFrame:
    raise TableError(f"{join.file}: joins are not sketched.")
