"""Inputs of a prediction: image files, and a table of metadata keyed by their names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from torch import Tensor

from slimp.data.decode import decode
from slimp.data.encoding import Encoding, FittedFeature
from slimp.data.images import centre
from slimp.data.schema import Feature, LevelName, Schema
from slimp.errors import TableError, UserError
from slimp.features.encode import columns_of
from slimp.features.feature_sets import METADATA_KEYS
from slimp.models.nested import Slimp
from slimp.prediction.novelty import fault_of
from slimp.prediction.result import Prediction, refused
from slimp.sources.config import SHORTER_SIDE
from slimp.sources.decode_image import verify_image
from slimp.sources.image_files import is_image_file
from slimp.sources.image_limits import CorruptImageError
from slimp.sources.parse_cells import (
    UNREAD_ENDING,
    MisfitError,
    Where,
    fold,
    image_key,
    read_feature,
)
from slimp.sources.parse_ids import join_similar, parse_ids
from slimp.sources.read_spreadsheet import cell_text
from slimp.sources.read_table import read_table

Read = Callable[[Path], bytes]
FAR = 10
"""A number outside all those learned from, and this many standard deviations from their mean,
counts as missing: a year of birth as an age, or 450 for 45."""
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
        inside = [entry]
        if entry.is_dir():
            every = [(path, path.relative_to(entry).parts) for path in sorted(entry.rglob("*"))]
            visible = [p for p, parts in every if not any(x.startswith(".") for x in parts)]
            # What no import reads either is told of as unreadable, not left out in silence.
            inside = [p for p in visible if is_image_file(p) or UNREAD_ENDING.search(p.name)]
        elif not entry.is_file():
            raise UserError(f"{entry}: no such file or folder.")
        if not inside:
            raise UserError(f"{entry}: holds no image (.jpg, .png, .tif, .bmp, .webp, .gif, .dcm).")
        found |= dict.fromkeys(inside)
    if not found:
        raise UserError("no images were named: pass files or folders of images.")
    return list(found)


def read_pixels(path: Path, size: int, read: Read = Path.read_bytes) -> Tensor | Prediction:
    """The square of `size` px of a file, decoded as for an import; or why there is none."""
    try:
        verified = verify_image(read(path), shorter_side=max(SHORTER_SIDE, size))
    except (OSError, CorruptImageError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Prediction(image=str(path), status="unreadable", reason=reason or str(error))
    picture = decode(verified.encoded, size)
    fault = fault_of(picture)
    return centre(picture, size) if fault is None else refused(path, fault)


@dataclass(frozen=True, kw_only=True, eq=False)
class Metadata:
    """Typed cells of a table, for the columns that a model or a probe reads.

    Rows go by the key of an image in the table; `of_images` makes it the image's file.
    """

    features: tuple[tuple[Feature, FittedFeature], ...]
    """What their columns are, see `features_read`."""
    frame: pd.DataFrame
    """A column per column of the features that the table has."""
    unseen: pd.DataFrame
    """As text, cells where they hold a category that the model does not know, or a number far
    outside those that it learned from; None elsewhere."""
    unread: tuple[str, ...] = ()
    """Columns of the table that no feature reads."""
    absent: tuple[str, ...] = ()
    """Columns that the model reads and the table has not."""
    others: tuple[str, ...] = ()
    """Keys of the table's rows that are about none of the images."""
    owners: pd.DataFrame | None = None
    """`patient_id lesion_id` per row; None: the table has no column of patients."""

    @classmethod
    def read(
        cls,
        source: str | Path | pd.DataFrame,
        encodings: Iterable[Encoding],
        schema: Schema,
    ) -> Metadata:
        """The cells of a table on disk, or of a frame of the same form, as the schema says.

        The table has a column `image`, or one of the schema's name for it, with the file's name
        or the end of its path, with or without its ending; and columns by the names of the
        cohort's table, in the schema's units. A column that is not there, and an empty cell, are
        missing. A category that the model does not know counts as missing too, and so does a number
        `FAR` from those that were learned from. Columns `patient` and `lesion`, or the schema's
        names for them, say which images belong together.

        Only columns of the schema are read. A model may read more, of the cohort of another stage;
        the probe learned with these missing, so they stay so.

        Raises:
            TableError: no such column, an image in two rows, or a cell that does not fit.
        """
        table, keys, name = _keyed(*_as_text(source), schema)

        def where(position: int) -> str:
            file, row = table.index[position]
            return f"{file}, row {row} ({name} {table[name].iloc[position]})"

        encodings = [*encodings]
        features, cells, unseen, taken = features_read(encodings, schema), {}, {}, {name, KEY}
        for feature, fitted in features:
            # Its fixed categories are no reason to refuse: see `unseen`.
            found, there = _present(table, replace(feature, categories=None))
            if not found:
                continue
            taken |= set(found)
            part = table[list(found)].rename(columns=found)
            try:
                every = read_feature(part, there, where)
            except MisfitError as error:  # nobody can change the schema here
                remedy = _remedy(there) if error.remedy else ""
                raise TableError(f"{error.problem} {remedy}".rstrip()) from None
            for column, typed in every.items():
                number = feature.kind == "continuous"
                strange = is_far(typed, column, encodings) if number else _is_unknown(typed, fitted)
                text = typed.map("{:.15g}".format if number else str)
                unseen[column] = text.astype(object).where(strange, None)
                cells[column] = typed.mask(strange) if number else typed
        rows = pd.Index(keys.to_numpy())
        owners = _owners(table, keys, schema, where)
        if owners is not None:
            taken |= {"patient", "lesion", str(schema.patient), str(schema.lesion)}
        frame = pd.DataFrame(cells, index=table.index).set_axis(rows, axis="index")
        return cls(
            features=tuple(features),
            frame=frame,
            unseen=pd.DataFrame(unseen, index=table.index).set_axis(rows, axis="index"),
            unread=tuple(str(c) for c in table.columns if c not in taken),
            absent=tuple(c for feature, _ in features for c in feature.columns if c not in frame),
            owners=owners,
        )

    def of_images(self, paths: Sequence[Path]) -> Metadata:
        """The rows of some files: of each, that of the longest end of its path that is a key.

        As in an import, upper and lower case and Unicode forms make no difference. Files without
        a row are left out.

        Raises:
            TableError: a row could be about two of the files.
        """
        rows, owner = set(self.frame.index), dict[str, Path]()
        for path in paths:
            parts = fold(image_key(path.as_posix())).split("/")
            ends = ("/".join(parts[i:]) for i in range(len(parts)))
            key = next((end for end in ends if end in rows), None)
            if key in owner:
                raise TableError(
                    f"the metadata row '{key}' could be about {owner[key]} or {path}. Write more "
                    "of the path into the table, as in 'folder/name.jpg'."
                )
            if key is not None:
                owner[key] = path

        def own(table: pd.DataFrame) -> pd.DataFrame:
            return table.loc[[*owner]].set_axis(list(map(str, owner.values())))

        owners = None if self.owners is None else own(self.owners)
        others = tuple(str(key) for key in self.frame.index if key not in owner)
        frame, unseen = own(self.frame), own(self.unseen)
        return replace(self, frame=frame, unseen=unseen, owners=owners, others=others)

    def strange(self, image: str) -> dict[str, str]:
        """Column -> cell that counts as missing though it is filled, of an image (`unseen`)."""
        cells = self.unseen.loc[image].dropna()
        return {str(column): str(cell) for column, cell in cells.items()}


