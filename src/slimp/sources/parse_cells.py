"""Text cells -> typed columns, one feature at a time; a cell that does not fit is refused."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from slimp.data.schema import AGES, Feature
from slimp.errors import TableError

TICKS = {"true": True, "yes": True, "1": True, "1.0": True} | {
    "false": False,
    "no": False,
    "0": False,
    "0.0": False,
}
"""Spellings of a checkbox cell, in lower case; pandas writes 1.0 where a column has holes."""
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
LEADING_ZERO = r"[+-]?0"
"""No number with marks between thousands begins so."""
WITH_UNIT = r"^(?P<number>.*[0-9][.,]?)\s*(?P<unit>[^0-9.,\s][^0-9]*)$"
LARGEST = 1e30
"""A number beyond is no measurement, and its square overflows."""
IMAGE_ENDING = re.compile(
    r"\.(?:jpe?g|jpe|jfif|png|tiff?|bmp|webp|gif|dcm|dicom|ima)$", re.IGNORECASE
)
UNREAD_ENDING = re.compile(
    r"\.(?:heic|heif|avif|jxl|jp2|dng|cr2|cr3|nef|arw|orf|rw2|raf)$", re.IGNORECASE
)
"""Of pictures by phones and cameras whose formats are not read."""
NO_ENDING = re.compile(r"(?:^|/)[^/.]*(?:\.[0-9]*)*$")
"""A file's name without an ending, as DICOM files often have it: `IM0001`, `1.2.840.1.7`."""
JOINED = "joined"
"""Key in `DataFrame.attrs` of column -> (file it was joined from, column of the ids here, rows
without a partner there)."""
NUMERIC = "numeric"
"""Key in `DataFrame.attrs` of the columns whose cells were numbers in the file, not text."""

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Where: TypeAlias = Callable[[int], str]


def read_feature(table: pd.DataFrame, feature: Feature, where: Where) -> dict[str, pd.Series]:
    """The feature's columns, typed, from the columns of a published table that it reads.

    Raises:
        TableError: a cell does not fit; see `parse_cells`.
    """
    if feature.from_date is not None and feature.to_date is not None:
        dates = table[feature.from_date], table[feature.to_date]
        return {feature.name: _time_between(*dates, feature, where)}
    numeric = table.attrs.get(NUMERIC, ())
    plain = replace(feature, decimal=".", thousands=None)
    typed = {
        column: parse_cells(table[column], plain if column in numeric else feature, where)
        for column in feature.columns
    }
    for column, (_, _, lost) in table.attrs.get(JOINED, {}).items():
        if column in typed and "" in feature.aliases:  # no row is no blank cell
            typed[column] = typed[column].mask(table.index.isin(lost))
    return typed


def parse_cells(cells: pd.Series, feature: Feature, where: Where) -> pd.Series:
    """The column as float64 (continuous), str (categorical) or boolean (checkbox).

    A cell is missing if it is empty or one of `feature.missing`, spaces around it aside, once its
    alias, if it has one, stands for it: `aliases = { "" = "no" }` makes a blank a no.

    Args:
        cells: text, never null.
        feature: what the column is.
        where: position of a cell -> the words that name its file, row and image.

    Raises:
        TableError: names the first cell that does not fit, and the remedy.
    """
    stripped = cells.str.strip()
    spelled = stripped.replace(dict(feature.aliases)) if feature.aliases else stripped
    missing = _is_missing(spelled, feature)
    known = spelled.where(~missing)
    if feature.kind == "continuous":
        typed, problem = read_numbers(known, feature), "is not a number"
    elif feature.kind == "categorical":
        typed, problem = _categories(known, feature), "is not one of the categories"
    else:
        typed, problem = _ticks(known), "is not a yes or no"
    _refuse_misfits(
        stripped, (typed.isna() & ~missing).to_numpy(dtype=bool), feature, where, problem
    )
    return typed


def missing_spellings(cells: pd.Series, feature: Feature) -> dict[str, int]:
    """What stands for missing in the column -> how many cells; '' is the empty cell."""
    stripped = cells.str.strip()
    spelled = stripped.replace(dict(feature.aliases)) if feature.aliases else stripped
    counts = stripped[_is_missing(spelled, feature)].value_counts()
    return {str(spelling): int(count) for spelling, count in sorted(counts.items())}


def _is_missing(stripped: pd.Series, feature: Feature) -> pd.Series:
    missing: pd.Series = stripped.isin(["", *feature.missing])
    if feature.kind == "continuous" and feature.missing:  # -1, -1.0 and -1,00 are one number
        words = pd.Series([word.strip() for word in feature.missing], dtype="str")
        plain = words.str.fullmatch(NUMBER)  # as TOML writes it, whatever the table's marks
        codes = np.where(plain, words.where(plain, "nan").astype(np.float64), _cast(words, feature))
        if (codes := codes[~np.isnan(codes)]).size:
            missing |= np.isin(_cast(stripped, feature), codes)
    return missing


