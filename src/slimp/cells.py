"""Text cells -> typed columns, one feature at a time; a cell that does not fit is refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from slimp.errors import TableError
from slimp.schema import Feature

TICKS = {"true": True, "yes": True, "1": True, "1.0": True} | {
    "false": False,
    "no": False,
    "0": False,
    "0.0": False,
}
"""Spellings of a checkbox cell, in lower case; pandas writes 1.0 where a column has holes."""
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
LARGEST = 1e30
"""A number beyond is no measurement, and its square overflows."""
IMAGE_ENDING = re.compile(r"\.(?:jpe?g|png|tiff?|bmp|webp|gif)$", re.IGNORECASE)


def parse_cells(cells: pd.Series, feature: Feature, where: Callable[[int], str]) -> pd.Series:
    """The column as float64 (continuous), str (categorical) or boolean (checkbox).

    A cell is missing if it is empty or one of `feature.missing`, spaces around it aside.

    Args:
        cells: text, never null.
        feature: what the column is.
        where: position of a cell -> the words that name its file, row and image.

    Raises:
        TableError: names the first cell that does not fit, and the remedy.
    """
    stripped = cells.str.strip()
    missing = stripped.isin(["", *feature.missing])
    known = stripped.where(~missing)
    if feature.kind == "continuous":
        typed, problem = _numbers(known), "is not a number"
    elif feature.kind == "categorical":
        typed, problem = _categories(known, feature), "is not one of the categories"
    else:
        typed, problem = _ticks(known), "is not a yes or no"
    misfits = np.flatnonzero((typed.isna() & ~missing).to_numpy(dtype=bool))
    if len(misfits):
        cell, more = str(stripped.iloc[misfits[0]]), len(misfits) - 1
        if feature.kind == "continuous" and re.fullmatch(NUMBER, cell):
            problem = "is too large for a measurement"
        raise TableError(
            f"{where(int(misfits[0]))}, column '{cells.name}': '{cell}' {problem}. "
            + (f"The same goes for {more} more cell(s) of this column. " if more else "")
            + _remedy(cell, feature)
        )
    return typed


def missing_spellings(cells: pd.Series, feature: Feature) -> dict[str, int]:
    """What stands for missing in the column -> how many cells; '' is the empty cell."""
    stripped = cells.str.strip()
    counts = stripped[stripped.isin(["", *feature.missing])].value_counts()
    return {str(spelling): int(count) for spelling, count in sorted(counts.items())}


def _numbers(known: pd.Series) -> pd.Series:
    text = pa.array(known, type=pa.string(), from_pandas=True)
    try:
        values = pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # some cell is no number: find out which, at leisure
        plain = known.where(known.str.fullmatch(NUMBER).eq(True))
        values = pd.to_numeric(plain, errors="coerce").to_numpy(dtype=np.float64)
    return pd.Series(np.where(np.abs(values) < LARGEST, values, np.nan), index=known.index)


def _categories(known: pd.Series, feature: Feature) -> pd.Series:
    typed = known.replace(dict(feature.aliases)) if feature.aliases else known
    return typed if feature.categories is None else typed.where(typed.isin(feature.categories))


def _ticks(known: pd.Series) -> pd.Series:
    codes, spellings = pd.factorize(known)  # code -1, the last value, is missing
    values = pd.array([*(TICKS.get(str(s).lower()) for s in spellings), None], dtype="boolean")
    return pd.Series(values[codes], index=known.index)


def _remedy(cell: str, feature: Feature) -> str:
    if feature.kind == "continuous" and re.fullmatch(r"-?[0-9]+,[0-9]+", cell):
        return f"Decimals are written with a point: {cell.replace(',', '.')}."
    advice = (
        "Missing values are written as an empty cell. "
        f"If '{cell}' means missing, add: {feature.name}.missing = [\"{cell}\"]"
    )
    if feature.kind == "checkbox":
        return f"Write True/False, yes/no or 1/0. {advice}"
    if feature.categories is not None:
        return f"Those are: {', '.join(feature.categories)}. {advice}"
    return advice


def image_key(cell: str) -> str:
    """The image cell as a relative path with `/` and without the file's ending; '' if empty."""
    parts = [part for part in cell.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    return IMAGE_ENDING.sub("", "/".join(parts))


def points_outside(cell: str) -> bool:
    """Whether the cell, read as a path, leaves the image folder: '..', absolute, or a drive."""
    path = cell.strip().replace("\\", "/")
    absolute = path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path) is not None
    return absolute or ".." in path.split("/") or "\0" in path