def known_features(
    features: Iterable[tuple[Feature, FittedFeature]], frame: pd.DataFrame
) -> Int[np.ndarray[Any, Any], " n"]:
    """How many features are known in each row; a category that the model does not know is none."""
    found = np.zeros(len(frame), dtype=np.int64)
    for feature, fitted in features:
        cells = frame[frame.columns.intersection([*feature.columns])]
        if feature.kind == "categorical":
            cells = cells.where(cells.isin([*fitted.categories, *fitted.spellings]))
        found += cells.notna().any(axis=1).to_numpy()
    return found


def features_read(
    encodings: Iterable[Encoding], schema: Schema
) -> list[tuple[Feature, FittedFeature]]:
    """The schema's features that encodings read, each as the first of them fitted it."""
    known = {column: feature for feature in schema.features for column in feature.columns}
    found: list[tuple[Feature, FittedFeature]] = []
    for fitted in (f for encoding in encodings for f in encoding.features):
        names = (*fitted.columns, *(column for also in fitted.also for column in also))
        feature = next((known[column] for column in names if column in known), None)
        if feature is not None and all(feature != other for other, _ in found):
            found.append((feature, fitted))
    return found


def read_by_model(model: Slimp, level: LevelName, schema: Schema) -> Encoding:
    """The model's features at a level for which a cohort of this schema has columns there."""
    own, encoding = pd.DataFrame(columns=columns_of(schema, model, level)), model.encodings[level]
    there = (
        f for f in encoding.features if not own.columns.intersection([*f.columns_in(own)]).empty
    )
    return replace(encoding, features=tuple(there))