def _refuse_misfits(
    cells: pd.Series, misfits: Array, feature: Feature, where: Where, problem: str
) -> None:
    """Raises for the first cell that is a misfit."""
    places = np.flatnonzero(misfits)
    if not len(places):
        return
    cell, more = str(cells.iloc[places[0]]), len(places) - 1
    if feature.kind == "continuous" and re.fullmatch(NUMBER, cell.replace(",", ".")):
        if feature.decimal == "," and "." in cell:
            problem = problem if re.match(LEADING_ZERO, cell) else "could mean two numbers"
        elif re.fullmatch(NUMBER, cell):
            problem = "is too large for a measurement"
    raise TableError(
        f"{where(int(places[0]))}, column '{cells.name}': '{cell}' {problem}. "
        + (f"The same goes for {more} more cell(s) of this column. " if more else "")
        + _remedy(cell, feature)
    )


def read_numbers(known: pd.Series, feature: Feature) -> pd.Series:
    """The cells as float64 in the feature's unit; what is no number, or too large, is NaN."""
    values = _cast(known, feature) * feature.factor
    if (feature.unit or feature.units) and np.isnan(values[known.notna().to_numpy()]).any():
        values = np.where(np.isnan(values), _with_units(known, feature), values)
    return pd.Series(np.where(np.abs(values) < LARGEST, values, np.nan), index=known.index)


def _cast(known: pd.Series, feature: Feature) -> Array:
    """The numbers that cells without a unit are; NaN where they are none, or could be two."""
    text = pa.array(known, type=pa.string(), from_pandas=True)
    if feature.thousands is not None:
        mark, decimal = re.escape(feature.thousands), re.escape(feature.decimal)
        gap = r"[ \x{00a0}\x{202f}]" if feature.thousands == " " else mark
        pattern = rf"^[+-]?[1-9][0-9]{{0,2}}(?:{gap}[0-9]{{3}})+(?:{decimal}[0-9]*)?$"
        grouped = pc.match_substring_regex(text, pattern)
        text = pc.if_else(grouped, pc.replace_substring_regex(text, gap, ""), text)
    if feature.decimal == ",":
        unclear = pc.match_substring_regex(text, r"^[+-]?[0-9]{1,3}(?:\.[0-9]{3})+$")
        text = pc.replace_substring(pc.if_else(unclear, None, text), ",", ".")
    try:
        values = pc.cast(text, pa.float64())
    except pa.ArrowInvalid:  # some cell is no number: leave out those
        plain = pc.match_substring_regex(text, f"^{NUMBER}$")
        values = pc.cast(pc.if_else(plain, text, None), pa.float64())
    numbers: Array = values.to_numpy(zero_copy_only=False)
    return numbers


def _with_units(known: pd.Series, feature: Feature) -> Array:
    """The numbers of cells that end in a unit which the feature knows; others are NaN."""
    parts = known.str.extract(WITH_UNIT)
    factors = _unit_factors(feature)
    factor = parts["unit"].map(_plain_unit, na_action="ignore").map(factors)
    numbers = _cast(parts["number"].str.strip(), feature)
    product: Array = numbers * factor.to_numpy(dtype=np.float64, na_value=np.nan)
    return product


def _unit_factors(feature: Feature) -> dict[str, float]:
    own = {} if feature.unit is None else {_plain_unit(feature.unit): 1.0}
    return own | {_plain_unit(unit): factor for unit, factor in feature.units.items()}


def _plain_unit(unit: str) -> str:
    return unicodedata.normalize("NFKC", unit).strip().casefold()


def _time_between(start: pd.Series, end: pd.Series, feature: Feature, where: Where) -> pd.Series:
    """The time from one date to the other in the feature's unit; unknown if one of them is."""
    from_day, to_day = _days(start, feature, where), _days(end, feature, where)
    time = (to_day - from_day) / AGES[str(feature.unit)]
    if (before := np.flatnonzero(time < 0)).size:
        row = int(before[0])
        raise TableError(
            f"{where(row)}, column '{end.name}': {end.iloc[row].strip()} lies before "
            f"{start.iloc[row].strip()}, the date in '{start.name}'. Mend one of them, or empty "
            "the cell if it is not known."
        )
    return pd.Series(time, index=start.index)


def _days(cells: pd.Series, feature: Feature, where: Where) -> Array:
    """Days since 1970-01-01; missing as NaN."""
    stripped = cells.str.strip()
    missing = _is_missing(stripped, feature)
    known = stripped.where(~missing)
    dates = pd.to_datetime(known.str.slice(0, 10), format="%Y-%m-%d", errors="coerce")
    iso = known.str.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ].*)?").eq(True)
    dates = dates.where(iso)
    if feature.date_format is not None:
        own = pd.to_datetime(known, format=feature.date_format, errors="coerce")
        dates = dates.where(iso, own)
    written = f"a date written as {feature.date_format or '%Y-%m-%d'}"
    _refuse_misfits(
        stripped,
        (dates.isna() & ~missing).to_numpy(dtype=bool),
        feature,
        where,
        f"is not {written}",
    )
    days: Array = dates.to_numpy().astype("datetime64[D]").astype(np.float64)
    days[dates.isna().to_numpy()] = np.nan
    return days


