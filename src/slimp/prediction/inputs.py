"""Inputs of a prediction: image files, and a table of metadata keyed by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from slimp.data.encoding import Encoding, FittedFeature, Rows
from slimp.data.schema import Feature, LevelName, Schema
from slimp.errors import TableError, UserError
from slimp.sources.image_files import is_image_file
from slimp.sources.parse_cells import fold, image_key, read_feature
from slimp.sources.read_spreadsheet import cell_text
from slimp.sources.read_table import read_table

KEY = "image"
"""Column of a metadata table that names the image; the schema's own name for it does too."""


def find_images(images: Iterable[str | Path]) -> list[Path]:
    """The image files among files and folders: files as given, folders with all that is in them.

    In a folder a file counts by its ending, or without one if it is DICOM; hidden ones are left
    out. A file that is reached twice counts once.

    Raises:
        UserError: a path is not there, or a folder holds no image.
    """
    found: dict[Path, None] = {}
    for entry in map(Path, images):
        if entry.is_dir():
            visible = (p for p in sorted(entry.rglob("*")) if not _is_hidden(p.relative_to(entry)))
            inside = [path for path in visible if is_image_file(path)]
            if not inside:
                raise UserError(
                    f"{entry}: holds no image (.jpg, .png, .tif, .bmp, .webp, .gif, .dcm)."
                )
            found |= dict.fromkeys(inside)
        elif entry.is_file():
            found[entry] = None
        else:
            raise UserError(f"{entry}: no such file or folder.")
    if not found:
        raise UserError("no images were named: pass files or folders of images.")
    return list(found)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Metadata:
    """Typed cells of a table, for the columns that a model reads."""

    encodings: Mapping[LevelName, Encoding]
    """The levels that are read."""
    features: Mapping[LevelName, tuple[Feature, ...]]
    """What their columns are, per level."""
    frame: pd.DataFrame
    """A column per column of the features, a row per image key of the table."""
    unseen: pd.DataFrame
    """Columns of categories: whether the cell holds one that the model does not know."""
    unread: tuple[str, ...] = ()
    """Columns of the table that no feature reads."""
    absent: tuple[str, ...] = ()
    """Columns that the model reads and the table has not."""

    @classmethod
    def read(
        cls,
        source: str | Path | pd.DataFrame,
        encodings: Mapping[LevelName, Encoding],
        schema: Schema,
    ) -> Metadata:
        """The cells of a table on disk, or of a frame of the same form, as the schema says.

        The table has a column `image`, or one of the schema's name for it, with the file's name
        or the end of its path, with or without its ending; and columns by the names of the
        cohort's table, in the schema's units. A column that is not there, and an empty cell, are
        missing. A category that the model does not know counts as missing too.

        Raises:
            TableError: no such column, an image in two rows, or a cell that does not fit.
        """
        table, place = _as_text(source)
        name = KEY if KEY in table else schema.image
        if name not in table:
            raise TableError(
                f"{place}: no column '{KEY}' (nor '{schema.image}') says which image a row is "
                f"about. The table has: {', '.join(map(str, table.columns[:20]))}."
            )
        keys = table[name].map(image_key)
        if (twice := keys[keys.duplicated()]).any():
            raise TableError(f"{place}: the image '{twice.iloc[0]}' has two rows. Keep one.")

        def where(position: int) -> str:
            file, row = table.index[position]
            return f"{file}, row {row} ({name} {table[name].iloc[position]})"

        features = {level: _features(encoding, schema) for level, encoding in encodings.items()}
        cells, unseen, taken = {}, {}, {name, KEY}
        for level, of_level in features.items():
            for fitted, feature in zip(encodings[level].features, of_level, strict=True):
                # Its fixed categories are no reason to refuse: see `unseen`.
                names, there = _present(table, replace(feature, categories=None))
                if not names:
                    continue
                taken |= set(names)
                part = table[list(names)].rename(columns=names)
                for column, typed in read_feature(part, there, where).items():
                    cells[column] = typed
                    if feature.kind == "categorical":
                        new = ~typed.isin([*fitted.categories, *fitted.spellings])
                        unseen[column] = new & typed.notna()
        wanted = [c for of_level in features.values() for f in of_level for c in f.columns]
        frame = pd.DataFrame(cells, index=table.index).set_axis(keys.to_numpy(), axis="index")
        return cls(
            encodings=encodings,
            features=features,
            frame=frame,
            unseen=pd.DataFrame(unseen, index=table.index).set_axis(frame.index, axis="index"),
            unread=tuple(str(c) for c in table.columns if c not in taken),
            absent=tuple(c for c in wanted if c not in frame),
        )

    def keys_of(self, paths: Sequence[Path]) -> dict[Path, str]:
        """Image file -> key of its row; files without a row are left out.

        Where no row has a file's exact name, one that spells it otherwise (upper and lower case,
        Unicode forms) is about it, as in an import.

        Raises:
            TableError: a row could be about two of the files, or a file about two of the rows.
        """
        exact = {row: (row,) for row in self.frame.index}
        found = _matched(paths, exact, str)
        folded = dict[str, tuple[str, ...]]()
        for row in exact.keys() - found.values():
            folded[fold(row)] = (*folded.get(fold(row), ()), row)
        found |= _matched([path for path in paths if path not in found], folded, fold)
        return {path: found[path] for path in paths if path in found}

    def rows(self, level: LevelName, keys: Sequence[str]) -> Rows:
        """Encoded metadata of some rows of the table."""
        encoding = self.encodings[level]
        columns = [column for feature in self.features[level] for column in feature.columns]
        table = self.frame.reindex(index=list(keys), columns=columns).reset_index(drop=True)
        return encoding.encode(table.reindex(columns=[*dict.fromkeys(encoding.columns_in(table))]))

    def known(self, key: str) -> tuple[int, int]:
        """How many features are known for a row, and of how many."""
        row = self.frame.loc[key].drop(list(self.strange(key)))
        features = [feature for level in self.features.values() for feature in level]
        known = (row.reindex(list(feature.columns)).notna().any() for feature in features)
        return sum(map(bool, known)), len(features)

    def strange(self, key: str) -> dict[str, str]:
        """Column -> category that the model does not know, in a row."""
        columns = self.unseen.columns[self.unseen.loc[key].to_numpy(dtype=bool)]
        return {str(column): str(self.frame.loc[key, column]) for column in columns}