def with_imputed(schema: Schema, model: Slimp, imputed: Collection[str]) -> Schema:
    """The schema with all that the model reads where embeddings of metadata were imputed."""
    taken = {*schema.roles, *schema.refused, *(c for f in schema.features for c in f.columns)}
    levels = []
    for level in schema.levels:
        more: tuple[Feature, ...] = ()
        if METADATA_KEYS[level.name] in imputed:
            known = model.encodings[level.name].features
            plain = (Feature(name=f.name, kind=f.kind, columns=f.columns) for f in known)
            more = tuple(f for f in plain if taken.isdisjoint(f.columns))
        levels.append(replace(level, features=(*level.features, *more)))
    return replace(schema, levels=tuple(levels))


def _is_unknown(typed: pd.Series, fitted: FittedFeature) -> pd.Series:
    """Which cells hold a category that the model does not know."""
    known = typed.isna() | (fitted.kind != "categorical")
    return ~(known | typed.isin([*fitted.categories, *fitted.spellings]))


def is_far(numbers: pd.Series, column: str, encodings: Iterable[Encoding]) -> pd.Series:
    """Which cells are far from what every stage that reads the column learned from."""
    fits = [fitted for encoding in encodings for fitted in encoding.features]
    own = [f for f in fits if f.bounds is not None and column in f.every_column]
    far = pd.Series(data=bool(own), index=numbers.index)
    for fitted in own:
        assert fitted.bounds is not None
        far &= ~numbers.between(*fitted.bounds) & numbers.notna()
        far &= (numbers - fitted.mean).abs() > FAR * fitted.std
    return far


def _keyed(table: pd.DataFrame, place: str, schema: Schema) -> tuple[pd.DataFrame, pd.Series, str]:
    """The rows that are about an image, their keys, and the column that names the images."""
    name = KEY if KEY in table else schema.image
    if name not in table:
        raise TableError(
            f"{place}: no column '{KEY}' (nor '{schema.image}') says which image a row is "
            f"about. The table has: {', '.join(map(str, table.columns[:20]))}."
        )
    keys = table[name].map(lambda cell: fold(image_key(cell)))
    table, keys = table[keys != ""], keys[keys != ""]  # the others are about no image
    if (twice := table[name][keys.duplicated()]).any():
        raise TableError(f"{place}: the image '{twice.iloc[0]}' has two rows. Keep one.")
    return table, keys, name


def _owners(
    table: pd.DataFrame, keys: pd.Series, schema: Schema, where: Where
) -> pd.DataFrame | None:
    """Whose the images are; one without a patient or a lesion has its own.

    Raises:
        TableError: ids could be one, and the schema does not say whether they are.
    """
    found = dict[str, pd.Series]()
    for level, column in (("patient", schema.patient), ("lesion", schema.lesion)):
        name, cells = level if level in table else column, pd.Series("", table.index)
        if name in table:
            cells, _ = parse_ids(table[name], where, missing=schema.missing)
            within = found.get("patient_id")
            cells, _ = join_similar(cells, schema.similar_ids, where, within=within)
        found[f"{level}_id"] = cells.where(cells != "", "image " + keys)
        if level == "patient" and name not in table:
            return None
    return pd.DataFrame(found).set_axis(pd.Index(keys.to_numpy()), axis="index")


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


def _remedy(feature: Feature) -> str:
    """How a cell of the feature is written, as the schema has it."""
    words = ", ".join([*filter(None, feature.aliases), "yes", "no", "1", "0"])
    how = f"one of: {words}"
    if feature.from_date is not None:
        how = f"a date as {feature.date_format or '%Y-%m-%d'}"
    elif feature.kind == "continuous":
        how = " ".join(["a number", *([f"in {feature.unit}"] if feature.unit else [])])
        how += f", with '{feature.decimal}' before decimals"
    blank = feature.aliases.get("")
    unknown = f"an empty cell means {blank}" if blank else "leave the cell empty if it is unknown"
    return f"Write {how}; {unknown}."


def _as_text(source: str | Path | pd.DataFrame) -> tuple[pd.DataFrame, str]:
    if not isinstance(source, pd.DataFrame):
        return read_table(Path(source)), str(source)
    rows = pd.MultiIndex.from_product([["table"], range(2, len(source) + 2)])
    text = source.map(cell_text).astype("str").set_axis(rows, axis="index")
    return text, "the metadata table"