def _categories(known: pd.Series, feature: Feature) -> pd.Series:
    return known if feature.categories is None else known.where(known.isin(feature.categories))


def _ticks(known: pd.Series) -> pd.Series:
    codes, spellings = pd.factorize(known)  # code -1, the last value, is missing
    values = pd.array([*(TICKS.get(str(s).lower()) for s in spellings), None], dtype="boolean")
    return pd.Series(values[codes], index=known.index)


def _remedy(cell: str, feature: Feature) -> str:
    name = feature.name
    if cell in (*feature.columns, feature.from_date, feature.to_date):
        return "That is the name of the column: where a row repeats the header, remove it."
    advice = (
        "Missing values are written as an empty cell. "
        f"If '{cell}' means missing, add: {name}.missing = [\"{cell}\"]"
    )
    if feature.from_date is not None:
        return f'Say how dates are written, as in {name}.format = "%d.%m.%Y". {advice}'
    if feature.kind == "checkbox":
        return f"Write True/False, yes/no or 1/0. {advice}"
    if feature.kind == "categorical":
        return f"Those are: {', '.join(feature.categories or ())}. {advice}"
    if feature.decimal == "." and re.fullmatch(r"-?[0-9]+,[0-9]+", cell):
        point = cell.replace(",", ".")
        advice = (
            f"Decimals are written with a point: {point}. If this table writes a comma, set "
            'decimal = "," under [table].'
        )
        if re.fullmatch(r"-?[1-9][0-9]{0,2},[0-9]{3}", cell):
            advice += f' If it stands between thousands, set {name}.thousands = ",".'
        return advice
    if feature.decimal == "," and re.fullmatch(rf"{LEADING_ZERO}[0-9]*\.[0-9]+", cell):
        comma = cell.replace(".", ",")
        return (
            f"Decimals are written with a comma: {comma}. If this column writes a point, set "
            f'{name}.decimal = ".".'
        )
    if feature.decimal == "," and re.fullmatch(r"[+-]?[0-9]{1,3}(?:\.[0-9]{3})+", cell):
        return (
            f'If the point stands between thousands, set {name}.thousands = "."; if before '
            f'decimals, set {name}.decimal = "." or write a comma.'
        )
    found = re.match(WITH_UNIT, cell)
    if found and (feature.unit or feature.units):
        unit, known = found["unit"], ", ".join(filter(None, [feature.unit, *feature.units]))
        return (
            f"Cells may end in: {known}. If '{unit}' is a unit, say what a number in it is "
            f'multiplied by: {name}.units = {{ "{unit}" = ... }}. {advice}'
        )
    return advice


def as_whole(cell: str) -> str | None:
    """The whole number that the cell is, as '1' for '1.0' and '1,0'; None if it is none."""
    found = re.fullmatch(r"([+-]?[0-9]{1,18})(?:[.,]0*)?", cell.strip())
    return None if found is None else str(int(found[1]))


def require_columns(table: pd.DataFrame, file: str, columns: Mapping[str, str], place: str) -> None:
    """Raises if the table has not all the columns; each comes with what asks for it.

    Raises:
        TableError: names the file, the first column that is not there, and what may be meant.
    """
    names = [str(name) for name in table.columns]
    for column, asked in columns.items():
        if column in names:
            continue
        near = difflib.get_close_matches(column, names, n=1, cutoff=0.6)
        near += [name for name in names if column.lower() in name.lower()]
        more = f" and {len(names) - 20} more" * (len(names) > 20)
        has = f"The table has: {', '.join(names[:20])}{more}."
        raise TableError(
            f"{file}: there is no column '{column}' ({place}: {asked}). "
            + (f"Did you mean '{near[0]}'?" if near else has)
        )


def image_key(cell: str) -> str:
    """The image cell as a relative path with `/` and without the file's ending; '' if empty."""
    parts = [part for part in cell.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    path = "/".join(parts)
    return UNREAD_ENDING.sub("", path) if UNREAD_ENDING.search(path) else IMAGE_ENDING.sub("", path)


def fold(text: str) -> str:
    """The text such that two spellings of one file name are one."""
    return unicodedata.normalize("NFC", text).casefold()


def points_outside(cell: str) -> bool:
    """Whether the cell, read as a path, leaves the image folder: '..', absolute, or a drive."""
    path = cell.strip().replace("\\", "/")
    absolute = path.startswith(("/", "~")) or re.match(r"[A-Za-z]:", path) is not None
    return absolute or ".." in path.split("/") or "\0" in path