def _matched(
    paths: Sequence[Path], rows: Mapping[str, Sequence[str]], spell: Callable[[str], str]
) -> dict[Path, str]:
    """Image file -> the row that the longest end of its path is spelled like."""
    owner, found = dict[str, Path](), dict[Path, str]()
    for path in paths:
        parts = spell(image_key(path.as_posix())).split("/")
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        answers = next((rows[end] for end in ends if end in rows), ())
        if not answers:
            continue
        if len(answers) > 1:
            one, other = sorted(answers)[:2]
            raise TableError(
                f"{path} could be what the metadata row '{one}' is about, or '{other}'. Write the "
                "file's exact name into the table."
            )
        if (key := answers[0]) in owner:
            raise TableError(
                f"the metadata row '{key}' could be about {owner[key]} or {path}. Write more "
                "of the path into the table, as in 'folder/name.jpg'."
            )
        owner[key], found[path] = path, key
    return found


def _features(encoding: Encoding, schema: Schema) -> tuple[Feature, ...]:
    """What the columns of a fitted encoding are, by the schema where it has them."""
    known = {feature.columns: feature for feature in schema.features}
    return tuple(
        next((known[columns] for columns in (f.columns, *f.also) if columns in known), _plain(f))
        for f in encoding.features
    )


def _plain(fitted: FittedFeature) -> Feature:
    return Feature(name=fitted.name, kind=fitted.kind, columns=fitted.columns)


def _present(table: pd.DataFrame, feature: Feature) -> tuple[dict[str, str], Feature]:
    """The table's columns for a feature -> the cohort's, and the feature as far as they go.

    A column bears its own name, or the feature's where that has just one; instead of two dates
    the table may have the time between them.
    """
    if feature.from_date is not None:
        if all(column in table for column in feature.reads):
            return {column: column for column in feature.reads}, feature
        feature = replace(feature, from_date=None, to_date=None, date_format=None)
    names = {column: column for column in feature.columns if column in table}
    if not names and len(feature.columns) == 1 and feature.name in table:
        names = {feature.name: feature.columns[0]}
    return names, replace(feature, columns=tuple(names.values())) if names else feature


def _as_text(source: str | Path | pd.DataFrame) -> tuple[pd.DataFrame, str]:
    if not isinstance(source, pd.DataFrame):
        return read_table(Path(source)), str(source)
    rows = pd.MultiIndex.from_product([["table"], range(2, len(source) + 2)])
    text = source.map(cell_text).astype("str").set_axis(rows, axis="index")
    return text, "the metadata table"
